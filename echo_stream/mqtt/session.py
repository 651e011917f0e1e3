"""What is said over one connection: everything at its start, then what changes, good-bye at its end.

Made anew for each connection, so that nothing of an earlier one can be mistaken for this one's. Publisher's
thread only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from echo_stream.mqtt.connection import BrokerAway, BrokerRefuses, Connection
from echo_stream.mqtt.mailbox import Mailbox
from echo_stream.mqtt.outbox import Outbox, Row
from echo_stream.mqtt.payloads import OFFLINE

_ACK_TIMEOUT_S = 30.0
"""A broker that keeps the line open but acknowledges nothing is left after this."""


class Session:
    """One connection's worth of publishing.

    Args:
        connection: Open.
        outbox: What it owes; acknowledged rows leave it.
        mailbox: States and scores; all states are announced.
        subscriptions: What to subscribe to.
        refused: Called with the reason when the broker refuses a message or a subscription.
        delivered: Called with the number of events that the broker has acknowledged since the last call.
        refused_retry_s: How long to wait before an event that the broker refused is sent again.
    """

    def __init__(
        self,
        connection: Connection,
        outbox: Outbox,
        mailbox: Mailbox,
        *,
        subscriptions: Iterable[str],
        delivered: Callable[[int], None],
        refused: Callable[[str], None],
        refused_retry_s: float,
    ) -> None:
        self._connection = connection
        self._outbox = outbox
        self._mailbox = mailbox
        self._delivered = delivered
        self._report_refusal = refused
        self._refused_retry_s = refused_retry_s
        self._in_flight: dict[int, int | None] = {}
        """Packet id to outbox row; None for what is in no outbox."""
        self._fed_id = 0
        self._late_id = outbox.last_id
        """Rows up to this one could not be sent at once."""
        self._hold_until_s = 0.0
        self._progress_s = time.monotonic()
        self._refusal = ""
        for topic in subscriptions:
            connection.subscribe(topic)
        mailbox.resend_all()

    @property
    def idle(self) -> bool:
        """Everything was sent and acknowledged."""
        return not self._in_flight and self._fed_id >= self._outbox.last_id

    @property
    def _room(self) -> int:
        return self._connection.window - len(self._in_flight)

    def step(self, timeout_s: float) -> None:
        """Send what is due, wait for the network, note what was acknowledged.

        Raises:
            BrokerAway: The connection ended, or the broker acknowledges nothing any more.
            BrokerRefuses: The broker ended it and said why, or after it had refused a message.
        """
        self._send_states()
        self._send_events()
        try:
            self._connection.step(self._mailbox.due_s(timeout_s), self._mailbox.wake_out)
        except BrokerAway as error:
            self._take_acknowledgements()
            if self._refusal:  # mosquitto 2.0.11 hangs up on who sends what its access list forbids
                raise BrokerRefuses(f"a message was refused: {self._refusal}") from error
            raise
        self._mailbox.clear_wakeup()
        self._take_acknowledgements()
        if self._in_flight and time.monotonic() - self._progress_s > _ACK_TIMEOUT_S:
            raise BrokerAway(f"the broker acknowledged nothing for {_ACK_TIMEOUT_S:g} s")

    def disconnect(self, topics: Iterable[str], until_s: float) -> None:
        """Say offline on these topics, wait for the acknowledgements until a monotonic time, and leave."""
        for topic in topics:
            self._mailbox.set_state(topic, OFFLINE)
        self.step(0.0)
        while self._in_flight and (left_s := until_s - time.monotonic()) > 0:
            self.step(left_s)
        self._connection.disconnect()

    def _send_states(self) -> None:
        for message in self._mailbox.take(self._room):
            packet = self._connection.publish(
                message.topic,
                message.payload,
                qos=message.qos,
                retain=message.retain,
                expiry_s=message.expiry_s,
                correlation=message.correlation,
            )
            if message.qos > 0:
                self._track(packet, None)

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
        self._track(packet, row.id)

    def _track(self, packet: int, row_id: int | None) -> None:
        if not self._in_flight:
            self._progress_s = time.monotonic()
        self._in_flight[packet] = row_id

    def _take_acknowledgements(self) -> None:
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
        for denied in filter(None, self._connection.subscribed):
            self._report_refusal(f"subscription to commands: {denied}")
        self._connection.subscribed.clear()
        if done:
            self._outbox.ack(done)
            self._delivered(len(done))

    def _refused(self, row_id: int | None, refusal: str) -> None:
        self._refusal = refusal
        self._report_refusal(refusal)
        if row_id is not None:
            self._fed_id = 0
            self._late_id = self._outbox.last_id
            self._hold_until_s = time.monotonic() + self._refused_retry_s
