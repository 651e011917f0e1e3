"""From samples to the patches that ECHO reads: log spectrogram, bands of 32 bins, patches of 160 ms.

The numbers are those of the published model (arXiv 2508.14689, section 2, and its code): weights were trained
on exactly this scale. Pure functions of tensors; runs in the pipeline.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

FRAME_S = 0.025
FRAME_HOP_S = 0.01
FLOOR = 1e-9
"""Added to a magnitude before its logarithm is taken."""
MEAN, SPREAD = -5.874158, 2 * 5.223174
"""Of the log spectrogram over the training data: what the net sees is (x - MEAN) / SPREAD."""
BAND_BINS = 32
PATCH_FRAMES = 16


def fft_samples(sample_rate_hz: int) -> int:
    """Samples in a frame: truncated, no power of two (44 100 Hz: 1102)."""
    return int(FRAME_S * sample_rate_hz)


def hop_samples(sample_rate_hz: int) -> int:
    """Samples between frames: truncated (44 100 Hz: 441)."""
    return int(FRAME_HOP_S * sample_rate_hz)


def frame_count(samples: int, sample_rate_hz: int) -> int:
    """Frames that lie wholly inside so many samples."""
    return max(0, 1 + (samples - fft_samples(sample_rate_hz)) // hop_samples(sample_rate_hz))


def log_spectrogram(audio: Tensor, sample_rate_hz: int) -> Tensor:
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
    # In float64: a sum in float32 depends on the batch and on how many threads share it, and bins near zero
    # show the last digit of a mean. A constant becomes zero exactly.
    centred = audio - audio.mean(-1, keepdim=True, dtype=torch.float64).float()
    spectrum = torch.fft.rfft(centred.unfold(-1, length, hop) * _hann(length))  # (n, frames, bins)
    magnitude = np.abs(spectrum.numpy())  # numpy's magnitude and logarithm are ten and four times as fast
    magnitude += np.float32(FLOOR)
    log = np.log(magnitude, out=magnitude)
    log -= np.float32(MEAN)
    log /= np.float32(SPREAD)
    return torch.from_numpy(log).transpose(1, 2)


@lru_cache(maxsize=32)
def _hann(length: int) -> Tensor:
    return torch.hann_window(length)


def patches(spectrogram: Tensor) -> Tensor:
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
    whole = spectrogram.new_zeros(n, times * PATCH_FRAMES, bands * BAND_BINS)
    whole[:, :frames, :last] = spectrogram[:, :last].transpose(1, 2)
    whole[:, :frames, bands * BAND_BINS - (bins - last) :] = spectrogram[:, last:].transpose(1, 2)
    cut = whole.view(n, times, PATCH_FRAMES, bands, BAND_BINS).permute(0, 3, 1, 2, 4)
    return cut.reshape(n, bands, times, PATCH_FRAMES * BAND_BINS)


def band_bins(sample_rate_hz: int) -> list[tuple[int, int]]:
    """First bin and the bin after the last of each band, low band first."""
    bins = fft_samples(sample_rate_hz) // 2 + 1
    return [(start, min(start + BAND_BINS, bins)) for start in range(0, bins, BAND_BINS)]


@lru_cache(maxsize=32)
def band_edges_hz(sample_rate_hz: int) -> Tensor:
    """(bands, 2) float32: from half a bin below a band's first bin to half a bin above its last one."""
    bin_hz, nyquist_hz = sample_rate_hz / fft_samples(sample_rate_hz), sample_rate_hz / 2
    bins = torch.tensor(band_bins(sample_rate_hz), dtype=torch.float64)
    return ((bins - 0.5) * bin_hz).clamp(0.0, nyquist_hz).float()


@lru_cache(maxsize=32)
def frequency_embedding(sample_rate_hz: int, dim: int) -> Tensor:
    """(bands, dim) float32: where each band lies between 0 and Nyquist, as interleaved sine and cosine."""
    bin_hz, nyquist_hz = sample_rate_hz / fft_samples(sample_rate_hz), sample_rate_hz / 2
    centres = [(start + end - 1) / 2 * bin_hz / nyquist_hz for start, end in band_bins(sample_rate_hz)]
    rates = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(10000.0) / dim))
    angles = torch.tensor(centres)[:, None] * 25 * rates
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
