"""Signal figures show whether a window's sensor works: level, clipping, dead, stuck, hum, rumble.

A broken cable or an overdriven input changes these before any feature is computed. Pure functions; they run
on the pipeline thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.level import FULL_SCALE, level_dbfs
from echo_stream.core.types import Float32

STUCK_SHARE = 0.5
MAINS_HZ = (50.0, 60.0)
HARMONICS = 20
HUM_WIDTH_HZ = 2.0
"""To either side of a harmonic: mains wanders by 0.2 Hz, a Hann window of 1 s spreads a line over 2 Hz."""
RUMBLE_BELOW_HZ = 20.0
LOW_RATE_HZ = 4000.0
"""Of the means of neighbouring samples: the last harmonic, 1200 Hz, is well below half of it."""
TAKEN_S = 2.0
"""Only the last so many seconds of a window count for hum and rumble."""


@dataclass(frozen=True, slots=True)
class SignalFigures:
    """Figures of one window that show the state of its sensor."""

    level_dbfs: float
    """20 log10 of the root mean square after the mean was taken away; never below -200."""
    clipped_share: float
    """Share of samples at full scale, 0 to 1."""
    dead: bool
    """No sample differs from another: nothing is connected, or it is switched off."""
    stuck: bool
    """At least half of the window is one uninterrupted run of one value, but not all of it."""
    finite: bool
    """No NaN, no infinity; where there is one the other figures are those with zeros in its place."""


def signal_figures(
    samples: Float32, full_scale: float = 1.0, known_level_dbfs: float | None = None
) -> SignalFigures:
    """The figures of one window.

    Args:
        samples: (n,), n >= 1.
        full_scale: Where they clip; infinity: nowhere.
        known_level_dbfs: Their level, where an encoder has computed it; None: it is computed here.
    """
    low, high = float(samples.min()), float(samples.max())  # NaN where there is one
    finite = bool(np.isfinite(low) and np.isfinite(high))
    if not finite:
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    clips = not finite or max(-low, high) >= FULL_SCALE * full_scale
    clipped = np.count_nonzero(np.abs(samples) >= FULL_SCALE * full_scale) if clips else 0
    run = _longest_run(samples)
    return SignalFigures(
        level_dbfs=level_dbfs(samples) if known_level_dbfs is None else known_level_dbfs,
        clipped_share=float(clipped) / len(samples),
        dead=run == len(samples),
        stuck=STUCK_SHARE * len(samples) <= run < len(samples),
        finite=finite,
    )


def _longest_run(samples: Float32) -> int:
    """Length of the longest run of equal samples, exact where that is half of them or more."""
    middle = len(samples) // 2  # of so long a run, one of the two samples in the middle is a part
    if 2 * max(np.count_nonzero(samples == samples[i]) for i in {middle, max(0, middle - 1)}) < len(samples):
        return 1
    changes = np.flatnonzero(samples[1:] != samples[:-1])
    edges = np.concatenate([[-1], changes, [len(samples) - 1]])
    return int(np.diff(edges).max())


def hum_and_rumble(samples: Float32, sample_rate_hz: int) -> tuple[float, float]:
    """Shares of the power, each 0 to 1: at mains frequency and its harmonics, and below 20 Hz.

    Only the spectrum up to the last harmonic is computed, of means of neighbouring samples.

    Args:
        samples: (n,), full scale -1 to 1; the mean does not count. Where it is shorter than 0.5 s the hum is
            0: its lines could not be told apart.
        sample_rate_hz: Of the samples.
    """
    samples = samples[-round(TAKEN_S * sample_rate_hz) :]
    grid = _grid(len(samples), sample_rate_hz)
    tapered = samples - float(samples.astype(np.float64).mean())
    tapered *= grid.taper
    total = len(tapered) / 2 * float(tapered @ tapered)  # Parseval
    if not total > 0.0:
        return 0.0, 0.0
    sums = tapered[: grid.whole].reshape(-1, grid.apart) @ np.ones(grid.apart, np.float32)
    spectrum = np.fft.rfft(sums)
    power = (np.square(spectrum.real) + np.square(spectrum.imag)) * grid.gain
    long_enough = len(samples) >= 0.5 * sample_rate_hz
    hum = max((float(power[bins].sum()) for bins in grid.hums), default=0.0) if long_enough else 0.0
    return min(1.0, hum / total), min(1.0, float(power[grid.rumble].sum()) / total)


class _Grid(NamedTuple):
    """What depends on the length and the rate alone."""

    taper: Float32
    """(n,)"""
    apart: int
    """Samples of which the sum is taken."""
    whole: int
    """Samples that are in such a sum."""
    gain: Float32
    """(bins,) what takes the low-pass of the sums away again."""
    hums: tuple[NDArray[np.intp], ...]
    """Bins of the harmonics, for each mains frequency."""
    rumble: NDArray[np.intp]


@lru_cache(maxsize=16)
def _grid(n: int, sample_rate_hz: int) -> _Grid:
    apart = max(1, int(sample_rate_hz / LOW_RATE_HZ))
    whole = n // apart * apart
    frequencies = np.fft.rfftfreq(whole // apart, apart / sample_rate_hz)
    attenuation = np.sinc(frequencies * apart / sample_rate_hz) / np.sinc(frequencies / sample_rate_hz)
    hums = []
    for mains in MAINS_HZ:
        nearest = np.round(frequencies / mains)
        near = np.abs(frequencies - nearest * mains) <= HUM_WIDTH_HZ
        hums.append(np.flatnonzero(near & (nearest >= 1) & (nearest <= HARMONICS)))
    return _Grid(
        taper=np.hanning(n).astype(np.float32),
        apart=apart,
        whole=whole,
        gain=(attenuation**-2).astype(np.float32),
        hums=tuple(hums),
        rumble=np.flatnonzero(frequencies < RUMBLE_BELOW_HZ),
    )
