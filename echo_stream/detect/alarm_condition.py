"""When the alarm condition is true: k of n, dead-band, on-delay and off-delay. Pure; pipeline thread.

A Schmitt trigger with two timers, all clocked by the ends of the windows:

- the condition turns true when k of the last n windows score above the trip level, and turns false when so
  many of them (n - k + 1) are at or below the clear level that no k above it are left; between, it stays;
- it becomes *active* when it has been true for the on-delay, measured from the end of the window that made it
  true, and inactive when it has been false for the off-delay (a timer on: on-delay 0 acts at once).

Lost sound counts neither for nor against: where a window starts after the end of the one before, the
samples in between lie in no window. What was pending is dropped, the last n windows are forgotten, what is
active stays.
"""

from __future__ import annotations

import math
from collections import deque

from echo_stream.errors import EchoStreamError


class Condition:
    """The condition of one alarm, window by window.

    Args:
        trip: The condition turns true above this score.
        clear: It turns false at or below this score; less than trip.
        on_delay: Samples for which it must be true before it is active.
        off_delay: Samples for which it must be false before it is inactive.
        k: How many of the last n windows.
        n: At most this many windows are remembered.

    Raises:
        EchoStreamError: Levels, delays or k and n that cannot be.
    """

    def __init__(
        self, trip: float, clear: float, *, on_delay: int, off_delay: int, k: int = 1, n: int = 1
    ) -> None:
        if not (math.isfinite(trip) and math.isfinite(clear) and clear < trip):
            raise EchoStreamError(
                f"clear level {clear:g} must be finite and below the trip level {trip:g}",
                "choose a dead-band above 0 and below 1",
            )
        if on_delay < 0 or off_delay < 0:
            raise EchoStreamError("a delay of an alarm is negative", "delays are 0 s or more")
        if not 1 <= k <= n:
            raise EchoStreamError(f"{k} of the last {n} windows cannot be", "1 <= k <= n is needed")
        self.trip, self.clear = trip, clear
        self._on_delay, self._off_delay = on_delay, off_delay
        self._k, self._n = k, n
        self.active = False
        self.onset: int | None = None
        self.restart()

    def restart(self) -> None:
        """Drop what is pending and what is remembered; what is active stays active."""
        self._recent: deque[tuple[float, int]] = deque(maxlen=self._n)  # score, where its newest hop starts
        self._end: int | None = None
        self._turned_at: int | None = None  # end of the window that turned the condition against `active`
        self._candidate: int | None = None  # the onset, should the pending condition become active

    def forget(self) -> None:
        """As if nothing had been heard: not active, nothing pending."""
        self.active, self.onset = False, None
        self.restart()

    def step(self, value: float, start: int, end: int) -> None:
        """Take one window's score into account.

        Args:
            value: Anomaly score, finite.
            start: Absolute index of the window's first sample.
            end: Absolute index after its last sample.

        Raises:
            ValueError: The score is not finite, or the window does not end after the one before.
        """
        if not math.isfinite(value):
            raise ValueError(f"score of the window that ends at sample {end} is {value}")
        if start >= end or (self._end is not None and end <= self._end):
            raise ValueError(f"window {start} to {end} after one that ended at {self._end}")
        if self._end is not None and start > self._end:
            self.restart()
        newest_hop = start if self._end is None else self._end
        self._end = end
        self._recent.append((value, newest_hop))
        self._turn(end)
        if self._turned_at is not None:
            delay = self._off_delay if self.active else self._on_delay
            if end - self._turned_at >= delay:
                self.active = not self.active
                self.onset = self._candidate if self.active else None
                self._turned_at = None

    def _turn(self, end: int) -> None:
        over = [hop for score, hop in self._recent if score > self.trip]
        under = sum(score <= self.clear for score, _ in self._recent)
        was = self.active == (self._turned_at is None)
        now = True if len(over) >= self._k else False if under > self._n - self._k else was
        if now == self.active:
            self._turned_at = None
        elif self._turned_at is None:
            self._turned_at = end
            self._candidate = over[0] if now else None
