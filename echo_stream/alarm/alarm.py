"""One alarm of one machine: its condition, its state, what operators do to it. Pure; pipeline thread only.

How its states follow each other stands in state.py, what makes the condition true in condition.py and
ways.py; all are clocked in samples. Shelved or out of service, the condition is followed all the time;
suppressed it is not: what a broken sensor or a stopped machine sounds like is no evidence, so the on-delay
then begins anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from echo_stream.alarm.condition import Condition, TripCondition
from echo_stream.alarm.state import ACKNOWLEDGED, AlarmMemory, Standing
from echo_stream.core.errors import CommandRefused, EchoStreamError
from echo_stream.core.types import NEW_STEADY_STATE, AlarmEvent, AlarmLevel, AlarmState

S = AlarmState


class Alarm:
    """One alarm of one machine and level.

    Args:
        machine: Id of the machine; goes into the events.
        level: Warning or alarm.
        sample_rate_hz: Of the windows' sample indices.
        condition: What makes it active.
        implied_by: Another condition that makes it active too: there is no alarm without a warning.
        latching: An alarm that has cleared waits for a reset.
        realarm_s: One that stays active is announced again after so long; None: never.

    Raises:
        EchoStreamError: A re-alarm time that cannot be.
    """

    def __init__(
        self,
        machine: str,
        level: AlarmLevel,
        *,
        sample_rate_hz: int,
        condition: TripCondition,
        implied_by: TripCondition | None = None,
        latching: bool = False,
        realarm_s: float | None = None,
    ) -> None:
        if realarm_s is not None and not realarm_s > 0:
            raise EchoStreamError(
                f"re-alarm time {realarm_s} s of {machine} must be above 0", "or leave it out"
            )
        self.machine, self.level = machine, level
        self._rate = sample_rate_hz
        self._condition, self._implied_by = condition, implied_by
        self._realarm = math.inf if realarm_s is None else realarm_s * sample_rate_hz
        self._announced_at = 0
        self._standing = Standing(latching)
        self._score = 0.0
        self._now = 0

    @classmethod
    def at_level(
        cls,
        machine: str,
        level: AlarmLevel,
        *,
        sample_rate_hz: int,
        trip: float,
        clear: float,
        on_delay_s: float,
        off_delay_s: float,
        implied_by: TripCondition | None = None,
        latching: bool = False,
        realarm_s: float | None = None,
    ) -> Self:
        """One whose condition is a score above a level.

        Args:
            machine: See the class; so are those that are not named here.
            level: See the class.
            sample_rate_hz: See the class.
            trip: The condition is true above this score.
            clear: It is false again at or below this score; less than trip.
            on_delay_s: It must be true for so long.
            off_delay_s: It must be false for so long.
            implied_by: See the class.
            latching: See the class.
            realarm_s: See the class.

        Raises:
            EchoStreamError: Levels or delays that cannot be.
        """
        on_delay, off_delay = round(on_delay_s * sample_rate_hz), round(off_delay_s * sample_rate_hz)
        return cls(
            machine,
            level,
            sample_rate_hz=sample_rate_hz,
            condition=Condition(trip, clear, on_delay=on_delay, off_delay=off_delay),
            implied_by=implied_by,
            latching=latching,
            realarm_s=realarm_s,
        )

    @property
    def state(self) -> AlarmState:
        """What an operator sees."""
        return self._standing.state

    @property
    def active(self) -> bool:
        """The condition is true (after on-delay, until off-delay); also while shelved or out of service."""
        return self._deciding.active

    @property
    def _deciding(self) -> TripCondition:
        """The condition that makes it active: its own, unless only the other one does."""
        other = self._implied_by
        return other if other is not None and other.active and not self._condition.active else self._condition

    @property
    def onset(self) -> int | None:
        """Where the newest hop of the first window above the trip level starts (absolute sample index).

        Of k windows the first counts; the first window after a gap is new from its start. Negative: before
        the restart (see `restore`). None while not active.
        """
        return self._deciding.onset

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
        return tuple(sorted(self._standing.suppressed_by))

    def step(
        self, value: float, start: int, end: int, state: str = "", *, counts: bool = True
    ) -> list[AlarmEvent]:
        """Take the score of the next window into account; at most one transition comes of it.

        Args:
            value: Anomaly score, finite, higher is worse.
            start: Absolute index of the window's first sample.
            end: Absolute index after its last sample; later than that of the window before.
            state: The operating state that the window is nearest to.
            counts: False where the window says nothing of the machine, as another sound is there.

        Raises:
            ValueError: The score is not finite, or the window is not later than the one before.
        """
        if not math.isfinite(value):  # also while suppressed: it would read as normal
            raise ValueError(f"score of {self.machine} for the window that ends at sample {end} is {value}")
        before, standing, cause = self.state, self._standing, ""
        self._score = value
        if not standing.suppressed_by and counts:
            self._condition.step(value, start, end, state)
        elif not standing.suppressed_by:
            self._condition.skip(end)
        if standing.shelved_until is not None and end >= standing.shelved_until:
            standing.shelved_until = None
            cause = "shelve_expired"
            standing.decide_anew(self.active)
        elif before is standing.below:
            if self.active and standing.raised and end - self._announced_at >= self._realarm:
                standing.below, cause = AlarmState.UNACK, "realarm"
            elif self._condition.renewed and standing.raised:
                standing.below, cause = AlarmState.UNACK, "changed_again"
            else:
                cause = standing.follow(self.active)
        return self._announce(before, cause, end)

    def tell_steady(self, at: int) -> list[AlarmEvent]:
        """What it stands for has become a steady sound: perhaps a state of the machine and no fault."""
        state = self.state
        return (
            self._announce(state, NEW_STEADY_STATE, at)
            if self.active and state is self._standing.below
            else []
        )

    def ack(self, at: int) -> list[AlarmEvent]:
        """Somebody has seen it.

        Raises:
            CommandRefused: There is nothing to acknowledge.
        """
        before = self.state
        if before not in ACKNOWLEDGED:
            raise self._refused("ack", "only UNACK, RTN_UNACK and LATCHED_UNACK can be acknowledged")
        self._standing.below = ACKNOWLEDGED[before]
        return self._announce(before, "ack", at)

    def reset(self, at: int) -> list[AlarmEvent]:
        """Undo the latch.

        Raises:
            CommandRefused: It is not LATCHED_ACKED.
        """
        before = self.state
        if before is not AlarmState.LATCHED_ACKED:
            raise self._refused("reset", "only a latched alarm that was acknowledged can be reset")
        self._standing.below = AlarmState.NORMAL
        return self._announce(before, "reset", at)

    def shelve(self, at: int, duration_s: float) -> list[AlarmEvent]:
        """Say nothing for a time, from now; shelving again sets a new end.

        Raises:
            CommandRefused: The time is not above 0.
        """
        if not (math.isfinite(duration_s) and duration_s > 0):
            raise self._refused("shelve", f"a time above 0 s is needed, not {duration_s}")
        before = self.state
        self._standing.shelved_until = at + max(1, round(duration_s * self._rate))
        return self._announce(before, "shelve", at)

    def unshelve(self, at: int) -> list[AlarmEvent]:
        """End the shelving early.

        Raises:
            CommandRefused: It is not shelved.
        """
        if self._standing.shelved_until is None:
            raise self._refused("unshelve", "it is not shelved")
        before = self.state
        self._standing.shelved_until = None
        self._standing.decide_anew(self.active)
        return self._announce(before, "unshelve", at)

    def out_of_service(self, at: int) -> list[AlarmEvent]:
        """Say nothing until somebody puts it back in service.

        Raises:
            CommandRefused: It is out of service already.
        """
        if self._standing.out_of_service:
            raise self._refused("out_of_service", "it is out of service already")
        before = self.state
        self._standing.out_of_service = True
        return self._announce(before, "out_of_service", at)

    def in_service(self, at: int) -> list[AlarmEvent]:
        """Put it back in service.

        Raises:
            CommandRefused: It is in service.
        """
        if not self._standing.out_of_service:
            raise self._refused("in_service", "it is in service")
        before = self.state
        self._standing.out_of_service = False
        self._standing.decide_anew(self.active)
        return self._announce(before, "in_service", at)

    def suppress(self, at: int, reason: str) -> list[AlarmEvent]:
        """The machine is off or its sensor at fault; a reason given twice counts once."""
        before = self.state
        self._standing.suppressed_by.add(reason)
        self._condition.forget()
        return self._announce(before, "suppress", at)

    def unsuppress(self, at: int, reason: str | None = None) -> list[AlarmEvent]:
        """A reason has gone (None: all have); where it was not suppressed nothing happens."""
        before = self.state
        held = bool(self._standing.suppressed_by)
        self._standing.suppressed_by -= self._standing.suppressed_by if reason is None else {reason}
        if held:
            self._standing.decide_anew(self.active)
        return self._announce(before, "unsuppress", at)

    def snapshot(self) -> dict[str, Any]:
        """The state as plain JSON, without what is pending; times are relative to the last window."""
        memory = AlarmMemory(
            state=self._standing.below,
            active=self.active,
            onset=self.onset,
            announced_at=self._announced_at,
            shelved_until=self._standing.shelved_until,
            suppressed_by=self.suppressed_by,
            out_of_service=self._standing.out_of_service,
            score=self._score,
            condition=self._condition.to_json(),
        )
        return memory.to_json(self.machine, self.level, self._rate, self._now)

    def restore(
        self, snapshot: Mapping[str, Any], at: int = 0, away_s: float = 0.0, *, same_bank: bool = True
    ) -> str:
        """Go on where a snapshot was taken; announces nothing.

        A restart is a gap: what was pending begins anew, what was active stays so until it clears. A source
        starts to count at 0 again, so earlier times become negative; with `away_s` they still give the right
        wall time, and a shelving ends when it would have ended.

        Args:
            snapshot: From `snapshot`, perhaps of an alarm with other levels (a new bank).
            at: Absolute sample index now.
            away_s: Time between the snapshot and now.
            same_bank: The scores of then can be compared with those of now.

        Returns:
            Why the past of the condition cannot be used, and begins anew; empty where it can.

        Raises:
            EchoStreamError: It is of another machine or level, or damaged.
        """
        then = at - round(away_s * self._rate)
        memory = AlarmMemory.from_json(snapshot, self.machine, self.level, self._rate, then)
        stood: dict[str, Any] = {"active": memory.active, "onset": memory.onset, "same_bank": same_bank}
        damage = ""
        try:
            self._condition.restore(memory.condition, **stood)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self._condition.restore(None, **stood)
            damage = repr(error)
        self._announced_at = memory.announced_at
        self._standing = Standing(
            self._standing.latching,
            memory.state,
            memory.shelved_until,
            set(memory.suppressed_by),
            memory.out_of_service,
        )
        self._score, self._now = memory.score, at
        return damage

    def _announce(self, before: AlarmState, cause: str, at: int) -> list[AlarmEvent]:
        after = self.state
        self._now = max(self._now, at)
        if before is after and cause not in ("realarm", "changed_again", NEW_STEADY_STATE):
            return []
        self._announced_at = at
        deciding = self._deciding
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
                threshold=deciding.trip,
                path=deciding.path,
                why=deciding.why(),
            )
        ]

    def _refused(self, command: str, why: str) -> CommandRefused:
        return CommandRefused(f"{command} refused: {self.level} of {self.machine} is {self.state}; {why}")
