"""Streams that are built from clips: where their faults are, whose each announcement is, what 24 lines do."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.built_streams import Built, Tally, competitor
from echo_stream.core.types import AlarmPath

RATE_HZ = 8_000


def noise(seconds: float, seed: int, bump: float = 0.0) -> np.ndarray:
    """White noise; `bump` of a tone in it."""
    t_s = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    white = np.random.default_rng(seed).standard_normal(len(t_s))
    return (0.1 * white + bump * np.sin(2 * np.pi * 1000 * t_s)).astype(np.float32)


def test_a_stream_says_where_its_faults_are() -> None:
    parts = [(False, [noise(10, 0), noise(10, 1)]), (True, [noise(5, 2, 1.0)]), (False, [noise(10, 3)])]
    sound, faults = Built("m", "m", RATE_HZ, [], parts).sound()
    ((begin_s, end_s),) = faults
    assert begin_s == pytest.approx(20.0, abs=0.05)
    assert end_s == pytest.approx(25.0, abs=0.05)
    assert np.std(sound[round(21 * RATE_HZ) : round(24 * RATE_HZ)]) > 0.5


def test_an_announcement_is_a_faults_or_nobodys() -> None:
    tally = Tally()
    tally.count([(20.0, 30.0), (60.0, 70.0)], [(28.0, AlarmPath.STRONG), (38.0, None), (50.0, None)])
    assert (tally.faults, tally.announced, tally.false) == (2, 1, 1)
    assert tally.delays_s == [8.0]
    assert tally.by_path == {AlarmPath.STRONG: 1}


@pytest.mark.parametrize("level_free", [False, True])
def test_24_lines_raise_an_alarm_7_s_after_the_first_window_over_all_that_was_held_out(
    level_free: bool,
) -> None:
    stream = np.concatenate([noise(20, 5), noise(15, 6, 0.5), noise(10, 7)])
    raised = competitor(noise(40, 8), stream, RATE_HZ, level_free=level_free)
    assert raised == [pytest.approx(28.0, abs=1.0)]
