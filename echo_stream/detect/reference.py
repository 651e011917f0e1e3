"""The normal sound of one operating state, and how far a window is from it, band by band.

Pure numpy, no clock. fit-normal makes it, the pipeline thread reads it. Why these views and this metric:
docs/adr/0010-scoring.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.detect.coreset import k_centres
from echo_stream.detect.folds import Fold
from echo_stream.detect.view import View
from echo_stream.types import Enrolled, Features, Float32

Float64 = NDArray[np.float64]
PLAIN = ("condition", "recordings", "level_dbfs", "score_median", "score_spread")
NORMALISED = ("echo",)
"""Kinds of encoder whose features leave a layer normalisation: one unit for all, compared as they are."""
WINDOW_WEIGHT = 2 / 3
"""The window as a whole against its segments: it says more, they see what is brief."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Features of several windows, stacked as the views want them."""

    window: Float32
    """(m, 1, bands, dim)"""
    segments: Float32
    """(m, patches, bands, dim)"""

    @classmethod
    def of(cls, features: Sequence[Features]) -> Self:
        """Of windows of equal shapes."""
        window = np.stack([item.window for item in features]).astype(np.float32, copy=False)
        segments = np.stack([item.segments for item in features]).astype(np.float32, copy=False)
        return cls(window[:, None], segments)

    def of_members(self, members: NDArray[np.intp]) -> Sound:
        """Some of the windows."""
        return Sound(self.window[members], self.segments[members])


@dataclass(frozen=True, slots=True)
class Reference:
    """Normal windows of one condition, and two views of what is near to them."""

    condition: str
    recordings: Sequence[str]
    """(n,) where each window that was kept came from."""
    start_s: Float64
    """(n,)"""
    window: View
    segments: View
    level_dbfs: float
    """Median of all normal windows."""
    score_median: float
    """Of the left-out normal windows' scores, before they are standardised."""
    score_spread: float

    def compare(self, sound: Sound) -> tuple[Float64, Float32]:
        """How far windows are.

        Returns:
            What each band adds to the score of each window, (m, bands), and its distance to each window that
            was kept, (m, n).
        """
        window_parts, distances = self.window.look(sound.window)
        segment_parts, _ = self.segments.look(sound.segments)
        mixed = _mix(self.window, self.segments, window_parts, segment_parts)
        return (mixed - self.score_median / mixed.shape[1]) / self.score_spread, distances[:, 0]

    def tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Its arrays for a file, names prefixed."""
        return {
            prefix + "start_s": self.start_s,
            **self.window.tensors(prefix + "window."),
            **self.segments.tensors(prefix + "segments."),
        }

    def plain(self) -> dict[str, Any]:
        """All but its arrays, as JSON."""
        return {name: getattr(self, name) for name in PLAIN}

    @classmethod
    def restore(cls, plain: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], prefix: str) -> Self:
        """From what `plain` and `tensors` gave.

        Raises:
            KeyError, TypeError, ValueError: a part is missing or misshapen.
        """
        return cls(
            start_s=tensors[prefix + "start_s"],
            window=View.restore(tensors, prefix + "window."),
            segments=View.restore(tensors, prefix + "segments."),
            **plain,
        )


def fit_reference(
    enrolled: Sequence[Enrolled], folds: Sequence[Fold], *, kind: str, max_windows: int
) -> tuple[Reference, Float64]:
    """Reference of the windows of one condition, and the scores that they have while left out.

    A fold's windows are scored by views that were fitted without them, metric and all: whitening fitted on
    the very windows that are judged would read them as falsely near.
    """
    sound = Sound.of([item.features for item in enrolled])
    whiten = kind not in NORMALISED
    everything = np.arange(len(enrolled))
    first = View.of_windows(sound.window, everything, whiten=whiten)
    kept = k_centres(first.normals.reshape(len(enrolled), -1), max_windows)
    bands = sound.window.shape[2]
    window_parts, segment_parts = np.zeros((len(enrolled), bands)), np.zeros((len(enrolled), bands))
    for fold in folds:
        rest, out = sound.of_members(fold.kept), sound.of_members(fold.left_out)
        still_kept = np.flatnonzero(np.isin(fold.kept, kept))
        of_windows = View.of_windows(rest.window, still_kept, whiten=whiten)
        window_parts[fold.left_out], _ = of_windows.look(out.window)
        segment_parts[fold.left_out], _ = View.of_segments(rest.segments).look(out.segments)
    window = View(first.metric, first.normals[kept], *robust(window_parts.sum(axis=1)))
    segments = View.of_segments(sound.segments).calibrated(*robust(segment_parts.sum(axis=1)))
    values = _mix(window, segments, window_parts, segment_parts).sum(axis=1)
    score_median, score_spread = robust(values)
    reference = Reference(
        condition=enrolled[0].condition,
        recordings=[enrolled[i].recording for i in kept],
        start_s=np.array([enrolled[i].start_s for i in kept], dtype=np.float64),
        window=window,
        segments=segments,
        level_dbfs=float(np.median([item.features.level_dbfs for item in enrolled])),
        score_median=score_median,
        score_spread=score_spread,
    )
    return reference, (values - score_median) / score_spread


def _mix(window: View, segments: View, window_parts: Float64, segment_parts: Float64) -> Float64:
    mixed: Float64 = WINDOW_WEIGHT * window.standardised(window_parts) + (
        1 - WINDOW_WEIGHT
    ) * segments.standardised(segment_parts)
    return mixed


def robust(values: Float64) -> tuple[float, float]:
    """Median and half the width of the central 68 %; the spread is never 0."""
    low, median, high = np.quantile(values, [0.16, 0.5, 0.84]).tolist()
    return median, max((high - low) / 2, 1e-3 * abs(median), 1e-6)
