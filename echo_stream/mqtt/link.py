"""Keeps one connection to the broker going: connects, waits, connects again, and says so once.

The publisher's one thread runs here; it alone touches the network. Each attempt makes a new Connection, and
the old one is gone by then, so that there are never two (docs/adr/0009).
"""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections.abc import Callable

from echo_stream.core.errors import DeliveryError
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.mqtt.broker import (
    BrokerAway,
    BrokerLacks,
    BrokerRefuses,
    BrokerSilent,
    BrokerTooOld,
    Concessions,
    Limits,
)
from echo_stream.mqtt.connection import Connection, Protocol
from echo_stream.mqtt.inbox import Inbox
from echo_stream.mqtt.mailbox import Mailbox
from echo_stream.mqtt.outbox import Outbox, steady_time
from echo_stream.mqtt.session import Session

_AWAY = ("the broker is away", "listening goes on; events wait in the outbox")
_UNSTEADY = (
    "the connection to the broker does not hold",
    "does another daemon run with the same node and topic_root, or does the broker's access list forbid what "
    "we publish? events wait in the outbox",
)
_REFUSED_HINT = "check what the broker's access list lets this user publish; events are kept"
_STEADY_S = 10.0
"""A connection that holds for this long is a good one."""
_SHORT_LIVED_SAID = 3
"""So many shorter ones in a row are said, each; then there is silence until one holds."""
_STEP_S = 1.0
_MAINTAIN_S = 10.0
"""So often the disk is brought up to date with what was not written at once."""
_RESEND_S = 60.0
_STOP_SHARE = 0.8
_LAST_TRY_S = 1.0
_DISCONNECT_SHARE = 0.3
"""Of the time to stop, what is left at most for draining and good-bye, and of that for the good-bye."""

log = get_logger()


class Link:
    """The thread and the connection that it keeps.

    Args:
        connect: Makes a Connection of this protocol, without what the broker does not have; not opened yet.
        where: The broker's host and port, for the log.
        outbox: What it owes.
        mailbox: States, scores and replies.
        inbox: Takes what the broker brings.
        offline_topics: The topics that are to say offline at the end.
        protocol: To begin with; 5 falls back to 3.
        retry_min_s: First wait before connecting again; it doubles, with jitter, up to retry_max_s.
        retry_max_s: Longest wait while the broker is away.
        refused_retry_s: Wait after the broker refused us.
    """

    def __init__(
        self,
        connect: Callable[[Protocol, Concessions], Connection],
        where: str,
        outbox: Outbox,
        mailbox: Mailbox,
        inbox: Inbox,
        *,
        offline_topics: Callable[[], list[str]],
        protocol: Protocol,
        retry_min_s: float,
        retry_max_s: float,
        refused_retry_s: float,
    ) -> None:
        self.connected = False
        """The broker has let us in and the connection stands, as far as is known."""
        self.connections = 0
        """Times that the broker let us in."""
        self.published = 0
        """Events that it acknowledged."""
        self.last_error = ""
        """Why the connection is away, or was last."""
        self._connect = connect
        self._where = where
        self._outbox = outbox
        self._mailbox = mailbox
        self._inbox = inbox
        self._offline_topics = offline_topics
        self._protocol: Protocol = protocol
        self._fallback = protocol == 5
        """MQTT 5 is wanted, and no broker has said that it does not speak it."""
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._refused_retry_s = refused_retry_s
        self._stopping = threading.Event()
        self.thread = GuardedThread("the publisher", self._run, self._stopping, first_wait_s=retry_min_s)
        self._stop_at_s = 0.0
        self._gone = False
        self._without = Concessions()
        self._lacks: list[str] = []
        self._resend_at_s = 0.0
        self._trouble = ""
        self._refusal = ""
        self._short_lived = 0
        self._steady_at_s = 0.0
        self._wait_s = retry_min_s
        self._maintain_at_s = 0.0

    @property
    def alive(self) -> bool:
        """The thread runs."""
        return self.thread.alive

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self.thread.start()

    def stop(self, timeout_s: float) -> None:
        """Send what waits, say the last words, disconnect, within `timeout_s`."""
        self._stop_at_s = time.monotonic() + timeout_s * _STOP_SHARE
        self._stopping.set()
        self._mailbox.wake()
        self.thread.join(timeout_s)

    # The publisher's thread.

    def _run(self) -> None:
        """One connection after the other, until we are to stop."""
        while not self._stopping.is_set():
            self._maintain()
            self._gone = self._try_once()
        if self._gone:  # it may be back, and then says for ever that we are online
            with contextlib.suppress(DeliveryError):
                self._hold_connection()

    def _try_once(self) -> bool:
        """One connection, and the wait after it; whether the broker was away."""
        before = self.connections
        try:
            self._hold_connection()
        except BrokerTooOld as error:
            log.warning("the broker does not speak MQTT 5: going on with 3.1.1", reason=error.message)
            self._protocol, self._fallback = 3, False
        except BrokerSilent as error:
            self._other_protocol()
            self._wait_out(error)
            return True
        except BrokerLacks as error:
            log.warning("the broker limits the connection: going on without", reason=error.message)
            self._without = error.without
        except BrokerRefuses as error:
            unsteady = self._short_lived >= _SHORT_LIVED_SAID and self.connections > before
            refuses = ("the broker refuses us", error.hint)
            self._report_trouble(*(_UNSTEADY if unsteady else refuses), error)
            self._wait_to_retry(self._refused_retry_s)
            self._without = Concessions()  # it may be another broker by then
        except BrokerAway as error:
            self._wait_out(error)
            return True
        return False

    def _wait_out(self, error: BrokerAway) -> None:
        unsteady = self._short_lived >= _SHORT_LIVED_SAID
        away = (_AWAY[0], error.hint or _AWAY[1])
        self._report_trouble(*(_UNSTEADY if unsteady else away), error)
        self._wait_to_retry(self._wait_s)
        self._wait_s = min(2 * self._wait_s, self._retry_max_s)

    def _other_protocol(self) -> None:
        """Some brokers of 3.1.1 do not refuse MQTT 5, they say nothing: both are tried in turns."""
        if self._fallback:
            self._protocol = 3 if self._protocol == 5 else 5

    def _hold_connection(self) -> None:
        """One connection, until it ends or we are to stop.

        Raises:
            BrokerAway: Not reachable, or gone.
            BrokerRefuses: It does not let us in.
        """
        connection = self._connect(self._protocol, self._without)
        try:
            connection.open(_LAST_TRY_S if self._stopping.is_set() else math.inf)
            session = Session(
                connection,
                self._outbox,
                self._mailbox,
                subscriptions=self._inbox.subscriptions,
                delivered=self._count,
                refused=self._refused,
                refused_retry_s=self._refused_retry_s,
            )
            self._on_connected(connection.limits)  # the session has put away scores of before
            while not self._stopping.is_set():
                session.step(_STEP_S)
                self._steady()
                self._inbox.tick()
                self._resend_unretained(connection.limits)
                self._maintain()
            self._drain(session)
        finally:
            if self.connected and self._fallback:
                self._protocol = 5  # a broker that was only slow to answer is asked for MQTT 5 again
            self.connected = False
            connection.abort()

    def _resend_unretained(self, limits: Limits) -> None:
        """Where the broker keeps nothing, who comes later learns the states within a minute."""
        if not limits.retained and time.monotonic() >= self._resend_at_s:
            self._resend_at_s = time.monotonic() + _RESEND_S
            self._mailbox.resend("")

    def _on_connected(self, limits: Limits) -> None:
        if limits.lacks != self._lacks:
            self._lacks = limits.lacks
            for lack in self._lacks:
                log.warning("the broker limits the connection", limit=lack)
        self._resend_at_s = time.monotonic() + _RESEND_S
        self.connected = True
        self.connections += 1
        self._short_lived += 1
        self._steady_at_s = time.monotonic() + _STEADY_S
        # Of a connection that comes and goes, one line is enough until it holds.
        if self._short_lived <= _SHORT_LIVED_SAID:
            self._log_connected()

    def _steady(self) -> None:
        """A connection has held for a while: the next outage begins with short waits and is said again."""
        if self._short_lived and time.monotonic() >= self._steady_at_s:
            self._short_lived = 0
            self._refusal = ""
            self._wait_s = self._retry_min_s
            if self._trouble:
                self._log_connected()

    def _log_connected(self) -> None:
        self._trouble = ""
        log.info(
            "connected to the broker",
            broker=self._where,
            protocol="5" if self._protocol == 5 else "3.1.1",
            waiting=self._outbox.depth,
        )

    def _count(self, delivered: int) -> None:
        self.published += delivered

    def _drain(self, session: Session) -> None:
        """Drain, keeping a part of the time for the good-bye."""
        drained_by_s = self._stop_at_s - (self._stop_at_s - time.monotonic()) * _DISCONNECT_SHARE
        while not session.idle and (left_s := drained_by_s - time.monotonic()) > 0:
            session.step(left_s)
        session.disconnect(self._offline_topics(), self._stop_at_s)

    def _report_trouble(self, trouble: str, hint: str, error: DeliveryError) -> None:
        """Say once what began; `_log_connected` says that it ended."""
        self.last_error = error.message
        if trouble != self._trouble:
            log.warning(trouble, reason=error.message, hint=hint)
        self._trouble = trouble

    def _refused(self, reason: str) -> None:
        self.last_error = f"a message was refused: {reason}"
        if reason != self._refusal:
            log.warning("the broker refuses a message", reason=reason, hint=_REFUSED_HINT)
        self._refusal = reason

    def _wait_to_retry(self, wait_s: float) -> None:
        # With jitter, so that many daemons do not come back at once.
        self._stopping.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    def _maintain(self) -> None:
        # A full outbox makes room here, not on the pipeline's thread that fills it.
        if time.monotonic() >= self._maintain_at_s or self._outbox.maintenance_due:
            self._outbox.maintain(steady_time())
            self._maintain_at_s = time.monotonic() + _MAINTAIN_S
