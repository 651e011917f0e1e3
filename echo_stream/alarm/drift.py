"""Has normal sound slowly moved away from what was fitted? An advisory, no alarm. Pure; pipeline thread.

The median of each block of minutes, so that knocks and short faults do not count; smoothed over hours by an
exponentially weighted moving average (EWMA, Roberts 1959), so that only what stays does. The measure is the
score's own unit: about 0 when fitted, and one spread of normal sound. Nothing is learned from it: a person
decides whether to extend the bank.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import DriftEvent

BLOCK_S = 600.0
MEMORY_S = 6 * 3600.0
"""Time constant of the average."""
LIMIT = 2.0
"""In spreads. Where the median of normal sound comes to lie here, one window in forty was above it once."""
FEWEST = 10
"""Windows, for a block to count."""


class DriftWatch:
    """Follows the median score of one machine.

    Args:
        machine: Id of the machine; goes into the events.
        sample_rate_hz: Of the windows' sample indices.
        limit: The smoothed median above it is drift; half of it ends the advisory.
        block_s: Length of a block.
        memory_s: Time constant of the average; a drift counts when about so long has passed.
    """

    def __init__(
        self,
        machine: str,
        *,
        sample_rate_hz: int,
        limit: float = LIMIT,
        block_s: float = BLOCK_S,
        memory_s: float = MEMORY_S,
    ) -> None:
        self.machine, self.limit = machine, limit
        self._block = round(block_s * sample_rate_hz)
        self._weight = 1.0 - math.exp(-block_s / memory_s)
        self._values: list[float] = []
        self._block_ends: int | None = None
        self.median = 0.0
        self.active = False

    def step(self, value: float, end: int) -> list[DriftEvent]:
        """Take the score of a window into account.

        Leave out the windows while an alarm of the machine is active or suppressed: a fault is no drift.

        Args:
            value: Anomaly score, finite.
            end: Absolute index after the window's last sample.

        Raises:
            ValueError: The score is not finite.
        """
        _finite(value)
        if self._block_ends is None:
            self._block_ends = end + self._block
        events = self._close(end) if end >= self._block_ends else []
        self._values.append(value)
        return events

    def _close(self, at: int) -> list[DriftEvent]:
        """End the block, and begin the next one at this window."""
        values, self._values, self._block_ends = self._values, [], at + self._block
        if len(values) < FEWEST:
            return []
        self.median += self._weight * (float(np.median(values)) - self.median)
        active = self.median > (self.limit / 2 if self.active else self.limit)
        if active == self.active:
            return []
        self.active = active
        return [DriftEvent(self.machine, active, at, self.median, self.limit)]

    def snapshot(self) -> dict[str, Any]:
        """The average, as plain JSON; the block that has begun is left out."""
        return {"median": self.median, "active": self.active}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a snapshot was taken (of the same bank); announces nothing.

        Raises:
            EchoStreamError: It is damaged.
        """
        try:
            median, active = _finite(float(snapshot["median"])), bool(snapshot["active"])
        except (KeyError, TypeError, ValueError) as error:
            raise EchoStreamError(
                f"saved drift of {self.machine} is damaged: {error!r}",
                "remove it, and the average begins anew",
            ) from error
        self.median, self.active = median, active
        self._values, self._block_ends = [], None


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"a score, or a median of scores, is {value}")
    return value
