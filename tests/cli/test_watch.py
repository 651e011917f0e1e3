"""Watching: the state that messages add up to, and following a real broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from echo_stream.cli.watch import Fleet, follow
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.connection import Broker
from echo_stream.mqtt.publisher import Publisher
from tests.mqtt.conftest import NOON, a_score, an_event, wait_until
from tests.support.broker import MosquittoBroker

ROOT = "site/echo-stream"


def test_messages_add_up() -> None:
    fleet = Fleet(ROOT)
    event = an_event()
    score = messages.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1)
    assert fleet.apply(f"{ROOT}/pc7/pump3/availability", b"online")
    pump = fleet.machines["pc7", "pump3"]
    assert not fleet.listening(pump), "the node has not said that it is online"
    assert fleet.apply(f"{ROOT}/pc7/status", b"online")
    assert fleet.listening(pump)
    assert fleet.apply(f"{ROOT}/pc7/pump3/event", json.dumps(event).encode())
    assert fleet.apply(f"{ROOT}/pc7/pump3/score", json.dumps(score).encode())
    assert (pump.event, pump.score, pump.alarm) == (event, score, None)
    assert fleet.apply(f"{ROOT}/pc7/status", b"offline")
    assert not fleet.listening(pump)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("other/pc7/status", b"online"),
        (f"{ROOT}/pc7", b"online"),
        (f"{ROOT}/pc7/pump3/alarm", b"nonsense"),
        (f"{ROOT}/pc7/pump3/alarm", b"[1]"),
        (f"{ROOT}/pc7/pump3/score", b"\xff"),
        (f"{ROOT}/pc7/pump3/cmd", b"{}"),
        (f"{ROOT}/pc7/pump3/x/y", b"{}"),
    ],
)
def test_what_is_not_ours_changes_nothing(topic: str, payload: bytes) -> None:
    fleet = Fleet(ROOT)
    assert not fleet.apply(topic, payload)
    assert fleet == Fleet(ROOT)


@pytest.fixture
def watched(broker: MosquittoBroker) -> Iterator[list[Fleet]]:
    seen: list[Fleet] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=follow,
        args=(Broker(broker.host, broker.port), "echo-stream", seen.append, stop),
        kwargs={"every_s": 0.05, "retry_s": 0.05},
    )
    thread.start()
    yield seen
    stop.set()
    thread.join(20)
    assert not thread.is_alive()


def test_following_a_broker_that_comes_and_goes(
    broker: MosquittoBroker, publish: Callable[..., Publisher], watched: list[Fleet]
) -> None:
    publisher = publish(broker)
    publisher.set_available("pump3", True)
    publisher.event("event", an_event())
    wait_until(lambda: watched and watched[-1].machines.get(("pc7", "pump3")), "the machine")
    fleet = watched[-1]
    pump = fleet.machines["pc7", "pump3"]
    wait_until(lambda: fleet.listening(pump), "it listens")
    broker.kill()
    wait_until(lambda: fleet.trouble, "the trouble is told")
    broker.start()
    wait_until(lambda: not fleet.trouble, "and its end")
    publisher.set_available("pump3", False)
    wait_until(lambda: not fleet.listening(pump), "and what changed")
