"""Too many alarms at once, or one too often: counted over all machines. Pure; pipeline thread.

An announcement is an alarm that becomes UNACK, or is announced again. What an operator can bear is one in ten
minutes; more than ten in ten minutes are a flood (EEMUA 191, ISA-18.2): then they are merged into one that
says how many and where. Only the announcing is merged: every transition goes to the log and into the states.

Machines have clocks of their own, so times here are seconds of one clock for all: of the day the sound was
captured (POSIX).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState

FLOOD_LIMIT = 10
WITHIN_S = 600.0
CHATTER_LIMIT = 3
"""So many times in ten minutes, and an alarm chatters: its delays or its dead-band are too small."""


def is_announcement(event: AlarmEvent) -> bool:
    """It calls for somebody."""
    return event.after is AlarmState.UNACK


@dataclass(frozen=True, slots=True)
class FloodReport:
    """A flood has begun, or is over: announced in place of what it merged."""

    active: bool
    announcements: int
    """At its beginning those of the last ten minutes, at its end all that were merged."""
    machines: tuple[str, ...]
    """Where, sorted."""
    since_s: float
    """When it began."""
    at_s: float


class FloodGate:
    """Lets announcements pass until they are too many.

    Args:
        limit: More announcements than this within the time are a flood; no more than half of it end it.
        within_s: The time.
    """

    def __init__(self, limit: int = FLOOD_LIMIT, within_s: float = WITHIN_S) -> None:
        self._limit, self._within_s = limit, within_s
        self._recent: deque[tuple[float, str]] = deque()
        self._since_s: float | None = None
        self._merged: list[str] = []

    @property
    def flooding(self) -> bool:
        """Announcements are being merged."""
        return self._since_s is not None

    def take(self, event: AlarmEvent, at_s: float) -> tuple[bool, FloodReport | None]:
        """Whether to announce this transition by itself, and what to announce besides.

        Args:
            event: Any transition; one that is no announcement always passes.
            at_s: When; not earlier than the one before.
        """
        report = self.tick(at_s)
        if not is_announcement(event):
            return True, report
        self._recent.append((at_s, event.machine))
        if self._since_s is None and len(self._recent) <= self._limit:
            return True, report
        self._merged.append(event.machine)
        if self._since_s is None:
            self._since_s = at_s
            machines = [machine for _, machine in self._recent]
            report = FloodReport(True, len(machines), tuple(sorted(set(machines))), at_s, at_s)
        return False, report

    def tick(self, at_s: float) -> FloodReport | None:
        """Let time pass; the report of its end, where a flood ends by that."""
        while self._recent and self._recent[0][0] <= at_s - self._within_s:
            self._recent.popleft()
        if self._since_s is None or len(self._recent) > self._limit / 2:
            return None
        report = FloodReport(False, len(self._merged), tuple(sorted(set(self._merged))), self._since_s, at_s)
        self._since_s, self._merged = None, []
        return report


class ChatterCounter:
    """Counts how often each alarm came within ten minutes.

    Args:
        limit: So often within the time, and it chatters, until no more than half of it are left.
        within_s: The time.
    """

    def __init__(self, limit: int = CHATTER_LIMIT, within_s: float = WITHIN_S) -> None:
        self._limit, self._within_s = limit, within_s
        self._raised: dict[tuple[str, AlarmLevel], deque[float]] = {}
        self._chattering: set[tuple[str, AlarmLevel]] = set()

    def take(self, event: AlarmEvent, at_s: float) -> bool:
        """Count a transition; True where an alarm begins to chatter by it."""
        if not is_announcement(event) or event.cause == "realarm":
            return False
        key = event.machine, event.level
        count = self.count(*key, at_s) + 1
        self._raised.setdefault(key, deque()).append(at_s)
        begins = count >= self._limit and key not in self._chattering
        if begins:
            self._chattering.add(key)
        return begins

    def count(self, machine: str, level: AlarmLevel, at_s: float) -> int:
        """How often it came within the last ten minutes."""
        raised = self._raised.get((machine, level), deque())
        while raised and raised[0] <= at_s - self._within_s:
            raised.popleft()
        if len(raised) <= self._limit / 2:
            self._chattering.discard((machine, level))
        return len(raised)

    def chattering(self, machine: str, level: AlarmLevel, at_s: float) -> bool:
        """It came so often that it chatters."""
        self.count(machine, level, at_s)
        return (machine, level) in self._chattering
