"""Which normal windows a bank keeps when it may not keep all: k-centre greedy. Used at fit time only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from echo_stream.types import Float32

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
