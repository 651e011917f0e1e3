"""Windows do not depend on how sound is cut into blocks; gaps are honoured; memory is bounded."""

from __future__ import annotations

import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.capture.windows import Slicer
from echo_stream.core.types import Float32

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 60))
STRETCHES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 200)), min_size=1, max_size=6)


def ramp(start: int, end: int) -> Float32:
    """Each sample is its own index, so that a window shows where it came from."""
    return np.arange(start, end, dtype=np.float32)


def drain(slicer: Slicer) -> list[int]:
    starts = []
    while (window := slicer.pop()) is not None:
        start, samples = window
        assert np.array_equal(samples, ramp(start, start + len(samples)))
        starts.append(start)
    return starts


@given(SIZES, STRETCHES, st.data())
def test_any_cutting_gives_the_same_windows(
    sizes: tuple[int, int], stretches: list[tuple[int, int]], data: st.DataObject
) -> None:
    window, hop = sizes
    slicer = Slicer(window, hop, keep_samples=1000)
    expected, got, index, lost = [], [], 0, 0
    for number, (missing, length) in enumerate(stretches):
        start, end = index + missing, index + missing + length
        expected += list(range(start, end - window + 1, hop))
        lost += missing if number else 0
        index = start
        while index < end:
            n = data.draw(st.integers(1, end - index))
            # A gap of no known length is told by the flag alone.
            slicer.push(ramp(index, index + n), index, gap=index == start)
            index += n
            if data.draw(st.booleans()):
                got += drain(slicer)
        got += drain(slicer)
    assert got == expected
    assert (slicer.skipped_hops, slicer.lost_samples) == (0, lost)


def test_a_jump_of_the_index_is_a_gap_even_when_unsaid() -> None:
    slicer = Slicer(10, 5, 100)
    slicer.push(ramp(0, 14), 0)
    slicer.push(ramp(20, 40), 20)
    assert drain(slicer) == [0, 20, 25, 30]
    assert slicer.lost_samples == 6


def test_an_index_that_goes_back_is_refused() -> None:
    slicer = Slicer(10, 5, 100)
    slicer.push(ramp(0, 14), 0)
    with pytest.raises(ValueError, match="went back from 14 to 13"):
        slicer.push(ramp(13, 20), 13)


def test_the_newest_windows_win() -> None:
    slicer = Slicer(10, 5, 100)
    slicer.push(ramp(0, 50), 0)
    assert slicer.pending == 9
    assert slicer.skip_to_newest(2) == 7
    assert (slicer.pending, slicer.skipped_hops) == (2, 7)
    assert slicer.skip_to_newest(2) == 0
    assert drain(slicer) == [35, 40]


@given(SIZES, st.lists(st.integers(1, 300), max_size=30))
def test_windows_that_nobody_pops_are_counted_and_never_pile_up(
    sizes: tuple[int, int], blocks: list[int]
) -> None:
    window, hop = sizes
    slicer = Slicer(window, hop, keep_samples=100)
    at = 0
    for n in blocks:
        slicer.push(ramp(at, at + n), at)
        at += n
        assert slicer.pending <= 100 // hop + 1
    due = len(range(0, at - window + 1, hop))
    assert slicer.pending + slicer.skipped_hops == due
    assert all(start >= at - 100 for start in drain(slicer))


def test_popped_windows_are_own_arrays() -> None:
    slicer = Slicer(4, 4, 4)
    slicer.push(ramp(0, 4), 0)
    window = slicer.pop()
    slicer.push(ramp(4, 8), 4)
    assert window is not None
    assert window[1].tolist() == [0, 1, 2, 3]


def test_history_is_what_is_kept_without_a_gap() -> None:
    slicer = Slicer(10, 5, keep_samples=50)
    slicer.push(ramp(0, 40), 0)
    slicer.push(ramp(60, 80), 60)
    assert slicer.stretch(39) == (30, 40)  # the newest 50 of 80
    assert slicer.stretch(29) is None
    assert slicer.stretch(45) is None
    assert slicer.stretch(60) == (60, 80)
    assert slicer.stretch(80) is None
    past = slicer.history(31, 40)
    assert past is not None
    assert np.array_equal(past, ramp(31, 40))
    assert slicer.history(29, 40) is None
    assert slicer.history(31, 41) is None
    assert slicer.history(31, 31) is None
    assert Slicer(10, 5, 50).history(0, 1) is None


def test_history_may_be_copied_by_another_thread() -> None:
    slicer = Slicer(100, 100, keep_samples=3000)
    ended = threading.Event()

    def push() -> None:
        for at in range(0, 1_000_000, 250):
            slicer.push(ramp(at, at + 250), at)
            slicer.skip_to_newest(0)
        ended.set()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    pipeline = threading.Thread(target=push)
    copied = 0
    try:
        pipeline.start()
        while not ended.is_set():
            newest = slicer._claimed
            for back in (2990, 2000):
                past = slicer.history(newest - back, newest - 500)
                if past is not None:
                    assert np.array_equal(past, ramp(newest - back, newest - 500))
                    copied += 1
    finally:
        sys.setswitchinterval(before)
        pipeline.join()
    assert copied > 0


@pytest.mark.parametrize("sizes", [(0, 1, 10), (1, 0, 10), (10, 5, 9)])
def test_sizes_that_make_no_sense(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="window"):
        Slicer(*sizes)
