"""A session is what is said over one connection: all states at its start, then what changes, then offline.

Made anew for each connection, so that nothing of an earlier one can be mistaken for this one's. Publisher's
thread only.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable

from echo_stream.core.log import get_logger
from echo_stream.core.text import clean_text
from echo_stream.mqtt.broker import BrokerAway, BrokerRefuses
from echo_stream.mqtt.connection import Connection
from echo_stream.mqtt.mailbox import Mailbox, Message
from echo_stream.mqtt.outbox import Outbox
from echo_stream.mqtt.outbox_file import Row
from echo_stream.mqtt.payloads import OFFLINE, fitting_text

log = get_logger()

_ACK_TIMEOUT_S = 30.0
"""A broker that keeps the line open but acknowledges nothing is left after this."""


class Session:
    """One connection's worth of publishing.

    Args:
        connection: Open.
        outbox: What it owes; acknowledged rows leave it.
        mailbox: States and scores; all states are announced.
        subscriptions: What to subscribe to, with wildcards or without, as `Inbox.subscriptions` says.
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
        subscriptions: Callable[[bool], Iterable[tuple[str, bool]]],
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
        self._salvages = outbox.salvages
        """Rows up to this one could not be sent at once."""
        self._hold_until_s = 0.0
        self._progress_s = time.monotonic()
        self._refusal = ""
        self._subscriptions = subscriptions
        self._subscribed: set[str] = set()
        self._too_large: set[str] = set()
        self._events_first = True
        self._disconnecting = False
        self._offline_packet: int | None = None
        self._subscribe()
        mailbox.resend_all()

    @property
    def idle(self) -> bool:
        """Everything was sent and acknowledged."""
        return not self._in_flight and self._fed_id >= self._outbox.last_id

    @property
    def _room(self) -> int:
        return self._connection.limits.in_flight - len(self._in_flight)

    @property
    def _events_wait(self) -> bool:
        held = time.monotonic() < self._hold_until_s
        fed = self._fed_id >= self._outbox.last_id and self._salvages == self._outbox.salvages
        return not self._disconnecting and not held and not fed

    def step(self, timeout_s: float) -> None:
        """Send what is due, wait for the network, note what was acknowledged.

        Raises:
            BrokerAway: The connection ended, or the broker acknowledges nothing any more.
            BrokerRefuses: The broker ended it and said why, or after it had refused a message.
        """
        self._subscribe()
        self._send()
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
        """Say offline on these topics, the first one first, and leave, until a monotonic time.

        Where even the first is not acknowledged by then, the connection is left without DISCONNECT, so
        that the will says it.
        """
        self._disconnecting = True
        first, *others = topics
        self._mailbox.only([first, *others], OFFLINE)
        while (self._in_flight or self._mailbox.waiting) and (left_s := until_s - time.monotonic()) > 0:
            if self._offline_packet is None and self._room <= 0:
                # The first must not wait for events that a slow line holds back.
                self._publish(Message(first, OFFLINE, 1, retain=True))
            self.step(left_s)
        if self._offline_packet in self._in_flight or self._offline_packet is None:
            log.warning("the broker did not acknowledge `offline` in time: the last will says it")
            return
        self._connection.disconnect()

    def _subscribe(self) -> None:
        for topic, as_published in self._subscriptions(self._connection.limits.wildcards):
            if topic not in self._subscribed:  # machines and their topics come with a reload
                self._subscribed.add(topic)
                self._connection.subscribe(topic, retain_as_published=as_published)

    def _send(self) -> None:
        """Events and states share the room, while both wait; what is optional comes after both."""
        if not self._events_wait:
            self._send_states(self._room, optional=True)
            # One part of a file under way, and nothing beside it: an event waits for that at most.
            if not self._in_flight and (bulk := self._mailbox.take_bulk()) is not None:
                self._send_message(bulk)
            return
        room = self._room
        # A broker that takes one at a time gets them in turns.
        self._events_first = not (room == 1 and self._mailbox.waiting and self._events_first)
        self._send_events(room - room // 4 if room > 1 or self._events_first else 0)
        self._send_states(self._room, optional=False)

    def _send_states(self, room: int, *, optional: bool) -> None:
        for message in self._mailbox.take(room, optional=optional):
            self._send_message(message)

    def _send_message(self, message: Message) -> None:
        if self._connection.fits(message.topic, message.payload):
            self._publish(message)
        else:
            self._report_too_large(message.topic, len(message.payload))

    def _publish(self, message: Message) -> None:
        packet = self._connection.publish(
            message.topic,
            message.payload,
            qos=message.qos,
            retain=message.retain,
            expiry_s=message.expiry_s,
            correlation=message.correlation,
        )
        if self._disconnecting and self._offline_packet is None:
            self._offline_packet = packet
        if message.qos > 0:
            self._track(packet, None)

    def _report_too_large(self, topic: str, size: int) -> None:
        if topic not in self._too_large:
            self._too_large.add(topic)
            log.warning(
                "a message is larger than the broker takes and is not sent",
                topic=topic,
                bytes=size,
                limit_bytes=self._connection.limits.packet_bytes,
                hint="raise the broker's limit (mosquitto: max_packet_size), or shorten names and topic_root",
            )

    def _send_events(self, room: int) -> None:
        if room <= 0:
            return
        if self._outbox.salvages != self._salvages:  # rows with old ids wait again
            self._salvages, self._fed_id = self._outbox.salvages, 0
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
        if not row.saved:
            payload["unsaved"] = True
        text = fitting_text(payload, lambda text: self._connection.fits(row.topic, text))
        if text is None:  # it stays in the outbox: another connection may allow more
            self._report_too_large(row.topic, len(json.dumps(payload)))
            return
        user = (
            ("event_id", clean_text(str(payload.get("event_id", "")), 40)),
            ("schema", clean_text(str(payload.get("schema", "")), 40)),
        )
        try:
            packet = self._connection.publish(row.topic, text, qos=1, user=user)
        except (ValueError, UnicodeError, TypeError) as error:
            # Damaged in a way that no check foresaw: it must not keep those behind it from being sent.
            self._outbox.set_row_aside(row, repr(error))
            return
        self._track(packet, row.id)

    def _track(self, packet: int, row_id: int | None) -> None:
        if not self._in_flight:
            self._progress_s = time.monotonic()
        self._in_flight[packet] = row_id

    def _take_acknowledgements(self) -> None:
        """Forget what the broker has, and hold back for a while where it refused something."""
        done: list[int] = []
        for packet, refusal in self._connection.acknowledged:
            if packet not in self._in_flight:
                continue  # of QoS 0, such as a score: no sign of life of the broker
            row_id = self._in_flight.pop(packet)
            self._progress_s = time.monotonic()
            if refusal is not None:
                self._refused(row_id, refusal)
            elif row_id is not None:
                done.append(row_id)
        self._connection.acknowledged.clear()
        for denied in filter(None, self._connection.subscribed):
            self._report_refusal(f"a subscription: {denied}")
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
