"""From samples to the patches that ECHO reads: log spectrogram, bands of 32 bins, patches of 160 ms.

The numbers are those of the published model (arXiv 2508.14689, section 2, and its code): weights were trained
on exactly this scale. Pure functions of tensors; runs in the pipeline.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

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

    Args:
        audio: (n, samples) float32, at least one frame of them.
        sample_rate_hz: Of all windows.

    Returns:
        (n, bins, frames) float32, on the scale of the net.
    """
    length, hop = fft_samples(sample_rate_hz), hop_samples(sample_rate_hz)
    # Row by row: a batch is summed in another order, and bins near zero show the last digit of a mean.
    centred = torch.stack([row - row.mean() for row in audio])
    frames = centred.unfold(-1, length, hop) * _hann(length)
    magnitude: Tensor = torch.fft.rfft(frames).abs()  # (n, frames, bins)
    return magnitude.add_(FLOOR).log_().sub_(MEAN).div_(SPREAD).transpose(1, 2)


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
        (n, bands, patches, 512): each patch is 32 bins of 16 frames, bin by bin.
    """
    _, bins, frames = spectrogram.shape
    bands, times = -(-bins // BAND_BINS), -(-frames // PATCH_FRAMES)
    missing = bands * BAND_BINS - bins
    last = bins - (BAND_BINS - missing)
    padding = spectrogram.new_zeros(len(spectrogram), missing, frames)
    whole = torch.cat([spectrogram[:, :last], padding, spectrogram[:, last:]], dim=1)
    whole = functional.pad(whole, (0, times * PATCH_FRAMES - frames))
    whole = whole.reshape(-1, bands, BAND_BINS, times, PATCH_FRAMES)
    return whole.transpose(2, 3).reshape(-1, bands, times, BAND_BINS * PATCH_FRAMES)


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
