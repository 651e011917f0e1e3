"""The condition of an alarm is a level with dead-band, on-delay and off-delay. Pure; pipeline thread.

A Schmitt trigger with two timers, all clocked by the ends of the windows:

- the condition turns true when a window scores above the trip level, and turns false when one scores at or
  below the clear level; between, it stays;
- it becomes *active* when it has been true for the on-delay, measured from the end of the window that made it
  true, and inactive when it has been false for the off-delay (a timer on: on-delay 0 acts at once).

Lost sound counts neither for nor against: where a window starts after the end of the one before, the
samples in between lie in no window. What was pending is dropped, what is active stays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import AlarmPath, Float64


class TripCondition(Protocol):
    """What makes an alarm active."""

    @property
    def active(self) -> bool:
        """It holds: after the on-delay, until the off-delay."""

    @property
    def onset(self) -> int | None:
        """Absolute sample index at which it began to hold; None where it does not."""

    @property
    def trip(self) -> float:
        """Above this score it comes to hold."""

    @property
    def clear(self) -> float:
        """At or below this score it ceases to hold."""

    @property
    def path(self) -> AlarmPath | None:
        """The way that made it hold; None where it does not."""

    @property
    def renewed(self) -> bool:
        """The newest window is a reason to announce it again."""

    def why(self) -> str:
        """In words, why it holds."""

    def step(self, value: float, start: int, end: int, state: str = "") -> None:
        """Take one window's score into account; `state` is the operating state that it is nearest to."""

    def skip(self, end: int) -> None:
        """The window that ends there says nothing: what is pending begins anew, what is active stays."""

    def forget(self) -> None:
        """Not active, nothing pending."""

    def to_json(self) -> dict[str, Any]:
        """What a restart must know beyond `active` and `onset`."""

    def restore(
        self, saved: Mapping[str, Any] | None, *, active: bool, onset: int | None, same_bank: bool = True
    ) -> None:
        """From what `to_json` gave, of this bank or of another one; None where nothing is known.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """


class Condition:
    """The condition of one alarm, window by window.

    Args:
        trip: The condition turns true above this score.
        clear: It turns false at or below this score; less than trip.
        on_delay: Samples for which it must be true before it is active.
        off_delay: Samples for which it must be false before it is inactive.

    Raises:
        EchoStreamError: Levels or delays that cannot be.
    """

    def __init__(self, trip: float, clear: float, *, on_delay: int, off_delay: int) -> None:
        if not (math.isfinite(trip) and math.isfinite(clear) and clear < trip):
            raise EchoStreamError(
                f"clear level {clear:g} must be finite and below the trip level {trip:g}",
                "choose a dead-band above 0 and below 1",
            )
        if on_delay < 0 or off_delay < 0:
            raise EchoStreamError("a delay of an alarm is negative", "delays are 0 s or more")
        self.trip, self.clear = trip, clear
        self._on_delay, self._off_delay = on_delay, off_delay
        self.active = False
        self.onset: int | None = None
        self.restart()

    def restart(self) -> None:
        """Drop what is pending; what is active stays active."""
        self._end: int | None = None
        self._turned_at: int | None = None  # end of the window that turned the condition against `active`
        self._candidate: int | None = None  # the onset, should the pending condition become active

    def skip(self, end: int) -> None:
        """As if the sound of the window that ends there was lost."""
        self.restart()
        self._end = end

    def pause(self, end: int) -> None:
        """What is pending waits while the window that ends there passes, and goes on after it."""
        if self._turned_at is not None and self._end is not None:
            self._turned_at += end - self._end
        self._end = end

    def forget(self) -> None:
        """As at the start: not active, nothing pending."""
        self.active, self.onset = False, None
        self.restart()

    @property
    def path(self) -> AlarmPath | None:
        """Over a level is the strong way."""
        return AlarmPath.STRONG if self.active else None

    @property
    def renewed(self) -> bool:
        """Never: it holds, or it does not."""
        return False

    def why(self) -> str:
        """Score and level say all."""
        return ""

    def to_json(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(
        self,
        saved: Mapping[str, Any] | None,  # noqa: ARG002
        *,
        active: bool,
        onset: int | None,
        same_bank: bool = True,  # noqa: ARG002
    ) -> None:
        """What was pending begins anew, what was active stays so until it clears."""
        self.forget()
        self.active, self.onset = active, onset

    def step(self, value: float, start: int, end: int, state: str = "") -> None:  # noqa: ARG002
        """Take one window's score into account.

        Args:
            value: Anomaly score, finite.
            start: Absolute index of the window's first sample.
            end: Absolute index after its last sample.
            state: The operating state; a level is the same in all.

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
        self._turn(value, newest_hop, end)
        if self._turned_at is not None:
            delay = self._off_delay if self.active else self._on_delay
            if end - self._turned_at >= delay:
                self.active = not self.active
                self.onset = self._candidate if self.active else None
                self._turned_at = None

    def _turn(self, score: float, newest_hop: int, end: int) -> None:
        was = self.active == (self._turned_at is None)
        now = score > self.trip or (was and score > self.clear)
        if now == self.active:
            self._turned_at = None
        elif self._turned_at is None:
            self._turned_at = end
            self._candidate = newest_hop if now else None


# The alarm condition over whole runs of scores at once: calibration counts events in days of scores.
#
# `rises` gives exactly what `Condition.step` gives window by window. Pure; fit-time only.


def hops_in(delay_s: float, hop_s: float) -> int:
    """Windows after the first until a delay has passed."""
    return math.ceil(delay_s / hop_s - 1e-9)


def rises(scores: Float64, *, trip: float, clear: float, on_hops: int, off_hops: int) -> NDArray[np.bool_]:
    """Where the condition becomes active.

    Args:
        scores: (..., windows), each row one contiguous run.
        trip: Trip level.
        clear: Clear level, below it.
        on_hops: On-delay in hops (`hops_in`).
        off_hops: Off-delay in hops.

    Returns:
        (..., windows), true at each window whose score makes the condition active.
    """
    condition = _latch(scores > trip, scores <= clear)
    active = _latch(_lasting(condition, on_hops), _lasting(~condition, off_hops))
    before = np.concatenate([np.zeros_like(active[..., :1]), active[..., :-1]], axis=-1)
    return np.asarray(active & ~before)


def _latch(turns_true: NDArray[np.bool_], turns_false: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True from where it turns true until it turns false; false at first."""
    index = np.arange(1, turns_true.shape[-1] + 1)
    last_true = np.maximum.accumulate(np.where(turns_true, index, 0), axis=-1)
    last_false = np.maximum.accumulate(np.where(turns_false, index, 0), axis=-1)
    return np.asarray(last_true > last_false)


def _lasting(condition: NDArray[np.bool_], hops: int) -> NDArray[np.bool_]:
    """Where it has been true for so many windows after the first."""
    index = np.arange(1, condition.shape[-1] + 1)
    last_not = np.maximum.accumulate(np.where(condition, 0, index), axis=-1)
    return np.asarray(index - last_not > hops)
