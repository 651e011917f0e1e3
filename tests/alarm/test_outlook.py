"""What is said of the ways to an alarm: nothing before it is known, then hours and bounds."""

from __future__ import annotations

import json

import numpy as np
import pytest

from echo_stream.alarm.outlook import Outlook
from echo_stream.alarm.ways import Levels, Timing, Ways
from echo_stream.core.types import AlarmPath
from echo_stream.mqtt.state_models import Outlook as Told

RATE = 100
LEVELS = Levels(strong=20.0, clear=18.0, floor=2.0, per_month=1.0)
TIMING = Timing(RATE, 1.0, on_delay_s=7.0, off_delay_s=6.0, dead_band=0.1)


def after(scores: list[float]) -> Outlook:
    ways = Ways(LEVELS, TIMING)
    for i, score in enumerate(scores):
        ways.step(score, i * RATE, (i + 2) * RATE)
    return Outlook.of(ways)


def quiet(hours: float) -> list[float]:
    found: list[float] = np.random.default_rng(0).normal(0, 0.3, round(3600 * hours)).tolist()
    return found


def test_before_anything_was_heard_nothing_is_claimed() -> None:
    outlook = after(quiet(0.1))
    assert outlook.at_most_per_month is None
    measured, strong, step, slow = outlook.known()
    assert "nothing is measured yet" in measured
    assert strong == "strong (0.33 a month): a change to a score over 20.0 for 7 s"
    assert step.startswith("step (0.33 a month): a change to a score over 2.")
    assert slow == "slow (0.33 a month): nothing yet, it must listen for 24 min more"


def test_hours_without_an_alarm_bound_the_rate() -> None:
    outlook = after(quiet(4.0))
    assert outlook.at_most_per_month == pytest.approx(3.0 / 4 * 720, rel=0.01)
    assert outlook.known()[0] == "in 4.0 h 0 alarms, so with 95 % at most 539 false alarms a month"
    assert "higher than its last 4.0 h" in outlook.known()[3]


def test_an_alarm_may_have_been_a_fault() -> None:
    outlook = after(quiet(1.0) + [50.0] * 30 + quiet(1.0))
    assert outlook.raised[AlarmPath.STRONG] == 1
    assert "1 alarm; had all been false" in outlook.known()[0]


def test_what_is_sent_is_what_the_schema_says() -> None:
    told = Told.model_validate(json.loads(json.dumps(after(quiet(1.0)).to_json())))
    assert set(told.paths) == {path.value for path in AlarmPath}
    assert sum(path.share_per_month for path in told.paths.values()) == pytest.approx(1.0, abs=1e-3)


def test_that_alarms_wait_for_what_passes_is_said_with_what_ends_it() -> None:
    ways = Ways(Levels(20.0, 18.0, 2.0, 1.0), Timing(100, 1.0, 7.0, 6.0, 0.1))
    assert not any("ignore add" in line for line in Outlook.of(ways).known())
    for length_s in (12.0, 13.0, 14.0):
        ways.passed.add(length_s)
    found = Outlook.of(ways)
    assert found.delays_s[AlarmPath.STRONG] == 18.0
    assert any("12 s came and went" in line and "last 18 s" in line for line in found.known())
