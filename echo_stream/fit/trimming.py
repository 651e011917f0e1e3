"""Trimming leaves out what does not belong into an enrolment: a knock, a voice, a door. Fit time only.

A window does not belong where it is far from what the machine does at all other times: short, rare, and
unlike anything else. A machine that knocks by itself sounds like that again a while later, so it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Enrolled, Float32, Float64

Indices = NDArray[np.intp]

MOMENT_S = 10.0
"""What is longer than this is no knock and no word; what comes later than this comes again. Less, an eighth
of the enrolment, where that is short."""
OTHER_MOMENTS = 2
"""A window that sounds like two other moments is the machine's own: what comes three times belongs to it."""
FAR = 12.0
"""Times the way from the median to the 90 % quantile of all windows' distances. Measured on real and
simulated machines: undisturbed windows up to 12, mostly to 4; knocks at 10 to 280, voices and the like as
loud as the machine at 8 to 250."""
NEAR_ONE = 5.0
"""Beside a far window, already this belongs to the same disturbance."""
ALIKE = 0.5
"""A window whose distance to two other moments is less than this share of its distance to an average moment
comes again, however far it is from most (measured: knocks of a machine up to 0.4, single ones over 0.95)."""
MOST = 0.1
"""At most this share of the windows is left out; of a short enrolment, what one knock touches."""
FEWEST = 20
"""With fewer windows nobody can say what is rare."""
REFERENCES = 8_000
"""Windows that the others are compared with, at most (some hours of sound): the work grows with them."""
ROWS = 256


@dataclass(frozen=True, slots=True, eq=False)
class Outlier:
    """Windows in a row that sound like nothing else."""

    recording: str
    start_s: float
    end_s: float
    """End of the last window."""
    members: Indices
    """Which windows, as places in what was enrolled."""
    farness: float
    """Of the farthest of them, in the unit of `FAR`."""


@dataclass(frozen=True, slots=True)
class Trimming:
    """What is learnt, what is left out, and what stands out and is learnt nevertheless."""

    kept: Indices
    trimmed: tuple[Outlier, ...] = ()
    kept_outliers: tuple[Outlier, ...] = ()
    """Too long for a disturbance, or more than may be left out."""

    def restore(self, false_outliers: Sequence[Outlier]) -> Trimming:
        """The same with some of the trimmed outliers kept after all."""
        kept = np.sort(np.concatenate([self.kept, *(outlier.members for outlier in false_outliers)]))
        return Trimming(kept, tuple(s for s in self.trimmed if s not in false_outliers), self.kept_outliers)


def keep_all(enrolled: Sequence[Enrolled]) -> Trimming:
    """No trimming."""
    return Trimming(np.arange(len(enrolled)))


def trim(enrolled: Sequence[Enrolled], *, window_s: float, hop_s: float) -> Trimming:
    """Leave out what is short, rare and far from everything else.

    Args:
        enrolled: Windows of one operating state, recording by recording, each in time order.
        window_s: Length of a window.
        hop_s: Between the starts of two windows of a recording.
    """
    moment_s = max(min(MOMENT_S, len(enrolled) * hop_s / 8), 2 * window_s)
    moments, recordings = _moments(enrolled, moment_s), _recordings(enrolled)
    if len(enrolled) < FEWEST or not _comparable(moments, recordings):
        return keep_all(enrolled)
    farness = _farness(_standardised(enrolled), moments, recordings)
    outliers = _outliers(enrolled, farness, window_s=window_s, hop_s=hop_s)
    one_knock = int(np.ceil(window_s / hop_s - 1e-9)) + 1
    budget = min(max(int(MOST * len(enrolled)), one_knock), int(2 * MOST * len(enrolled)))
    trimmed, kept_outliers = [], []
    for outlier in sorted(outliers, key=lambda s: -s.farness):
        short = outlier.end_s - outlier.start_s <= moment_s + window_s
        if short and len(outlier.members) <= budget:
            budget -= len(outlier.members)
            trimmed.append(outlier)
        else:
            kept_outliers.append(outlier)
    left_out = np.concatenate([s.members for s in trimmed]) if trimmed else np.empty(0, np.intp)
    kept = np.setdiff1d(np.arange(len(enrolled)), left_out)
    return Trimming(kept, _in_order(trimmed), _in_order(kept_outliers))


def _in_order(outliers: Sequence[Outlier]) -> tuple[Outlier, ...]:
    return tuple(sorted(outliers, key=lambda s: int(s.members[0])))


def _recordings(enrolled: Sequence[Enrolled]) -> Indices:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(item.recording, len(numbers)) for item in enrolled], np.intp)


def _moments(enrolled: Sequence[Enrolled], moment_s: float) -> Indices:
    """(windows,) number of the moment, a piece of one recording, that each window belongs to; ascending."""
    block = np.array([item.start_s // moment_s for item in enrolled])
    new = (np.diff(_recordings(enrolled)) != 0) | (np.diff(block) != 0)
    return np.concatenate([[0], np.cumsum(new)]).astype(np.intp)


def _comparable(moments: Indices, recordings: Indices) -> bool:
    """Whether each window has `OTHER_MOMENTS` others, none of them beside it or beside another."""
    each = np.bincount(recordings[np.flatnonzero(np.diff(moments, prepend=-1))])
    return bool(each.sum() > 3 * OTHER_MOMENTS)


def _standardised(enrolled: Sequence[Enrolled]) -> Float32:
    """(windows, dims) features in robust spreads, so that a few disturbances do not set the scale."""
    features = np.stack([item.features.window.ravel() for item in enrolled]).astype(np.float32)
    deviation = features - np.median(features, axis=0)
    spread = np.median(np.abs(deviation), axis=0)
    floor = 0.1 * float(spread.mean()) + 1e-6  # what hardly ever moves must not decide alone
    scaled: Float32 = deviation / np.maximum(spread, floor)
    return scaled


def _farness(features: Float32, moments: Indices, recordings: Indices) -> Float64:
    """(windows,) how far each is from all other moments, 0 for the median window; 0 where it comes again."""
    every = -(-len(features) // REFERENCES)
    reference, their_moments = features[::every], moments[::every]
    firsts = np.flatnonzero(np.diff(their_moments, prepend=-1))
    moment, recording = their_moments[firsts], recordings[::every][firsts]
    square = np.square(reference).sum(axis=1)
    distance, alike = np.empty(len(features)), np.empty(len(features))
    for start in range(0, len(features), ROWS):
        rows = slice(start, start + ROWS)
        own = features[rows]
        squared = np.square(own).sum(axis=1)[:, None] + square - 2 * own @ reference.T
        nearest = np.sqrt(np.maximum(np.minimum.reduceat(squared, firsts, axis=1), 0))
        average = np.median(nearest, axis=1)
        its_recording, its_moment = recordings[rows, None], moments[rows, None]
        for _ in range(OTHER_MOMENTS):
            nearest[(recording == its_recording) & (np.abs(moment - its_moment) <= 1)] = np.inf
            closest = nearest.argmin(axis=1)[:, None]
            its_recording, its_moment = recording[closest], moment[closest]
        others = np.take_along_axis(nearest, closest, axis=1)[:, 0]
        distance[rows], alike[rows] = others, others / np.maximum(average, 1e-9)
    median, upper = np.quantile(distance, [0.5, 0.9])
    farness = (distance - median) / max(upper - median, 0.05 * median, 1e-9)
    return np.where(alike < ALIKE, 0.0, farness)


def _outliers(
    enrolled: Sequence[Enrolled], farness: Float64, *, window_s: float, hop_s: float
) -> list[Outlier]:
    """Rows of windows over `NEAR_ONE` that share samples, where at least one is over `FAR`."""
    runs: list[list[int]] = []
    for i in np.flatnonzero(farness > NEAR_ONE).tolist():
        before = enrolled[runs[-1][-1]] if runs else None
        together = (
            before is not None
            and before.recording == enrolled[i].recording
            and enrolled[i].start_s - before.start_s < max(window_s, 1.5 * hop_s)
        )
        if together:
            runs[-1].append(i)
        else:
            runs.append([i])
    return [
        Outlier(
            recording=enrolled[run[0]].recording,
            start_s=enrolled[run[0]].start_s,
            end_s=enrolled[run[-1]].start_s + window_s,
            members=np.array(run, np.intp),
            farness=float(farness[run].max()),
        )
        for run in runs
        if farness[run].max() > FAR
    ]
