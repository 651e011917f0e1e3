"""Low lines are levels of 2 Hz wide bands from 5 Hz on, for a vibration sensor on a machine of steady speed.

Imbalance and a bent shaft live at the speed of the shaft, below and within the first band of the spectral
encoder, whose frames of 64 ms cannot part them from their neighbours. The whole window can. Where the speed
wanders the lines wander too and ruin the score: so only where the configuration says that it does not.
Why: docs/adr/0045-low-lines.md.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from echo_stream.core.types import Float32
from echo_stream.encode.taper import taper

LOWEST_HZ, HIGHEST_HZ = 5.0, 101.0
LINE_HZ = 2.0
"""Width of a line; wider where the window is too short for it."""
BINS_A_LINE = 2
"""Bins of the window's spectrum in a line, at least."""
HALVES = 3
"""Half windows, each half over the one before: how steady a line is."""


def line_edges_hz(window_s: float, sub_bands: int) -> list[float]:
    """Edges of the lines, whole bands of `sub_bands` of them."""
    width_hz = max(LINE_HZ, BINS_A_LINE / window_s)
    bands = int((HIGHEST_HZ - LOWEST_HZ) / width_hz / sub_bands)
    return [LOWEST_HZ + i * width_hz for i in range(bands * sub_bands + 1)]


def band_edges_hz(window_s: float, sub_bands: int) -> Float32:
    """Lower and upper edge of each band, (bands, 2)."""
    edges = np.array(line_edges_hz(window_s, sub_bands)[::sub_bands], np.float32)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def powers(samples: Float32, sample_rate_hz: int, sub_bands: int) -> tuple[Float32, Float32]:
    """Mean power of each line in the window, and of each band in its half windows.

    Args:
        samples: (n, samples), without their mean.
        sample_rate_hz: Of them.
        sub_bands: Lines in a band.

    Returns:
        (n, lines) and (n, `HALVES`, bands).
    """
    length = samples.shape[1]
    edges = tuple(line_edges_hz(length / sample_rate_hz, sub_bands))
    half = length // 2
    starts = [i * (length - half) // (HALVES - 1) for i in range(HALVES)]
    whole = _means(samples, sample_rate_hz, edges)
    halves = [_means(samples[:, at : at + half], sample_rate_hz, edges[::sub_bands]) for at in starts]
    return whole, np.stack(halves, axis=1)


def _means(frames: Float32, sample_rate_hz: int, edges_hz: tuple[float, ...]) -> Float32:
    length = frames.shape[1]
    matrix = _averaging(length, sample_rate_hz, edges_hz)
    spectra = np.fft.rfft(frames * taper(length))[:, : len(matrix)]
    found: Float32 = (np.square(np.abs(spectra)) @ matrix).astype(np.float32)
    return found


@lru_cache(maxsize=16)
def _averaging(length: int, sample_rate_hz: int, edges_hz: tuple[float, ...]) -> Float32:
    """(bins, bands) what turns powers of bins into means; a band has one bin at least."""
    bin_hz = sample_rate_hz / length
    bins = [round(edge / bin_hz) for edge in edges_hz]
    matrix = np.zeros((bins[-1] + 2, len(edges_hz) - 1), np.float32)
    for i, (first, end) in enumerate(pairwise(bins)):
        matrix[first : max(end, first + 1), i] = 1 / max(1, end - first)
    return matrix
