"""Watching: the state that messages add up to, and following a real broker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator

import pytest

from echo_stream.cli.fleet import MOST_BYTES, MOST_ITEMS, MOST_TEXT, Fleet
from echo_stream.cli.plant_broker import Plant, follow
from echo_stream.mqtt import schema, state_payloads
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from tests.mqtt.conftest import NOON, a_score, an_event, wait_until
from tests.support.broker import MosquittoBroker

ROOT = "site/echo-stream"


AN_ALARM = json.dumps(schema.example("alarm")).encode()


def test_messages_add_up() -> None:
    fleet = Fleet(ROOT)
    event = an_event()
    score = state_payloads.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1)
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
        (f"{ROOT}/pc7//alarm", AN_ALARM),
        (f"{ROOT}/pc7/pump\n3/alarm", AN_ALARM),
        (f"{ROOT}/{'p' * 101}/pump3/alarm", AN_ALARM),
        (f"{ROOT}/pc7/pump3/alarm", AN_ALARM.replace(b'"UNACK"', b'["UNACK"]', 1)),
        (f"{ROOT}/pc7/pump3/alarm", AN_ALARM.replace(b"2026-11-20T08:14:03", b"2026-99-20T08:14:03")),
        (f"{ROOT}/pc7/pump3/alarm", AN_ALARM + b" " * MOST_BYTES),
        (f"{ROOT}/pc7/health", b"[" * 60_000),
    ],
)
def test_what_is_not_ours_changes_nothing(topic: str, payload: bytes) -> None:
    fleet = Fleet(ROOT)
    assert not fleet.apply(topic, payload)
    assert fleet == Fleet(ROOT)


def test_what_others_publish_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = Fleet(ROOT)
    said = {
        **json.loads(AN_ALARM),
        "name": "\x1b[2J\u202e" + "<b>" * 500,
        "new": 1,
        "asset": {"line": "\ud800"},
    }
    assert fleet.apply(f"{ROOT}/pc7/pump3/alarm", json.dumps(said).encode()) is False, "no text at all"
    said["asset"] = {str(n): "x" for n in range(1000)}
    assert fleet.apply(f"{ROOT}/pc7/pump3/alarm", json.dumps(said).encode()), "a newer version says more"
    alarm = fleet.machines["pc7", "pump3"].alarm or {}
    assert alarm["name"].startswith(" [2J <b>")
    assert len(alarm["name"]) == MOST_TEXT
    assert len(alarm["asset"]) == MOST_ITEMS
    monkeypatch.setattr("echo_stream.cli.fleet.MOST_MACHINES", 2)
    monkeypatch.setattr("echo_stream.cli.fleet.MOST_NODES", 2)
    for n in range(5):
        fleet.apply(f"{ROOT}/pc{n}/status", b"online")
        fleet.apply(f"{ROOT}/pc7/m{n}/availability", b"online")
    assert fleet.too_many
    assert (len(fleet.nodes), len(fleet.machines)) == (2, 2)
    health = json.dumps(schema.example("health")).encode().replace(b"-31.2", b"NaN")
    assert fleet.apply(f"{ROOT}/pc7/pump3/health", health)
    assert (fleet.machines["pc7", "pump3"].health or {})["level_dbfs"] is None


def test_what_is_taken_from_the_broker_goes() -> None:
    fleet = Fleet(ROOT)
    for topic, payload in (("pc7/status", b"online"), ("pc7/pump3/availability", b"online")):
        fleet.apply(f"{ROOT}/{topic}", payload)
    for topic in ("pc7/status", "pc7/pump3/availability", "pc7/pump3/bank"):
        fleet.apply(f"{ROOT}/{topic}", b"")
    assert fleet == Fleet(ROOT)
    assert fleet.changed == {("pc7", ""), ("pc7", "pump3")}


@pytest.fixture
def watched(broker: MosquittoBroker) -> Iterator[list[Fleet]]:
    seen: list[Fleet] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=follow,
        args=(
            Plant(Broker(broker.host, broker.port), "echo-stream"),
            ("+/status", "+/+/+"),
            seen.append,
            stop,
        ),
        kwargs={"every_s": 0.05, "retry_s": (0.05, 0.05)},
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


def test_machines_that_were_never_there_leave_nothing_behind() -> None:
    fleet = Fleet("echo-stream")
    for number in range(10):
        assert not fleet.apply(f"echo-stream/pc7/pump{number}/alarm", b"")
    assert fleet == Fleet("echo-stream")
    assert fleet.changed == set()
