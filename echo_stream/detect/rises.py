"""Rises say how much louder than in its own last minutes a window is, third of an octave by third.

Pure numpy; runs on the pipeline thread, and only for machines that have a reference or are one. They answer
one question: did it change more over there than here? (docs/adr/0042-reference.md)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import numpy as np

from echo_stream.core.sequences import SPREAD_OF_DEVIATION
from echo_stream.core.types import Float32, Float64, Window

LOWEST_HZ = 50.0
THIRD = 2 ** (1 / 3)
PAST_S, LAG_S = 120.0, 12.0
"""Normal is the median of so long; the newest seconds may belong to a change already and are left out."""
FEWEST = 20
"""Windows that say what is normal."""
FORGET_S = 10.0
"""After so much lost sound it may be another microphone, or the same at another gain."""
KEPT = 8
"""Newest windows that another machine's window can be matched with."""
LEAST_DB, DEVIATIONS = 1.5, 3.0
"""A band has changed that is louder by so much, and by so many spreads of its own."""
MORE_DB = 1.0
"""Over the bands that changed at the machine, a change elsewhere is larger by so much, on average."""


@dataclass(frozen=True, slots=True)
class Rise:
    """Of one window."""

    at: datetime
    """UTC of its last sample."""
    db: Float64
    """(bands,) over the normal level; negative where it is quieter."""
    certain: Float64
    """(bands,) what a rise must exceed to be none of the sound's own wandering, in dB."""


class Rises:
    """Of one machine, window by window; in bounded memory.

    Args:
        hop_s: Between two windows.
    """

    def __init__(self, hop_s: float) -> None:
        self._past: deque[Float64] = deque(maxlen=max(FEWEST, round(PAST_S / hop_s)) + round(LAG_S / hop_s))
        self._lag = round(LAG_S / hop_s)
        self._newest: deque[Rise] = deque(maxlen=KEPT)
        self._end: int | None = None

    def add(self, window: Window) -> None:
        """Take the next window into account."""
        if self._end is not None and window.start - self._end > FORGET_S * window.sample_rate_hz:
            self.forget()
        self._end = window.end
        levels_db = band_levels_db(window.samples, window.sample_rate_hz)
        if not np.isfinite(levels_db).all():
            return
        known = list(self._past)[: len(self._past) - self._lag]
        if len(known) >= FEWEST:
            middle, spread = _middle_and_spread(known)
            certain = np.maximum(LEAST_DB, DEVIATIONS * spread)
            self._newest.append(Rise(window.captured_at, levels_db - middle, certain))
        self._past.append(levels_db)

    def forget(self) -> None:
        """Nothing of the past says what is normal: the sensor was at fault, or its sound was lost."""
        self._past.clear()
        self._newest.clear()
        self._end = None

    def near(self, at: datetime, tolerance_s: float) -> Rise | None:
        """Of the window that ends nearest to a time; None where none ends so near."""

        def away_s(rise: Rise) -> float:
            return abs((rise.at - at).total_seconds())

        nearest = min(self._newest, key=away_s, default=None)
        return None if nearest is None or away_s(nearest) > tolerance_s else nearest


def more_db(here: Rise, there: Rise) -> float:
    """How much more the bands that became louder here became louder there, on average; 0: no more than here.

    What is nearer to this machine is louder here, relative to the normal sound: that of the machine reaches
    the other place on the same way as its fault does.
    """
    bands = min(len(here.db), len(there.db))
    changed = here.db[:bands] > here.certain[:bands]
    if not changed.any():
        return 0.0
    other = np.where(there.db > there.certain, there.db, 0.0)[:bands]
    more = float(np.mean(other[changed] - here.db[:bands][changed]))
    return more if more >= MORE_DB else 0.0


def band_levels_db(samples: Float32, sample_rate_hz: int) -> Float64:
    """(bands,) levels of thirds of an octave, the first at 50 Hz; as many as lie below half the rate."""
    starts, taper = _grid(len(samples), sample_rate_hz)
    if not len(starts):
        return np.zeros(0)
    spectrum = np.fft.rfft((samples - np.float32(samples.mean())) * taper)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    bands = np.add.reduceat(power, starts)[:-1]
    levels: Float64 = 10 * np.log10(bands + 1e-12)
    return levels


@lru_cache(maxsize=16)
def _grid(n: int, sample_rate_hz: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], Float32]:
    """First bin of each band and of what lies above the last, and the taper."""
    bands = max(0, int(np.floor(np.log(sample_rate_hz / 2 / LOWEST_HZ) / np.log(THIRD))))
    edges_hz = LOWEST_HZ * THIRD ** np.arange(bands + 1)
    bins = np.ceil(edges_hz * n / sample_rate_hz).astype(np.intp)
    bins = bins[bins < n // 2 + 1]
    if len(bins) < 2 or (np.diff(bins) < 1).any():  # so short a window has no such low bands
        bins = bins[:0]
    return bins, np.hanning(n).astype(np.float32)


def _middle_and_spread(known: Sequence[Float64]) -> tuple[Float64, Float64]:
    levels = np.array(known)
    middle = np.median(levels, axis=0)
    return middle, SPREAD_OF_DEVIATION * np.median(np.abs(levels - middle), axis=0)
