"""The alarm over whole runs equals the alarm window by window, and margins say where it trips."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replay import margins
from echo_stream.alarm.condition import Condition, hops_in, rises

SCORES = st.lists(st.integers(-2, 8).map(float), min_size=1, max_size=60)
DELAYS = st.integers(0, 4)


@given(SCORES, DELAYS, DELAYS)
def test_equals_the_condition_window_by_window(scores: list[float], on_hops: int, off_hops: int) -> None:
    one_by_one = Condition(5.0, 3.0, on_delay=10 * on_hops, off_delay=10 * off_hops)
    expected, was = [], False
    for i, score in enumerate(scores):
        one_by_one.step(score, 10 * i, 10 * i + 20)
        expected.append(one_by_one.active and not was)
        was = one_by_one.active
    at_once = rises(np.array(scores), trip=5.0, clear=3.0, on_hops=on_hops, off_hops=off_hops)
    assert at_once.tolist() == expected


@given(SCORES, DELAYS)
def test_margins_exceed_trip_where_an_inactive_alarm_trips(scores: list[float], on_hops: int) -> None:
    trip, median, dead_band = 5.0, 1.0, 0.5
    found = margins(np.array(scores), on_hops=on_hops, dead_band=dead_band, median=median)
    assert len(found) == max(0, len(scores) - on_hops)
    clear = trip - dead_band * (trip - median)
    for i, margin in enumerate(found):
        own = np.array(scores[i : i + on_hops + 1])
        at_last = rises(own, trip=trip, clear=clear, on_hops=on_hops, off_hops=0)
        fresh = not rises(own[:-1], trip=trip, clear=clear, on_hops=on_hops, off_hops=0).any()
        first_window_tripped = own[0] > trip
        if fresh and first_window_tripped:
            assert (margin > trip) == at_last[-1]
        if margin > trip:
            assert first_window_tripped


def test_rows_are_apart() -> None:
    scores = np.array([[9.0, 9.0, 0.0, 9.0], [0.0, 9.0, 9.0, 9.0]])
    found = rises(scores, trip=5.0, clear=4.0, on_hops=1, off_hops=0)
    assert found.tolist() == [[False, True, False, False], [False, False, True, False]]


@pytest.mark.parametrize(
    ("delay_s", "hop_s", "hops"), [(0.0, 1.0, 0), (3.0, 1.0, 3), (3.1, 1.0, 4), (0.3, 0.1, 3)]
)
def test_hops_in(delay_s: float, hop_s: float, hops: int) -> None:
    assert hops_in(delay_s, hop_s) == hops
