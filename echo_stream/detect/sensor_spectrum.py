"""How much of a window is mains hum or rumble: the spectra of broken cables. Pure; pipeline thread."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from echo_stream.types import Float32

MAINS_HZ = (50.0, 60.0)
HARMONICS = 20
HUM_WIDTH_HZ = 2.0
"""To either side of a harmonic: mains wanders by 0.2 Hz, and a Hann window of 1 s spreads a line over 2
Hz."""
RUMBLE_BELOW_HZ = 20.0
TAKEN_S = 2.0
"""No more than the last so many seconds of a window are looked at."""


def hum_and_rumble(samples: Float32, sample_rate_hz: int) -> tuple[float, float]:
    """Shares of the power, each 0 to 1: at mains frequency and its harmonics, and below 20 Hz.

    Args:
        samples: (n,), full scale -1 to 1; the mean does not count. Where it is shorter than 0.5 s the hum is
            0: its lines could not be told apart.
        sample_rate_hz: Of the samples.
    """
    samples = samples[-round(TAKEN_S * sample_rate_hz) :]
    tapered = (samples - np.mean(samples, dtype=np.float64)) * np.hanning(len(samples))
    power = np.abs(np.fft.rfft(tapered)) ** 2
    total = float(power.sum())
    if not total > 0.0:
        return 0.0, 0.0
    hums, rumble = _bins(len(samples), sample_rate_hz)
    long_enough = len(samples) >= 0.5 * sample_rate_hz
    hum = max((float(power[bins].sum()) for bins in hums), default=0.0) if long_enough else 0.0
    return hum / total, float(power[rumble].sum()) / total


@lru_cache(maxsize=16)
def _bins(n: int, sample_rate_hz: int) -> tuple[tuple[NDArray[np.bool_], ...], NDArray[np.bool_]]:
    """Which bins of the spectrum are hum, for each mains frequency, and which are rumble."""
    frequencies = np.fft.rfftfreq(n, 1 / sample_rate_hz)
    hums = []
    for mains in MAINS_HZ:
        nearest = np.round(frequencies / mains)
        near = np.abs(frequencies - nearest * mains) <= HUM_WIDTH_HZ
        hums.append(near & (nearest >= 1) & (nearest <= HARMONICS))
    return tuple(hums), frequencies < RUMBLE_BELOW_HZ
