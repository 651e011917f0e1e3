"""The encoder that needs no weights: statistics of the log spectrum, band by band.

numpy alone, torch is never imported. Runs on the pipeline thread; holds no state but cached constants.
Which statistics, and why these: docs/adr/0010-scoring.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from echo_stream.encode.level import check_window, level_dbfs
from echo_stream.errors import EncoderError
from echo_stream.types import EncoderIdentity, Features, Float32, Window

PATCH_S = 0.160
LONG_HOP_S = 0.032
"""Frames are twice as long: 64 ms resolve the lines of a shaft and its harmonics, which 25 ms smear."""
SHORT_HOP_S = 0.004
"""Frames of 8 ms: short enough for the impacts of a bearing, which 64 ms smear."""
BANDS = 16
SUB_BANDS = 3
"""Log-spaced sub-bands in a band; fewer bands where a low sample rate has not bins enough."""
LOWEST_HZ = 30.0
FLOOR = np.float32(1e-12)
"""-120 dB, added as power before the logarithm: digital silence has a level, and 16 bits' noise none."""


class SpectralEncoder:
    """Levels of log-spaced bands and how impulsive they are: over a window, and in each 160 ms of it.

    Of each band, for the window as a whole (dim 6): mean level of the 64 ms frames in 3 sub-bands; then
    kurtosis, crest and deviation of the envelope of 8 ms frames. For each segment (dim 6): mean and largest
    level of its 64 ms frames in 3 sub-bands. All in dB.
    """

    def __init__(self, window_s: float) -> None:
        self.identity = EncoderIdentity(
            kind="spectral",
            version=3,
            dimensions={"window_s": window_s, "bands": BANDS, "sub_bands": SUB_BANDS},
        )

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in the order given; rates and lengths may differ between windows.

        Raises:
            EncoderError: samples that are not finite, or fewer than one patch (160 ms) of them.
        """
        alike: dict[tuple[int, int], list[int]] = {}
        for i, window in enumerate(windows):
            check_window(window, math.ceil(PATCH_S * window.sample_rate_hz))
            alike.setdefault((window.sample_rate_hz, len(window.samples)), []).append(i)
        features: dict[int, Features] = {}
        for (sample_rate_hz, _), members in alike.items():
            samples = np.stack([np.asarray(windows[i].samples, dtype=np.float32) for i in members])
            features.update(zip(members, _encode_batch(samples, sample_rate_hz), strict=True))
        return [features[i] for i in range(len(windows))]


def _encode_batch(samples: Float32, sample_rate_hz: int) -> list[Features]:
    """Features of windows of one rate and length; samples (n, samples)."""
    samples = samples - samples.mean(axis=1, keepdims=True)
    sub_bins = _sub_band_bins(sample_rate_hz)
    edges_hz = _band_edges_hz(sample_rate_hz)
    long = _levels_db(_band_powers(samples, sample_rate_hz, LONG_HOP_S, sub_bins))
    long = long.reshape(*long.shape[:2], -1, SUB_BANDS)  # (n, frames, bands, sub_bands)
    short = _band_powers(samples, sample_rate_hz, SHORT_HOP_S, _short_bins(sample_rate_hz))
    whole = np.concatenate([long.mean(axis=1), _impulsiveness(short)], axis=-1)
    patches = _patches(long)
    segments = np.concatenate([patches.mean(axis=2), patches.max(axis=2)], axis=-1)
    return [
        Features(window=whole[i], segments=segments[i], bands_hz=edges_hz, level_dbfs=level_dbfs(samples[i]))
        for i in range(len(samples))
    ]


def _impulsiveness(powers: Float32) -> Float32:
    """(n, frames, bands) of short frames to (n, bands, 3): kurtosis, crest and deviation of the envelope."""
    levels_db = _levels_db(powers)
    few = max(1, powers.shape[1] // 100)
    loudest = np.sort(levels_db, axis=1)[:, -few:].mean(axis=1)
    floored = powers.astype(np.float64) + FLOOR  # its fourth moments overflow float32 in an overload
    kurtosis_db = 10 * np.log10(np.square(floored).mean(axis=1) / np.square(floored.mean(axis=1)))
    deviation_db = levels_db.std(axis=1)
    return np.stack([kurtosis_db, loudest - levels_db.mean(axis=1), deviation_db], axis=-1).astype(np.float32)


def _patches(frames: Float32) -> Float32:
    """(n, frames, bands, sub_bands) to (n, patches, frames in a patch, bands, sub_bands), whole ones only."""
    each = round(PATCH_S / LONG_HOP_S)
    patches = frames.shape[1] // each
    return frames[:, : patches * each].reshape(len(frames), patches, each, *frames.shape[2:])


def _levels_db(powers: Float32) -> Float32:
    levels: Float32 = 10 * np.log10(powers + FLOOR)
    return levels


def _band_powers(samples: Float32, sample_rate_hz: int, hop_s: float, bins: NDArray[np.intp]) -> Float32:
    """Mean power of the bins of each band in frames of two hops: (n, frames, bands); bins (bands, 2)."""
    length = 2 * round(hop_s * sample_rate_hz)
    count = int(samples.shape[1] / (hop_s * sample_rate_hz) + 1e-6)
    starts = np.rint(np.arange(count) * hop_s * sample_rate_hz).astype(np.intp)  # equally many at any rate
    padded = np.pad(samples, ((0, 0), (0, length)), mode="reflect")  # the last frame is whole
    frames = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, starts]
    spectra = np.fft.rfft(frames * _taper(length), axis=-1)
    powers = np.square(spectra.real) + np.square(spectra.imag)
    sums = np.cumsum(powers, axis=-1, dtype=np.float64)
    sums = np.concatenate([np.zeros((*sums.shape[:-1], 1)), sums], axis=-1)
    return ((sums[..., bins[:, 1]] - sums[..., bins[:, 0]]) / np.diff(bins, axis=1)[:, 0]).astype(np.float32)


@lru_cache(maxsize=64)
def _taper(length: int) -> Float32:
    """Periodic Hann of unit power, so that white noise has one level at every rate and frame length."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    scaled: Float32 = (taper / np.sqrt(length * np.sum(taper**2) / 2)).astype(np.float32)
    return scaled


@lru_cache(maxsize=64)
def _sub_band_bins(sample_rate_hz: int) -> NDArray[np.intp]:
    """Bins of the sub-bands in long frames, [first, last) each, at least one bin wide: (sub-bands, 2)."""
    length = 2 * round(LONG_HOP_S * sample_rate_hz)
    last = length // 2 + 1
    first = max(1, round(LOWEST_HZ * length / sample_rate_hz))
    for count in range(min(BANDS * SUB_BANDS, (last - first) // SUB_BANDS * SUB_BANDS), 0, -SUB_BANDS):
        edges = np.geomspace(first, last, count + 1).round().astype(np.intp)
        for i in range(1, count + 1):
            edges[i] = max(edges[i], edges[i - 1] + 1)
        if edges[-1] <= last:
            return np.stack([edges[:-1], edges[1:]], axis=1)
    raise EncoderError(
        f"a sample rate of {sample_rate_hz} Hz is too low for a spectrum", "Use 1 kHz or more."
    )


@lru_cache(maxsize=64)
def _band_edges_hz(sample_rate_hz: int) -> Float32:
    """(bands, 2), from the middle between two bins to the middle between two others."""
    bins = _sub_band_bins(sample_rate_hz)
    edges = np.append(bins[::SUB_BANDS, 0], bins[-1, 1])
    hz = np.clip(
        (edges - 0.5) * sample_rate_hz / (2 * round(LONG_HOP_S * sample_rate_hz)), 0, sample_rate_hz / 2
    )
    return np.stack([hz[:-1], hz[1:]], axis=1).astype(np.float32)


@lru_cache(maxsize=64)
def _short_bins(sample_rate_hz: int) -> NDArray[np.intp]:
    """Bins of the bands in short frames, the nearest there are, (bands, 2): low bands share the lowest."""
    length = 2 * round(SHORT_HOP_S * sample_rate_hz)
    bins = np.rint(_band_edges_hz(sample_rate_hz) * length / sample_rate_hz).astype(np.intp)
    first = np.clip(bins[:, 0], 1, length // 2)
    return np.stack([first, np.clip(bins[:, 1], first + 1, length // 2 + 1)], axis=1)
