"""A zone says where a machine's velocity lies between the limits that its user entered from a standard.

It stands beside the anomaly score and raises nothing: a machine may sound strange in zone A, and be in zone C
since it was built. Clocked by the windows; pipeline thread.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final

ZONES: Final = ("A", "A/B", "B", "C", "D")
"""All that there are; A/B where only the limits of C and D are known."""
OVER_S: Final = 60.0
"""Standards judge a steady state: the middle of so many seconds, so that a passing truck is no zone."""


class ZoneWatch:
    """Follows the zone of one machine.

    Args:
        limits_mm_s: ascending; two, where B and C meet, and C and D, or three: before them A and B.
        hop_s: between the ends of two windows.
    """

    def __init__(self, limits_mm_s: Sequence[float], hop_s: float) -> None:
        self.limits_mm_s = tuple(limits_mm_s)
        self._names = ("A/B", "C", "D") if len(self.limits_mm_s) == 2 else ("A", "B", "C", "D")
        self._newest: deque[float] = deque(maxlen=max(1, round(OVER_S / hop_s)))

    def step(self, velocity_mm_s: float | None) -> str | None:
        """Take the velocity of the next window; the zone then, None before there was any velocity."""
        if velocity_mm_s is not None:
            self._newest.append(velocity_mm_s)
        if not self._newest:
            return None
        return self._names[bisect_right(self.limits_mm_s, median(self._newest))]
