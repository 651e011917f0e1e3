"""How well each machine is listened to, in counts and times. The pipeline writes, any thread reads.

Time has two clocks here. While sound comes, its sample index is the clock: it counts lost samples too, so an
outage is accounted for when the source is back, and a device whose crystal is slow does not look like a loss.
While nothing comes, the monotonic clock (an argument, never read here) says how long that has been.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from typing import Any, Final

from echo_stream.core.text import utc_text
from echo_stream.core.types import Score, Window

MOST_LAGS: Final = 1200
"""Ten minutes at two windows a second; with a shorter hop the quantiles are of the newest 1,200."""


class Lags:
    """Times from a window's last sample to its score, of the last ten minutes."""

    def __init__(self) -> None:
        self._lags: deque[tuple[float, float]] = deque(maxlen=MOST_LAGS)
        """Monotonic time and lag, oldest first."""

    def add(self, lag_s: float, now_s: float) -> None:
        """One more, at a monotonic time; a wall clock that was set back gives a negative one, which is 0."""
        self._lags.append((now_s, max(0.0, lag_s)))

    def snapshot(self, now_s: float) -> dict[str, float | None]:
        """lag_p50_s, lag_p99_s and lag_max_s of the last ten minutes in seconds; None where there is none."""
        while self._lags and self._lags[0][0] <= now_s - RECENT_S:
            self._lags.popleft()
        found = sorted(lag_s for _, lag_s in self._lags)
        if not found:
            return dict.fromkeys(("lag_p50_s", "lag_p99_s", "lag_max_s"))
        at = {name: found[math.ceil(share * len(found)) - 1] for name, share in _SHARES.items()}
        return {name: round(lag_s, 4) for name, lag_s in at.items()}


_SHARES: Final = {"lag_p50_s": 0.5, "lag_p99_s": 0.99, "lag_max_s": 1.0}

RECENT_S = 600.0
"""What `coverage_10m` looks back on."""
GRACE_S = 2.0
"""Seconds beyond one hop without a window before they count as unheard; capture calls a source lost then."""
_COSTS = 60
"""Windows over which the real-time factor is the mean."""


class Health:
    """The counters of one machine.

    A scored window accounts for the hop that it ends with, so scored time is windows times hop, exactly, and
    every second is one of: scored, lost (samples missing), skipped (the PC was late), or unheard (no source,
    a window filling anew after a gap). Coverage is the scored share of all of them.

    Args:
        machine: id of what is watched.
        hop_s: seconds between the starts of two windows.
        now_s: monotonic time at which listening was asked for.
    """

    def __init__(self, machine: str, hop_s: float, now_s: float) -> None:
        self.machine = machine
        self.hop_s = hop_s
        self._lock = threading.Lock()
        self._asked_s = now_s
        self.origin_s = 0.0
        """Where on the source's time line listening was asked for: what was read before had no bank."""
        self._last_window_s: float | None = None
        """Monotonic time of the last window."""
        self._offset_s = 0.0
        """The time line is the sample index plus this: the wait for the first sample, less the part of the
        first window that no score could have come from."""
        self._position_s = 0.0
        """End of the last window on the time line."""
        self._runs: deque[tuple[float, float]] = deque()
        """Scored stretches of the last ten minutes on the time line, ascending, merged where they touch."""
        self._costs_s: deque[float] = deque(maxlen=_COSTS)
        self._lags = Lags()
        self._windows_scored = self._hops_skipped = self._samples_lost = self._gaps = 0
        self._lost_s = 0.0
        self._last: tuple[str, Score] | None = None

    def scored(self, window: Window, score: Score, *, spent_s: float, lag_s: float, now_s: float) -> None:
        """A window went through the corridor.

        Args:
            window: what was scored; windows come in the order of their samples.
            score: what came out.
            spent_s: seconds of work for it, its share of a batch.
            lag_s: seconds from its last sample until now.
            now_s: monotonic time.
        """
        end_s = window.end / window.sample_rate_hz - self.origin_s
        with self._lock:
            if self._last_window_s is None:
                filling_s = window.samples.size / window.sample_rate_hz - self.hop_s
                self._offset_s = max(0.0, now_s - self._asked_s - end_s) - filling_s
            self._last_window_s = now_s
            start = max(self._position_s, self._offset_s + end_s - self.hop_s)
            self._position_s = self._offset_s + end_s
            self._remember(start, self._position_s)
            self._windows_scored += 1
            self._costs_s.append(spent_s)
            self._lags.add(lag_s, now_s)
            self._last = (_iso(window), score)

    def skipped(self, hops: int) -> None:
        """Windows that were whole but were left out, because newer ones waited."""
        with self._lock:
            self._hops_skipped += hops

    def lost(self, samples: int, sample_rate_hz: int) -> None:
        """One gap: samples of the source that never came, or were overwritten before they were read."""
        with self._lock:
            self._gaps += 1
            self._samples_lost += samples
            self._lost_s += samples / sample_rate_hz

    def coverage(self, now_s: float, over_s: float = RECENT_S) -> float | None:
        """Share of hops scored in the last `over_s` (at most ten minutes); None before the first is due."""
        with self._lock:
            return self._coverage(now_s, over_s)

    def snapshot(self, now_s: float) -> dict[str, Any]:
        """All of it as plain JSON values; what is not known yet is None.

        Counts are since the start: windows_scored, hops_skipped, samples_lost, gaps. So are the seconds:
        elapsed_s = scored_s + lost_s + skipped_s + unheard_s. coverage_10m and coverage are shares from 0 to
        1, score and p_value and level_dbfs are those of the last window, last_window_at is UTC in ISO 8601,
        last_window_age_s is seconds ago, real_time_factor is seconds of work for a second of sound.
        lag_p50_s, lag_p99_s and lag_max_s are from a window's last sample to its score, of ten minutes.
        """
        with self._lock:
            elapsed_s = self._elapsed(now_s)
            scored_s = self._windows_scored * self.hop_s
            skipped_s = self._hops_skipped * self.hop_s
            at, score = self._last or (None, None)
            return {
                "machine": self.machine,
                "windows_scored": self._windows_scored,
                "hops_skipped": self._hops_skipped,
                "samples_lost": self._samples_lost,
                "gaps": self._gaps,
                "elapsed_s": round(elapsed_s, 3),
                "scored_s": round(scored_s, 3),
                "lost_s": round(self._lost_s, 3),
                "skipped_s": round(skipped_s, 3),
                "unheard_s": round(max(0.0, elapsed_s - scored_s - self._lost_s - skipped_s), 3),
                "coverage_10m": _share(self._coverage(now_s, RECENT_S)),
                "coverage": _share(min(1.0, scored_s / elapsed_s) if elapsed_s > 0 else None),
                "score": None if score is None else score.value,
                "p_value": None if score is None else score.p_value,
                "level_dbfs": None if score is None else round(score.level_dbfs, 2),
                "last_window_at": at,
                "last_window_age_s": None
                if self._last_window_s is None
                else round(now_s - self._last_window_s, 3),
                "real_time_factor": self._real_time_factor(),
                **self._lags.snapshot(now_s),
            }

    def _remember(self, start: float, end: float) -> None:
        touches = self._runs and start - self._runs[-1][1] < 1e-6 * max(1.0, end)
        self._runs.append((self._runs.pop()[0] if touches else start, end))
        while self._runs[0][1] < end - RECENT_S:
            self._runs.popleft()

    def _elapsed(self, now_s: float) -> float:
        """Seconds of the time line up to now, without those that a window in time may still score."""
        since_s = now_s - (self._asked_s if self._last_window_s is None else self._last_window_s)
        return self._position_s + max(0.0, since_s - self.hop_s - GRACE_S)

    def _coverage(self, now_s: float, over_s: float) -> float | None:
        until = self._elapsed(now_s)
        since = max(0.0, until - min(over_s, RECENT_S))
        if until <= since:
            return None
        scored_s = sum(max(0.0, end - max(start, since)) for start, end in self._runs)
        return min(1.0, scored_s / (until - since))

    def _real_time_factor(self) -> float | None:
        if not self._costs_s:
            return None
        return round(sum(self._costs_s) / len(self._costs_s) / self.hop_s, 4)


def _share(value: float | None) -> float | None:
    return None if value is None else round(value, 5)


def _iso(window: Window) -> str:
    return utc_text(window.captured_at)
