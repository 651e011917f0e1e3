"""The front end of ECHO cuts samples into patches: log spectrogram, bands of 32 bins, patches of 160 ms.

The numbers are those of the published model (arXiv 2508.14689, section 2, and its code): weights were trained
on exactly this scale. Pure functions of arrays.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Float32

FRAME_S = 0.025
FRAME_HOP_S = 0.01
FLOOR = 1e-9
"""Added to a magnitude before its logarithm is taken."""
MEAN, SPREAD = -5.874158, 2 * 5.223174
"""Of the log spectrogram over the training data: what the net sees is (x - MEAN) / SPREAD."""
BAND_BINS = 32
PATCH_FRAMES = 16
AT_ONCE_BYTES = 128 * 1024
"""Frames are transformed so many bytes at a time: of more they leave the cache."""


def fft_samples(sample_rate_hz: int) -> int:
    """Samples in a frame: truncated, no power of two (44 100 Hz: 1102)."""
    return int(FRAME_S * sample_rate_hz)


def hop_samples(sample_rate_hz: int) -> int:
    """Samples between frames: truncated (44 100 Hz: 441)."""
    return int(FRAME_HOP_S * sample_rate_hz)


def frame_count(samples: int, sample_rate_hz: int) -> int:
    """Frames that lie wholly inside so many samples."""
    return max(0, 1 + (samples - fft_samples(sample_rate_hz)) // hop_samples(sample_rate_hz))


def log_spectrogram(audio: Float32, sample_rate_hz: int) -> Float32:
    """The normalised log-magnitude spectrogram of each window, its mean taken away first.

    Overlapping windows share no frames: each takes its own mean away and then rounds differently, which
    shows in bins near zero.

    Args:
        audio: (n, samples) float32, at least one frame of them.
        sample_rate_hz: Of all windows.

    Returns:
        (n, bins, frames) float32, on the scale of the net.
    """
    length, hop = fft_samples(sample_rate_hz), hop_samples(sample_rate_hz)
    # In float64: bins near zero show the last digit of a mean. A constant becomes zero exactly.
    centred = audio - audio.mean(-1, keepdims=True, dtype=np.float64).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(centred, length, axis=-1)[:, ::hop]
    log = np.empty((*frames.shape[:2], length // 2 + 1), np.float32)
    few = max(1, AT_ONCE_BYTES // (length * frames.itemsize))
    for of_window, logs in zip(frames, log, strict=True):
        for at in range(0, len(logs), few):
            part = logs[at : at + few]
            np.abs(_rfft(of_window[at : at + few] * _hann(length)), out=part)
            part += np.float32(FLOOR)
            np.log(part, out=part)
    log -= np.float32(MEAN)
    log /= np.float32(SPREAD)
    return log.transpose(0, 2, 1)


def _rfft(frames: Float32) -> NDArray[np.complex64]:
    """(n, length) to (n, bins); numpy is faster where it need not find memory for the result."""
    spectra = np.empty((len(frames), frames.shape[1] // 2 + 1), np.complex64)
    np.fft.rfft(frames, out=spectra)
    return spectra


@lru_cache(maxsize=32)
def _hann(length: int) -> Float32:
    """Periodic."""
    return (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)).astype(np.float32)


def patches(spectrogram: Float32) -> Float32:
    """Cuts spectrograms into bands, and each band into patches.

    A last band of fewer than 32 bins gets zeros in front, on its low side; a last patch of fewer than 16
    frames gets zeros behind.

    Args:
        spectrogram: (n, bins, frames).

    Returns:
        (n, bands, patches, 512): each patch is 16 frames of 32 bins, frame by frame, as they lie in memory.
    """
    n, bins, frames = spectrogram.shape
    bands, times = -(-bins // BAND_BINS), -(-frames // PATCH_FRAMES)
    last = (bands - 1) * BAND_BINS  # the first bin of the last band
    whole = np.zeros((n, times * PATCH_FRAMES, bands * BAND_BINS), np.float32)
    whole[:, :frames, :last] = spectrogram[:, :last].transpose(0, 2, 1)
    whole[:, :frames, bands * BAND_BINS - (bins - last) :] = spectrogram[:, last:].transpose(0, 2, 1)
    cut = whole.reshape(n, times, PATCH_FRAMES, bands, BAND_BINS).transpose(0, 3, 1, 2, 4)
    return cut.reshape(n, bands, times, PATCH_FRAMES * BAND_BINS)


def band_bins(sample_rate_hz: int) -> list[tuple[int, int]]:
    """First bin and the bin after the last of each band, low band first."""
    bins = fft_samples(sample_rate_hz) // 2 + 1
    return [(start, min(start + BAND_BINS, bins)) for start in range(0, bins, BAND_BINS)]


@lru_cache(maxsize=32)
def band_edges_hz(sample_rate_hz: int) -> Float32:
    """(bands, 2) float32: from half a bin below a band's first bin to half a bin above its last one."""
    bin_hz, nyquist_hz = sample_rate_hz / fft_samples(sample_rate_hz), sample_rate_hz / 2
    bins = np.array(band_bins(sample_rate_hz), np.float64)
    return np.clip((bins - 0.5) * bin_hz, 0.0, nyquist_hz).astype(np.float32)


@lru_cache(maxsize=32)
def frequency_embedding(sample_rate_hz: int, dim: int) -> Float32:
    """(bands, dim) float32: where each band lies between 0 and Nyquist, as interleaved sine and cosine."""
    bin_hz, nyquist_hz = sample_rate_hz / fft_samples(sample_rate_hz), sample_rate_hz / 2
    centres = [(start + end - 1) / 2 * bin_hz / nyquist_hz for start, end in band_bins(sample_rate_hz)]
    rates = np.exp(-np.arange(0, dim, 2) * (np.log(10000.0) / dim))
    angles = np.array(centres)[:, None] * 25 * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(len(centres), -1).astype(np.float32)
