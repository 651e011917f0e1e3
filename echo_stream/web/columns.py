"""Columns of the live spectrogram are computed here from the newest window, not from sound in the browser.

256 bytes a column, ten a second, on an axis of octaves: it works for every sample rate and for vibration, and
no sound of the room leaves the daemon.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Window

ROWS: Final = 256
A_SECOND: Final = 10
LOWEST_HZ: Final = 20.0
LOW_DB: Final = -130.0
HIGH_DB: Final = -10.0
SHIFT_HZ: Final = 150
"""Vibration is moved up by so much where it is listened to."""
LEAST_RATE_HZ: Final = 8000
"""What browsers play."""
"""Level of a row that is byte 0 and byte 255, in dB relative to full scale."""


def live_columns(window: Window, hop_s: float) -> NDArray[np.uint8]:
    """Columns of the last hop of a window: (columns, 256), lowest frequency first.

    Args:
        window: what was scored; its earlier part is the context of the first columns.
        hop_s: what is new in it, in seconds.
    """
    rate, samples = window.sample_rate_hz, window.samples
    step = max(1, round(rate / A_SECOND))
    n = min(len(samples), 1 << max(6, step.bit_length()))
    count = max(1, round(hop_s * rate / step))
    ends = [len(samples) - step * back for back in range(count - 1, -1, -1)]
    frames = np.stack([samples[max(0, end - n) : max(0, end - n) + n] for end in ends])
    scale = 1.0 if np.isinf(window.full_scale) else window.full_scale
    shape = np.hanning(n)
    power = np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * (shape / scale), axis=1)) ** 2
    levels_db = 10 * np.log10(power * (4 / shape.sum() ** 2) + 1e-15)
    low, high = _rows(n, rate)
    rows = np.maximum.reduceat(np.pad(levels_db, ((0, 0), (0, 1)), constant_values=-200.0), low, axis=1)
    narrow = high <= low  # rows narrower than a bin take the bin that they lie in
    rows[:, narrow] = levels_db[:, low[narrow]]
    return np.asarray(np.clip((rows - LOW_DB) * (255 / (HIGH_DB - LOW_DB)), 0, 255), np.uint8)


def audible_rate_hz(sample_rate_hz: int) -> int:
    """The rate at which vibration of a rate is sent: a multiple of it that browsers play."""
    return sample_rate_hz * max(1, -(-LEAST_RATE_HZ // sample_rate_hz))


def audible(window: Window, hop_s: float) -> tuple[NDArray[np.float32], int]:
    """The newest hop of vibration that can be heard, and its sample rate.

    Every frequency is moved up by `SHIFT_HZ` (one sideband of a modulation): a line at 10 Hz is heard at
    160 Hz, knocks stay knocks at their pace, ratios between lines are lost. A rate that browsers do not play
    is raised. The hop is taken out of the middle of the window, so that pieces join without a click; their
    phase goes on by the absolute index.

    Args:
        window: what was scored.
        hop_s: what is new in it, in seconds.
    """
    rate, n = window.sample_rate_hz, len(window.samples)
    factor = audible_rate_hz(rate) // rate
    low = round(SHIFT_HZ * n / rate)
    spectrum = np.fft.rfft(window.samples - window.samples.mean(dtype=np.float64))
    out_n = n * factor
    shifted = np.zeros(out_n // 2 + 1, np.complex128)
    count = min(len(spectrum), len(shifted) - low)
    turn = np.exp(2j * np.pi * (low * window.start % n) / n)
    shifted[low : low + count] = spectrum[:count] * turn
    hop = min(n, max(1, round(hop_s * rate)))
    first = (n - hop) // 2
    heard = np.fft.irfft(shifted, out_n)[first * factor : (first + hop) * factor] * factor
    return heard.astype(np.float32), rate * factor


@lru_cache(maxsize=16)
def _rows(n: int, rate: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First bin of each row, and the first of the next."""
    edges_hz = np.geomspace(LOWEST_HZ, rate / 2, ROWS + 1)
    bins = np.clip(np.round(edges_hz * n / rate).astype(np.intp), 0, n // 2)
    return bins[:-1], bins[1:]
