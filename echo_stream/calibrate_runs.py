"""How windows lie in time: where a held-out score belongs, what follows what, how much sound it is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from echo_stream.detect.folds import folds_of, runs_of
from echo_stream.types import Enrolled

Float64 = NDArray[np.float64]


def minutes_of(enrolled: Sequence[Enrolled], window_s: float) -> float:
    """How much sound windows hold, recording by recording in time order; what overlaps counts once."""
    seconds = 0.0
    before: Enrolled | None = None
    for item in enrolled:
        follows = before is not None and before.recording == item.recording
        seconds += min(window_s, item.start_s - before.start_s) if before and follows else window_s
        before = item
    return seconds / 60


def held_out_places(enrolled: Sequence[Enrolled], *, window_s: float, hop_s: float) -> list[NDArray[np.intp]]:
    """Which of the enrolled windows each score of each run of `NormalBank.held_out` belongs to."""
    places = []
    for condition in sorted({item.condition for item in enrolled}):
        members = np.array([i for i, item in enumerate(enrolled) if item.condition == condition], np.intp)
        items = [enrolled[i] for i in members]
        for fold in folds_of(items, window_s=window_s, hop_s=hop_s):
            places += [members[run] for run in runs_of(items, fold, hop_s=hop_s)]
    return places


def in_runs(enrolled: Sequence[Enrolled], values: Float64, hop_s: float) -> list[Float64]:
    """Values of windows, cut wherever the next window does not follow at hop spacing."""
    follows = [
        after.recording == before.recording and after.start_s - before.start_s < 1.5 * hop_s
        for before, after in pairwise(enrolled)
    ]
    return np.split(values, np.flatnonzero(~np.array(follows, dtype=bool)) + 1)
