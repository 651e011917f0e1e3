"""The smallest fault is the change of sound, third by third of an octave, that would just raise an alarm.

Found by making held-out windows louder in one third of an octave and scoring them again, so that a report can
say what a bank announces and what it does not, without a recording of a fault. Fit time only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.sensitivity import Sensitivity, SmallestFault
from echo_stream.core.sequences import evenly_chosen
from echo_stream.core.types import AlarmPath, Float32, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.reference import Reference
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.announced import Announced
from echo_stream.fit.recorded import Probe

GAINS_DB = (3.0, 6.0, 9.0, 12.0, 18.0, 24.0, 30.0)
LOWEST_HZ = 31.5
"""Centre of the lowest third of an octave; the spectral encoder's first band begins at 30 Hz."""
IMPACT_S, IMPACT_EVERY_S = 0.01, 0.1
"""A bearing's or a tooth's blow: 10 ms long, ten times a second."""
MOST_WINDOWS, FEWEST_WINDOWS = 3, 2
TRIES = 5.0
"""Gains that are tried for each third and kind of change, about."""
BUDGET_S = 8.0
"""Of computing: with a slow encoder fewer windows are tried, and then every third third."""
MARGIN_WINDOWS = 2.0
"""So many window lengths before and after a window are left out with it, as in the folds of a bank."""

ScoreWindows = Callable[[Sequence[Window]], Sequence[float]]
"""Windows to anomaly scores."""


def sensitivity_of(
    bank: NormalBank, encoder: Encoder, probes: Sequence[Probe], condition: str, announced: Announced
) -> Sensitivity | None:
    """What a bank announces; None where no probe can be scored without its neighbours in time.

    Args:
        bank: Just fitted.
        encoder: Its encoder.
        probes: Windows that the bank was fitted on; each is scored without itself and its neighbours.
        condition: Their operating state.
        announced: The levels of the ways to an alarm.
    """
    scorable = [(probe.window, scorer) for probe in probes if (scorer := _without(bank, probe, condition))]
    if len(scorable) < FEWEST_WINDOWS:
        return None
    thirds = thirds_of_octaves(scorable[0][0].sample_rate_hz)
    affordable = int(BUDGET_S / (_seconds_each(encoder, *scorable[0]) * len(thirds) * 2 * TRIES))
    if affordable < FEWEST_WINDOWS:
        thirds = thirds[1::3]
    count = min(len(scorable), MOST_WINDOWS, max(affordable, FEWEST_WINDOWS))
    tried = evenly_chosen(scorable, count)

    def score(windows: Sequence[Window]) -> list[float]:
        pairs = zip(encoder.encode(windows), tried, strict=True)
        return [scorer.score_one(features).value for features, (_, scorer) in pairs]

    faults = smallest_faults([window for window, _ in tried], score, announced, thirds)
    return Sensitivity(tuple(faults), announced.after_s, count)


def _seconds_each(encoder: Encoder, window: Window, scorer: Scorer) -> float:
    """How long one window takes: the shortest of a few, as the first takes longer and a PC is busy."""
    shortest_s = math.inf
    for _ in range(3):
        began_s = monotonic()
        scorer.score(encoder.encode([window]))
        shortest_s = min(shortest_s, monotonic() - began_s)
    return max(shortest_s, 1e-6)


def _without(bank: NormalBank, probe: Probe, condition: str) -> Scorer | None:
    """Scores against the bank without what was near the probe in time; None where too little is left."""
    margin_s = MARGIN_WINDOWS * bank.window_s
    references: list[Reference] = []
    for own in bank.references:
        near = np.abs(own.start_s - probe.start_s) < margin_s
        near &= np.array([name == probe.recording for name in own.recordings])
        near &= own.condition == condition
        kept = np.flatnonzero(~near).tolist()
        if len(kept) < 2:
            return None
        view = replace(own.window, normals=own.window.normals[kept])
        names = [own.recordings[i] for i in kept]
        references.append(replace(own, recordings=names, start_s=own.start_s[kept], window=view))
    return Scorer(replace(bank, references=tuple(references)))


def smallest_faults(
    windows: Sequence[Window],
    score: ScoreWindows,
    announced: Announced,
    thirds_hz: Sequence[tuple[float, float]],
) -> list[SmallestFault]:
    """What would just be announced, for each third of an octave.

    Args:
        windows: Normal windows, all of one rate and length.
        score: Encodes and scores windows, against normal sound without them.
        announced: The levels of the ways to an alarm.
        thirds_hz: Lower and upper edge of each band to look at.
    """
    found = []
    rate_hz, n = windows[0].sample_rate_hz, len(windows[0].samples)
    spectra = [np.fft.rfft(window.samples) for window in windows]
    gate = _gate(n, rate_hz)
    for low_hz, high_hz in thirds_hz:
        parts = [_band(spectrum, n, rate_hz, (low_hz, high_hz)) for spectrum in spectra]
        steady = _Change(windows, score, announced, parts)
        impacts = _Change(windows, score, announced, [part * gate for part in parts])
        found.append(SmallestFault(low_hz, high_hz, steady.smallest_gains_db(), impacts.smallest_gains_db()))
    return found


class _Change:
    """One kind of change in one band; scores are computed once for each gain."""

    def __init__(
        self,
        windows: Sequence[Window],
        score: ScoreWindows,
        announced: Announced,
        parts: Sequence[Float32],
    ) -> None:
        self._windows = windows
        self._score = score
        self._announced = announced
        self._parts = parts
        self._paths: dict[float, AlarmPath | None] = {}

    def smallest_gains_db(self) -> dict[AlarmPath, float | None]:
        """By way: the smallest gain that it, or a faster way, announces."""
        return {path: self._smallest_gain_db(path) for path in AlarmPath}

    def _smallest_gain_db(self, path: AlarmPath) -> float | None:
        """By halving: what is louder is announced no later."""
        fast_enough = list(AlarmPath)[: list(AlarmPath).index(path) + 1]
        low, high = 0, len(GAINS_DB)
        while low < high:
            middle = (low + high) // 2
            if self._path(GAINS_DB[middle]) in fast_enough:
                high = middle
            else:
                low = middle + 1
        return GAINS_DB[low] if low < len(GAINS_DB) else None

    def _path(self, gain_db: float) -> AlarmPath | None:
        if gain_db not in self._paths:
            more = np.float32(10 ** (gain_db / 20) - 1)
            changed = [
                replace(window, samples=window.samples + more * part)
                for window, part in zip(self._windows, self._parts, strict=True)
            ]
            self._paths[gain_db] = self._announced.path(self._score(changed))
        return self._paths[gain_db]


def thirds_of_octaves(sample_rate_hz: int) -> list[tuple[float, float]]:
    """Edges in Hz of the thirds of octaves from `LOWEST_HZ` to below 0.45 of the rate (IEC 61260, base 2)."""
    found = []
    centre_hz = LOWEST_HZ
    while centre_hz * 2 ** (1 / 6) < 0.45 * sample_rate_hz:
        found.append((centre_hz * 2 ** (-1 / 6), centre_hz * 2 ** (1 / 6)))
        centre_hz *= 2 ** (1 / 3)
    return found


def _band(spectrum: NDArray[Any], n: int, rate_hz: int, band_hz: tuple[float, float]) -> Float32:
    """What lies in a band of `n` samples with this spectrum (bins,), as (n,)."""
    first, last = (math.ceil(edge_hz * n / rate_hz) for edge_hz in band_hz)
    within = np.zeros_like(spectrum)
    within[first:last] = spectrum[first:last]
    return np.fft.irfft(within, n).astype(np.float32)


def _gate(n: int, rate_hz: int) -> Float32:
    """(n,) up to 1 within a blow, without edges that would be heard in other bands, and 0 between two."""
    since_s = np.arange(n) / rate_hz % IMPACT_EVERY_S
    return np.where(since_s < IMPACT_S, np.sin(np.pi * since_s / IMPACT_S) ** 2, 0.0).astype(np.float32)
