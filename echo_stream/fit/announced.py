"""Announced says which way to an alarm a lasting change takes, and from which score on. Fit time only.

Strong and step have a level as soon as a daemon has listened for some minutes. The slow way has none before
it trips, so it is tried: the machine's alarm condition listens to an hour of held-out scores, and then to
the same sound, higher by a little more each time, until that is announced. What a machine does over days is
not in an enrolment of minutes: the slow way's level is the best that it can become.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from echo_stream.alarm.ways import Levels, Timing, Ways
from echo_stream.core.types import AlarmPath, Float64

PAST_S = 3600.0
LONGEST_S = 1800.0
"""Within that time the slow way must announce it."""
BLOCK_S = 15.0
"""Held-out scores follow each other in pieces of that length, drawn at random."""
SHORTEST_HOP_S = 0.5
"""Scores that follow each other faster are thinned out: the hours would take too long."""
SHIFTS = 7
"""Halvings between no change and the level of a step."""


@dataclass(frozen=True, slots=True)
class Announced:
    """From which score on each way announces what stays."""

    strong: float
    strong_clear: float
    step: float
    step_clear: float
    slow: float | None
    """Of the middle score; None: nothing that the step does not announce."""
    after_s: Mapping[AlarmPath, float]

    def path(self, scores: Sequence[float]) -> AlarmPath | None:
        """The fastest way that announces sound with these scores, should it go on like that; None: none does.

        Strong and step want it held: over the level once, and then never back at the clear level.
        """
        highest, lowest = max(scores), min(scores)
        if highest > self.strong and lowest > self.strong_clear:
            return AlarmPath.STRONG
        if highest > self.step and lowest > self.step_clear:
            return AlarmPath.STEP
        if self.slow is not None and float(np.median(scores)) > self.slow:
            return AlarmPath.SLOW
        return None


def announced(levels: Levels, timing: Timing, runs: Sequence[Float64]) -> Announced:
    """What is announced by an alarm with these levels, once it has listened for an hour.

    Args:
        levels: Of the machine's alarm.
        timing: The same.
        runs: Held-out scores, each in time order at `timing.hop_s`.
    """
    return _announced(levels, timing, tuple(np.asarray(run, np.float64).tobytes() for run in runs))


@lru_cache(maxsize=8)  # hours are listened to, and several checks of one command ask of the same bank
def _announced(levels: Levels, timing: Timing, of_runs: tuple[bytes, ...]) -> Announced:
    runs = [np.frombuffer(run, np.float64) for run in of_runs]
    thin = max(1, round(SHORTEST_HOP_S / timing.hop_s))
    timing = replace(timing, hop_s=timing.hop_s * thin)
    draw = _Draw([run[::thin] for run in runs], timing.hop_s)
    listened = _Listening(Ways(levels, timing), timing)
    for value in draw.scores(round(PAST_S / timing.hop_s)):
        listened.hear(value)
    listened.ways.forget()  # chance may have raised one
    median = float(np.median(np.concatenate(list(runs))))
    now = listened.ways.levels_now
    step = now[AlarmPath.STEP] or levels.strong
    slow, slow_s = _slow(listened, draw, step - median)
    after_s = {AlarmPath.STRONG: timing.on_delay_s, AlarmPath.STEP: timing.step_delay_s}
    return Announced(
        strong=levels.strong,
        strong_clear=levels.clear,
        step=step,
        step_clear=step - timing.dead_band * (step - median),
        slow=None if slow is None else median + slow,
        after_s=after_s if slow is None else {**after_s, AlarmPath.SLOW: slow_s},
    )


class _Draw:
    """Held-out scores for as long as wanted: pieces of the runs, drawn at random."""

    def __init__(self, runs: Sequence[Float64], hop_s: float) -> None:
        length = max(1, round(BLOCK_S / hop_s))
        self._pieces = [run[at : at + length] for run in runs for at in range(0, len(run), length)]
        self._random = np.random.default_rng(0)

    def scores(self, count: int) -> list[float]:
        found: list[float] = []
        while len(found) < count:
            found += self._pieces[self._random.integers(len(self._pieces))].tolist()
        return found[:count]


@dataclass(slots=True)
class _Listening:
    """An alarm condition and the sample at which the next window begins."""

    ways: Ways
    timing: Timing
    at: int = 0

    def hear(self, value: float) -> None:
        hop = max(1, round(self.timing.hop_s * self.timing.sample_rate_hz))
        self.ways.step(value, self.at, self.at + hop)
        self.at += hop


def _slow(listened: _Listening, draw: _Draw, highest: float) -> tuple[float | None, float]:
    """The smallest shift that the slow way announces, and after how many seconds; None: no shift."""
    low, high = 0.0, max(highest, 0.0)
    found: float | None = None
    after_s = LONGEST_S
    for _ in range(SHIFTS):
        shift = (low + high) / 2
        trial, took_s = copy.deepcopy(listened), None
        for i, value in enumerate(draw.scores(round(LONGEST_S / trial.timing.hop_s))):
            trial.hear(value + shift)
            if trial.ways.active:
                took_s = (i + 1) * trial.timing.hop_s
                break
        if took_s is None:
            low = shift
        else:
            high = shift
            if trial.ways.path is AlarmPath.SLOW:
                found, after_s = shift, took_s
    return found, after_s
