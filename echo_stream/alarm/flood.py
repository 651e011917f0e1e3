"""The flood gate finds too many alarms at once, the chatter counter one that comes too often. Pure; pipeline.

An announcement is an alarm that becomes UNACK, or is announced again. What an operator can bear is one in
ten minutes; more than ten in ten minutes are a flood (EEMUA 191, ISA-18.2). It is announced as one, saying
how many and where, and again while further machines join it. Warnings are merged into it; an alarm of high
priority is always announced by itself, because nothing may silence it. Every transition goes to the log and
the states.

Times are monotonic seconds of this process, one clock for all machines: no wall clock, which can be set.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from echo_stream.core.types import NEW_STEADY_STATE, AlarmEvent, AlarmLevel, AlarmState

FLOOD_LIMIT = 10
WITHIN_S = 600.0
UPDATE_S = 10.0
CHATTER_LIMIT = 3
"""So many times in ten minutes, and an alarm chatters: its delays or its dead-band are too small."""


def is_announcement(event: AlarmEvent) -> bool:
    """It calls for somebody."""
    return event.after is AlarmState.UNACK


@dataclass(frozen=True, slots=True)
class FloodReport:
    """A flood has begun, has grown, or is over."""

    active: bool
    announcements: int
    """At its beginning those of the last ten minutes, then these and all that followed."""
    machines: tuple[str, ...]
    """Every machine that announced something in it, sorted."""
    since_s: float
    """When it began."""
    at_s: float


class FloodGate:
    """Merges warnings while announcements are too many.

    Args:
        limit: More announcements than this within the time are a flood; no more than half of it end it.
        within_s: The time.
        update_s: While further machines join a flood, it is reported again, at most once in this time.
    """

    def __init__(
        self, limit: int = FLOOD_LIMIT, within_s: float = WITHIN_S, update_s: float = UPDATE_S
    ) -> None:
        self._limit, self._within_s, self._update_s = limit, within_s, update_s
        self._recent: deque[tuple[float, str]] = deque()
        self._since_s: float | None = None
        self._announcements = 0
        self._machines: set[str] = set()
        self._reported: set[str] = set()
        self._reported_s = 0.0

    @property
    def flooding(self) -> bool:
        """Warnings are being merged."""
        return self._since_s is not None

    def take(self, event: AlarmEvent, at_s: float) -> tuple[bool, FloodReport | None]:
        """Whether to announce this transition by itself, and what to announce besides.

        Args:
            event: Any transition; an alarm, and one that is no announcement, always passes.
            at_s: When; not earlier than the one before.
        """
        report = self.tick(at_s)
        if not is_announcement(event):
            return True, report
        self._recent.append((at_s, event.machine))
        alone = event.level is AlarmLevel.ALARM
        if self._since_s is None:
            if len(self._recent) <= self._limit:
                return True, report
            self._since_s = at_s
            self._announcements = len(self._recent)
            self._machines = {machine for _, machine in self._recent}
            return alone, self._report(at_s, active=True)
        self._announcements += 1
        self._machines.add(event.machine)
        return alone, report or self._grown(at_s)

    def tick(self, at_s: float) -> FloodReport | None:
        """Let time pass; the report of its growth or its end, where one is due."""
        while self._recent and self._recent[0][0] <= at_s - self._within_s:
            self._recent.popleft()
        if self._since_s is None or len(self._recent) > self._limit / 2:
            return self._grown(at_s)
        report = self._report(at_s, active=False)
        self._since_s = None
        self._machines, self._reported = set(), set()
        return report

    def _grown(self, at_s: float) -> FloodReport | None:
        if self._machines == self._reported or at_s < self._reported_s + self._update_s:
            return None
        return self._report(at_s, active=True)

    def _report(self, at_s: float, *, active: bool) -> FloodReport:
        since_s = at_s if self._since_s is None else self._since_s
        self._reported, self._reported_s = set(self._machines), at_s
        return FloodReport(active, self._announcements, tuple(sorted(self._machines)), since_s, at_s)


class ChatterCounter:
    """Counts how often each alarm came within ten minutes.

    `CHATTER_LIMIT` times, and it chatters, until no more than half of them are left.
    """

    def __init__(self) -> None:
        self._raised: dict[tuple[str, AlarmLevel], deque[float]] = {}
        self._chattering: set[tuple[str, AlarmLevel]] = set()

    def take(self, event: AlarmEvent, at_s: float) -> bool:
        """Count a transition; True where an alarm begins to chatter by it."""
        if not is_announcement(event) or event.cause in ("realarm", "changed_again", NEW_STEADY_STATE):
            return False
        key = event.machine, event.level
        count = self.count(*key, at_s) + 1
        self._raised.setdefault(key, deque()).append(at_s)
        begins = count >= CHATTER_LIMIT and key not in self._chattering
        if begins:
            self._chattering.add(key)
        return begins

    def count(self, machine: str, level: AlarmLevel, at_s: float) -> int:
        """How often it came within the last ten minutes."""
        raised = self._raised.get((machine, level), deque())
        while raised and raised[0] <= at_s - WITHIN_S:
            raised.popleft()
        if len(raised) <= CHATTER_LIMIT / 2:
            self._chattering.discard((machine, level))
        return len(raised)
