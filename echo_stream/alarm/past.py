"""A machine's own past: what its scores were while nothing was wrong, in bounded memory. Pure; pipeline.

Three parts, because three questions are asked of it: what is the score a change *from* (the last minutes),
how far does it reach by itself (the last week), and how long do changes last here that end by themselves.
Nothing of it ever moves the bank.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from heapq import nlargest
from statistics import fmean, median, stdev
from typing import Any, NamedTuple

from echo_stream.core.sequences import spread
from echo_stream.core.text import MONTH_H

SHORT_S, LONG_S = 30.0, 120.0
"""What the score changes from is the higher of the medians over so long: a step down and up again is none."""
LAG_S = 12.0
"""The newest scores are left out: they may belong to the change already."""
FEWEST = 20
"""Scores that say what the last minutes were like."""
BLOCK_S = 600.0
BLOCKS = 1008
"""A week: what a shift, a night and a Sunday sound like is in it."""
FEWEST_BLOCKS = 3
LONGER = 1.5
"""A change outlasts what passes here when it lasts so many times as long."""
PASSES = 3
"""So many changes of a length make it one of what passes here: one or two may be faults."""
LONGEST_PASS_S = 20.0
"""What lasts longer is none that passes: an alarm waits 30 s at most."""
WEEK_S = 7 * 86_400.0
MOST_PASSED = 256
NEAR_S = 2.0
"""An event of a change is announced between its begin and its end, give or take so much."""
EULER, SCALE_OF_SPREAD = 0.5772, math.sqrt(6) / math.pi
"""Of a Gumbel distribution: its mean over its mode, and its scale, in spreads."""


class Base(NamedTuple):
    """What the score is a change from."""

    median: float
    spread: float
    """Of single scores around it; never negative."""


class Recent:
    """The scores of the last minutes.

    Args:
        hop_s: Between two windows.
    """

    def __init__(self, hop_s: float) -> None:
        self._short, self._long = (max(1, round(length_s / hop_s)) for length_s in (SHORT_S, LONG_S))
        self._lag = round(LAG_S / hop_s)
        self._scores: deque[float] = deque(maxlen=max(self._long, FEWEST) + self._lag)

    def add(self, value: float) -> None:
        """The next score of quiet sound."""
        self._scores.append(value)

    def __len__(self) -> int:
        return len(self._scores)

    def base(self) -> Base | None:
        """None where too little was heard."""
        if len(self._scores) < FEWEST:
            return None
        scores = list(self._scores)
        scores = scores[: max(FEWEST, len(scores) - self._lag)]
        last, before = scores[-self._short :], sorted(scores[-self._long :])
        middle = median(before)
        return Base(max(median(last), middle), spread(before, middle))

    def to_json(self) -> list[float]:
        """Plain JSON."""
        return [round(score, 3) for score in self._scores]

    def restore(self, saved: Iterable[Any]) -> None:
        """From what `to_json` gave; raises what `numbers` raises."""
        self._scores.extend(numbers(saved))


class Ceiling:
    """Up to where quiet sound was held for the on-delay, and where it would be held once in a month.

    Each ten minutes give one number, the highest score that was held. Their largest is what happened; their
    mean and spread give the Gumbel distribution of such maxima, which says what would happen once in a month.

    Args:
        floor: What the bank's held-out sound was held at.
        hop_s: Between two windows.
        held_hops: Scores in a row that count as held.
        per_month: How often it may be exceeded.
        quicker: Another one, for a way that waits less long; it hears the same.
    """

    def __init__(
        self, floor: float, *, hop_s: float, held_hops: int, per_month: float, quicker: Ceiling | None = None
    ) -> None:
        self.floor, self.quicker = floor, quicker
        self._held = held_hops
        self._block = max(1, round(BLOCK_S / hop_s))
        self._reach = math.log(max(MONTH_H * 3600 / BLOCK_S / per_month, 1.0))
        self._run: deque[float] = deque(maxlen=held_hops)
        self._blocks: deque[float] = deque(maxlen=BLOCKS)
        self._counted = 0
        self._newest = -math.inf
        self._settled = floor

    @property
    def level(self) -> float:
        """No quiet sound was held above it, and hardly any will be."""
        return max(self._settled, self._newest)

    @property
    def blocks(self) -> int:
        """How many tens of minutes it knows."""
        return len(self._blocks)

    def add(self, value: float) -> None:
        """The next score of quiet sound, right after the one before."""
        if self.quicker is not None:
            self.quicker.add(value)
        self._run.append(value)
        if len(self._run) == self._held:
            self._newest = max(self._newest, min(self._run))
        self._counted += 1
        if self._counted >= self._block:
            if math.isfinite(self._newest):
                self._blocks.append(self._newest)
            self._counted, self._newest = 0, -math.inf
            self._settle()

    def interrupt(self) -> None:
        """What follows does not follow right after: sound was lost, or not quiet."""
        if self.quicker is not None:
            self.quicker.interrupt()
        self._run.clear()

    def forget_above(self, level: float) -> None:
        """What was held above the level was not quiet after all."""
        if self.quicker is not None:
            self.quicker.forget_above(level)
        self._blocks = deque((block for block in self._blocks if block <= level), maxlen=BLOCKS)
        self._newest = self._newest if self._newest <= level else -math.inf
        self._run.clear()
        self._settle()

    def _settle(self) -> None:
        self._settled = max(self.floor, max(self._blocks, default=-math.inf))
        if len(self._blocks) >= FEWEST_BLOCKS:
            scale = SCALE_OF_SPREAD * stdev(self._blocks)
            self._settled = max(self._settled, fmean(self._blocks) + scale * (self._reach - EULER))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        newest = round(self._newest, 3) if math.isfinite(self._newest) else None
        return {
            "blocks": [round(block, 3) for block in self._blocks],
            "newest": newest,
            "counted": self._counted,
            **({"quicker": self.quicker.to_json()} if self.quicker is not None else {}),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """From what `to_json` gave; raises what `numbers` raises."""
        if self.quicker is not None and "quicker" in saved:
            self.quicker.restore(saved["quicker"])
        self._blocks.extend(numbers(saved["blocks"]))
        self._counted = int(saved["counted"])
        if saved["newest"] is not None:
            (self._newest,) = numbers([saved["newest"]])
        self._settle()


class Passed:
    """How long changes lasted that ended by themselves, within a week of listening.

    A forklift, a horn, a gust pass by, and come again: what is to be an alarm must stay for longer.

    Args:
        hop_s: Between two windows.
    """

    def __init__(self, hop_s: float) -> None:
        self._hop_s = hop_s
        self._heard_s = 0.0
        self.now_s = 0.0
        """UTC of what was heard last, as seconds since 1970; set by the one who knows it."""
        self._lengths: deque[_Pass] = deque(maxlen=MOST_PASSED)
        self._fault: tuple[float, float] | None = None
        """When a fault was heard, as somebody said last: it may not have ended yet."""
        self.longest_s = 0.0
        """What `PASSES` of them at least reached; 0 where too few did."""

    @property
    def count(self) -> int:
        """How many changes are remembered that are no longer than what passes here."""
        return sum(each.length_s <= self.longest_s for each in self._lengths)

    @property
    def wait_s(self) -> float:
        """So long a change must last to be none of these."""
        return LONGER * self.longest_s

    def hear(self) -> None:
        """One more window."""
        self._heard_s += self._hop_s
        if self._lengths and self._heard_s - self._lengths[0].heard_s > WEEK_S:
            self._lengths.popleft()
            self._look()

    def add(self, length_s: float, ago_s: float = 0.0) -> None:
        """A change ended by itself, so long ago."""
        found = _Pass(self._heard_s, length_s, self.now_s - ago_s)
        if length_s <= LONGEST_PASS_S and not (self._fault and found.touches(*self._fault)):
            self._lengths.append(found)
            self._look()

    def drop(self, from_s: float, to_s: float) -> None:
        """What was heard in that time, UTC in seconds, was a fault: such a change is none that passes."""
        self._fault = (from_s, to_s)
        left = (each for each in self._lengths if not each.touches(from_s, to_s))
        self._lengths = deque(left, MOST_PASSED)
        self._look()

    def _look(self) -> None:
        longest = nlargest(PASSES, (each.length_s for each in self._lengths))
        self.longest_s = longest[-1] if len(longest) == PASSES else 0.0

    def to_json(self) -> list[list[float]]:
        """Plain JSON: how long ago in seconds of listening, length, and when it ended (UTC)."""
        return [
            [round(self._heard_s - each.heard_s, 1), round(each.length_s, 3), round(each.ended_s, 1)]
            for each in self._lengths
        ]

    def restore(self, saved: Iterable[Iterable[Any]]) -> None:
        """From what `to_json` gave; earlier versions did not say when. Raises what `numbers` raises."""
        self._lengths = deque(maxlen=MOST_PASSED)
        for ago_s, length_s, *ended_s in (numbers(each) for each in saved):
            self._lengths.append(_Pass(self._heard_s - ago_s, length_s, ended_s[0] if ended_s else 0.0))
        self._look()


class _Pass(NamedTuple):
    """A change that ended by itself."""

    heard_s: float
    """Seconds that were listened to until then."""
    length_s: float
    ended_s: float
    """UTC, seconds since 1970; 0: not known."""

    def touches(self, from_s: float, to_s: float) -> bool:
        """Whether some of it lies in that time."""
        return self.ended_s - self.length_s - NEAR_S <= to_s and from_s <= self.ended_s + NEAR_S


LARGEST = 1e12


def numbers(saved: Iterable[Any]) -> list[float]:
    """Finite numbers from plain JSON.

    Raises:
        OverflowError, TypeError, ValueError: One is none, not finite, or no score.
    """
    found = [float(each) for each in saved]
    if not all(abs(each) < LARGEST for each in found):
        raise ValueError("a saved score is not finite, or larger than any score")
    return found
