"""What a machine's alarms, sensor and drift remember through a restart, kept with each event."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from echo_stream.deliver.messages import LevelState, timestamp
from echo_stream.errors import EchoStreamError
from echo_stream.pipeline import Station
from echo_stream.types import AlarmLevel, AlarmState

log = structlog.get_logger()

Levels = dict[AlarmLevel, LevelState]


def remember(station: Station, levels: Levels, at: datetime) -> dict[str, Any]:
    """What `recall` needs.

    Args:
        station: the machine's.
        levels: where its alarms stand, as they were announced.
        at: wall time.
    """
    return {
        "at": timestamp(at),
        "alarms": {alarm.level.value: alarm.snapshot() for alarm in station.alarms},
        "levels": {level.value: _to_json(state) for level, state in levels.items()},
        "sensor": station.sensor.snapshot(),
        "drift": station.drift.snapshot(),
        "proven": station.bank.sha256 if station.proven else None,
    }


def recall(station: Station, saved: Mapping[str, Any] | None) -> Levels:
    """Puts a station where it stood; what cannot be used begins anew, and that is said."""
    levels = {alarm.level: LevelState() for alarm in station.alarms}
    if saved is None:
        return levels
    try:
        away_s = (datetime.now(UTC) - datetime.fromisoformat(saved["at"])).total_seconds()
        found = {alarm.level: _from_json(saved["levels"][alarm.level]) for alarm in station.alarms}
        for alarm in station.alarms:
            alarm.restore(saved["alarms"][alarm.level], away_s=max(0.0, away_s))
        station.sensor.restore(saved["sensor"])
        station.drift.restore(saved["drift"])
        station.proven = saved["proven"] == station.bank.sha256
    except (EchoStreamError, KeyError, TypeError, ValueError) as error:
        log.warning("the alarms begin anew", machine=station.ear.machine, reason=repr(error))
        return levels
    return found


def _to_json(state: LevelState) -> dict[str, Any]:
    return {
        "state": state.state.value,
        "active": state.active,
        "since": state.since and timestamp(state.since),
        "onset": state.onset and timestamp(state.onset),
        "event_id": state.event_id,
    }


def _from_json(saved: Mapping[str, Any]) -> LevelState:
    times = {key: saved[key] and datetime.fromisoformat(saved[key]) for key in ("since", "onset")}
    return LevelState(AlarmState(saved["state"]), saved["active"], event_id=saved["event_id"], **times)
