"""Simulated machines that are well: how often the three ways together raise an alarm."""

from __future__ import annotations

import pytest

from benchmarks.false_alarms import KINDS, live

HOURS = 5.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_machine_that_is_well_is_quiet_after_two_minutes_of_enrolment(kind: str) -> None:
    """The long version, a month of ten kinds, is benchmarks/false_alarms.py; its table is in ADR 16."""
    lived = live(kind, seed=3, minutes=2.0, hours=HOURS)
    assert sum(lived.first_hour.values()) <= 1  # nobody knows it yet
    assert sum(lived.later.values()) == 0


def test_scores_of_neighbours_that_resemble_each_other_make_the_slow_way_look_longer() -> None:
    assert live("normal, AR 0.98", 1, 2.0, HOURS).slow_width_min > 1
    assert live("normal, independent", 1, 2.0, HOURS).slow_width_min == 1
