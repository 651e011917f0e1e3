"""The encoder that needs no weights: level and spread of the log spectrum, band by band.

numpy alone, torch is never imported. Runs on the pipeline thread; holds no state but cached constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from echo_stream.encode.level import check_window, level_dbfs
from echo_stream.errors import EncoderError
from echo_stream.types import EncoderIdentity, Features, Float32, Window

FRAME_S = 0.064
"""Long frames: they resolve the lines of a shaft and its harmonics, which 25 ms frames smear."""
FRAME_HOP_S = 0.032
FRAMES_PER_PATCH = 5
"""5 frames of 32 ms are one patch of 160 ms, as ECHO's."""
BANDS = 16
SUB_BANDS = 3
"""Log-spaced sub-bands in a band; fewer bands where the bins of a low sample rate do not suffice."""
LOWEST_HZ = 30.0
FLOOR_DB = -120.0
"""Added as power before the logarithm: digital silence has a level, and noise below 16 bits none."""


class SpectralEncoder:
    """Level and spread of the log spectrum in log-spaced bands, for the window and for each 160 ms of it."""

    def __init__(self, window_s: float) -> None:
        self.identity = EncoderIdentity(
            kind="spectral",
            version=1,
            dimensions={"window_s": window_s, "frame_s": FRAME_S, "bands": BANDS, "sub_bands": SUB_BANDS},
        )

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in the order given; rates and lengths may differ between windows.

        Raises:
            EncoderError: samples that are not finite, or fewer than one patch (160 ms) of them.
        """
        alike: dict[tuple[int, int], list[int]] = {}
        for i, window in enumerate(windows):
            check_window(window, round(FRAMES_PER_PATCH * FRAME_HOP_S * window.sample_rate_hz))
            alike.setdefault((window.sample_rate_hz, len(window.samples)), []).append(i)
        features: dict[int, Features] = {}
        for (sample_rate_hz, _), members in alike.items():
            samples = np.stack([np.asarray(windows[i].samples, dtype=np.float32) for i in members])
            features.update(zip(members, _encode_batch(samples, sample_rate_hz), strict=True))
        return [features[i] for i in range(len(windows))]


def _encode_batch(samples: Float32, sample_rate_hz: int) -> list[Features]:
    """Features of windows of one rate and length; samples (n, samples)."""
    samples = samples - samples.mean(axis=1, keepdims=True)
    spectrum_db = _band_levels_db(samples, sample_rate_hz)  # (n, frames, bands, sub_bands)
    edges_hz = _band_edges_hz(sample_rate_hz)
    whole = np.concatenate([spectrum_db.mean(axis=1), spectrum_db.std(axis=1)], axis=-1)
    n, frames, bands, subs = spectrum_db.shape
    patches = frames // FRAMES_PER_PATCH
    cut = spectrum_db[:, : patches * FRAMES_PER_PATCH].reshape(n, patches, FRAMES_PER_PATCH, bands, subs)
    segments = np.concatenate([cut.mean(axis=2), cut.std(axis=2)], axis=-1)
    return [
        Features(window=whole[i], segments=segments[i], bands_hz=edges_hz, level_dbfs=level_dbfs(samples[i]))
        for i in range(n)
    ]


def _band_levels_db(samples: Float32, sample_rate_hz: int) -> Float32:
    """Mean power in dB of each sub-band in each frame: (n, frames, bands, sub_bands)."""
    hop = round(FRAME_HOP_S * sample_rate_hz)
    length = 2 * hop
    padded = np.pad(samples, ((0, 0), (hop // 2, hop - hop // 2)), mode="reflect")  # frame i centred on hop i
    frames = np.lib.stride_tricks.sliding_window_view(padded, length, axis=1)[:, ::hop]
    spectra = np.fft.rfft(frames * _taper(length), axis=-1)
    power = np.square(spectra.real) + np.square(spectra.imag)
    bins = _sub_band_bins(sample_rate_hz)
    sums = np.add.reduceat(power[..., : bins[-1]], bins[:-1], axis=-1) / np.diff(bins).astype(np.float32)
    level: Float32 = 10 * np.log10(sums + np.float32(10 ** (FLOOR_DB / 10)))
    return level.reshape(*level.shape[:-1], -1, SUB_BANDS)


@lru_cache(maxsize=32)
def _taper(length: int) -> Float32:
    """Periodic Hann of unit power, so that band levels do not depend on the sample rate."""
    taper = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    scaled: Float32 = (taper / np.sqrt(length * np.sum(taper**2) / 2)).astype(np.float32)
    return scaled


@lru_cache(maxsize=32)
def _sub_band_bins(sample_rate_hz: int) -> NDArray[np.intp]:
    """Edges of the sub-bands as bins, each at least one bin wide; one more edge than sub-bands."""
    length = 2 * round(FRAME_HOP_S * sample_rate_hz)
    last = length // 2 + 1
    first = max(1, round(LOWEST_HZ * length / sample_rate_hz))
    wanted = min(BANDS * SUB_BANDS, (last - first) // SUB_BANDS * SUB_BANDS)
    for count in range(wanted, 0, -SUB_BANDS):
        edges = np.geomspace(first, last, count + 1).round().astype(np.intp)
        for i in range(1, count + 1):
            edges[i] = max(edges[i], edges[i - 1] + 1)
        if edges[-1] <= last:
            return edges
    raise EncoderError(
        f"a sample rate of {sample_rate_hz} Hz is too low for a spectrum", "Use 1 kHz or more."
    )


@lru_cache(maxsize=32)
def _band_edges_hz(sample_rate_hz: int) -> Float32:
    """(bands, 2), from the middle between two bins to the middle between two others."""
    length = 2 * round(FRAME_HOP_S * sample_rate_hz)
    edges = _sub_band_bins(sample_rate_hz)[::SUB_BANDS]
    hz = np.clip((edges - 0.5) * sample_rate_hz / length, 0, sample_rate_hz / 2)
    return np.stack([hz[:-1], hz[1:]], axis=1).astype(np.float32)
