"""From scores of normal sound to trip levels, and what they promise. Fit-time and start-up only; pure.

A level is the highest score that held-out sound was *held* at, for as long as the alarm waits, and from there
a limited way further. The way is counted in scales: over one scale the tail of an exponential distribution
falls by a factor e. How many would take the rate down to the one that the user accepts is known, but half a
minute of sound says nothing about once in a month; so of a long way only a part is gone, `REACH` scales at
most. What is left of it is said (`TripLevel.expected_per_month`), not hidden. Each step is a maximum, a
quantile or a logarithm, so that scores that move a little move the level a little.

The scores are frozen at fit time: a level that went on learning would take a slow decay for normal.
Why: docs/adr/0016-strong-level.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.condition import hops_in, rises
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.errors import FIT_AGAIN, BankError
from echo_stream.core.text import MONTH_H
from echo_stream.core.types import Float64

MIN_WINDOWS = 10
GOOD_ENOUGH = 30.0
"""The bound is good enough at so many times the asked rate: asked for one a month, with 95 % at most one a
day."""
LONGEST_H = 10 * MONTH_H
"""More normal sound than this is not asked for."""
REACH = 8.0
"""Scales over the highest held score at most: of a way of 4 scales 2.7 are gone, of 12 4.8."""
LEAST_SCALE = 1.0
"""In spreads of held-out sound. A normal variable has 0.6 and an exponential one 1.4: the scores of short
enrolments are taken to be between the two, however little they vary."""
MEAN_OF_INNER = 0.5585
"""Of a standard normal variable: the mean of the smaller four fifths of its absolute values."""
SMALLEST_SCALE = 0.1
"""Of a score: scores that do not vary at all still need a level over them."""
BLOCK_S = 600.0
"""What is held in one such block counts as one event."""
HEAVIER = 1.5
"""The bound supposes a scale that is so many times as large."""
UNDER_THE_HIGHEST = 0.9
"""Quantile of single scores that stands for what is held, where no stretch is long enough to show it."""


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
    """How often normal sound would be held over the level, by an exponential tail from the highest held
    score on. More than was asked for where little was heard."""
    upper95_per_month: float
    """With 95 % at most so many: the highest held score may have been rare luck, the tail `HEAVIER`."""
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
    continuous_hours: float
    """As much of the held-out sound is in stretches that show for how long a score is held."""
    persistence_hops: int
    """As much of it as the contiguous stretches of held-out sound can show; where that is less, the level is
    too high rather than too low."""

    def to_json(self) -> dict[str, Any]:
        """All fields, as plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Way:
    """From what was held to a level."""

    maxima: Float64
    """(blocks,) the highest score that each ten minutes held, ascending."""
    scale: float
    hours: float

    @property
    def highest(self) -> float:
        return float(self.maxima[-1])

    def level_for(self, per_hour: float) -> float:
        """Of a rate that was heard, the score that so many blocks surpass; of a rarer one, over them all."""
        expected = per_hour * self.hours
        if expected > 1:
            ranks = np.arange(len(self.maxima), 0, -1)
            return float(np.interp(-expected, -ranks, self.maxima))
        wanted = -math.log(expected)
        return self.highest + self.scale * wanted / (1 + wanted / REACH)

    def per_hour(self, level: float) -> float:
        """As often as it was heard; over the highest less often than once."""
        count = max(1, int((self.maxima > level).sum()))
        return count * math.exp(-self._scales_to(level)) / self.hours

    def bound_per_hour(self, level: float) -> float:
        """With 95 %: what was heard may have been luck, and the scale `HEAVIER`."""
        count = max(1, int((self.maxima > level).sum()))
        return poisson_upper(count) * math.exp(-self._scales_to(level) / HEAVIER) / self.hours

    def _scales_to(self, level: float) -> float:
        """Nobody knows a tail further than `REACH` scales."""
        return min(max(0.0, level - self.highest) / self.scale, REACH)

    def with_hours(self, hours: float) -> _Way:
        """What it would probably be with so many hours: the highest score grows with them."""
        grown = self.highest + self.scale * math.log(hours / self.hours)
        return _Way(np.array([grown]), self.scale, hours)


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
    def _all(self) -> Float64:
        return np.concatenate(self.runs)

    @cached_property
    def median(self) -> float:
        """Of all held-out scores."""
        return float(np.median(self._all))

    @cached_property
    def _spread(self) -> float:
        """Of a normal distribution its standard deviation.

        A mean, so that noise in the scores averages out, without the fifth of the windows furthest out.
        """
        deviations = np.sort(np.abs(self._all - self.median))[: math.ceil(0.8 * len(self._all))]
        return float(deviations.mean()) / MEAN_OF_INNER

    @property
    def hours(self) -> float:
        """How much held-out sound there is."""
        return len(self._all) * self.hop_s / 3600

    def held(self, hops: int) -> float:
        """The highest score that was held for so many windows in a row.

        Where a run ends, the rest is not known: half of the windows are enough there. Runs that are shorter
        than half show nothing, and count only where most of the sound is in such runs.
        """
        return max(held_in(run, hops) for run in self._telling(hops))

    def floor(self, hops: int) -> float:
        """The same where it can be known, else the score that one window in ten surpasses.

        Clips of one window show an odd moment, and not how soon it passes. The step way starts from here and
        learns by listening how long odd moments last, so that it need not take the worst for lasting.
        """
        told = self.held(hops)
        if self._shows(hops):
            return told
        return min(told, float(np.quantile(self._all, UNDER_THE_HIGHEST)))

    def trip_level(
        self,
        events_per_month: float,
        *,
        on_delay_s: float,
        off_delay_s: float,
        dead_band: float = 0.1,
        at_least: float = -math.inf,
    ) -> TripLevel:
        """The level over which normal sound is held so many times a month, as far as it can be known.

        Args:
            events_per_month: Of 30 days; above 0.
            on_delay_s: As the alarm has it.
            off_delay_s: As the alarm has it.
            dead_band: Share of the way from trip to median, above 0 and below 1.
            at_least: The level is not below this one.
        """
        on_hops, off_hops = hops_in(on_delay_s, self.hop_s), hops_in(off_delay_s, self.hop_s)
        per_hour = events_per_month / MONTH_H
        way = self._way(on_hops)
        level, clear = self._level(way, per_hour, dead_band, at_least)
        events = sum(
            int(rises(run, trip=level, clear=clear, on_hops=on_hops, off_hops=off_hops).sum())
            for run in self.runs
        )
        measured = poisson_upper(events) / self.hours
        return TripLevel(
            level=level,
            clear=clear,
            asked_per_month=events_per_month,
            expected_per_month=way.per_hour(level) * MONTH_H,
            upper95_per_month=max(way.bound_per_hour(level), measured * (events > 0)) * MONTH_H,
            minutes_needed=60 * _hours_until_good(way, per_hour, level),
            measured_hours=self.hours,
            measured_events=events,
            measured_upper95_per_month=measured * MONTH_H,
            on_delay_hops=on_hops,
            continuous_hours=self._telling_windows(on_hops + 1) * self.hop_s / 3600,
            persistence_hops=self._persistence(on_hops),
        )

    def trip(
        self,
        events_per_month: float,
        *,
        on_delay_s: float,
        off_delay_s: float,  # noqa: ARG002 - as `trip_level` has it
        dead_band: float = 0.1,
        at_least: float = -math.inf,
    ) -> Trip:
        """The same level, without what there is to say of it."""
        way = self._way(hops_in(on_delay_s, self.hop_s))
        return self._level(way, events_per_month / MONTH_H, dead_band, at_least)

    def _level(self, way: _Way, per_hour: float, dead_band: float, at_least: float) -> Trip:
        level = max(way.level_for(per_hour), at_least)
        clear = level - dead_band * (level - self.median)
        if not clear < level:  # scores that do not vary
            clear = level - dead_band
        return Trip(level, clear)

    def _way(self, on_hops: int) -> _Way:
        """The scale is that of an exponential variable whose highest of so many is the highest held one."""
        block = max(on_hops + 1, round(BLOCK_S / self.hop_s))
        maxima = np.sort(
            [
                held_in(run[first : first + block + on_hops], on_hops + 1)
                for run in self._telling(on_hops + 1)
                for first in range(0, max(1, len(run) - on_hops), block)
            ]
        )
        over = float(maxima[-1] - self.median) / math.log(len(self._all))
        return _Way(maxima, max(LEAST_SCALE * self._spread, over, SMALLEST_SCALE), self.hours)

    def _telling(self, hops: int) -> tuple[Float64, ...]:
        """Runs that show for how long scores are held; all, where most are too short for it."""
        if not self._shows(hops):
            return self.runs
        return tuple(run for run in self.runs if 2 * len(run) >= hops)

    def _shows(self, hops: int) -> bool:
        """Half of the sound is in runs of half as many windows at least."""
        return 2 * self._telling_windows(hops) >= len(self._all)

    def _persistence(self, on_hops: int) -> int:
        if self._shows(on_hops + 1):
            return on_hops
        lengths = np.sort(np.concatenate([np.full(len(run), len(run)) for run in self.runs]))
        return min(on_hops, int(lengths[len(lengths) // 2]) - 1)

    def _telling_windows(self, hops: int) -> int:
        return sum(len(run) for run in self.runs if 2 * len(run) >= hops)

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
    half, hops = min((hops + 1) // 2, len(run)), min(hops, len(run))
    # Minima of a whole run by doubling the length: a daemon of a thousand machines asks ten thousand times.
    least, length = run, 1
    while length < hops:
        step = min(length, hops - length)
        least = np.minimum(least[: len(least) - step], least[step:])
        length += step
    rising, falling = np.minimum.accumulate(run[:hops]), np.minimum.accumulate(run[: -hops - 1 : -1])
    ends = [rising[half - 1 : hops - 1], falling[half - 1 : hops - 1], least]
    return float(max(part.max() for part in ends if len(part)))


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


def _hours_until_good(way: _Way, per_hour: float, level: float) -> float:
    """How many more hours; tried in steps of a quarter more."""
    if way.bound_per_hour(level) <= GOOD_ENOUGH * per_hour:
        return 0.0
    hours = way.hours
    while hours < LONGEST_H:
        hours *= 1.25
        more = way.with_hours(hours)
        if more.bound_per_hour(more.level_for(per_hour)) <= GOOD_ENOUGH * per_hour:
            break
    return hours - way.hours
