"""The normal sound of one operating state, and how far a window is from it, band by band.

Pure numpy, no clock. fit-normal makes it, the pipeline thread reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.detect.folds import Fold
from echo_stream.types import Enrolled, Float32

Float64 = NDArray[np.float64]
TENSORS = ("window", "start_s", "level_dbfs", "centre", "scale", "band_median", "band_spread")
PLAIN = ("condition", "recordings", "score_median", "score_spread")
MAD_TO_DEVIATION = 1.4826


@dataclass(frozen=True, slots=True)
class Reference:
    """Normal windows of one condition, with what standardises distances to them."""

    condition: str
    recordings: Sequence[str]
    """(n,) where each window came from."""
    window: Float32
    """(n, bands, dim) standardised features."""
    start_s: Float64
    """(n,)"""
    level_dbfs: Float64
    """(n,)"""
    centre: Float32
    """(bands, dim), subtracted from features."""
    scale: Float32
    """(bands, dim), features are divided by it."""
    band_median: Float32
    """(bands,) of the left-out windows' distances."""
    band_spread: Float32
    """(bands,) of the left-out windows' distances."""
    score_median: float = 0.0
    score_spread: float = 1.0

    def distances(self, features: Float32) -> Float32:
        """Squared Euclidean distance of standardised features, per band: (m, bands, dim) to (m, n, bands)."""
        return squared_distances((features - self.centre) / self.scale, self.window)

    def contributions(self, distances: Float32) -> Float64:
        """What each band adds to the score, from `distances`: (m, n, bands) to (m, bands)."""
        nearest = np.sqrt(distances.min(axis=1)).astype(np.float64)
        bands = (nearest - self.band_median) / self.band_spread
        shares: Float64 = (bands - self.score_median) / (self.score_spread * bands.shape[1])
        return shares

    def keep(self, members: NDArray[np.intp]) -> Self:
        """The same with only some of its windows: what a left-out window is scored against."""
        return replace(
            self,
            recordings=[self.recordings[i] for i in members],
            window=self.window[members],
            start_s=self.start_s[members],
            level_dbfs=self.level_dbfs[members],
        )

    def tensors(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Its arrays for a file, names prefixed."""
        return {prefix + name: getattr(self, name) for name in TENSORS}

    def plain(self) -> dict[str, Any]:
        """All but its arrays, as JSON."""
        return {name: getattr(self, name) for name in PLAIN}

    @classmethod
    def restore(cls, plain: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]], prefix: str) -> Self:
        """From what `plain` and `tensors` gave."""
        fields = {**plain, **{name: tensors[prefix + name] for name in TENSORS}}
        return cls(**fields)


def squared_distances(queries: Float32, normals: Float32) -> Float32:
    """Squared Euclidean distances per band, one matrix product a band.

    Args:
        queries: (m, bands, dim)
        normals: (n, bands, dim)

    Returns:
        (m, n, bands)
    """
    q, r = queries.transpose(1, 0, 2), normals.transpose(1, 2, 0)
    lengths = np.square(q).sum(axis=2)[:, :, None] + np.square(r).sum(axis=1)[:, None, :]
    squared: Float32 = np.maximum(lengths - 2 * (q @ r), 0).transpose(1, 2, 0)
    return squared


def values_of(references: Sequence[Reference], features: Float32) -> Float64:
    """Scores of windows, features (m, bands, dim), each against the condition that is nearest: (m,)."""
    each = [own.contributions(own.distances(features)).sum(axis=1) for own in references]
    nearest: Float64 = np.min(each, axis=0)
    return nearest


def fit_reference(enrolled: Sequence[Enrolled], folds: Sequence[Fold]) -> Reference:
    """Reference of the windows of one condition, standardised by their left-out distances."""
    features = np.stack([item.features.window for item in enrolled]).astype(np.float32)
    spread = features.std(axis=0)
    floor = 0.01 * spread.mean() + 1e-6  # a feature that never moved in the enrolment must not decide alone
    bands = features.shape[1]
    start = Reference(
        condition=enrolled[0].condition,
        recordings=[item.recording for item in enrolled],
        window=np.zeros_like(features),
        start_s=np.array([item.start_s for item in enrolled], dtype=np.float64),
        level_dbfs=np.array([item.features.level_dbfs for item in enrolled], dtype=np.float64),
        centre=features.mean(axis=0),
        scale=np.maximum(spread, floor).astype(np.float32),
        band_median=np.zeros(bands, dtype=np.float32),
        band_spread=np.ones(bands, dtype=np.float32),
    )
    start = replace(start, window=(features - start.centre) / start.scale)
    nearest = np.empty(features.shape[:2], dtype=np.float32)
    for fold in folds:
        squared = start.keep(fold.kept).distances(features[fold.left_out])
        nearest[fold.left_out] = np.sqrt(squared.min(axis=1))
    band_median, band_spread = robust(nearest)
    score_median, score_spread = robust(((nearest - band_median) / band_spread).mean(axis=1))
    return replace(
        start,
        band_median=band_median.astype(np.float32),
        band_spread=band_spread.astype(np.float32),
        score_median=float(score_median),
        score_spread=float(score_spread),
    )


def robust(values: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Median and spread (scaled median absolute deviation) over axis 0; the spread is never 0."""
    median = np.median(values, axis=0)
    spread = MAD_TO_DEVIATION * np.median(np.abs(values - median), axis=0)
    spread = np.maximum(spread, 0.5 * values.std(axis=0))  # half of the values being equal proves nothing
    return median, np.maximum(spread, 1e-3 * np.abs(median) + 1e-6)
