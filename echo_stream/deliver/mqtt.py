"""The publisher: what the daemon wants said, said to the broker, however often the broker goes away.

The pipeline's thread calls event, set_alarm, score, health and set_available: they put a row into the outbox
or replace a value, and return. The publisher's one thread does all the rest: it alone touches the network.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from echo_stream import __version__
from echo_stream.deliver.commands import Command
from echo_stream.deliver.homeassistant import discovery, discovery_topic
from echo_stream.deliver.messages import OFFLINE, ONLINE, Payload
from echo_stream.deliver.mqtt_broker import Broker, BrokerAway, BrokerRefuses, BrokerTooOld
from echo_stream.deliver.mqtt_connection import Connection, Protocol, Will
from echo_stream.deliver.mqtt_inbox import Inbox
from echo_stream.deliver.mqtt_mailbox import Mailbox
from echo_stream.deliver.mqtt_session import Session
from echo_stream.deliver.outbox import Outbox
from echo_stream.deliver.topics import Topics
from echo_stream.errors import DeliveryError

_SESSION_EXPIRY_S = 60
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
_TURN_S = 1.0
_TEND_S = 60.0
_STOP_SHARE = 0.8
_FAREWELL_SHARE = 0.3
"""Of the time to stop, what is left at most for draining and good-bye, and of that for the good-bye."""

_KINDS = {"seq": "event", "clip": "evidence", "from": "sensor", "median": "drift", "machines": "flood"}
"""The first of these fields in a payload says what it is: the last level of its topic."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Counters:
    """How delivery stands, for metrics."""

    connected: bool
    published: int
    """Events that the broker acknowledged since the start."""
    dropped: int
    """Events that a full outbox gave up since the start."""
    outbox_depth: int
    """Events that wait for their acknowledgement."""
    outbox_unsaved: int
    """Of these, events that the disk did not take."""
    connections: int
    """Times that the broker let us in since the start."""
    last_error: str
    """Why the connection is away, or was last; empty where it never was."""


class Publisher:
    """The MQTT side of the daemon.

    Args:
        broker: Where the broker is and how it lets us in.
        node: Name of this PC in the topics.
        machines: Id and name of each machine.
        outbox_path: Where events wait until they are acknowledged.
        topic_root: First levels of all topics.
        protocol: 5, falling back to 3 (3.1.1) where the broker refuses it, or 3.
        outbox_max_rows: Bound of the outbox.
        outbox_max_age_s: Bound of the outbox.
        will_delay_s: How long we may be away before the broker says that we are offline (MQTT 5; 3.1.1 does
            so at once).
        discovery_prefix: Home Assistant's, usually `homeassistant`; None tells it nothing.
        birth_delay_s: When Home Assistant starts, discovery is sent again within this time.
        score_interval_s: At most one score of a machine in this time.
        score_expiry_s: When the broker forgets a score that it could not deliver (MQTT 5).
        retry_min_s: First wait before connecting again; it doubles, with jitter, up to retry_max_s.
        retry_max_s: Longest wait while the broker is away.
        refused_retry_s: Wait after the broker refused us.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        node: str,
        machines: Mapping[str, str],
        outbox_path: Path,
        topic_root: str = "echo-stream",
        protocol: Protocol = 5,
        outbox_max_rows: int = 100_000,
        outbox_max_age_s: float = 30 * 86_400.0,
        will_delay_s: int = 15,
        discovery_prefix: str | None = None,
        birth_delay_s: float = 10.0,
        score_interval_s: float = 1.0,
        score_expiry_s: int = 30,
        retry_min_s: float = 1.0,
        retry_max_s: float = 60.0,
        refused_retry_s: float = 60.0,
    ) -> None:
        self.topics = Topics(topic_root, node)
        self.outbox = Outbox(outbox_path, max_rows=outbox_max_rows, max_age_s=outbox_max_age_s)
        self._broker = broker
        self._protocol: Protocol = protocol
        self._machines = dict(machines)
        self._mailbox = Mailbox(score_interval_s)
        self._inbox = Inbox(
            self.topics,
            self._machines,
            self._mailbox,
            discovery_prefix=discovery_prefix,
            birth_delay_s=birth_delay_s,
        )
        self._will_delay_s = will_delay_s
        self._score_expiry_s = score_expiry_s
        self._retry_min_s = retry_min_s
        self._retry_max_s = retry_max_s
        self._refused_retry_s = refused_retry_s
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._stopping = threading.Event()
        self._stop_at_s = 0.0
        self._connected = False
        self._connections = 0
        self._published = 0
        self._last_error = ""
        self._trouble = ""
        self._refusal = ""
        self._short_lived = 0
        self._steady_at_s = 0.0
        self._wait_s = retry_min_s
        self._tend_at_s = 0.0
        self._mailbox.keep(self.topics.status, ONLINE)
        for machine, name in self._machines.items():
            self.set_available(machine, False)
            if discovery_prefix is not None:
                expires_s = max(60.0, 3 * score_interval_s)
                found = discovery(
                    self.topics, machine, name=name, version=__version__, score_expires_s=expires_s
                )
                self._mailbox.keep(discovery_topic(discovery_prefix, self.topics, machine), _json(found))

    # What the daemon calls. None of it waits for the network, none of it raises because of it.

    def start(self) -> None:
        """Begin to connect; returns at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> bool:
        """Send what waits, say offline, disconnect, all within `timeout_s`; whether all events were sent."""
        self._stop_at_s = time.monotonic() + timeout_s * _STOP_SHARE
        self._stopping.set()
        self._mailbox.wake()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the publisher did not stop in time", timeout_s=timeout_s)
            return False
        self.outbox.close()
        self._mailbox.close()
        return self.outbox.depth == 0

    def next_seq(self, machine: str) -> int:
        """The sequence number for the next event of a machine."""
        return self.outbox.next_seq(machine)

    def event(self, payload: Payload, *, snapshot: dict[str, Any] | None = None) -> None:
        """Something that must not be lost: on disk when this returns, then sent until acknowledged.

        Args:
            payload: From `messages.event`, `evidence`, `sensor`, `drift` or `flood`.
            snapshot: State of the machine's alarm after it, for `outbox.snapshot` after a restart; kept in
                the same transaction.
        """
        machine = payload.get("machine", "")
        what = _KINDS[next(key for key in payload if key in _KINDS)]
        topic = self.topics.of(machine, what) if machine else self.topics.flood
        key = f"{what} {payload.get('level', '')}"
        self.outbox.put(machine, topic, payload, now_s=time.time(), key=key, snapshot=snapshot)
        self._mailbox.wake()

    def set_alarm(self, machine: str, payload: Payload) -> None:
        """The retained state of a machine's alarm, from `messages.alarm_state`."""
        self._mailbox.keep(self.topics.of(machine, "alarm"), _json(payload))

    def health(self, machine: str, payload: Payload) -> None:
        """The retained health of a machine, from `messages.health`."""
        self._mailbox.keep(self.topics.of(machine, "health"), _json(payload), qos=0)

    def set_available(self, machine: str, available: bool) -> None:
        """Whether capture and bank of a machine work; offline until this says otherwise."""
        self._mailbox.keep(self.topics.of(machine, "availability"), ONLINE if available else OFFLINE)

    def score(self, machine: str, payload: Payload) -> None:
        """The newest score, from `messages.score`; those between two messages are not sent."""
        self._mailbox.score(self.topics.of(machine, "score"), _json(payload), self._score_expiry_s)

    def commands(self) -> list[Command]:
        """What operators have asked since the last call; to be answered by `reply`."""
        return self._inbox.take()

    def reply(self, command: Command, *, ok: bool, outcome: str) -> None:
        """Tell who sent a command what became of it, in a few words."""
        self._inbox.reply(command, ok=ok, outcome=outcome)

    @property
    def connected(self) -> bool:
        """The broker has let us in and the connection stands, as far as is known."""
        return self._connected

    @property
    def alive(self) -> bool:
        """The publisher's thread runs."""
        return self._thread.is_alive()

    def counters(self) -> Counters:
        """How delivery stands."""
        return Counters(
            connected=self._connected,
            published=self._published,
            dropped=self.outbox.dropped,
            outbox_depth=self.outbox.depth,
            outbox_unsaved=self.outbox.unsaved,
            connections=self._connections,
            last_error=self._last_error,
        )

    # The publisher's thread.

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._tend()
            try:
                self._talk()
            except BrokerTooOld as error:
                log.warning("the broker does not speak MQTT 5: going on with 3.1.1", reason=error.message)
                self._protocol = 3
            except BrokerRefuses as error:
                self._troubled("the broker refuses us", error.hint, error)
                self._rest(self._refused_retry_s)
            except BrokerAway as error:
                unsteady = self._short_lived >= _SHORT_LIVED_SAID
                self._troubled(*(_UNSTEADY if unsteady else _AWAY), error)
                self._rest(self._wait_s)
                self._wait_s = min(2 * self._wait_s, self._retry_max_s)

    def _talk(self) -> None:
        """One connection, until it ends or we are to stop.

        Raises:
            BrokerAway: Not reachable, or gone.
            BrokerRefuses: It does not let us in.
        """
        connection = Connection(
            self._broker,
            client_id=f"{self.topics.root}-{self.topics.node}",
            protocol=self._protocol,
            # Longer than the delay of the will, because the end of the session sends it.
            session_expiry_s=self._will_delay_s + _SESSION_EXPIRY_S,
            on_message=self._inbox.receive,
            will=Will(self.topics.status, OFFLINE, self._will_delay_s),
        )
        try:
            connection.open()
            self._arrived()
            session = Session(
                connection,
                self.outbox,
                self._mailbox,
                subscriptions=self._inbox.subscriptions,
                delivered=self._count,
                refused=self._refused,
                refused_retry_s=self._refused_retry_s,
            )
            while not self._stopping.is_set():
                session.turn(_TURN_S)
                self._steady()
                self._inbox.tick()
                self._tend()
            self._leave(session)
        finally:
            self._connected = False
            connection.drop()

    def _arrived(self) -> None:
        self._connected = True
        self._connections += 1
        self._short_lived += 1
        self._steady_at_s = time.monotonic() + _STEADY_S
        # Of a connection that comes and goes, one line is enough until it holds.
        if self._short_lived <= _SHORT_LIVED_SAID:
            self._say_connected()

    def _steady(self) -> None:
        """A connection has held for a while: the next outage begins with short waits and is said again."""
        if self._short_lived and time.monotonic() >= self._steady_at_s:
            self._short_lived = 0
            self._refusal = ""
            self._wait_s = self._retry_min_s
            if self._trouble:
                self._say_connected()

    def _say_connected(self) -> None:
        self._trouble = ""
        log.info(
            "connected to the broker",
            host=self._broker.host,
            port=self._broker.port,
            protocol="5" if self._protocol == 5 else "3.1.1",
            waiting=self.outbox.depth,
        )

    def _count(self, delivered: int) -> None:
        self._published += delivered

    def _leave(self, session: Session) -> None:
        """Drain, keeping a part of the time for the good-bye."""
        drained_by_s = self._stop_at_s - (self._stop_at_s - time.monotonic()) * _FAREWELL_SHARE
        while not session.idle and (left_s := drained_by_s - time.monotonic()) > 0:
            session.turn(left_s)
        topics = [self.topics.of(machine, "availability") for machine in self._machines]
        session.farewell([*topics, self.topics.status], self._stop_at_s)

    def _troubled(self, trouble: str, hint: str, error: DeliveryError) -> None:
        """Say once what began; `_say_connected` says that it ended."""
        self._last_error = error.message
        if trouble != self._trouble:
            log.warning(trouble, reason=error.message, hint=hint)
        self._trouble = trouble

    def _refused(self, reason: str) -> None:
        self._last_error = f"a message was refused: {reason}"
        if reason != self._refusal:
            log.warning("the broker refuses a message", reason=reason, hint=_REFUSED_HINT)
        self._refusal = reason

    def _rest(self, wait_s: float) -> None:
        # With jitter, so that many daemons do not come back at once.
        self._stopping.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret

    def _tend(self) -> None:
        if time.monotonic() >= self._tend_at_s:
            self.outbox.tend(time.time())
            self._tend_at_s = time.monotonic() + _TEND_S


def _json(payload: Payload) -> str:
    return json.dumps(payload, separators=(",", ":"), allow_nan=False)
