"""The ids of events are ULIDs that rise, whatever the clock does."""

from __future__ import annotations

import secrets
import threading
from datetime import datetime

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MAX_AHEAD_S = 20 * 365 * 86_400.0


def new_event_id(at: datetime) -> str:
    """A new ULID: 48 bits of milliseconds since 1970, 80 random bits, 26 letters that sort by time.

    Source: github.com/ulid/spec.
    """
    return _ulid(_number(at))


class EventIds:
    """Gives ids in the order in which it is asked, also after the clock went back; any thread.

    After a clock that went back an id follows the one before it, at a random distance: two runs that begin
    from the same saved id give different ones.
    """

    def __init__(self) -> None:
        self._last = 0
        self._lock = threading.Lock()

    def new(self, at: datetime) -> str:
        """A new id, above all before it; of the time `at` where that is not in their past."""
        with self._lock:
            number = _number(at)
            if number <= self._last:
                number = self._last + 1 + secrets.randbits(64)
            self._last = number
        return _ulid(number)

    def begin_after(self, event_id: str, now: datetime) -> None:
        """Ids follow one of an earlier run; a damaged one, or one decades ahead, is passed over."""
        number = 0
        for letter in event_id:
            number = number << 5 | max(_CROCKFORD.find(letter), 0)
        if number >> 80 < (now.timestamp() + _MAX_AHEAD_S) * 1000:
            with self._lock:
                self._last = max(self._last, number)


def _number(at: datetime) -> int:
    return (int(at.timestamp() * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)


def _ulid(number: int) -> str:
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
