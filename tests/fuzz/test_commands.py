"""Any payload is a command, or refused with a sentence; the reply to it can always be written."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from echo_stream.core.errors import CommandRefused
from echo_stream.mqtt.commands import Command, ReplyTo, parse, tokens
from tests.support.damage import TREES, damaged, fuzz, twisted

HERE = ReplyTo("echo-stream/pc7/pump3/reply")
TREE = {"command": "shelve", "duration_s": 60, "level": "alarm", "by": "J", "reason": "why", "id": "7"}
WHOLE = json.dumps(TREE).encode()


def check(payload: bytes) -> None:
    verb, token = tokens(payload)
    json.dumps([verb, token]).encode()
    try:
        command = parse("pump3", payload, HERE)
    except CommandRefused as error:
        said = error.message
    else:
        assert isinstance(command, Command)
        assert command.duration_s is None or 0 < command.duration_s <= 7 * 86_400
        assert (verb, token) == (command.verb, command.id)
        return
    assert 0 < len(said) < 400


def test_the_command_is_right() -> None:
    assert parse("pump3", WHOLE, HERE).duration_s == 60


@fuzz(250)
@given(st.binary(max_size=5000) | damaged(WHOLE))
def test_damaged_bytes(payload: bytes) -> None:
    check(payload)


@fuzz(250)
@given(twisted(TREE) | TREES)
def test_odd_values(tree: Any) -> None:
    check(json.dumps(tree).encode())


@fuzz(200)
@given(
    st.lists(
        st.sampled_from([*'{}[]",:', '"command"', '"ack"', "1e999", "NaN", "-", "9" * 300, "\\ud800"]),
        max_size=40,
    ).map("".join)
)
def test_what_means_something_in_json(text: str) -> None:
    check(text.encode())
