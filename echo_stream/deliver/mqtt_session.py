"""What is said over one connection: everything at its start, then what changes, good-bye at its end.

Made anew for each connection, so that nothing of an earlier one can be mistaken for this one's. Publisher's
thread only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import structlog

from echo_stream.deliver.messages import OFFLINE
from echo_stream.deliver.mqtt_broker import BrokerAway
from echo_stream.deliver.mqtt_connection import Connection
from echo_stream.deliver.mqtt_mailbox import Mailbox
from echo_stream.deliver.outbox import Outbox
from echo_stream.deliver.outbox_file import Row

_ACK_TIMEOUT_S = 30.0
"""A broker that keeps the line open but acknowledges nothing is left after this."""

log = structlog.get_logger()


class Session:
    """One connection's worth of publishing.

    Args:
        connection: Open.
        outbox: What it owes; acknowledged rows leave it.
        mailbox: States and scores; all states are announced.
        refused_retry_s: How long to wait before an event that the broker refused is sent again.
    """

    def __init__(
        self, connection: Connection, outbox: Outbox, mailbox: Mailbox, *, refused_retry_s: float
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._mailbox = mailbox
        self._refused_retry_s = refused_retry_s
        self._in_flight: dict[int, int | None] = {}
        """Packet id to outbox row; None for what is in no outbox."""
        self._fed_id = 0
        self._late_id = outbox.last_id
        """Rows up to this one could not be sent at once."""
        self._hold_until_s = 0.0
        self._progress_s = time.monotonic()
        self._refusal = ""
        mailbox.announce_all()

    @property
    def idle(self) -> bool:
        """Everything was sent and acknowledged."""
        return not self._in_flight and self._fed_id >= self._outbox.last_id

    @property
    def _room(self) -> int:
        return self._connection.window - len(self._in_flight)

    def turn(self, timeout_s: float) -> int:
        """Send what is due, wait for the network, note what was acknowledged: how many events.

        Raises:
            BrokerAway: The connection ended, or the broker acknowledges nothing any more.
            BrokerRefuses: The broker ended it and said why.
        """
        self._send_states()
        self._send_events()
        self._connection.step(self._mailbox.due_s(timeout_s), self._mailbox.wake_out)
        self._mailbox.hush()
        acknowledged = self._settle()
        if self._in_flight and time.monotonic() - self._progress_s > _ACK_TIMEOUT_S:
            raise BrokerAway(f"the broker acknowledged nothing for {_ACK_TIMEOUT_S:g} s")
        return acknowledged

    def farewell(self, topics: Iterable[str], until_s: float) -> int:
        """Say offline on these topics, wait for the acknowledgements until a monotonic time, and leave."""
        for topic in topics:
            self._mailbox.keep(topic, OFFLINE)
        acknowledged = self.turn(0.0)
        while self._in_flight and (left_s := until_s - time.monotonic()) > 0:
            acknowledged += self.turn(left_s)
        self._connection.leave()
        return acknowledged

    def _send_states(self) -> None:
        for latest in self._mailbox.take(self._room):
            packet = self._connection.publish(
                latest.topic, latest.payload, qos=latest.qos, retain=latest.retain, expiry_s=latest.expiry_s
            )
            if latest.qos > 0:
                self._note(packet, None)

    def _send_events(self) -> None:
        room = self._room
        if room <= 0 or self._fed_id >= self._outbox.last_id or time.monotonic() < self._hold_until_s:
            return
        newest_id = self._outbox.last_id
        rows = self._outbox.pending(self._fed_id, room)
        flying = set(self._in_flight.values())
        for row in rows:
            if row.id not in flying:
                self._send_event(row)
        # Rows that the disk did not give now must not be passed over.
        if self._outbox.readable:
            self._fed_id = rows[-1].id if len(rows) == room else newest_id

    def _send_event(self, row: Row) -> None:
        payload = dict(row.payload)
        if "delayed" in payload:
            payload["delayed"] = row.id <= self._late_id
        user = (("event_id", str(payload.get("event_id", ""))), ("schema", str(payload.get("schema", ""))))
        packet = self._connection.publish(
            row.topic, json.dumps(payload, separators=(",", ":")), qos=1, user=user
        )
        self._note(packet, row.id)

    def _note(self, packet: int, row_id: int | None) -> None:
        if not self._in_flight:
            self._progress_s = time.monotonic()
        self._in_flight[packet] = row_id

    def _settle(self) -> int:
        """Forget what the broker has, and hold back for a while where it refused something."""
        done: list[int] = []
        for packet, refusal in self._connection.acknowledged:
            row_id = self._in_flight.pop(packet, None)
            self._progress_s = time.monotonic()
            if refusal is not None:
                self._refused(row_id, refusal)
            elif row_id is not None:
                done.append(row_id)
        self._connection.acknowledged.clear()
        if done:
            self._outbox.ack(done)
        return len(done)

    def _refused(self, row_id: int | None, refusal: str) -> None:
        if refusal != self._refusal:
            log.warning(
                "the broker refuses a message",
                reason=refusal,
                hint="check what the broker's access list lets this user publish; events are kept",
            )
        self._refusal = refusal
        if row_id is not None:
            self._fed_id = 0
            self._late_id = self._outbox.last_id
            self._hold_until_s = time.monotonic() + self._refused_retry_s
