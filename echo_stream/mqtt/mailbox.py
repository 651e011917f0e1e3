"""The mailbox holds what only counts in its newest version: states and scores. Any thread.

It is no third meeting place of the threads beside ring and outbox: losing what is in here loses nothing, the
next value replaces it, and after a reconnect all of it is asked for again.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

_MAX_QUEUED = 100


@dataclass(frozen=True, slots=True)
class Message:
    """A message to be sent."""

    topic: str
    payload: str | bytes
    qos: int
    retain: bool
    expiry_s: int | None = None
    correlation: bytes | None = None
    optional: bool = False
    """Nobody misses an alarm without it: it waits until no event does (health, discovery)."""


class Mailbox:
    """States, each sent when it changed and all at every connection; scores and replies, each sent once.

    Args:
        score_interval_s: At most one score of a topic in this time.
    """

    def __init__(self, score_interval_s: float) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, Message] = {}
        self._changed: dict[str, None] = {}
        self._changed_optional: dict[str, None] = {}
        self._scores: dict[str, Message] = {}
        self._queued: deque[Message] = deque(maxlen=_MAX_QUEUED)
        self._bulk: Message | None = None
        self._score_due_s: dict[str, float] = {}
        self._score_interval_s = score_interval_s
        self._wake_in, self.wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self.wake_out.setblocking(False)

    def set_state(self, topic: str, payload: str | bytes, qos: int = 1, *, optional: bool = False) -> None:
        """Set a retained state; the same again is not sent again."""
        latest = Message(topic, payload, qos, retain=True, optional=optional)
        with self._lock:
            if self._states.get(topic) == latest:
                return
            self._states[topic] = latest
            self._mark_changed(topic)
        self.wake()

    def set_score(self, topic: str, payload: str, expiry_s: int) -> None:
        """Replace a score that was not sent yet."""
        with self._lock:
            self._scores[topic] = Message(topic, payload, 0, retain=False, expiry_s=expiry_s)
        self.wake()

    def enqueue(self, topic: str, payload: str, correlation: bytes | None) -> None:
        """Send a reply; of too many that wait, the oldest go."""
        with self._lock:
            self._queued.append(Message(topic, payload, 1, retain=False, correlation=correlation))
        self.wake()

    def offer(self, topic: str, payload: str | bytes) -> bool:
        """Send a part of a file when nothing else is to be sent; False while another part waits."""
        with self._lock:
            if self._bulk is not None:
                return False
            self._bulk = Message(topic, payload, 1, retain=False)
        self.wake()
        return True

    def take_bulk(self) -> Message | None:
        """The part of a file that waits."""
        with self._lock:
            taken, self._bulk = self._bulk, None
        return taken

    def resend(self, prefix: str) -> None:
        """The states whose topics begin so are to be sent again."""
        with self._lock:
            for topic in self._states:
                if topic.startswith(prefix):
                    self._mark_changed(topic)
        self.wake()

    def resend_all(self) -> None:
        """All states are to be sent again; scores from before are stale."""
        with self._lock:
            for topic in self._states:
                self._mark_changed(topic)
            self._scores.clear()

    def only(self, topics: Iterable[str], payload: str) -> None:
        """Set these states, and give up what else was to be sent: the last words of a stop, in this order."""
        with self._lock:
            self._changed.clear()
            self._changed_optional.clear()
            self._queued.clear()
            self._bulk = None
            self._scores.clear()
            for topic in topics:
                self._states[topic] = Message(topic, payload, 1, retain=True)
                self._changed[topic] = None

    @property
    def waiting(self) -> bool:
        """States that are not optional, or replies, have changed and were not taken."""
        return bool(self._changed or self._queued)

    def take(self, room: int, *, optional: bool = True) -> list[Message]:
        """What is to be sent now: at most `room` states and replies, and scores, which need no room.

        Args:
            room: States and replies at most.
            optional: Those that are optional too.
        """
        now_s = time.monotonic()
        with self._lock:
            taken: list[Message] = []
            for changed in (self._changed, self._changed_optional) if optional else (self._changed,):
                topics = list(islice(changed, max(room - len(taken), 0)))
                taken += [self._states[topic] for topic in topics]
                for topic in topics:
                    del changed[topic]
                while changed is self._changed and self._queued and len(taken) < room:
                    taken.append(self._queued.popleft())
            for topic in [topic for topic in self._scores if now_s >= self._score_due_s.get(topic, 0.0)]:
                taken.append(self._scores.pop(topic))
                self._score_due_s[topic] = now_s + self._score_interval_s
        return taken

    def due_s(self, limit_s: float) -> float:
        """How long `take` has nothing more to give, at most `limit_s`, unless `wake` is called."""
        now_s = time.monotonic()
        with self._lock:
            due = [self._score_due_s.get(topic, 0.0) - now_s for topic in self._scores]
        return max(0.0, min([limit_s, *due]))

    def wake(self) -> None:
        """Make `wake_out` readable."""
        # A full pipe wakes as well; a closed one belongs to a publisher that has stopped.
        with contextlib.suppress(OSError):
            self._wake_in.send(b".")

    def clear_wakeup(self) -> None:
        """Empty `wake_out`."""
        with contextlib.suppress(BlockingIOError):
            self.wake_out.recv(4096)

    def close(self) -> None:
        """Nothing is sent any more."""
        self._wake_in.close()
        self.wake_out.close()

    def _mark_changed(self, topic: str) -> None:
        (self._changed_optional if self._states[topic].optional else self._changed)[topic] = None
