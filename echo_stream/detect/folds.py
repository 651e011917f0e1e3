"""What is left out together when a bank judges itself: whole recordings, or blocks of time with a margin.

Pure functions, used at fit time only. Windows of one recording resemble each other more than they resemble
tomorrow's, and overlapping windows share samples: leaving out one window alone reads falsely near.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_stream.errors import BankError
from echo_stream.types import Enrolled

BLOCK_S = 30.0
"""Wanted length of a block of time where there is only one recording to cut."""
MIN_BLOCKS, MAX_BLOCKS = 5, 20


@dataclass(frozen=True, slots=True)
class Fold:
    """Windows that are scored together, against what is kept."""

    left_out: NDArray[np.intp]
    kept: NDArray[np.intp]


def folds_of(enrolled: Sequence[Enrolled], *, window_s: float, hop_s: float) -> list[Fold]:
    """Folds of the windows of one condition; every window is left out exactly once.

    Raises:
        BankError: so few windows that nothing is kept while a part is left out.
    """
    recordings = np.array([item.recording for item in enrolled])
    starts_s = np.array([item.start_s for item in enrolled])
    names = sorted(set(recordings.tolist()))
    if len(names) > 1:
        folds = [
            Fold(np.flatnonzero(recordings == name), np.flatnonzero(recordings != name)) for name in names
        ]
    else:
        folds = _blocks_of_time(starts_s, window_s=window_s, hop_s=hop_s)
    if not folds or any(len(fold.kept) == 0 for fold in folds):
        raise BankError(
            f"{len(enrolled)} windows of condition {enrolled[0].condition!r} are too few: leaving a part out "
            "leaves nothing to compare it with",
            f"Enrol at least {5 * (MIN_BLOCKS + 1) * window_s:.0f} s of normal sound, or several recordings.",
        )
    return folds


def _blocks_of_time(starts_s: NDArray[np.float64], *, window_s: float, hop_s: float) -> list[Fold]:
    order = np.argsort(starts_s, kind="stable")
    wanted = round(len(starts_s) * hop_s / BLOCK_S)
    blocks = np.array_split(order, min(max(wanted, MIN_BLOCKS), MAX_BLOCKS, len(starts_s)))
    margin_s = 2 * window_s  # one window against overlap, one more against plain nearness in time
    folds = []
    for block in blocks:
        near = (starts_s > starts_s[block[0]] - margin_s) & (starts_s < starts_s[block[-1]] + margin_s)
        folds.append(Fold(block, np.flatnonzero(~near)))
    return folds


def runs_of(enrolled: Sequence[Enrolled], fold: Fold, *, hop_s: float) -> list[NDArray[np.intp]]:
    """The fold's windows in time order, cut wherever the next does not follow at hop spacing."""
    key = sorted(fold.left_out.tolist(), key=lambda i: (enrolled[i].recording, enrolled[i].start_s))
    runs: list[list[int]] = []
    for i in key:
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
