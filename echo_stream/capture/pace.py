"""Does a device deliver what its rate promises? Compares sample indices with a clock; pure, pipeline thread.

A callback may come late, never early: over some seconds the least delay between a sample's due time and the
callback that brought it is steady. Where it grows by a step, samples are missing that nobody reported; where
it grows or shrinks all the time, the rate is wrong.
"""

from __future__ import annotations

from collections import deque
from itertools import pairwise

SPAN_S = 3.0
STALL_S = 0.5  # longer without a callback, and a backlog may be on its way
STEP_S = 0.25  # bursts of callbacks vary by a tenth of a second
RATE_SPANS = 10  # 30 s
RATE_TOLERANCE = 0.01
FEW_STEPS = 2  # so many steps in 30 s are losses; more are a wrong rate


class Pace:
    """Watches one stream from its first callback."""

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate = sample_rate_hz
        self._began_s = 0.0
        self._heard_s: float | None = None
        self._least_s = float("inf")
        self._delays_s: deque[float] = deque(maxlen=RATE_SPANS + 1)

    @property
    def delay_s(self) -> float:
        """When sample 0 of the stream sounded, on the clock, as far as is known."""
        return self._delays_s[-1] if self._delays_s else self._least_s

    @property
    def rate_error(self) -> float:
        """How far the rate was off over 30 s, as a share: -0.05 is 5 % too few; 0 until it is known."""
        if len(self._delays_s) <= RATE_SPANS:
            return 0.0
        growth_s = [after - before for before, after in pairwise(self._delays_s)]
        steps_s = [step_s for step_s in growth_s if step_s > STEP_S]
        lost_s = sum(steps_s) if len(steps_s) <= FEW_STEPS else 0.0
        return (lost_s - sum(growth_s)) / (RATE_SPANS * SPAN_S)

    def note(self, heard_s: float, index: int) -> int:
        """Take in that the samples before `index` were there at `heard_s`; returns how many are missing."""
        if self._heard_s is None or heard_s - self._heard_s > STALL_S:
            self._began_s = heard_s
        self._heard_s = heard_s
        self._least_s = min(self._least_s, heard_s - index / self._rate)
        if heard_s - self._began_s < SPAN_S:
            return 0
        step_s = self._least_s - self._delays_s[-1] if self._delays_s else 0.0
        self._delays_s.append(self._least_s)
        self._began_s, self._least_s = heard_s, float("inf")
        return round(step_s * self._rate) if step_s > STEP_S else 0
