"""Commands: what is taken, what is refused, and that code and schema agree."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from echo_stream.core.errors import CommandRefused
from echo_stream.core.types import AlarmLevel
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.commands import Command, Enrol, EnrolAction, ReplyTo, Verb, parse, tokens

HERE = ReplyTo("echo-stream/pc7/pump3/reply")
SCHEMA = jsonschema.Draft202012Validator(messages.schema("command"))


def test_a_full_command() -> None:
    asked = {
        "command": "shelve",
        "duration_s": 3600,
        "level": "warning",
        "by": "J",
        "reason": "why",
        "id": "7",
    }
    assert parse("pump3", json.dumps(asked).encode(), HERE, {"user": "j"}) == Command(
        machine="pump3",
        verb=Verb.SHELVE,
        reply_to=HERE,
        level=AlarmLevel.WARNING,
        duration_s=3600.0,
        by="J",
        reason="why",
        id="7",
        sender={"user": "j"},
    )


def test_an_enrolment() -> None:
    asked = {"command": "enrol", "minutes": 4320, "condition": "load", "accept": False}
    assert parse("pump3", json.dumps(asked).encode(), HERE).enrol == Enrol(
        EnrolAction.START, 4320, "load", False
    )
    paused = parse("pump3", b'{"command": "enrol", "action": "pause"}', HERE)
    assert paused.enrol == Enrol(EnrolAction.PAUSE)


@pytest.mark.parametrize("verb", [verb for verb in Verb if verb is not Verb.SHELVE])
def test_every_other_verb_needs_nothing_more(verb: Verb) -> None:
    command = parse("pump3", json.dumps({"command": verb.value}).encode(), HERE)
    assert (command.verb, command.level, command.duration_s) == (verb, None, None)


@pytest.mark.parametrize(
    ("payload", "says"),
    [
        (b"", "not JSON"),
        (b"ack", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"[" * 3000, "not JSON"),
        (b'{"command": "shelve", "duration_s": NaN}', "not JSON"),
        (b'{"command": "shelve", "duration_s": Infinity}', "not JSON"),
        (b'"ack"', "not a JSON object"),
        (b'{"command": "ack", "reason": "' + b"x" * 5000 + b'"}', "longer than 4096 bytes"),
        (b"{}", "'command' is missing"),
        (b'{"command": "explode"}', "command: expected 'ack', 'shelve'"),
        (b'{"command": ["ack"]}', "command: expected 'ack', 'shelve'"),
        (b'{"command": "ack", "colour": 1}', "unknown field 'colour'"),
        (b'{"command": "ack", "level": "all"}', "level: expected 'alarm' or 'warning'"),
        (b'{"command": "ack", "by": ""}', "by: String should have at least 1 character"),
        (b'{"command": "ack", "duration_s": 5}', "takes no duration_s"),
        (b'{"command": "shelve"}', "needs duration_s"),
        (b'{"command": "shelve", "duration_s": 0}', "duration_s: expected greater than 0"),
        (b'{"command": "shelve", "duration_s": true}', "duration_s: expected"),
        (b'{"command": "shelve", "duration_s": "60"}', "duration_s: expected"),
        (b'{"command": "shelve", "duration_s": 604801}', "expected less than or equal to 604800"),
        (b'{"command": "ack", "id": 5}', "id: expected a valid string"),
        (b'{"command": "ack", "minutes": 5}', "ack takes no minutes"),
        (b'{"command": "enrol", "level": "alarm"}', "enrol takes no level"),
        (b'{"command": "enrol", "action": "pause", "minutes": 5}', "enrol pause takes no minutes"),
        (b'{"command": "enrol", "minutes": 0}', "minutes: expected greater than or equal to 0.05"),
        (b'{"command": "enrol", "action": "stop"}', "action: expected 'start'"),
    ],
)
def test_refused(payload: bytes, says: str) -> None:
    with pytest.raises(CommandRefused) as refusal:
        parse("pump3", payload, HERE)
    assert says in refusal.value.message
    assert len(refusal.value.message) < 300


def test_what_a_refusal_can_still_be_told_by() -> None:
    assert tokens(b'{"command": "shelve", "id": "a"}') == ("shelve", "a")
    assert tokens(b'{"command": "explode", "id": 5}') == (None, None)
    assert tokens(b'{"command": {"ack": 1}}') == (None, None)
    assert tokens(b"nonsense") == (None, None)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [
            "ack",
            "shelve",
            "reset",
            "mark_normal",
            "alarm",
            "warning",
            "pause",
            "start",
            "b8",
            "",
            "x" * 101,
            "x" * 501,
        ]
    ),
    st.sampled_from([-1, 0, 0.5, 60, 604_800, 604_800.5, 1e9]),
    st.lists(st.just("ack"), max_size=1),
)
FIELDS = st.sampled_from(
    [
        "command",
        "level",
        "duration_s",
        "by",
        "reason",
        "id",
        "other",
        "action",
        "minutes",
        "condition",
        "accept",
        "bank",
    ]
)


@settings(max_examples=600, deadline=None)
@given(
    st.one_of(
        st.dictionaries(FIELDS, VALUES),
        st.builds(
            lambda verb, rest: {"command": verb, **rest},
            st.sampled_from(list(Verb)),
            st.dictionaries(FIELDS, VALUES),
        ),
        VALUES,
    )
)
@example({"command": "shelve", "duration_s": 604_800})
@example({"command": "ack", "level": None})
@example({"command": "enrol", "minutes": 60, "condition": "load", "accept": True})
@example({"command": "enrol", "action": "start", "minutes": 60})
@example({"command": "enrol", "action": "pause", "minutes": 60})
@example({"command": "enrol", "action": "finish"})
@example({"command": "ack", "action": "start"})
@example({"command": "ack", "bank": "b8"})
@example({"command": "enrol", "bank": "b8"})
@example({"command": "accept_bank", "bank": "b8"})
def test_code_and_schema_agree(asked: Any) -> None:
    try:
        parse("pump3", json.dumps(asked).encode(), HERE)
        taken = True
    except CommandRefused:
        taken = False
    assert taken == SCHEMA.is_valid(asked)


def test_only_accept_bank_takes_a_bank() -> None:
    said = parse("pump3", b'{"command": "accept_bank", "bank": "b8"}', ReplyTo(None))
    assert (said.verb, said.bank) == (Verb.ACCEPT_BANK, "b8")
    for refused in ('{"command": "ack", "bank": "b8"}', '{"command": "accept_bank", "bank": "../b8"}'):
        with pytest.raises(CommandRefused, match="bank"):
            parse("pump3", refused.encode(), ReplyTo(None))
