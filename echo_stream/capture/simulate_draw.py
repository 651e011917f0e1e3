"""How a simulated machine is drawn from its seed: speed, tones and noise. Any thread, pure."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

_Float64 = NDArray[np.float64]
FILTER_S: Final = 0.064
"""Length of the noise's filter; its spectrum has details of about 30 Hz."""


def speed_swing(draw: np.random.Generator, load_period_s: float, load_phase: float) -> _Float64:
    """(terms, 3): relative depth, rate in Hz and phase of what swings about the mean speed: drift, slip."""
    slow = [(0.003, 1 / draw.uniform(25, 45), draw.uniform(0, 2 * np.pi)), (0.001, 0.7, 0.0)]
    slip = [(-0.006 * 0.85 / k, k / load_period_s, k * load_phase) for k in (1, 3, 5)]
    return np.array(slow + slip)


def tones(draw: np.random.Generator, teeth: int) -> _Float64:
    """(tones, 4): multiple of the shaft, amplitude, phase, share that follows the load; noise has rms 1."""
    shaft = [(k, 0.45 * k**-0.7 * math.exp(draw.normal(0, 0.4)), 0.1) for k in range(1, 13)]
    mesh = [
        (
            k * teeth + side,
            0.3 / k * (1.0, 0.35, 0.12)[abs(side)] * math.exp(draw.normal(0, 0.3)),
            0.3,
        )
        for k in (1, 2, 3)
        for side in (-2, -1, 0, 1, 2)
    ]
    return np.array([(m, a, draw.uniform(0, 2 * np.pi), share) for m, a, share in shaft + mesh])


def noise_filter(draw: np.random.Generator, sample_rate_hz: int) -> _Float64:
    """Impulse response that makes white noise of rms 1 into the machine's noise of rms about 1."""
    n = 2 * round(FILTER_S * sample_rate_hz / 2)
    hz = np.fft.rfftfreq(n, 1 / sample_rate_hz)
    corner_hz, slope = draw.uniform(250, 600), draw.uniform(0.8, 1.2)
    magnitude = (1 + (hz / corner_hz) ** 2) ** (-slope / 2) + 0.01
    for _ in range(5):
        centre_hz, quality, height = (
            math.exp(draw.uniform(5.3, 8.9)),
            draw.uniform(4, 10),
            draw.uniform(0.5, 2),
        )
        magnitude *= 1 + height / (1 + (quality * (hz / centre_hz - centre_hz / np.maximum(hz, 1))) ** 2)
    magnitude[hz < 10] = 0  # no microphone hears these
    response = np.roll(np.fft.irfft(magnitude, n), n // 2) * np.hanning(n)
    reference = np.linspace(0, 8000, 1024)  # the same loudness at every rate
    power = float(np.mean(np.interp(reference, hz, magnitude, right=0) ** 2)) * 16000 / sample_rate_hz
    return np.asarray(response / math.sqrt(power))
