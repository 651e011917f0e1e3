"""A dense autoencoder on log-mel frames, like the baseline of DCASE task 2 (2020)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

Float64 = NDArray[np.float64]
MELS, CONTEXT = 128, 5
FRAME_S = 0.064
EPOCHS, BATCH = 100, 512


def autoencoder(train: Sequence[tuple[Float64, int]], test: Sequence[tuple[Float64, int]]) -> Float64:
    """Mean squared error over the frames of each test clip; trained on the training clips, one seed."""
    torch.manual_seed(0)
    known = torch.cat([_vectors(samples, rate) for samples, rate in train])
    mean, deviation = known.mean(), known.std()
    net = _net()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(EPOCHS):
        order = torch.randperm(len(known))
        for start in range(0, len(known) - 1, BATCH):
            rows = (known[order[start : start + BATCH]] - mean) / deviation
            if len(rows) > 1:
                optimiser.zero_grad()
                nn.functional.mse_loss(net(rows), rows).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
    net.eval()
    with torch.inference_mode():
        rows_of = [(_vectors(samples, rate) - mean) / deviation for samples, rate in test]
        return np.array([float(nn.functional.mse_loss(net(rows), rows)) for rows in rows_of])


def _net() -> nn.Sequential:
    widths = [MELS * CONTEXT, 128, 128, 128, 128, 8, 128, 128, 128, 128]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], widths[0]))


def _vectors(samples: Float64, rate: int) -> torch.Tensor:
    """Five log-mel frames each: (n, 640)."""
    n = round(FRAME_S * rate)
    frames = np.lib.stride_tricks.sliding_window_view(samples, n)[:: n // 2] * np.hanning(n)
    power = np.abs(np.fft.rfft(frames)) ** 2
    mels = 10 * np.log10(power @ _filters(n, rate) + 1e-12)
    stacked = np.lib.stride_tricks.sliding_window_view(mels, CONTEXT, axis=0)
    return torch.tensor(stacked.reshape(len(stacked), -1), dtype=torch.float32)


def _filters(n: int, rate: int) -> Float64:
    """Triangles on the mel scale (O'Shaughnessy 1987), at least one bin each: (bins, MELS)."""
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MELS + 2) / 2595) - 1) / (rate / n)
    edges = np.maximum(edges, np.arange(MELS + 2) * 1e-6)
    bins = np.arange(n // 2 + 1)[:, None]
    up = (bins - edges[:-2]) / np.maximum(edges[1:-1] - edges[:-2], 1.0)
    down = (edges[2:] - bins) / np.maximum(edges[2:] - edges[1:-1], 1.0)
    return np.asarray(np.maximum(0, np.minimum(up, down)))
