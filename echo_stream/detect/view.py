"""One way of looking at a window, and how far from normal it is that way, split over the bands.

Pure numpy, no clock. fit-normal makes it, the pipeline thread reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.detect.metric import Metric
from echo_stream.types import Float32

Float64 = NDArray[np.float64]
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
    def of_windows(cls, pieces: Float32, kept: NDArray[np.intp], *, whiten: bool) -> Self:
        """Nearest neighbour among the kept ones of normal windows (n, 1, bands, dim)."""
        metric = _fit(pieces, whiten=whiten)
        return cls(metric, metric.apply(pieces[kept, 0]))

    @classmethod
    def of_segments(cls, pieces: Float32) -> Self:
        """Distance of segments (n, patches, bands, dim) to the middle of all normal ones.

        Many short segments make one broad cloud; neighbours in it were no better and cost a larger bank.
        """
        metric = _fit(pieces, whiten=True)
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


def _fit(pieces: Float32, *, whiten: bool) -> Metric:
    rows = pieces.reshape(-1, *pieces.shape[2:])
    rows = rows[:: -(-len(rows) // MOST_ROWS)]
    return Metric.whitening(rows) if whiten else Metric.plain(rows)
