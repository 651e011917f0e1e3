"""SteadyWatch tells a new steady sound from one that wanders. Pure; pipeline thread only.

A machine at another load or speed sounds like nothing that was learnt, and goes on sounding so. Whether that
is a fault only a person can say; that the sound is steady makes it worth asking (docs/adr/0043).
"""

from __future__ import annotations

from collections import deque
from statistics import median

from echo_stream.core.sequences import spread
from echo_stream.core.types import Score

STEADY_S = 60.0
"""Of sound that must be steady."""
SPREAD_SHARE = 0.15
"""Of the scores: their spread is at most that share of their middle."""
DRIFT_SHARE = 0.05
"""Between the middles of its two halves."""
SPREAD_DB = 2.0
"""Of the level: its spread is at most so much."""


class SteadyWatch:
    """Follows the windows of a change.

    Args:
        hop_s: Between two windows.
    """

    def __init__(self, hop_s: float) -> None:
        self._needed = max(2, round(STEADY_S / hop_s))
        self._values: deque[float] = deque(maxlen=self._needed)
        self._levels_dbfs: deque[float] = deque(maxlen=self._needed)
        self.said = False
        """The change that goes on has become a new steady sound."""

    def step(self, score: Score, *, changed: bool) -> bool:
        """Whether the sound has become steady with the next window; said once a change.

        Args:
            score: Of the window.
            changed: The machine sounds otherwise than it did; what came before is forgotten.
        """
        if not changed:
            self.said = False
            self._values.clear()
            self._levels_dbfs.clear()
            return False
        if self.said:
            return False
        self._values.append(score.value)
        self._levels_dbfs.append(score.level_dbfs)
        self.said = len(self._values) == self._needed and self._is_steady()
        return self.said

    def _is_steady(self) -> bool:
        values, half = list(self._values), self._needed // 2
        middle = median(values)
        if middle <= 0 or spread(values, middle) > SPREAD_SHARE * middle:
            return False
        drift = abs(median(values[:half]) - median(values[half:]))
        return (
            drift <= DRIFT_SHARE * middle
            and spread(self._levels_dbfs, median(self._levels_dbfs)) <= SPREAD_DB
        )
