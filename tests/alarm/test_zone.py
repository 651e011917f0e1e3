"""The zone of a velocity: limits as they are entered, the middle of a minute, no velocity yet."""

from __future__ import annotations

import pytest

from echo_stream.alarm.zone import ZONES, ZoneWatch


@pytest.mark.parametrize(
    ("limits", "velocity", "zone"),
    [
        ((2.8, 7.1), 0.0, "A/B"),
        ((2.8, 7.1), 2.79, "A/B"),
        ((2.8, 7.1), 2.8, "C"),
        ((2.8, 7.1), 7.1, "D"),
        ((1.12, 2.8, 7.1), 1.0, "A"),
        ((1.12, 2.8, 7.1), 1.2, "B"),
        ((1.12, 2.8, 7.1), 3.0, "C"),
        ((1.12, 2.8, 7.1), 70.0, "D"),
    ],
)
def test_the_zone_of_a_steady_velocity(limits: tuple[float, ...], velocity: float, zone: str) -> None:
    assert ZoneWatch(limits, 1.0).step(velocity) == zone
    assert zone in ZONES


def test_a_passing_jolt_is_no_zone_and_what_stays_is_one_after_half_a_minute() -> None:
    watch = ZoneWatch((2.8, 7.1), 1.0)
    assert watch.step(None) is None
    for _ in range(60):
        watch.step(2.0)
    assert [watch.step(9.0) for _ in range(40)].index("D") in (30, 31)
    assert watch.step(None) == "D"
