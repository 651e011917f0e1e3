"""Drift: found within hours, not invented in months, blind to knocks and short faults."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from benchmarks.false_alarms import KINDS, scores, smoothed
from echo_stream.alarm.drift import DriftWatch
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import DriftEvent

RATE = 10
HOUR = 3600


def play(watch: DriftWatch, values: np.ndarray, first: int = 0) -> list[DriftEvent]:
    """One window a second."""
    return [
        event for i, value in enumerate(values, first) for event in watch.step(float(value), (i + 2) * RATE)
    ]


def make(**changed: float) -> DriftWatch:
    return DriftWatch("pump3", sample_rate_hz=RATE, **changed)


def normal(hours: float, kind: str = "normal, AR 0.98", seed: int = 0) -> np.ndarray:
    return np.asarray(scores(kind, np.random.default_rng(seed), 1, round(hours * HOUR))[0])


@pytest.mark.parametrize("kind", list(KINDS))
def test_normal_sound_raises_no_advisory(kind: str) -> None:
    """Ten days of each kind: together 100 days without one, that is at most 0.9 a month with 95 %."""
    watch = make()
    largest = 0.0
    for day in range(10):
        assert play(watch, normal(24, kind, seed=day), first=day * 24 * HOUR) == []
        largest = max(largest, watch.median)
    assert largest < 0.5 * watch.limit  # and far from it


def test_a_wander_of_an_hour_is_no_drift() -> None:
    noise = np.random.default_rng(4).standard_normal((1, 10 * 24 * HOUR))
    wander = smoothed(noise, np.exp(-1 / HOUR))[0] * np.sqrt(2 / HOUR)  # its spread is that of normal scores
    assert play(make(), wander) == []


def test_a_slow_drift_is_found_and_its_end_too() -> None:
    """Half a spread a day passes 2 spreads on the fifth day."""
    days = np.concatenate([normal(24, seed=day) for day in range(6)])
    ramp = 0.5 * np.arange(len(days)) / (24 * HOUR)
    watch = make()
    (event,) = play(watch, days + ramp)
    assert event.active
    assert 4.0 < event.at / RATE / (24 * HOUR) < 5.0
    assert 2.0 < event.median < 2.2
    (event,) = play(watch, normal(24, seed=9), first=len(days))
    assert not event.active
    assert event.median < 1.0


def test_knocks_and_a_fault_of_an_hour_are_no_drift() -> None:
    values = normal(24)
    values[::10] += 50.0
    values[8 * HOUR : 9 * HOUR] += 5.0
    assert play(make(), values) == []


def test_a_higher_normal_of_another_day_is_found_in_hours() -> None:
    (event,) = play(make(), normal(12) + 5.0)
    assert 2 < event.at / RATE / HOUR < 6


def test_a_few_windows_are_no_block() -> None:
    watch = make()
    assert play(watch, np.full(5, 100.0)) == []
    watch.step(0.0, 10 * HOUR * RATE)
    assert watch.median == 0.0


def test_a_restart_goes_on() -> None:
    before = make()
    play(before, normal(12) + 5.0)
    after = make()
    after.restore(json.loads(json.dumps(before.snapshot())))
    assert after.active
    assert after.median == before.median
    assert play(after, normal(2) + 5.0) == []


def test_scores_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ValueError, match="nan"):
        make().step(float("nan"), 20)


@pytest.mark.parametrize(
    "saved", [{}, {"median": "high", "active": True}, {"median": float("nan"), "active": True}]
)
def test_a_damaged_snapshot_is_refused(saved: dict[str, Any]) -> None:
    with pytest.raises(EchoStreamError, match="pump3"):
        make().restore(saved)
