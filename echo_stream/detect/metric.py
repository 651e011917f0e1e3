"""In which units features are compared: whitened by how normal sound itself varies.

Fitted by fit-normal, applied in the pipeline; numpy alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Float32

MOST_DIRECTIONS = 256
"""Directions of variation kept one by one; all others share one variance. A spectral bank has fewer."""
FEW, LARGE = 4, 100_000
"""Rows, and numbers of a matrix, from which on they are multiplied in one go."""
EXACT_UP_TO = 1024
"""Rows or dimensions: of larger covariances only the largest directions are computed."""
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
        return self.whiten(*self.project(features)).reshape(features.shape)

    def project(self, features: Float32) -> tuple[Float32, Float32]:
        """Features (..., bands, dim) scaled, (rows, bands * dim), and how far along each direction."""
        scaled: Float32 = ((features - self.centre) / self.scale).reshape(-1, self.directions.shape[0])
        return scaled, _times(scaled, self.directions)

    def lengths(self, scaled: Float32, along: Float32) -> Float32:
        """Lengths (rows,) of the coordinates that `whiten` would give, for half its work."""
        # The directions are orthonormal: along each, and in all that is left, squares only have to be added.
        squared = np.square(scaled).sum(axis=1) + np.square(along) @ (np.square(self.shrink) - 1)
        lengths: Float32 = np.sqrt(np.maximum(squared, 0)) * np.float32(self.unit)
        return lengths

    def whiten(self, scaled: Float32, along: Float32) -> Float32:
        """Coordinates (rows, bands * dim) of what `project` gave."""
        shrunk = _times(along * (self.shrink - 1), self.directions.T)
        coordinates: Float32 = (scaled + shrunk) * np.float32(self.unit)
        return coordinates

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
    def whitening(cls, features: Float32, nuisances: NDArray[np.float64] | None = None) -> Self:
        """Fit to normal features (n, bands, dim): each scaled by its deviation, then whitened together.

        The covariance is shrunk towards a multiple of the identity, the more the fewer windows there are
        (Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices).
        Nuisances (k, bands, dim), each one deviation long, are variation that the enrolment need not hold.
        """
        centre = features.mean(axis=0)
        spread = features.std(axis=0)
        scale = np.maximum(spread, LEAST_SCALE * spread.mean() + 1e-6)
        scaled = ((features - centre) / scale).reshape(len(features), -1)
        own = _principal(scaled if min(scaled.shape) > EXACT_UP_TO else scaled.astype(np.float64))
        shrinkage = _ledoit_wolf(scaled, own)
        dims, k = own.directions.shape
        rest = (own.total - own.variances.sum()) / max(dims - k, 1)
        mean_variance = own.total / dims
        floor = shrinkage * mean_variance + (1 - shrinkage) * rest + LEAST_VARIANCE
        along = shrinkage * mean_variance + (1 - shrinkage) * own.variances + LEAST_VARIANCE
        directions = own.directions
        if nuisances is not None and len(nuisances):
            added = (nuisances / scale).reshape(len(nuisances), -1)
            along, directions = _widened(along, directions, floor, added.T)
        return cls(
            centre=centre.astype(np.float32),
            scale=scale.astype(np.float32),
            directions=directions.astype(np.float32),
            shrink=np.sqrt(floor / along).astype(np.float32),
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
    if matrix.size < LARGE or len(rows) > FEW:
        return rows @ matrix
    return np.stack([row @ matrix for row in rows])


class _Principal(NamedTuple):
    """The covariance, as far as it is needed."""

    variances: NDArray[Any]
    """(k,) the largest, largest first."""
    directions: NDArray[Any]
    """(dims, k) of these."""
    total: float
    """Of all variances."""
    squares: float
    """Of all variances, summed."""


def _principal(centred: NDArray[Any]) -> _Principal:
    """Of rows (n, dims), by the smaller of the two Gram matrices, or for a large one by its largest part."""
    n, dims = centred.shape
    if min(n, dims) > EXACT_UP_TO:
        return _largest(centred.T @ centred / n)
    if n >= dims:
        variances, directions = np.linalg.eigh(centred.T @ centred / n)
    else:
        variances, left = np.linalg.eigh(centred @ centred.T / n)
        sound = variances > 1e-10 * max(variances[-1], 1e-12)
        variances, left = variances[sound], left[:, sound]
        directions = centred.T @ left / np.sqrt(n * variances)
    variances = np.maximum(variances, 0)
    kept = np.argsort(variances)[::-1][:MOST_DIRECTIONS]
    return _Principal(
        variances[kept], directions[:, kept], float(variances.sum()), float(np.square(variances).sum())
    )


def _largest(covariance: Float32) -> _Principal:
    """By subspace iteration (Halko, Martinsson and Tropp 2011): a fortieth of the time of all eigenvalues.

    The largest are exact to 1e-4 after four rounds; the few that are not hardly differ from each other.
    """
    rng = np.random.default_rng(0)
    basis = rng.standard_normal((len(covariance), MOST_DIRECTIONS + 32)).astype(covariance.dtype)
    for _ in range(4):
        basis, _ = np.linalg.qr(covariance @ basis)
    variances, turn = np.linalg.eigh(basis.T @ covariance @ basis)
    kept = slice(None, -MOST_DIRECTIONS - 1, -1)
    return _Principal(
        np.maximum(variances[kept], 0).astype(np.float64),
        (basis @ turn)[:, kept],
        float(np.trace(covariance, dtype=np.float64)),
        float(np.square(covariance).sum(dtype=np.float64)),
    )


def _widened(
    along: NDArray[Any], directions: NDArray[Any], floor: float, added: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Variances (k + m,) and directions (dims, k + m) with the outer products of added (dims, m) on top.

    Exact: what is added changes the covariance only within the span of both; outside all is `floor`.
    """
    basis, _ = np.linalg.qr(np.concatenate([directions, added], axis=1))
    before, more = basis.T @ directions, basis.T @ added
    within = floor * np.eye(basis.shape[1]) + (before * (along - floor)) @ before.T + more @ more.T
    variances, turn = np.linalg.eigh(within)
    return np.maximum(variances, LEAST_VARIANCE), basis @ turn


def _ledoit_wolf(centred: NDArray[Any], own: _Principal) -> float:
    """Weight of the identity, 0 to 1, that minimises the expected squared error of the covariance."""
    n, dims = centred.shape
    mean_variance = own.total / dims
    away = (own.squares - 2 * mean_variance * own.total + mean_variance**2 * dims) / dims
    fourth = np.square(np.square(centred).sum(axis=1, dtype=np.float64)).sum() / n
    noise = (fourth - own.squares) / (dims * n)
    return float(np.clip(noise / away, 1e-3, 1)) if away > 1e-12 else 1.0
