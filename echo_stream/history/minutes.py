"""A minute summary turns the windows of one minute into one row; the newest windows stay in memory.

Pure but for the times that it is given. The pipeline thread adds windows, any thread reads the newest ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median

from echo_stream.core.measures import middle_and_highest
from echo_stream.core.sequences import commonest

MINUTE_S = 60
RECENT_S = 600.0
"""Windows of the last ten minutes stay in memory, for the page's live chart."""


@dataclass(frozen=True, slots=True)
class WindowFigures:
    """What one scored window adds to the history."""

    at_s: float
    """Unix time of the window's end."""
    score: float
    level_dbfs: float
    operating_state: str
    band_hz: tuple[float, float] | None
    """Edges of the band that adds most to the score; None where none does."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """By name of `core.measures`; nothing where the sensor is not calibrated."""


@dataclass(frozen=True, slots=True)
class MinuteRow:
    """One machine in one minute of UTC."""

    machine: str
    minute_s: int
    """Unix time at which the minute begins; a multiple of 60."""
    windows: int
    score_median: float
    score_max: float
    over_warning: float
    """Share of the windows over the warning's trip level, 0 to 1."""
    over_alarm: float
    """Share of the windows over the alarm's trip level, 0 to 1."""
    level_dbfs: float
    """Median of the windows."""
    operating_state: str
    """The one of most windows."""
    coverage: float
    """Scored windows over expected ones, 0 to 1."""
    band_hz: tuple[float, float] | None
    """Deciding band of the window that scored highest."""
    measured: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Median and maximum of what was measured in physical units, by name."""


class MinuteSummary:
    """Collects the windows of one machine, minute by minute.

    A minute is complete when a window of a later one arrives. A clock that is set back begins a minute anew:
    the rows then hold that minute twice, and the store keeps the later one.

    Args:
        machine: Id of the machine.
        hop_s: Between the ends of two windows: what coverage is counted against.
    """

    def __init__(self, machine: str, hop_s: float) -> None:
        self.machine = machine
        self._expected = max(1.0, MINUTE_S / hop_s)
        self._minute_s: int | None = None
        self._windows: list[WindowFigures] = []
        self._over = {"warning": 0, "alarm": 0}
        self._recent: deque[WindowFigures] = deque(maxlen=max(1, round(RECENT_S / hop_s)))

    def add(self, window: WindowFigures, trip_levels: Mapping[str, float]) -> MinuteRow | None:
        """Take the next window; returns the row of the minute that it completed, if it completed one.

        Args:
            window: Figures of the window.
            trip_levels: Keys `warning` and `alarm`: the trip levels in use.
        """
        minute_s = int(window.at_s // MINUTE_S) * MINUTE_S
        row = self.close() if self._minute_s not in (None, minute_s) else None
        self._minute_s = minute_s
        self._windows.append(window)
        for name in self._over:
            self._over[name] += window.score > trip_levels[name]
        self._recent.append(window)
        return row

    def close(self) -> MinuteRow | None:
        """The row of the minute under way, which may be incomplete; None where nothing was added."""
        if self._minute_s is None or not self._windows:
            return None
        windows, self._windows = self._windows, []
        over, self._over = self._over, dict.fromkeys(self._over, 0)
        n = len(windows)
        highest = max(windows, key=lambda window: window.score)
        states = [window.operating_state for window in windows]
        return MinuteRow(
            self.machine,
            self._minute_s,
            windows=n,
            score_median=median(window.score for window in windows),
            score_max=highest.score,
            over_warning=over["warning"] / n,
            over_alarm=over["alarm"] / n,
            level_dbfs=median(window.level_dbfs for window in windows),
            operating_state=commonest(states),
            coverage=min(1.0, n / self._expected),
            band_hz=highest.band_hz,
            measured=middle_and_highest(window.measured for window in windows),
        )

    def recent(self) -> list[WindowFigures]:
        """The newest windows, oldest first; at most those of ten minutes. Any thread."""
        while True:
            try:
                return list(self._recent)
            except RuntimeError:  # the pipeline added one meanwhile
                continue
