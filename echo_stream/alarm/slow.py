"""The slow way to an alarm: minute after minute is higher than the machine's own quiet minutes were.

Pure; pipeline thread only. One value a minute, the median of its scores, is ranked among those of the past
days. The rank's p-value becomes evidence (an e-value); evidence is summed up as an e-detector (Shin, Ramdas
and Rinaldo 2024): it exceeds its limit by chance no more often than once in so many minutes as the limit is
high. That holds where a minute tells nothing of the next; where it does, values are of 2, 4 or 8 minutes.

What trips is then looked at: a *shift* came within a few minutes and is an alarm; a *creep* is an advisory.
Why: docs/adr/0015-three-ways.md.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from statistics import fmean, median
from typing import Any

import numpy as np

from echo_stream.alarm.past import numbers
from echo_stream.core.sequences import spread
from echo_stream.core.text import MONTH_H

MINUTE_S = 60.0
MINUTES_A_MONTH = MONTH_H * 60
KEPT = 1440
"""Values that are kept: a day of minutes, then every second minute of two days, up to eight days."""
LARGEST_STRIDE = 8
WARM = 30
"""Values before the first is ranked."""
BETS = (0.2, 0.5, 0.8)
"""Exponents: the first gains most by a few very small p-values, the last by many that are a little small."""
TAIL = 4.0
"""Beyond the largest value p falls as that power of the distance: a heavy tail."""
MOST_BEYOND = 30.0
"""And so many times at most."""
SUSPICIOUS = 3.0
"""From so much evidence on values wait, instead of joining the past: a shift must not hide itself."""
LONGEST_WAIT = 240
RELATED = 0.3
"""A correlation of neighbours above it makes the values longer."""
RELATED_OF = 120
WIDEST = 8
BEFORE = 15
"""Values right before the onset: what a shift is a shift from."""
PAUSE_S = 6 * 3600.0
"""After a night without this operating state nobody knows what happened meanwhile: it is cold, the weather is
another. What is higher then is no sudden shift, until `BEFORE` values were heard again."""
LEAST_SHIFT, DEVIATIONS = 0.3, 3.0
"""An alarm takes so many spreads of held-out sound and so many of the machine's own minutes; less is an
advisory. A broken tooth within the bounds of its bank moved a gearbox's minutes by 0.4."""
LOWER = 0.9
"""Quantile of the past that a value must come back to."""
BACK = 3
"""Values in a row, until it is over."""


class Found(StrEnum):
    """What the evidence is for."""

    SHIFT = "shift"
    CREEP = "creep"


class SlowWay:
    """Ranks minutes.

    Args:
        hop_s: Between two windows.
        per_month: How often chance may exceed the limit.
        sample_rate_hz: Of the sample indices.
    """

    def __init__(self, *, hop_s: float, per_month: float, sample_rate_hz: int) -> None:
        self._hop_s = hop_s
        self._pause = round(PAUSE_S * sample_rate_hz)
        self._last_began: int | None = None
        self._since_pause = BEFORE
        self._limit_minutes = MINUTES_A_MONTH / per_month
        self._minute: list[float] = []
        self._minute_began: int | None = None
        self._minutes: list[float] = []
        self.width = 1
        """Minutes a value."""
        self._reset()
        self.found: Found | None = None
        """What stands: an alarm, an advisory, or nothing."""
        self.onset: int | None = None
        """Absolute sample index at which what stands began; while nothing does, when suspicion did."""
        self.before = 0.0
        """What the minutes were like before."""
        self.now = 0.0
        """And now."""
        self.clear = 0.0
        """What a value must come back to."""
        self._back = 0

    def _reset(self) -> None:
        self._order: list[float] = []
        self._ranked: list[float] = []
        self._stride, self._joined = 1, 0
        self._latest: deque[float] = deque(maxlen=RELATED_OF)
        self._waiting: list[float] = []
        self._evidence = [0.0] * len(BETS)

    @property
    def hours(self) -> float:
        """How much of the past the values that are kept reach over."""
        return len(self._order) * self._stride * self.width / 60

    @property
    def evidence(self) -> float:
        """Share of the limit: at 1 it trips."""
        return fmean(self._evidence) * self.width / self._limit_minutes

    @property
    def newest(self) -> float | None:
        """The newest value; None before the first."""
        if self.found is Found.SHIFT:
            return self.now
        return self._waiting[-1] if self._waiting else self._latest[-1] if self._latest else None

    @property
    def usual(self) -> float | None:
        """The middle of the past; None before the first value."""
        return self._ranked[len(self._ranked) // 2] if self._ranked else None

    def add(self, value: float, start: int) -> bool:
        """The next score of a window in which nothing else is wrong, and where the window starts.

        Returns:
            Whether what stands has changed.
        """
        if self._minute_began is None:
            self._minute_began = start
        self._minute.append(value)
        if len(self._minute) * self._hop_s < MINUTE_S:
            return False
        self._minutes.append(median(self._minute))
        self._minute.clear()
        if len(self._minutes) < self.width:
            return False
        value, began = median(self._minutes), self._minute_began
        self._minutes, self._minute_began = [], None
        return self._step(value, began)

    def interrupt(self) -> None:
        """The next window does not follow: the minute that has begun is dropped."""
        self._minute, self._minutes, self._minute_began = [], [], None

    def forget(self) -> None:
        """Nothing stands and nothing is suspected; the past stays."""
        self.interrupt()
        self.found, self.onset, self._back = None, None, 0
        self._waiting, self._evidence = [], [0.0] * len(BETS)

    def _step(self, value: float, began: int) -> bool:
        if self._last_began is not None and began - self._last_began > self._pause:
            self._since_pause = 0
        self._last_began = began
        if self.found is not None and self._is_back(value):
            self.forget()
            self._join(value)
            return True
        if self.found is Found.SHIFT:  # it stands, and must not become the past
            self.now = value
            return False
        if len(self._order) < WARM:
            self._join(value)
            return False
        p = self._p_value(value)
        self._evidence = [
            bet * p ** (bet - 1) * max(evidence, 1.0)
            for bet, evidence in zip(BETS, self._evidence, strict=True)
        ]
        if fmean(self._evidence) <= SUSPICIOUS or len(self._waiting) >= LONGEST_WAIT:
            self._accept(value)
            return False
        if not self._waiting and self.found is None:
            self.onset = began
        self._waiting.append(value)
        return self.evidence >= 1.0 and self._trip()

    def _accept(self, value: float) -> None:
        """It was nothing: what waited joins the past."""
        for each in (*self._waiting, value):
            self._join(each)
        self._waiting = []
        if self.found is None:
            self.onset = None

    def _trip(self) -> bool:
        past, standing = self._ranked, self.found
        middle = median(past)
        now = median(self._waiting)
        shift = now - median(list(self._latest)[-BEFORE:])
        least = max(LEAST_SHIFT, DEVIATIONS * spread(past, middle))
        sudden = self._since_pause >= BEFORE and shift >= (now - middle) / 2 and now - middle >= least
        found = Found.SHIFT if sudden else Found.CREEP
        if standing is None or sudden:
            self.before, self.clear = middle, past[round(LOWER * (len(past) - 1))]
        self.now, self.found = now, found
        self._evidence, self._back = [0.0] * len(BETS), 0
        if sudden:
            self._waiting = []
        else:  # go on from here: a shift on top of a creep must be found too
            waiting = self._waiting
            self._reset()
            for each in waiting:
                self._join(each)
        return found is not standing

    def _is_back(self, value: float) -> bool:
        self._back = self._back + 1 if value <= self.clear else 0
        return self._back >= BACK

    def _p_value(self, value: float) -> float:
        """Of a value at least so high among those that are kept."""
        past, n = self._ranked, len(self._ranked)
        higher = n - bisect_left(past, value)
        p = (1 + higher) / (1 + n)
        if higher:
            return p
        middle, high = past[n // 2], past[round(LOWER * (n - 1))]
        scale = max((high - middle) / 1.28, 1e-3)  # of a normal distribution: its spread
        beyond: float = (1 + (value - past[-1]) / scale / TAIL) ** -TAIL
        return p * max(beyond, 1 / MOST_BEYOND)

    def _join(self, value: float) -> None:
        self._latest.append(value)
        self._joined += 1
        self._since_pause += 1
        if self._joined % (RELATED_OF // 2) == 0:
            self._look_at_relation()
        if self._joined % self._stride:
            return
        self._order.append(value)
        insort(self._ranked, value)
        if len(self._order) <= KEPT:
            return
        if self._stride < LARGEST_STRIDE:
            self._order, self._stride = self._order[1::2], 2 * self._stride
            self._ranked = sorted(self._order)
        else:
            gone = self._order.pop(0)
            del self._ranked[bisect_right(self._ranked, gone) - 1]

    def _look_at_relation(self) -> None:
        """Values that tell of their neighbours are made twice as long, and the past with them."""
        if self.width >= WIDEST or not related(list(self._latest)):
            return
        self.width *= 2
        if (
            self._stride == 1
        ):  # neighbours in time; else single minutes stay, which vary more than longer ones
            self._order = _pairs(self._order)
            self._ranked = sorted(self._order)
        self._latest = deque(_pairs(list(self._latest)), maxlen=RELATED_OF)
        self._evidence, self._waiting = [0.0] * len(BETS), []

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without times and without the minute that has begun."""
        return {
            "past": [round(value, 3) for value in self._order],
            "latest": [round(value, 3) for value in self._latest],
            "stride": self._stride,
            "joined": self._joined,
            "width": self.width,
            "evidence": self._evidence,
            "waiting": [round(value, 3) for value in self._waiting],
            "found": self.found and self.found.value,
            "before": self.before,
            "now": self.now,
            "clear": self.clear,
        }

    def restore(self, saved: Mapping[str, Any], onset: int | None) -> None:
        """From what `to_json` gave; raises what `numbers` raises."""
        self.forget()
        self._reset()
        self._order = numbers(saved["past"])[-KEPT:]
        self._ranked = sorted(self._order)
        self._latest.extend(numbers(saved["latest"]))
        self._stride, self._joined, self.width = (int(saved[key]) for key in ("stride", "joined", "width"))
        if not (1 <= self._stride <= LARGEST_STRIDE and 1 <= self.width <= WIDEST):
            raise ValueError(f"stride {self._stride}, width {self.width}")
        self._waiting = numbers(saved["waiting"])
        self._evidence = numbers(saved["evidence"])
        if len(self._evidence) != len(BETS):
            raise ValueError(f"{len(self._evidence)} parts of evidence, expected {len(BETS)}")
        self.found = saved["found"] and Found(saved["found"])
        self.before, self.now, self.clear = numbers([saved[key] for key in ("before", "now", "clear")])
        self.onset = onset if self.found else None


def related(values: Sequence[float]) -> bool:
    """Neighbours tell of each other: their ranks correlate."""
    if len(values) < RELATED_OF // 2:
        return False
    ranks = np.argsort(np.argsort(values, kind="stable"))
    return bool(np.corrcoef(ranks[:-1], ranks[1:])[0, 1] > RELATED)


def _pairs(values: list[float]) -> list[float]:
    even = len(values) // 2 * 2
    return [(a + b) / 2 for a, b in zip(values[:even:2], values[1:even:2], strict=True)]
