"""In which units features are compared: whitened by how normal sound itself varies.

Fitted by fit-normal, applied in the pipeline; numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.types import Float32

MOST_DIRECTIONS = 256
"""Directions of variation kept one by one; all others share one variance. A spectral bank has fewer."""
LEAST_VARIANCE = 1e-6
"""Of scaled features, whose variance is 1: an enrolment without any variation leaves distances finite."""
PARTS = ("centre", "scale", "directions", "shrink", "unit")
LEAST_SCALE = 0.01
"""Of the mean spread: a feature that hardly moved in the enrolment must not decide alone."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Features to coordinates in which the Euclidean distance is Mahalanobis's, with shrinkage.

    Whitening is symmetric (ZCA): each coordinate stays closest to its own feature, so that a squared distance
    splits into parts of the bands that are never negative and add up.
    """

    centre: Float32
    """(bands, dim) mean of normal sound."""
    scale: Float32
    """(bands, dim) its deviation."""
    directions: Float32
    """(bands * dim, k) orthonormal principal directions of the scaled features."""
    shrink: Float32
    """(k,) factor along each direction, relative to all others."""
    unit: float
    """Factor common to all coordinates."""

    def apply(self, features: Float32) -> Float32:
        """Coordinates of features, both (..., bands, dim)."""
        scaled: Float32 = ((features - self.centre) / self.scale).reshape(-1, self.directions.shape[0])
        along = _times(scaled, self.directions) * (self.shrink - 1)
        coordinates: Float32 = (scaled + _times(along, self.directions.T)) * np.float32(self.unit)
        return coordinates.reshape(features.shape)

    def lengths(self, features: Float32) -> Float32:
        """Of the coordinates of features (..., bands, dim): (...). Half the work of `apply`."""
        scaled: Float32 = ((features - self.centre) / self.scale).reshape(-1, self.directions.shape[0])
        # The directions are orthonormal: along each, and in all that is left, lengths only have to be added.
        along = np.square(scaled @ self.directions) @ (np.square(self.shrink) - 1)
        squared = np.maximum(np.square(scaled).sum(axis=1) + along, 0)
        lengths: Float32 = (np.sqrt(squared) * np.float32(self.unit)).reshape(features.shape[:-2])
        return lengths

    @classmethod
    def plain(cls, features: Float32) -> Self:
        """The features' own Euclidean distance: for features that are normalised already."""
        bands, dim = features.shape[1:]
        return cls(
            centre=features.mean(axis=0),
            scale=np.ones((bands, dim), dtype=np.float32),
            directions=np.zeros((bands * dim, 0), dtype=np.float32),
            shrink=np.zeros(0, dtype=np.float32),
            unit=1.0,
        )

    @classmethod
    def whitening(cls, features: Float32) -> Self:
        """Fit to normal features (n, bands, dim): each scaled by its deviation, then whitened together.

        The covariance is shrunk towards a multiple of the identity, the more the fewer windows there are
        (Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices).
        """
        centre = features.mean(axis=0)
        spread = features.std(axis=0)
        scale = np.maximum(spread, LEAST_SCALE * spread.mean() + 1e-6)
        scaled = ((features - centre) / scale).reshape(len(features), -1).astype(np.float64)
        variances, directions = _principal(scaled)
        shrinkage = _ledoit_wolf(scaled, variances)
        mean_variance = np.square(scaled).sum() / scaled.size
        kept = np.argsort(variances)[::-1][:MOST_DIRECTIONS]
        rest = (np.sum(variances) - np.sum(variances[kept])) / max(scaled.shape[1] - len(kept), 1)
        floor = shrinkage * mean_variance + (1 - shrinkage) * rest + LEAST_VARIANCE
        own = shrinkage * mean_variance + (1 - shrinkage) * variances[kept] + LEAST_VARIANCE
        return cls(
            centre=centre.astype(np.float32),
            scale=scale.astype(np.float32),
            directions=directions[:, kept].astype(np.float32),
            shrink=np.sqrt(floor / own).astype(np.float32),
            unit=float(1 / np.sqrt(floor)),
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All of it, for a file."""
        return {
            "centre": self.centre,
            "scale": self.scale,
            "directions": self.directions,
            "shrink": self.shrink,
            "unit": np.array([self.unit]),
        }

    @classmethod
    def restore(cls, tensors: Mapping[str, NDArray[Any]], prefix: str) -> Self:
        """From what `tensors` gave, names prefixed.

        Raises:
            KeyError, TypeError, ValueError: a part is missing or misshapen.
        """
        centre, scale, directions, shrink, unit = (tensors[prefix + name] for name in PARTS)
        (only,) = unit.tolist()
        return cls(centre, scale, directions, shrink, only)


def _times(rows: Float32, matrix: Float32) -> Float32:
    """Their product. A few rows one by one: for several BLAS copies the matrix first, which costs more."""
    product: Float32 = np.stack([row @ matrix for row in rows]) if len(rows) < 5 else rows @ matrix
    return product


def _principal(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variances (k,) and directions (dims, k) of rows (n, dims), by the smaller of the two Gram matrices."""
    n, dims = centred.shape
    if n >= dims:
        variances, directions = np.linalg.eigh(centred.T @ centred / n)
        return np.maximum(variances, 0), directions
    variances, left = np.linalg.eigh(centred @ centred.T / n)
    kept = variances > 1e-10 * max(variances[-1], 1e-12)
    variances, left = variances[kept], left[:, kept]
    return variances, centred.T @ left / np.sqrt(n * variances)


def _ledoit_wolf(centred: NDArray[np.float64], variances: NDArray[np.float64]) -> float:
    """Weight of the identity, 0 to 1, that minimises the expected squared error of the covariance."""
    n, dims = centred.shape
    mean_variance = variances.sum() / dims
    squares = np.square(variances).sum()
    away = (squares - 2 * mean_variance * variances.sum() + mean_variance**2 * dims) / dims
    noise = (np.square(np.square(centred).sum(axis=1)).sum() / n - squares) / (dims * n)
    return float(np.clip(noise / away, 1e-3, 1)) if away > 1e-12 else 1.0
