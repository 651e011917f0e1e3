"""A connection is one MQTT connection, from CONNECT to its end; each attempt makes a new one. One thread.

paho's own threads, queue and reconnection are not used: its queue dies with the process, is sent again as it
was, and would hide from the outbox what is still owed. The holder of a Connection drives it by `step`.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from paho.mqtt.client import (
    MQTT_CLEAN_START_FIRST_ONLY,
    MQTT_LOG_ERR,
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTv5,
    MQTTv311,
)
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from echo_stream.core.errors import DeliveryError
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.mqtt.broker import (
    EVERYTHING,
    MAX_IN_FLIGHT,
    MAX_PACKET_BYTES,
    Broker,
    BrokerAway,
    BrokerLacks,
    BrokerRefuses,
    BrokerSilent,
    BrokerTooOld,
    Concessions,
    Limits,
    untrusted,
)

_TAKEN_PACKET_BYTES = 256 * 1024
"""What we take: a command has 4 KB. Told to the broker, which keeps larger messages from us (MQTT 5)."""
_PROPERTIES_BYTES = 100
"""Allowance for properties and header of a message."""
_NO_RETAIN, _NO_QOS = 154, 155

_may_log_message = LogLimit("messages that cannot be handled").admits

log = get_logger()

Protocol = Literal[3, 5]
_PASSING = (136, 137, 139, 141, 152, 159, 160)
"""MQTT 5 reasons that end by themselves: unavailable, busy, shutting down, keep-alive, and the like."""
_HINTS = {
    133: "choose another node or topic_root: they make the client id",
    134: "check mqtt.username and the password file",
    135: "check mqtt.username, the password file and the broker's access list",
    138: "ask who runs the broker",
    142: "another daemon runs with the same node and topic_root: give each its own node",
}
_FROM_BROKER = (ValueError, LookupError, struct.error)
"""What parsing raises when the other side does not speak MQTT."""


def _guarded(on_message: Callable[[MQTTMessage], None], message: MQTTMessage) -> None:
    """One message that is unforeseen must not end the connection: it would come again with each."""
    try:
        on_message(message)
    except Exception:
        if not _may_log_message():
            return
        log.exception(
            "a message of the broker cannot be handled and is passed over", bytes=len(message.payload)
        )


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us, retained, when we vanish."""

    topic: str
    payload: str
    delay_s: int
    """MQTT 5: not if we are back by then. 3.1.1 sends it at once."""


class Connection:
    """One MQTT connection.

    Args:
        broker: Where to.
        client_id: Unique at the broker.
        protocol: 5, or 3 for 3.1.1.
        session_expiry_s: MQTT 5: how long the broker keeps our session after we vanish; longer than the delay
            of the will, because the end of the session sends it. 0 begins a clean one.
        will: What to say if we vanish.
        on_message: Called within `step` for each message of a subscription.
        without: What the will does without; see BrokerLacks.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        protocol: Protocol = 5,
        session_expiry_s: int = 0,
        will: Will | None = None,
        on_message: Callable[[MQTTMessage], None] | None = None,
        without: Concessions = EVERYTHING,
    ) -> None:
        self.acknowledged: list[tuple[int, str | None]] = []
        """Packet ids of QoS 1 messages that the broker answered since the list was last emptied, each with
        the reason where it refused the message."""
        self.subscribed: list[str | None] = []
        """One entry for each answered subscription: None, or why it was refused."""
        self.limits = Limits(retained=without.retained, qos=without.qos)
        """What the broker allows; known when `open` returns."""
        self._broker = broker
        self._v5 = protocol == 5
        self._without = without
        self._session_expiry_s = session_expiry_s
        self._answer: ReasonCode | None = None
        self._last_error = ""
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id,
            protocol=MQTTv5 if self._v5 else MQTTv311,
            clean_session=None if self._v5 else True,
            reconnect_on_failure=False,
        )
        if broker.username is not None:
            self._client.username_pw_set(broker.username, broker.password())
        context = broker.tls_context()
        if context is not None:
            self._client.tls_set_context(context)
        if will is not None:
            properties = self._properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay_s)
            self._client.will_set(
                will.topic, will.payload, qos=without.qos, retain=without.retained, properties=properties
            )
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_publish = self._on_publish
        self._client.on_subscribe = self._on_subscribe
        self._client.on_log = self._on_log
        if on_message is not None:
            self._client.on_message = lambda _client, _userdata, message: _guarded(on_message, message)

    def open(self, timeout_s: float = math.inf) -> None:
        """Connect and wait for the broker's answer, for `timeout_s` or the broker's own limit.

        Where that fails nothing stays open.

        Raises:
            BrokerAway: Not reachable.
            BrokerSilent: It hung up, or did not answer in time.
            BrokerRefuses: It answered no, or TLS failed.
            BrokerTooOld: It refuses MQTT 5.
        """
        try:
            self._open(min(timeout_s, self._broker.connect_timeout_s))
        except BaseException:
            self.abort()
            raise

    def _open(self, timeout_s: float) -> None:
        self._client.connect_timeout = timeout_s
        try:
            self._client.connect(
                self._broker.host,
                self._broker.port,
                self._broker.keepalive_s,
                # A will with a delay is only called off by coming back to the same session.
                clean_start=self._session_expiry_s == 0 if self._v5 else MQTT_CLEAN_START_FIRST_ONLY,
                properties=self._properties(
                    PacketTypes.CONNECT,
                    SessionExpiryInterval=self._session_expiry_s,
                    MaximumPacketSize=_TAKEN_PACKET_BYTES,
                ),
            )
        except ssl.SSLError as error:
            raise self._tls_trouble(error) from error
        except (OSError, ValueError) as error:
            raise BrokerAway(f"no connection to {self._broker.address}: {error}") from error
        opened = self._client.socket()
        if isinstance(opened, socket.socket):
            # Without this the second of two small messages waits for the first one's TCP acknowledgement.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        deadline = time.monotonic() + timeout_s
        while self._answer is None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise BrokerSilent(f"{self._broker.address} did not answer within {timeout_s:.3g} s")
            self.step(left_s)

    def step(self, timeout_s: float, wake: socket.socket | None = None) -> None:
        """Wait for the network, at most `timeout_s` or until `wake` is readable, and handle what came.

        Raises:
            BrokerAway: The connection ended.
            BrokerRefuses: The broker ended it and said why.
        """
        connected = self._client.socket()
        if connected is None:
            raise self._end()
        pending = getattr(connected, "pending", None)
        if pending is not None and pending():  # TLS has decrypted more than was asked for
            timeout_s = 0.0
        poll = select.poll()  # not select: a process with many machines has descriptors above 1,024
        poll.register(connected, select.POLLIN | (select.POLLOUT if self._client.want_write() else 0))
        if wake is not None:
            poll.register(wake, select.POLLIN)
        try:
            ready = dict(poll.poll(math.ceil(max(0.0, timeout_s) * 1000)))
            events = ready.get(connected.fileno(), 0)
            if events & ~select.POLLOUT or (pending is not None and pending()):
                self._client.loop_read()
            if events & select.POLLOUT and self._client.socket() is not None:
                self._client.loop_write()
            self._client.loop_misc()
        except _FROM_BROKER as error:
            raise BrokerAway(f"{self._broker.address} does not speak MQTT: {error!r}") from error
        if self._client.socket() is None:
            raise self._end()

    def publish(
        self,
        topic: str,
        payload: str | bytes,
        *,
        qos: int,
        retain: bool = False,
        expiry_s: int | None = None,
        user: tuple[tuple[str, str], ...] = (),
        correlation: bytes | None = None,
    ) -> int:
        """Send a message; the packet id that comes back in `acknowledged` when `qos` is 1."""
        said: dict[str, Any] = {}
        if expiry_s is not None:
            said["MessageExpiryInterval"] = expiry_s
        if user:
            said["UserProperty"] = list(user)
        if correlation is not None:
            said["CorrelationData"] = correlation
        properties = self._properties(PacketTypes.PUBLISH, **said)
        qos, retain = min(qos, self.limits.qos), retain and self.limits.retained
        return self._client.publish(topic, payload, qos, retain, properties).mid

    def fits(self, topic: str, payload: str | bytes) -> bool:
        """Whether the broker takes a message of this size."""
        size = len(payload.encode()) if isinstance(payload, str) else len(payload)
        return size + len(topic.encode()) + _PROPERTIES_BYTES <= self.limits.packet_bytes

    def subscribe(self, topic: str, *, qos: int = 1, retain_as_published: bool = True) -> None:
        """Ask for a topic; the answer comes in `subscribed`.

        Args:
            topic: Or a filter.
            qos: At most.
            retain_as_published: With MQTT 5, the flag is as the sender set it; otherwise it marks what the
                broker had kept.
        """
        if self._v5:
            options = SubscribeOptions(qos, retainAsPublished=retain_as_published)
            self._client.subscribe(topic, options=options)
        else:
            self._client.subscribe(topic, qos)

    def disconnect(self, timeout_s: float = 1.0) -> None:
        """Say good-bye: the broker forgets the will and the session."""
        if self._client.socket() is None:
            return
        self._client.disconnect(properties=self._properties(PacketTypes.DISCONNECT, SessionExpiryInterval=0))
        deadline = time.monotonic() + timeout_s
        while self._client.socket() is not None and time.monotonic() < deadline:
            try:
                self.step(0.1)
            except DeliveryError:
                return

    def abort(self) -> None:
        """End it without a word: to the broker we have vanished. Harmless where it has ended already."""
        connected = self._client.socket()
        if connected is not None:
            connected.close()
            with contextlib.suppress(*_FROM_BROKER):
                self._client.loop_read()  # finds it closed and tidies up

    def _end(self) -> DeliveryError:
        """Why the connection ended."""
        reason = self._answer
        if reason is None and "ALERT" in self._last_error:
            return BrokerRefuses(
                f"{self._broker.address} ended TLS: {self._last_error}",
                "check cert_file and key_file under mqtt.tls",
            )
        if reason is None or not reason.is_failure:
            away = BrokerSilent if reason is None else BrokerAway
            return away(
                f"{self._broker.address} closed the connection ({self._last_error or 'no reason given'})",
                self._unsigned_hint(),
            )
        return self._refusal(reason)

    def _refusal(self, reason: ReasonCode) -> DeliveryError:
        message = f"{self._broker.address} refuses: {reason}"
        if reason.value == 132:
            return BrokerTooOld(message, "set mqtt.protocol: 3")
        if reason.value == _NO_RETAIN and self._without.retained:
            return BrokerLacks(message, Concessions(retained=False, qos=self._without.qos))
        if reason.value == _NO_QOS and self._without.qos:
            return BrokerLacks(message, Concessions(retained=self._without.retained, qos=0))
        if reason.value in _PASSING:
            return BrokerAway(message)
        return BrokerRefuses(message, _HINTS.get(reason.value, "look into the log of the broker"))

    def _unsigned_hint(self) -> str:
        """A broker that wants a client certificate may hang up without a word."""
        if not self._broker.tls or self._broker.cert_file is not None:
            return ""
        return "does it ask for a client certificate? cert_file and key_file under mqtt.tls"

    def _tls_trouble(self, error: ssl.SSLError) -> DeliveryError:
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return BrokerAway(
                f"{self._broker.address} closed the connection during the TLS handshake",
                self._unsigned_hint(),
            )
        if isinstance(error, ssl.SSLCertVerificationError):
            return untrusted(self._broker.address, error)
        return BrokerRefuses(
            f"TLS with {self._broker.address} failed: {error.reason or error}",
            "does the broker speak TLS on this port, and does it ask for a client certificate?",
        )

    def _properties(self, packet: int, **values: Any) -> Properties | None:
        if not self._v5 or not values:
            return None
        properties = Properties(packet)  # type: ignore[no-untyped-call]
        for name, value in values.items():
            setattr(properties, name, value)
        return properties

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._answer = reason
        limits = self.limits
        limits.in_flight = min(getattr(properties, "ReceiveMaximum", MAX_IN_FLIGHT), MAX_IN_FLIGHT)
        limits.packet_bytes = getattr(properties, "MaximumPacketSize", MAX_PACKET_BYTES)
        limits.qos = min(limits.qos, getattr(properties, "MaximumQoS", 1))
        limits.retained &= bool(getattr(properties, "RetainAvailable", 1))
        limits.wildcards = bool(getattr(properties, "WildcardSubscriptionAvailable", 1))
        limits.session_expiry_s = getattr(properties, "SessionExpiryInterval", None)
        limits.keepalive_s = getattr(properties, "ServerKeepAlive", None)

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._answer = reason
        elif not self._last_error:
            self._last_error = str(reason)

    def _on_publish(
        self, _client: Client, _userdata: object, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        self.acknowledged.append((mid, str(reason) if reason.is_failure else None))

    def _on_subscribe(
        self,
        _client: Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        self.subscribed += [str(reason) if reason.is_failure else None for reason in reasons]

    def _on_log(self, _client: Client, _userdata: object, level: int, text: str) -> None:
        # The only place where paho tells why a socket failed.
        if level == MQTT_LOG_ERR:
            self._last_error = text
