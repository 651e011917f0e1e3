"""EventPublisher on a real station and outbox: what is sent, and what a restart knows; the broker is away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState, DriftEvent, SensorEvent, SensorFault
from echo_stream.daemon.events import EventPublisher
from echo_stream.mqtt import models
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from echo_stream.pipeline.station import Station
from tests.support.stations import RATE_HZ, build_stations, write_config


class Sent:
    """An EventPublisher whose broker is away, so all that it sends waits in the outbox."""

    def __init__(self, folder: Path, station: Station) -> None:
        self.station = station
        self.publisher = Publisher(
            Broker("127.0.0.1", 1),
            node="pc7",
            machines={"pump1": "Pump 1"},
            assets={"pump1": {"line": "3"}},
            outbox_path=folder / "outbox.sqlite",
        )
        self.told: list[tuple[str, dict[str, Any]]] = []
        self.notified: list[tuple[str, dict[str, Any]]] = []
        self.events = EventPublisher("pc7", self.publisher)
        self.events.on_event = lambda kind, payload: self.told.append((kind, payload))
        self.events.notify = lambda kind, payload: self.notified.append((kind, payload))
        self.events.add_station(station, "Pump 1")
        self.publisher.start()

    def outbox(self) -> list[tuple[str, dict[str, Any]]]:
        """Topic and payload of all that waits."""
        return [(row.topic, row.payload) for row in self.publisher.outbox.pending()]


@pytest.fixture
def station(tmp_path: Path, simulated_bank: bytes) -> Station:
    made, _ = build_stations(tmp_path, simulated_bank, write_config(tmp_path))
    return made["pump1"]


@pytest.fixture
def sent(tmp_path: Path, station: Station) -> Iterator[Sent]:
    found = Sent(tmp_path, station)
    yield found
    found.publisher.stop(0.1)


def transition(before: AlarmState, after: AlarmState, at_s: float, *, active: bool, cause: str) -> AlarmEvent:
    onset = round((at_s - 2) * RATE_HZ) if active else None
    return AlarmEvent(
        machine="pump1",
        level=AlarmLevel.ALARM,
        before=before,
        after=after,
        cause=cause,
        at=round(at_s * RATE_HZ),
        onset=onset,
        active=active,
        score=7.5,
        threshold=6.25,
    )


RAISED = transition(AlarmState.NORMAL, AlarmState.UNACK, 10, active=True, cause="condition")
ACKED = transition(AlarmState.UNACK, AlarmState.ACKED, 12, active=True, cause="ack")


def test_a_transition_is_an_event_as_documented(sent: Sent) -> None:
    sent.events.publish(sent.station, RAISED)
    sent.events.transition(sent.station, ACKED, "by Jo")
    (topic, raised), (_, acked) = sent.outbox()
    assert topic == "echo-stream/pc7/pump1/event"
    for payload in (raised, acked):
        models.Event.model_validate_json(json.dumps(payload))
    assert (raised["from"], raised["to"], raised["cause"], raised["active"]) == (
        "NORMAL",
        "UNACK",
        "condition",
        True,
    )
    assert (raised["score"], raised["threshold"], raised["asset"]) == (7.5, 6.25, {"line": "3"})
    assert (acked["reason"], acked["seq"] - raised["seq"]) == ("by Jo", 1)
    assert raised["event_id"] < acked["event_id"]
    onset, at = (datetime.fromisoformat(raised[name]) for name in ("onset_ts", "ts"))
    assert (at - onset).total_seconds() == pytest.approx(2, abs=0.001)
    assert [kind for kind, _ in sent.told] == [kind for kind, _ in sent.notified] == ["event", "event"]
    assert sent.notified[0][1]["asset"] == {"line": "3"}


def test_the_state_of_an_alarm_is_its_last_transition(sent: Sent) -> None:
    sent.events.publish(sent.station, RAISED)
    sent.events.publish(sent.station, ACKED)
    level = sent.events.levels("pump1")[AlarmLevel.ALARM]
    _, (_, acked) = sent.outbox()
    assert (level.state, level.active, level.event_id) == (AlarmState.ACKED, True, acked["event_id"])
    assert sent.events.levels("pump1")[AlarmLevel.WARNING].state is AlarmState.NORMAL
    assert sent.events.levels("another") == {}


def test_a_restart_goes_on_where_it_stood(sent: Sent, tmp_path: Path) -> None:
    sent.events.publish(sent.station, RAISED)
    (_, before), *_ = sent.outbox()
    sent.publisher.stop(0.1)
    again = Sent(tmp_path, sent.station)
    try:
        level = again.events.levels("pump1")[AlarmLevel.ALARM]
        assert level.event_id == before["event_id"]
        again.events.publish(again.station, ACKED)
        *_, (_, after) = again.outbox()
        assert after["seq"] == before["seq"] + 1
        assert after["event_id"] > before["event_id"], "ids go on in order, also where the clock went back"
    finally:
        again.publisher.stop(0.1)


def test_sensor_and_drift_are_events_of_their_own(sent: Sent) -> None:
    sent.events.publish(sent.station, SensorEvent("pump1", None, SensorFault.DEAD, 80_000, 72_000))
    sent.events.publish(sent.station, DriftEvent("pump1", True, 160_000, 1.5, 1.25, 80_000))
    (sensor_at, sensor), (drift_at, drift) = sent.outbox()
    models.Sensor.model_validate_json(json.dumps(sensor))
    models.Drift.model_validate_json(json.dumps(drift))
    assert (sensor_at, drift_at) == ("echo-stream/pc7/pump1/sensor", "echo-stream/pc7/pump1/drift")
    assert (sensor["from"], sensor["to"]) == (None, "dead")
    assert (drift["active"], drift["median"], drift["limit"]) == (True, 1.5, 1.25)
