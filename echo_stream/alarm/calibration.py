"""From scores of normal sound to trip levels, and what they promise. Fit-time and start-up only; pure.

What is calibrated is the rate of *events*: a window's score over the trip level is none yet. `margins`
turns each contiguous run of held-out scores into numbers that exceed the trip level where the whole alarm
condition (k of n, dead-band, on-delay) would trip; `fit_tail` says how often they do. The runs are frozen
at fit time: a tail that went on learning would take a slow decay for normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.condition import hops_in, margins, rises
from echo_stream.alarm.tail import Tail, fit_tail
from echo_stream.core.calibration import FIT_AGAIN, BankCalibration
from echo_stream.core.errors import BankError
from echo_stream.core.text import MONTH_H

Float64 = NDArray[np.float64]

WEEKS_PER_MONTH = 30 / 7
MIN_WINDOWS = 10
GOOD_ENOUGH = 30.0
"""The bound is good enough at so many times the asked rate: asked for one a month, with 95 % at most one a
day."""
LONGEST_H = 10 * MONTH_H
"""More normal sound than this is not asked for."""


class Trip(NamedTuple):
    """Where a score trips an alarm, and where it clears it."""

    level: float
    clear: float


@dataclass(frozen=True, slots=True)
class TripLevel:
    """A trip level and what can be said of it. Month: 30 days of listening."""

    level: float
    """Trip above this score."""
    clear: float
    """trip - dead_band * (trip - median)."""
    asked_per_month: float
    expected_per_month: float
    """False alarms, by the tail: as many as were asked for, or fewer. Where data are few the posterior's mean
    is larger, its median smaller."""
    upper95_per_month: float
    """By the tail: with 95 % at most so many; the finite amount of normal sound is in it."""
    minutes_needed: float
    """More normal sound, until the bound is at most `GOOD_ENOUGH` times the asked rate; about, 0 where it
    is."""
    measured_hours: float
    """Held-out normal sound, over which this level was tried."""
    measured_events: int
    """How often it would have tripped there."""
    measured_upper95_per_month: float
    """All that is measured, without any tail: 3 / T where nothing tripped in T."""
    on_delay_hops: int
    """On-delay that was asked for, in hops."""
    persistence_hops: int
    """On-delay that the tail was fitted with, in hops; less than asked where the contiguous stretches of
    held-out sound are too short for it, which errs on the safe side."""

    def to_json(self) -> dict[str, Any]:
        """All fields, as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Calibration:
    """Held-out scores of normal sound, frozen, and the trip levels that follow."""

    runs: tuple[Float64, ...]
    """Contiguous runs, each (windows,) at hop spacing, in time order."""
    hop_s: float

    @classmethod
    def fit(cls, held_out: Sequence[NDArray[np.floating[Any]]], hop_s: float) -> Self:
        """Freeze held-out scores.

        Args:
            held_out: Contiguous runs of scores of windows that the bank did not see, each (windows,).
            hop_s: Between the starts of two windows.

        Raises:
            BankError: Fewer than 10 windows, or scores that are not finite.
        """
        runs = tuple(np.asarray(run, dtype=np.float64) for run in held_out if len(run))
        count = sum(len(run) for run in runs)
        if count < MIN_WINDOWS:
            raise BankError(
                f"{count} held-out windows are too few for a trip level, at least {MIN_WINDOWS} are needed",
                "Enrol more normal sound.",
            )
        if not all(np.isfinite(run).all() for run in runs):
            raise BankError("held-out scores are not finite", FIT_AGAIN)
        return cls(runs, hop_s)

    @cached_property
    def median(self) -> float:
        """Of all held-out scores."""
        return float(np.median(np.concatenate(self.runs)))

    @property
    def hours(self) -> float:
        """How much held-out sound there is."""
        return sum(len(run) for run in self.runs) * self.hop_s / 3600

    def held(self, hops: int) -> float:
        """The highest score that was held for so many windows in a row.

        Where a run ends, the rest is not known: half of the windows are enough there.
        """
        return max(held_in(run, hops) for run in self.runs)

    def trip_level(
        self,
        events_per_month: float,
        *,
        on_delay_s: float,
        off_delay_s: float,
        k: int = 1,
        n: int = 1,
        dead_band: float = 0.1,
        at_least: float = -math.inf,
    ) -> TripLevel:
        """The level at which normal sound raises so many events a month, or fewer (`Tail.level_for`).

        Args:
            events_per_month: Of 30 days; above 0.
            on_delay_s: As the alarm has it.
            off_delay_s: As the alarm has it.
            k: As the alarm has it.
            n: As the alarm has it.
            dead_band: Share of the way from trip to median, above 0 and below 1.
            at_least: The level is not below this one.
        """
        on_hops, off_hops = hops_in(on_delay_s, self.hop_s), hops_in(off_delay_s, self.hop_s)
        persistence, tail = self._tail(on_hops, off_hops, k, n, dead_band)
        per_hour = events_per_month / MONTH_H
        level, clear = self._level(tail, per_hour, dead_band, at_least)
        events = sum(
            int(rises(run, trip=level, clear=clear, on_hops=on_hops, off_hops=off_hops, k=k, n=n).sum())
            for run in self.runs
        )
        return TripLevel(
            level=level,
            clear=clear,
            asked_per_month=events_per_month,
            expected_per_month=min(events_per_month, tail.mean_per_hour(level) * MONTH_H),
            upper95_per_month=tail.per_hour(level, 0.95) * MONTH_H,
            minutes_needed=60 * _hours_until_good(tail, per_hour, level),
            measured_hours=self.hours,
            measured_events=events,
            measured_upper95_per_month=poisson_upper(events) / self.hours * MONTH_H,
            on_delay_hops=on_hops,
            persistence_hops=persistence,
        )

    def trip(
        self,
        events_per_month: float,
        *,
        on_delay_s: float,
        off_delay_s: float,
        dead_band: float = 0.1,
        at_least: float = -math.inf,
    ) -> Trip:
        """The same level, without what there is to say of it: that takes most of the time."""
        on_hops, off_hops = hops_in(on_delay_s, self.hop_s), hops_in(off_delay_s, self.hop_s)
        _, tail = self._tail(on_hops, off_hops, 1, 1, dead_band)
        return self._level(tail, events_per_month / MONTH_H, dead_band, at_least)

    def _level(self, tail: Tail, per_hour: float, dead_band: float, at_least: float) -> Trip:
        level = max(tail.level_for(per_hour), at_least)
        clear = level - dead_band * (level - self.median)
        if not clear < level:  # scores that do not vary
            clear = level - dead_band
        return Trip(level, clear)

    def _tail(self, on_hops: int, off_hops: int, k: int, n: int, dead_band: float) -> tuple[int, Tail]:
        """The persistence that the runs are long enough for, and the tail of their margins with it."""
        enough = max(2 * MIN_WINDOWS, sum(len(run) for run in self.runs) // 2)
        tries = [(hops, k, n) for hops in range(on_hops, -1, -1)] + [(0, 1, 1)]
        for hops, own_k, own_n in tries:
            found = [
                margins(run, on_hops=hops, dead_band=dead_band, median=self.median, k=own_k, n=own_n)
                for run in self.runs
            ]
            if sum(len(run) for run in found) >= enough:
                break
        usable = [run for run in found if len(run)]
        return hops, fit_tail(usable, hop_s=self.hop_s, gap=max(off_hops, hops + own_n))

    @classmethod
    def of(cls, saved: BankCalibration | None) -> Self:
        """What a bank keeps.

        Raises:
            BankError: It keeps no calibration, or too few scores.
        """
        if saved is None:
            raise BankError("the bank has no calibration", FIT_AGAIN)
        return cls.fit(saved.runs, saved.hop_s)


def held_in(run: Float64, hops: int) -> float:
    """The highest score that a run holds for so many windows; at its ends, for half of them."""
    half = min((hops + 1) // 2, len(run))
    whole = np.lib.stride_tricks.sliding_window_view(run, min(hops, len(run))).min(axis=1)
    ends = [part.min() for n in range(half, min(hops, len(run))) for part in (run[:n], run[-n:])]
    return float(max([whole.max(), *ends]))


def poisson_upper(events: int, probability: float = 0.95) -> float:
    """Upper bound of a Poisson mean of which so many events were seen; none: 3.0 (exact, one-sided)."""
    low, high = 0.0, 10.0 + 3.0 * events
    while high - low > 1e-6 * high:
        mean = (low + high) / 2
        term = total = math.exp(-mean)
        for i in range(1, events + 1):
            term *= mean / i
            total += term
        low, high = (mean, high) if total > 1 - probability else (low, mean)
    return high


def _hours_until_good(tail: Tail, per_hour: float, level: float) -> float:
    """How many more hours; tried in steps of a quarter more."""
    if tail.per_hour(level, 0.95) <= GOOD_ENOUGH * per_hour:
        return 0.0
    hours = tail.hours
    while hours < LONGEST_H:
        hours *= 1.25
        more = tail.with_hours(hours)
        if more.per_hour(more.level_for(per_hour), 0.95) <= GOOD_ENOUGH * per_hour:
            break
    return hours - tail.hours
