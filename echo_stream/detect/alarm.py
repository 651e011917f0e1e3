"""The state of one alarm, after ISA-18.2 and OPC UA Part 9. Pure, clocked in samples; pipeline thread only.

| from | when | to |
|---|---|---|
| NORMAL | condition true for on-delay | UNACK |
| UNACK | ack | ACKED |
| UNACK | clear for off-delay | RTN_UNACK (latching: LATCHED_UNACK) |
| ACKED | clear for off-delay | NORMAL (latching: LATCHED_ACKED) |
| RTN_UNACK | ack / true again | NORMAL / UNACK |
| LATCHED_UNACK | ack / true again | LATCHED_ACKED / UNACK |
| LATCHED_ACKED | reset / true again | NORMAL / UNACK |
| UNACK, ACKED | active for another realarm_s | UNACK, announced again |
| any | shelve for a time | SHELVED |
| any | machine off, or sensor fault | SUPPRESSED |
| any | operator | OUT_OF_SERVICE |

The last three lie over the others and can hold together; the strongest shows: OUT_OF_SERVICE, SUPPRESSED,
SHELVED. When the last of them ends the state is decided anew: UNACK where the condition is active,
otherwise NORMAL; but a latch is undone by a reset alone. Shelved or out of service, the condition is
followed all the time; suppressed it is not: what a broken sensor or a stopped machine sounds like is no
evidence, so the on-delay begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from echo_stream.detect.alarm_condition import Condition
from echo_stream.detect.alarm_memory import AlarmMemory
from echo_stream.errors import CommandRefused, EchoStreamError
from echo_stream.types import AlarmEvent, AlarmLevel, AlarmState

S = AlarmState
_ACKNOWLEDGED = {S.UNACK: S.ACKED, S.RTN_UNACK: S.NORMAL, S.LATCHED_UNACK: S.LATCHED_ACKED}
_CLEARED = {S.UNACK: S.RTN_UNACK, S.ACKED: S.NORMAL}
_LATCHED = {S.UNACK: S.LATCHED_UNACK, S.ACKED: S.LATCHED_ACKED}


class Alarm:
    """One alarm of one machine and level.

    Args:
        machine: Id of the machine; goes into the events.
        level: Warning or alarm.
        sample_rate_hz: Of the windows' sample indices.
        trip: The condition is true above this score.
        clear: It is false again at or below this score; less than trip.
        on_delay_s: It must be true for so long.
        off_delay_s: It must be false for so long.
        latching: An alarm that has cleared waits for a reset.
        realarm_s: One that stays active is announced again after so long; None: never.
        k: The condition is true when k of the last n windows are above the trip level.
        n: See k.

    Raises:
        EchoStreamError: Levels, delays or k and n that cannot be.
    """

    def __init__(
        self,
        machine: str,
        level: AlarmLevel,
        *,
        sample_rate_hz: int,
        trip: float,
        clear: float,
        on_delay_s: float,
        off_delay_s: float,
        latching: bool = False,
        realarm_s: float | None = None,
        k: int = 1,
        n: int = 1,
    ) -> None:
        if realarm_s is not None and not realarm_s > 0:
            raise EchoStreamError(
                f"re-alarm time {realarm_s} s of {machine} must be above 0", "or leave it out"
            )
        self.machine, self.level = machine, level
        self._rate = sample_rate_hz
        on_delay, off_delay = round(on_delay_s * sample_rate_hz), round(off_delay_s * sample_rate_hz)
        self._condition = Condition(trip, clear, on_delay=on_delay, off_delay=off_delay, k=k, n=n)
        self._latching = latching
        self._realarm = None if realarm_s is None else round(realarm_s * sample_rate_hz)
        self._base = S.NORMAL  # the state below SHELVED, SUPPRESSED and OUT_OF_SERVICE
        self._announced_at = 0
        self._shelved_until: int | None = None
        self._suppressed_by: set[str] = set()
        self._out_of_service = False
        self._score = 0.0
        self._now = 0

    @property
    def state(self) -> AlarmState:
        """What an operator sees."""
        if self._out_of_service:
            return S.OUT_OF_SERVICE
        if self._suppressed_by:
            return S.SUPPRESSED
        if self._shelved_until is not None:
            return S.SHELVED
        return self._base

    @property
    def active(self) -> bool:
        """The condition is true (after on-delay, until off-delay); also while shelved or out of service."""
        return self._condition.active

    @property
    def onset(self) -> int | None:
        """Where the newest hop of the first window above the trip level starts (absolute sample index).

        Of k windows the first counts; the first window after a gap is new from its start. Negative: before
        the restart (see `restore`). None while not active.
        """
        return self._condition.onset

    @property
    def trip(self) -> float:
        """The trip level."""
        return self._condition.trip

    @property
    def clear(self) -> float:
        """The clear level."""
        return self._condition.clear

    @property
    def suppressed_by(self) -> tuple[str, ...]:
        """The reasons for which it is suppressed, sorted; empty where it is not."""
        return tuple(sorted(self._suppressed_by))

    def step(self, value: float, start: int, end: int) -> list[AlarmEvent]:
        """Take the score of the next window into account; at most one transition comes of it.

        Args:
            value: Anomaly score, finite, higher is worse.
            start: Absolute index of the window's first sample.
            end: Absolute index after its last sample; later than that of the window before.

        Raises:
            ValueError: The score is not finite, or the window is not later than the one before.
        """
        if not math.isfinite(value):  # also while suppressed: it would read as normal
            raise ValueError(f"score of {self.machine} for the window that ends at sample {end} is {value}")
        before, cause = self.state, "condition"
        self._score = value
        if not self._suppressed_by:
            self._condition.step(value, start, end)
        if self._shelved_until is not None and end >= self._shelved_until:
            self._shelved_until = None
            cause = "shelve_expired"
            self._decide_anew()
        elif self.state is self._base:
            cause = self._follow_condition(end)
        return self._announce(before, cause, end)

    def _follow_condition(self, end: int) -> str:
        """Move the state by the condition alone; returns the cause."""
        standing = self._base in (S.UNACK, S.ACKED)
        if self.active and standing and self._realarm and end - self._announced_at >= self._realarm:
            self._base = S.UNACK
            return "realarm"
        if self.active and not standing:
            self._base = S.UNACK
        elif standing and not self.active:
            self._base = (_LATCHED if self._latching else _CLEARED)[self._base]
            return "clear"
        return "condition"

    def ack(self, at: int) -> list[AlarmEvent]:
        """Somebody has seen it.

        Raises:
            CommandRefused: There is nothing to acknowledge.
        """
        before = self.state
        if before not in _ACKNOWLEDGED:
            raise self._refused("ack", "only UNACK, RTN_UNACK and LATCHED_UNACK can be acknowledged")
        self._base = _ACKNOWLEDGED[before]
        return self._announce(before, "ack", at)

    def reset(self, at: int) -> list[AlarmEvent]:
        """Undo the latch.

        Raises:
            CommandRefused: It is not LATCHED_ACKED.
        """
        before = self.state
        if before is not S.LATCHED_ACKED:
            raise self._refused("reset", "only a latched alarm that was acknowledged can be reset")
        self._base = S.NORMAL
        return self._announce(before, "reset", at)

    def shelve(self, at: int, duration_s: float) -> list[AlarmEvent]:
        """Say nothing for a time, from now; shelving again sets a new end.

        Raises:
            CommandRefused: The time is not above 0.
        """
        if not (math.isfinite(duration_s) and duration_s > 0):
            raise self._refused("shelve", f"a time above 0 s is needed, not {duration_s}")
        before = self.state
        self._shelved_until = at + max(1, round(duration_s * self._rate))
        return self._announce(before, "shelve", at)

    def unshelve(self, at: int) -> list[AlarmEvent]:
        """End the shelving early.

        Raises:
            CommandRefused: It is not shelved.
        """
        if self._shelved_until is None:
            raise self._refused("unshelve", "it is not shelved")
        before = self.state
        self._shelved_until = None
        self._decide_anew()
        return self._announce(before, "unshelve", at)

    def out_of_service(self, at: int) -> list[AlarmEvent]:
        """Say nothing until somebody puts it back in service.

        Raises:
            CommandRefused: It is out of service already.
        """
        if self._out_of_service:
            raise self._refused("out_of_service", "it is out of service already")
        before = self.state
        self._out_of_service = True
        return self._announce(before, "out_of_service", at)

    def in_service(self, at: int) -> list[AlarmEvent]:
        """Put it back in service.

        Raises:
            CommandRefused: It is in service.
        """
        if not self._out_of_service:
            raise self._refused("in_service", "it is in service")
        before = self.state
        self._out_of_service = False
        self._decide_anew()
        return self._announce(before, "in_service", at)

    def suppress(self, at: int, reason: str) -> list[AlarmEvent]:
        """The machine is off or its sensor at fault; a reason given twice counts once."""
        before = self.state
        self._suppressed_by.add(reason)
        self._condition.forget()
        return self._announce(before, "suppress", at)

    def unsuppress(self, at: int, reason: str | None = None) -> list[AlarmEvent]:
        """A reason has gone (None: all have); where it was not suppressed nothing happens."""
        before = self.state
        held = bool(self._suppressed_by)
        self._suppressed_by -= self._suppressed_by if reason is None else {reason}
        if held and not self._suppressed_by:
            self._decide_anew()
        return self._announce(before, "unsuppress", at)

    def snapshot(self) -> dict[str, Any]:
        """The state as plain JSON, without what is pending; times are relative to the last window."""
        memory = AlarmMemory(
            state=self._base,
            active=self.active,
            onset=self.onset,
            announced_at=self._announced_at,
            shelved_until=self._shelved_until,
            suppressed_by=self.suppressed_by,
            out_of_service=self._out_of_service,
            score=self._score,
        )
        return memory.to_json(self.machine, self.level, self._rate, self._now)

    def restore(self, snapshot: Mapping[str, Any], at: int = 0, away_s: float = 0.0) -> None:
        """Go on where a snapshot was taken; announces nothing.

        A restart is a gap: what was pending begins anew, what was active stays so until it clears. A source
        starts to count at 0 again, so earlier times become negative; with `away_s` they still give the right
        wall time, and a shelving ends when it would have ended.

        Args:
            snapshot: From `snapshot`, perhaps of an alarm with other levels (a new bank).
            at: Absolute sample index now.
            away_s: Time between the snapshot and now.

        Raises:
            EchoStreamError: It is of another machine or level, or damaged.
        """
        then = at - round(away_s * self._rate)
        memory = AlarmMemory.from_json(snapshot, self.machine, self.level, self._rate, then)
        self._condition.forget()
        self._condition.active, self._condition.onset = memory.active, memory.onset
        self._base, self._announced_at = memory.state, memory.announced_at
        self._shelved_until, self._suppressed_by = memory.shelved_until, set(memory.suppressed_by)
        self._out_of_service = memory.out_of_service
        self._score, self._now = memory.score, at

    def _decide_anew(self) -> None:
        if self.state is not self._base:
            return  # another of the three still holds
        latched = _LATCHED.get(self._base, self._base)
        keeps = self._latching and latched in _LATCHED.values()
        self._base = S.UNACK if self.active else latched if keeps else S.NORMAL

    def _announce(self, before: AlarmState, cause: str, at: int) -> list[AlarmEvent]:
        after = self.state
        self._now = max(self._now, at)
        if before is after and cause != "realarm":
            return []
        self._announced_at = at
        return [
            AlarmEvent(
                machine=self.machine,
                level=self.level,
                before=before,
                after=after,
                cause=cause,
                at=at,
                onset=self.onset,
                active=self.active,
                score=self._score,
                threshold=self.trip,
            )
        ]

    def _refused(self, command: str, why: str) -> CommandRefused:
        return CommandRefused(f"{command} refused: {self.level} of {self.machine} is {self.state}; {why}")
