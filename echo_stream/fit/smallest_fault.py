"""The smallest fault is the change of sound, third by third of an octave, that would just raise an alarm.

Found by making held-out windows louder in one third of an octave and scoring them again, so that a report can
say what a bank announces and what it does not, without a recording of a fault. Fit time only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from echo_stream.core.types import Float32, Window

GAINS_DB = (3.0, 6.0, 9.0, 12.0, 18.0, 24.0, 30.0)
LOWEST_HZ = 31.5
"""Centre of the lowest third of an octave; the spectral encoder's first band begins at 30 Hz."""
IMPACT_S, IMPACT_EVERY_S = 0.01, 0.1
"""A bearing's or a tooth's blow: 10 ms long, ten times a second."""
BLIND_DB = 12.0
"""A bank that announces nothing under this is said to be blind."""

ScoreWindows = Callable[[Sequence[Window]], Sequence[float]]
"""Windows to anomaly scores."""


@dataclass(frozen=True, slots=True)
class SmallestFault:
    """What raises an alarm in one third of an octave."""

    low_hz: float
    high_hz: float
    steady_db: Mapping[str, float | None]
    """By way to an alarm: the smallest of `GAINS_DB` that is announced; None: not even the largest."""
    impacts_db: Mapping[str, float | None]
    """The same for blows, whose level within the blow is meant."""


def smallest_faults(
    windows: Sequence[Window], score: ScoreWindows, levels: Mapping[str, float]
) -> list[SmallestFault]:
    """What would just be announced, for each third of an octave.

    A change counts as announced when the median score of the changed windows is over the level: it stays
    longer than the on-delay.

    Args:
        windows: Normal windows that the scorer's bank was fitted without; all of one rate and length.
        score: Encodes and scores windows.
        levels: By way to an alarm, the score above which it follows.
    """
    if not windows:
        return []
    found = []
    for low_hz, high_hz in thirds_of_octaves(windows[0].sample_rate_hz):
        steady = _Change(windows, score, low_hz, high_hz, impacts=False)
        impacts = _Change(windows, score, low_hz, high_hz, impacts=True)
        found.append(
            SmallestFault(
                low_hz,
                high_hz,
                steady_db={way: steady.smallest_gain_db(level) for way, level in levels.items()},
                impacts_db={way: impacts.smallest_gain_db(level) for way, level in levels.items()},
            )
        )
    return found


class _Change:
    """One kind of change in one band; scores are computed once for each gain."""

    def __init__(
        self, windows: Sequence[Window], score: ScoreWindows, low_hz: float, high_hz: float, *, impacts: bool
    ) -> None:
        rate_hz = windows[0].sample_rate_hz
        gate = _gate(len(windows[0].samples), rate_hz) if impacts else np.float32(1)
        self._windows = windows
        self._score = score
        self._parts = [_band(window.samples, rate_hz, low_hz, high_hz) * gate for window in windows]
        self._medians: dict[float, float] = {}

    def smallest_gain_db(self, level: float) -> float | None:
        """The smallest of `GAINS_DB` whose score is over `level`, by halving: louder does not score less."""
        low, high = 0, len(GAINS_DB)
        while low < high:
            middle = (low + high) // 2
            if self._median(GAINS_DB[middle]) > level:
                high = middle
            else:
                low = middle + 1
        return GAINS_DB[low] if low < len(GAINS_DB) else None

    def _median(self, gain_db: float) -> float:
        if gain_db not in self._medians:
            more = np.float32(10 ** (gain_db / 20) - 1)
            changed = [
                replace(window, samples=window.samples + more * part)
                for window, part in zip(self._windows, self._parts, strict=True)
            ]
            self._medians[gain_db] = float(np.median(self._score(changed)))
        return self._medians[gain_db]


def thirds_of_octaves(sample_rate_hz: int) -> list[tuple[float, float]]:
    """Edges in Hz of the thirds of octaves from `LOWEST_HZ` to below 0.45 of the rate (IEC 61260, base 2)."""
    found = []
    centre_hz = LOWEST_HZ
    while centre_hz * 2 ** (1 / 6) < 0.45 * sample_rate_hz:
        found.append((centre_hz * 2 ** (-1 / 6), centre_hz * 2 ** (1 / 6)))
        centre_hz *= 2 ** (1 / 3)
    return found


def announced_within_db(found: Sequence[SmallestFault], way: str) -> tuple[float | None, float | None]:
    """The gains at which half of all thirds are announced, steady and as impacts; None: fewer than half."""
    return _middle([each.steady_db[way] for each in found]), _middle([each.impacts_db[way] for each in found])


def _middle(gains_db: Sequence[float | None]) -> float | None:
    reached = sorted(gain for gain in gains_db if gain is not None)
    half = (len(gains_db) + 1) // 2
    return reached[half - 1] if 0 < half <= len(reached) else None


def _band(samples: Float32, rate_hz: int, low_hz: float, high_hz: float) -> Float32:
    """What of `samples` (n,) lies in a band, as (n,)."""
    spectrum = np.fft.rfft(samples)
    frequencies_hz = np.fft.rfftfreq(len(samples), 1 / rate_hz)
    spectrum[(frequencies_hz < low_hz) | (frequencies_hz >= high_hz)] = 0
    return np.fft.irfft(spectrum, len(samples)).astype(np.float32)


def _gate(n: int, rate_hz: int) -> Float32:
    """(n,) 1 within a blow and 0 between two."""
    return (np.arange(n) / rate_hz % IMPACT_EVERY_S < IMPACT_S).astype(np.float32)
