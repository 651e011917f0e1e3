"""The normal sound of one operating state, and how far a window is from it, band by band.

Pure numpy, no clock. fit-normal makes it, the pipeline thread reads it. Why these views and this metric:
docs/adr/0010-scoring.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Enrolled, Features, Float32, Float64
from echo_stream.detect.folds import Fold
from echo_stream.detect.metric import Metric
from echo_stream.detect.nuisance import Nuisances, none, of_views

PROJECTED = 256
"""Dimensions in which centres are chosen at most."""


def k_centres(points: Float32, count: int) -> NDArray[np.intp]:
    """Indices of `count` points such that every other is near one of them (Gonzalez 1985), ascending.

    Starts at the point nearest to the mean, then takes the point furthest from those taken: rare normal sound
    is kept, repetitions go. The largest distance left is at most twice the smallest possible.

    Args:
        points: (n, dims)
        count: How many to keep; all where n is not greater.
    """
    if len(points) <= count:
        return np.arange(len(points))
    if points.shape[1] > PROJECTED:  # distances survive a random projection (Johnson and Lindenstrauss 1984)
        points = points @ np.random.default_rng(0).standard_normal((points.shape[1], PROJECTED), np.float32)
    lengths = np.square(points).sum(axis=1)
    centre = points.mean(axis=0)
    chosen = [int(np.argmin(lengths - 2 * points @ centre))]
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    while len(chosen) < count:
        latest = chosen[-1]
        nearest = np.minimum(nearest, lengths + lengths[latest] - 2 * points @ points[latest])
        nearest[latest] = -np.inf
        chosen.append(int(np.argmax(nearest)))
    return np.sort(np.array(chosen, dtype=np.intp))


# One way of looking at a window, and how far from normal it is that way, split over the bands.
#
# Pure numpy, no clock. fit-normal makes it, the pipeline thread reads it.

MOST_ROWS = 20_000
"""For fitting a metric; evenly spread over the enrolment."""
BATCH = 512


@dataclass(frozen=True, slots=True)
class View:
    """Distances to normal sound in one metric.

    A window is seen as its pieces (m, pieces, bands, dim): one piece for the window as a whole, or its 160 ms
    segments. Its distance is the mean over the quarter of its pieces that are furthest from the middle of all
    normal ones: a knock fills two or three segments of a window and would drown in the mean of all.
    """

    metric: Metric
    normals: Float32
    """(n, bands, dim) coordinates of what is normal."""
    median: float = 0.0
    """Of the distances of left-out normal windows."""
    spread: float = 1.0
    _lengths: Float32 = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Squared lengths (n,) once: of a large bank they cost as much as the matrix product."""
        object.__setattr__(self, "_lengths", np.square(self.normals).sum(axis=(1, 2)))

    def look(self, pieces: Float32) -> tuple[Float64, Float32]:
        """How far windows (m, pieces, bands, dim) are.

        Returns:
            What each band adds to the distance of each window, (m, bands), none negative; and the distance of
            each of the furthest pieces to each normal, (m, furthest, n).
        """
        if len(pieces) <= BATCH:
            return self._look(pieces)
        looks = [self._look(pieces[i : i + BATCH]) for i in range(0, len(pieces), BATCH)]
        return np.concatenate([parts for parts, _ in looks]), np.concatenate([apart for _, apart in looks])

    def standardised(self, parts: Float64) -> Float64:
        """Parts in units of the left-out normal windows' spread around their median: (m, bands)."""
        shares: Float64 = (parts - self.median / parts.shape[1]) / self.spread
        return shares

    def _look(self, pieces: Float32) -> tuple[Float64, Float32]:
        m, count, bands, _ = pieces.shape
        few = max(1, count // 4)
        projected = self.metric.project(pieces)
        if few < count:
            lengths = self.metric.lengths(*projected).reshape(m, count)
            furthest = np.argpartition(lengths, count - few, axis=1)[:, count - few :]
            rows = (furthest + count * np.arange(m)[:, None]).ravel()
            projected = projected[0][rows], projected[1][rows]
        coordinates = self.metric.whiten(*projected)
        squared = self._squared(coordinates)
        apart = coordinates.reshape(m * few, bands, -1) - self.normals[squared.argmin(axis=1)]
        of_bands = np.square(apart, dtype=np.float64).sum(axis=2)
        of_bands /= np.maximum(np.sqrt(of_bands.sum(axis=1)), 1e-12)[:, None]
        return of_bands.reshape(m, few, bands).mean(axis=1), np.sqrt(squared).reshape(m, few, -1)

    def _squared(self, queries: Float32) -> Float32:
        """Squared Euclidean distances, one matrix product: (m, bands * dim) to (m, n)."""
        normals = self.normals.reshape(len(self.normals), -1)
        lengths = np.square(queries).sum(axis=1)[:, None] + self._lengths
        squared: Float32 = np.maximum(lengths - 2 * (queries @ normals.T), 0)
        return squared

    @classmethod
    def of_windows(
        cls, pieces: Float32, kept: NDArray[np.intp], *, whiten: bool, nuisances: Nuisances = none
    ) -> Self:
        """Nearest neighbour among the kept ones of normal windows (n, 1, bands, dim)."""
        metric = _fit(pieces, nuisances) if whiten else Metric.plain(_rows(pieces))
        return cls(metric, metric.apply(pieces[kept, 0]))

    @classmethod
    def of_segments(cls, pieces: Float32, *, nuisances: Nuisances = none) -> Self:
        """Distance of segments (n, patches, bands, dim) to the middle of all normal ones.

        Many short segments make one broad cloud; neighbours in it were no better and cost a larger bank.
        """
        metric = _fit(pieces, nuisances)
        return cls(metric, np.zeros((1, *pieces.shape[2:]), dtype=np.float32))

    def calibrated(self, median: float, spread: float) -> Self:
        """The same with these units."""
        return replace(self, median=median, spread=spread)

    def tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """All of it, for a file, names prefixed."""
        units = np.array([self.median, self.spread])
        own = {**self.metric.tensors(), "normals": self.normals, "units": units}
        return {prefix + name: tensor for name, tensor in own.items()}

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], prefix: str) -> Self:
        """From what `tensors` gave.

        Raises:
            KeyError, TypeError, ValueError: a part is missing or misshapen.
        """
        median, spread = tensors[prefix + "units"].tolist()
        return cls(Metric.restore(tensors, prefix), tensors[prefix + "normals"], median, spread)


def _rows(pieces: Float32) -> Float32:
    rows = pieces.reshape(-1, *pieces.shape[2:])
    return rows[:: -(-len(rows) // MOST_ROWS)]


def _fit(pieces: Float32, nuisances: Nuisances) -> Metric:
    rows = _rows(pieces)
    return Metric.whitening(rows, nuisances(rows.mean(axis=0)))


# The normal sound of one operating state, and how far a window is from it, band by band.
#
# Pure numpy, no clock. fit-normal makes it, the pipeline thread reads it. Why these views and this metric:
# docs/adr/0010-scoring.md.

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
    nuisances, segment_nuisances = of_views(kind, enrolled[0].features.bands_hz)
    everything = np.arange(len(enrolled))
    first = View.of_windows(sound.window, everything, whiten=whiten, nuisances=nuisances)
    kept = k_centres(first.normals.reshape(len(enrolled), -1), max_windows)
    bands = sound.window.shape[2]
    window_parts, segment_parts = np.zeros((len(enrolled), bands)), np.zeros((len(enrolled), bands))
    for fold in folds:
        rest, out = sound.of_members(fold.kept), sound.of_members(fold.left_out)
        still_kept = np.flatnonzero(np.isin(fold.kept, kept))
        of_windows = View.of_windows(rest.window, still_kept, whiten=whiten, nuisances=nuisances)
        of_segments = View.of_segments(rest.segments, nuisances=segment_nuisances)
        window_parts[fold.left_out], _ = of_windows.look(out.window)
        segment_parts[fold.left_out], _ = of_segments.look(out.segments)
    window = View(first.metric, first.normals[kept], *robust(window_parts.sum(axis=1)))
    segments = View.of_segments(sound.segments, nuisances=segment_nuisances).calibrated(
        *robust(segment_parts.sum(axis=1))
    )
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
