"""Saved state over a restart: whatever was damaged on the disk, the station starts and the rest is kept."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from echo_stream.core.types import AlarmLevel, AlarmState
from echo_stream.daemon.saved_state import restore_state, save_state, seconds_away
from echo_stream.mqtt.payloads import LevelState
from echo_stream.pipeline.station import Station
from tests.support.stations import build_stations, write_config

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


@pytest.fixture(scope="module")
def stations(tmp_path_factory: pytest.TempPathFactory, simulated_bank: bytes) -> list[Station]:
    folder = tmp_path_factory.mktemp("saved")
    made, _ = build_stations(folder, simulated_bank, write_config(folder, machines=("a", "b")))
    return list(made.values())


@pytest.fixture
def saved(stations: list[Station]) -> dict[str, Any]:
    """What was saved with the warning acknowledged, the alarm shelved for an hour and a sensor fault."""
    station = stations[0]
    for alarm in station.alarms:
        fresh = alarm.snapshot()
        fresh |= {"state": "UNACK", "active": True, "onset_ago_s": 5.0, "shelved_for_s": None}
        fresh |= {"suppressed_by": [], "out_of_service": False}
        alarm.restore(fresh)
    next(a for a in station.alarms if a.level is AlarmLevel.WARNING).ack(0)
    next(a for a in station.alarms if a.level is AlarmLevel.ALARM).shelve(0, 3600)
    levels = {a.level: LevelState(a.state, a.active, NOW, NOW, ID) for a in station.alarms}
    found: dict[str, Any] = json.loads(json.dumps(save_state(station, levels, NOW)))
    return found


def states(station: Station) -> dict[str, str]:
    return {alarm.level.value: alarm.state.value for alarm in station.alarms}


def test_what_was_saved_is_restored(stations: list[Station], saved: dict[str, Any]) -> None:
    levels = restore_state(stations[0], saved)
    assert states(stations[0]) == {"warning": "ACKED", "alarm": "SHELVED"}
    assert levels[AlarmLevel.ALARM] == LevelState(AlarmState.SHELVED, True, NOW, NOW, ID)


def test_state_of_version_0_1_has_no_clock_of_the_boot(
    stations: list[Station], saved: dict[str, Any]
) -> None:
    del saved["boot"], saved["boot_s"]
    restore_state(stations[0], saved)
    assert states(stations[0])["warning"] == "ACKED"


def leaves(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(tree, dict | list):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, key))
    yield path


BAD: list[Any] = [
    None,
    True,
    "x",
    -1,
    1e308,
    float("nan"),
    10**400,
    [],
    {},
    "2026-11-25T12:00:00",
    "9999-99-99",
]


def test_any_value_damaged_and_the_station_starts(stations: list[Station], saved: dict[str, Any]) -> None:
    tried = 0
    for path in leaves(saved):
        for bad in BAD:
            damaged = copy.deepcopy(saved)
            if not path:
                continue
            inner = damaged
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = bad
            levels = restore_state(stations[0], damaged)
            assert set(levels) == {AlarmLevel.WARNING, AlarmLevel.ALARM}
            save_state(stations[0], levels, NOW)  # what was taken over can be saved and published again
            tried += 1
    assert tried > 300


@pytest.mark.parametrize("lost", ["alarms", "levels", "sensor", "bank", "at"])
def test_a_part_that_is_missing_leaves_the_others(
    stations: list[Station], saved: dict[str, Any], lost: str
) -> None:
    del saved[lost]
    restore_state(stations[0], saved)
    if lost != "alarms":
        assert states(stations[0]) == {"warning": "ACKED", "alarm": "SHELVED"}


def test_damage_of_one_alarm_leaves_the_other(stations: list[Station], saved: dict[str, Any]) -> None:
    saved["alarms"]["warning"]["state"] = "ACK@D"
    restore_state(stations[1], saved | {"alarms": saved["alarms"] | {}})
    levels = restore_state(stations[0], saved)
    assert states(stations[0])["alarm"] == "SHELVED"
    assert levels[AlarmLevel.WARNING].state is stations[0].alarms[0].state


@pytest.mark.parametrize(
    ("at", "now", "expected_s"),
    [
        (NOW, NOW + timedelta(hours=1), 3600.0),
        (NOW, NOW - timedelta(hours=1), 0.0),  # the clock went back
        (datetime(1970, 1, 1, 0, 5, tzinfo=UTC), NOW, 0.0),  # saved before the clock was set
    ],
)
def test_time_away_after_another_boot(at: datetime, now: datetime, expected_s: float) -> None:
    assert seconds_away({"at": at.isoformat(), "boot": "another", "boot_s": 1.0}, now) == expected_s


def test_time_away_within_one_boot_is_monotonic(stations: list[Station], saved: dict[str, Any]) -> None:
    for now in (NOW, datetime(1970, 1, 1, tzinfo=UTC), NOW + timedelta(days=400)):
        assert 0 <= seconds_away(saved, now) < 120
    saved["at"] = "1970-01-01T00:00:10.000Z"
    restore_state(stations[0], saved)
    assert states(stations[0])["alarm"] == "SHELVED"


def test_nothing_saved(stations: list[Station], tmp_path: Path) -> None:
    assert restore_state(stations[1], None) == {level: LevelState() for level in AlarmLevel}
