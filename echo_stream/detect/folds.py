"""What is left out together when a bank judges itself: whole recordings, or blocks of time with a margin.

Pure functions, used at fit time only. Windows of one recording resemble each other more than they resemble
tomorrow's, and overlapping windows share samples: leaving out one window alone reads falsely near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.errors import BankError
from echo_stream.core.types import Enrolled

BLOCK_S = 30.0
"""Wanted length of a block of time."""
MIN_BLOCKS, MAX_FOLDS = 5, 20
LARGEST_SHARE = 0.6
"""Of all windows, in one recording: with more, what is kept without it would be too little to judge by."""


@dataclass(frozen=True, slots=True)
class Fold:
    """Windows that are left out together, and those that they are scored against meanwhile."""

    left_out: NDArray[np.intp]
    kept: NDArray[np.intp]


def folds_of(enrolled: Sequence[Enrolled], *, window_s: float, hop_s: float) -> list[Fold]:
    """Folds of the windows of one condition; every window is left out exactly once.

    Whole recordings are left out, several together where there are many. Where one recording holds most of
    the sound, blocks of time are, with a margin around them.

    Raises:
        BankError: so few windows that nothing is kept while a part is left out.
    """
    recordings = np.array([item.recording for item in enrolled])
    starts_s = np.array([item.start_s for item in enrolled])
    names, sizes = np.unique(recordings, return_counts=True)
    if sizes.max() <= LARGEST_SHARE * len(enrolled):
        dealt = [names[i::MAX_FOLDS] for i in range(min(MAX_FOLDS, len(names)))]
        left_out = [np.isin(recordings, some) for some in dealt]
        folds = [Fold(np.flatnonzero(out), np.flatnonzero(~out)) for out in left_out]
    else:
        folds = _blocks_of_time(recordings, starts_s, window_s=window_s, hop_s=hop_s)
    if any(len(fold.kept) < 2 for fold in folds):
        raise BankError(
            f"{len(enrolled)} windows of condition {enrolled[0].condition!r} are too few: leaving a part out "
            "leaves nothing to compare it with",
            f"Enrol at least {2 * MIN_BLOCKS * window_s:.0f} s of normal sound, or several recordings.",
        )
    return folds


def _blocks_of_time(
    recordings: NDArray[np.str_], starts_s: NDArray[np.float64], *, window_s: float, hop_s: float
) -> list[Fold]:
    order = np.lexsort((starts_s, recordings))
    wanted = min(max(round(len(order) * hop_s / BLOCK_S), MIN_BLOCKS), MAX_FOLDS, len(order))
    margin_s = 2 * window_s  # one window against overlap, one more against plain nearness in time
    folds = []
    for block in np.array_split(order, wanted):
        near = np.zeros(len(order), dtype=bool)
        for name in np.unique(recordings[block]):
            inside = starts_s[block[recordings[block] == name]]
            close = (starts_s > inside.min() - margin_s) & (starts_s < inside.max() + margin_s)
            near |= close & (recordings == name)
        folds.append(Fold(block, np.flatnonzero(~near)))
    return folds


def runs_of(enrolled: Sequence[Enrolled], fold: Fold, *, hop_s: float) -> list[NDArray[np.intp]]:
    """The fold's windows in time order, cut wherever the next does not follow at hop spacing."""
    in_time = sorted(fold.left_out.tolist(), key=lambda i: (enrolled[i].recording, enrolled[i].start_s))
    runs: list[list[int]] = []
    for i in in_time:
        before = enrolled[runs[-1][-1]] if runs else None
        follows = (
            before is not None
            and before.recording == enrolled[i].recording
            and enrolled[i].start_s - before.start_s < 1.5 * hop_s
        )
        if follows:
            runs[-1].append(i)
        else:
            runs.append([i])
    return [np.array(run, dtype=np.intp) for run in runs]
