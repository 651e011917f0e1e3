"""The alarm condition over whole runs of scores at once: calibration counts events in days of scores.

`rises` gives exactly what `Condition.step` gives window by window. `margins` turns a run of scores into one
number a window, above the trip level where, and only where, an alarm that was not active becomes so: what
calibration needs the tail of. Pure; fit-time only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def hops_in(delay_s: float, hop_s: float) -> int:
    """Windows after the first until a delay has passed."""
    return math.ceil(delay_s / hop_s - 1e-9)


def kth_largest(scores: Float64, k: int, n: int, missing: float) -> Float64:
    """The k-th largest of the last n scores, last axis; `missing` stands for scores before the first."""
    if n == 1:
        return scores
    before = np.full((*scores.shape[:-1], n - 1), missing)
    last_n = np.lib.stride_tricks.sliding_window_view(np.concatenate([before, scores], axis=-1), n, axis=-1)
    return np.asarray(np.partition(last_n, n - k, axis=-1)[..., n - k])


def rises(
    scores: Float64, *, trip: float, clear: float, on_hops: int, off_hops: int, k: int = 1, n: int = 1
) -> NDArray[np.bool_]:
    """Where the condition becomes active.

    Args:
        scores: (..., windows), each row one contiguous run.
        trip: Trip level.
        clear: Clear level, below it.
        on_hops: On-delay in hops (`hops_in`).
        off_hops: Off-delay in hops.
        k: Of the last n windows.
        n: See k.

    Returns:
        (..., windows), true at each window whose score makes the condition active.
    """
    turns_true = kth_largest(scores, k, n, -math.inf) > trip
    turns_false = kth_largest(scores, k, n, math.inf) <= clear
    condition = _latch(turns_true, turns_false)
    active = _latch(_lasting(condition, on_hops), _lasting(~condition, off_hops))
    before = np.concatenate([np.zeros_like(active[..., :1]), active[..., :-1]], axis=-1)
    return np.asarray(active & ~before)


def margins(
    scores: Float64, *, on_hops: int, dead_band: float, median: float, k: int = 1, n: int = 1
) -> Float64:
    """Above the trip level exactly where an inactive condition becomes active.

    With clear = trip - dead_band * (trip - median), a score above clear is one whose excess over the median,
    divided by (1 - dead_band), is above trip: so the condition, true since `on_hops` windows, is a minimum.

    Args:
        scores: (windows,), one contiguous run.
        on_hops: On-delay in hops.
        dead_band: Share of the way from trip to median; 0 to less than 1.
        median: Of normal scores.
        k: Of the last n windows.
        n: See k.

    Returns:
        (windows - on_hops - n + 1,), for the windows that have all they need; empty where there are none.
    """
    usable = len(scores) - on_hops - n + 1
    if usable <= 0:
        return np.empty(0)
    kth = kth_largest(scores, k, n, -math.inf)[n - 1 :]
    if on_hops == 0:
        return kth
    stretched = median + (kth - median) / (1.0 - dead_band)
    rest = np.lib.stride_tricks.sliding_window_view(stretched[1:], on_hops).min(axis=-1)
    return np.asarray(np.minimum(kth[:usable], rest))


def _latch(turns_true: NDArray[np.bool_], turns_false: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True from where it turns true until it turns false; false at first."""
    index = np.arange(1, turns_true.shape[-1] + 1)
    last_true = np.maximum.accumulate(np.where(turns_true, index, 0), axis=-1)
    last_false = np.maximum.accumulate(np.where(turns_false, index, 0), axis=-1)
    return np.asarray(last_true > last_false)


def _lasting(condition: NDArray[np.bool_], hops: int) -> NDArray[np.bool_]:
    """Where it has been true for so many windows after the first."""
    index = np.arange(1, condition.shape[-1] + 1)
    last_not = np.maximum.accumulate(np.where(condition, 0, index), axis=-1)
    return np.asarray(index - last_not > hops)
