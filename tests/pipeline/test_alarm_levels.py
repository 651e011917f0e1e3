"""Warning and alarm of one machine together: which comes first, what is too short for them, what is not."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.false_alarms import KINDS, scores
from echo_stream.alarm.calibration import Calibration, TripLevel
from echo_stream.alarm.condition import Condition, hops_in
from echo_stream.config.schema import AlarmSettings, Machine
from echo_stream.core.types import AlarmLevel
from echo_stream.fit.learn import check_levels
from echo_stream.pipeline.factory import trip_levels

HOP_S, WINDOW_S = 1.0, 2.0
DEFAULT = AlarmSettings()
ANNOUNCE_S = 10.0
DISTURBANCE_S = 5.0


def levels_of(kind: str, minutes: float, alarm: AlarmSettings, seed: int = 0) -> dict[AlarmLevel, TripLevel]:
    runs = scores(kind, np.random.default_rng(seed), 10, round(minutes * 6))
    source = {"kind": "simulated"}
    machine = Machine.model_validate({"id": "m", "source": source, "bank": "b", "alarm": alarm.model_dump()})
    return trip_levels(machine, Calibration.fit(list(runs), HOP_S))


def active(values: list[float], trip: TripLevel, alarm: AlarmSettings, level: AlarmLevel) -> list[bool]:
    condition = Condition(
        trip.level,
        trip.clear,
        on_delay=round(alarm.on_delays_s[level]),
        off_delay=round(alarm.off_delay_s),
    )
    found = []
    for i, value in enumerate(values):
        condition.step(value, i, i + 2)
        found.append(condition.active)
    return found


def test_a_warning_never_waits_longer_than_the_alarm() -> None:
    both = {AlarmLevel.WARNING: 7.0, AlarmLevel.ALARM: 7.0}
    assert DEFAULT.on_delays_s == both
    assert AlarmSettings(on_delay_s=1.0).on_delays_s == dict.fromkeys(AlarmLevel, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_month", [0.1, 1.0, 1000.0])
def test_no_alarm_without_a_warning(kind: str, per_month: float) -> None:
    alarm = AlarmSettings(false_alarms_per_month=per_month)
    levels = levels_of(kind, 60, alarm)
    assert levels[AlarmLevel.ALARM].level >= levels[AlarmLevel.WARNING].level
    assert levels[AlarmLevel.ALARM].clear >= levels[AlarmLevel.WARNING].clear
    rng = np.random.default_rng(1)
    values = (
        rng.normal(levels[AlarmLevel.ALARM].level, 2.0, 2000) + np.repeat(rng.normal(0, 3, 100), 20)
    ).tolist()
    stands = {level: active(values, trip, alarm, level) for level, trip in levels.items()}
    assert any(stands[AlarmLevel.ALARM])
    assert all(
        warned or not alarmed
        for warned, alarmed in zip(stands[AlarmLevel.WARNING], stands[AlarmLevel.ALARM], strict=True)
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("minutes", [0.7, 2.0, 10.0])
@pytest.mark.parametrize("kind", KINDS)
def test_an_alarm_takes_more_than_a_warning(kind: str, minutes: float, seed: int) -> None:
    """What lasts longer is rarer: a level that is set by its rate alone could lie under the warning's."""
    levels = levels_of(kind, minutes, DEFAULT, seed)
    assert levels[AlarmLevel.ALARM].level > levels[AlarmLevel.WARNING].level


@pytest.mark.parametrize("kind", ["normal, independent", "gamma, AR 0.8"])
def test_each_level_is_calibrated_for_its_own_delay(kind: str) -> None:
    levels = levels_of(kind, 600, DEFAULT)
    for level, trip in levels.items():
        assert trip.on_delay_hops == hops_in(DEFAULT.on_delays_s[level], HOP_S) == trip.persistence_hops
    at_once = levels_of(kind, 600, AlarmSettings(on_delay_s=3.0))
    assert levels[AlarmLevel.ALARM].upper95_per_month < at_once[AlarmLevel.ALARM].upper95_per_month * 1.5
    assert levels[AlarmLevel.ALARM].level < at_once[AlarmLevel.ALARM].level


@pytest.mark.parametrize("offset_s", np.arange(0, 1, 0.1))
def test_what_lasts_5_s_is_no_alarm_and_a_fault_is_one_within_10_s(offset_s: float) -> None:
    trip = levels_of("normal, overlapping", 10, DEFAULT)[AlarmLevel.ALARM]
    begins_s = 20.0 + offset_s
    starts_s = np.arange(0, 60, HOP_S)
    touched = (starts_s + WINDOW_S > begins_s) & (starts_s < begins_s + DISTURBANCE_S)
    assert not any(active(np.where(touched, 100.0, 0.0).tolist(), trip, DEFAULT, AlarmLevel.ALARM))
    filled = np.where(starts_s >= begins_s, 100.0, 0.0).tolist()  # seen where it fills the window
    announced = starts_s[active(filled, trip, DEFAULT, AlarmLevel.ALARM).index(True)] + WINDOW_S
    assert announced - begins_s <= ANNOUNCE_S


def test_short_recordings_are_told_to_be_the_reason_of_a_blunt_level() -> None:
    """Scores now and then far off: for how long is in continuous sound, and not in clips of one window."""
    rng = np.random.default_rng(0)
    long = rng.standard_normal(200)
    long[::20] += 20.0
    advice = []
    for runs in ([long], [long[i : i + 1] for i in range(len(long))]):
        trip = Calibration.fit(runs, HOP_S).trip_level(1.0, on_delay_s=7.0, off_delay_s=6.0)
        advice.append(check_levels(trip)[0].advice)
    assert advice[0] == ""
    assert "recordings of half a minute" in advice[1]
