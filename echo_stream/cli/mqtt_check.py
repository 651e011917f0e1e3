"""mqtt check connects to the broker step by step, each with what was found and what to do.

The connection is the daemon's: a retained last will, messages that are retained, the largest one that it
sends; what the broker does not have, the daemon will do without, and that is said. For the command line;
waits for the network. Publishes to `<root>/<node>/check` only; nothing stays there.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from paho.mqtt.client import MQTTMessage

from echo_stream.core.errors import DeliveryError
from echo_stream.mqtt.broker import (
    Broker,
    BrokerAway,
    BrokerLacks,
    BrokerRefuses,
    BrokerSilent,
    BrokerTooOld,
    Concessions,
    untrusted,
)
from echo_stream.mqtt.connection import Connection, Protocol, Will
from echo_stream.mqtt.homeassistant import discovery_topic, is_ours
from echo_stream.mqtt.topics import Topics

STEPS = ("name", "TCP", "TLS", "authentication", "limits", "subscribe", "publish")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step found."""

    name: str
    """One of STEPS."""
    ok: bool
    found: str
    """What it found, or what went wrong."""
    hint: str = ""
    """What to do; empty where it went well."""


def check(
    broker: Broker, topics: Topics, *, protocol: Protocol = 5, largest_bytes: int = 4096
) -> Iterator[Step]:
    """Yield each step as it is done; the first that fails is the last.

    Args:
        broker: Where it is and how it lets us in.
        topics: Of the node that wants to publish there.
        protocol: 5, or 3 for 3.1.1.
        largest_bytes: Size of the largest message that the daemon will send there.
    """
    received: list[bytes] = []
    connections: list[Connection] = []
    steps: dict[str, Callable[[], str]] = {
        "name": lambda: _name(broker),
        "TCP": lambda: _tcp(broker),
        "TLS": lambda: _tls(broker),
        "authentication": lambda: _authentication(broker, topics, protocol, received, connections),
        "limits": lambda: _limits(connections[0], largest_bytes),
        "subscribe": lambda: _subscribe(connections[0], topics),
        "publish": lambda: _publish(connections[0], topics, received, largest_bytes),
    }
    try:
        for name in STEPS:
            try:
                found = steps[name]()
            except DeliveryError as error:
                yield Step(name, False, error.message, error.hint)
                return
            yield Step(name, True, found)
        connections[0].disconnect()
    finally:
        for connection in connections:
            connection.abort()


def _name(broker: Broker) -> str:
    try:
        found = socket.getaddrinfo(broker.host, broker.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise BrokerAway(
            f"the name {broker.host!r} has no address: {error}", "correct mqtt.host, or the name server"
        ) from error
    return f"{broker.host} is {', '.join(dict.fromkeys(str(address[4][0]) for address in found))}"


def _tcp(broker: Broker) -> str:
    where = broker.address
    try:
        with socket.create_connection((broker.host, broker.port), broker.connect_timeout_s):
            return f"{where} accepts connections"
    except TimeoutError as error:
        raise BrokerAway(
            f"{where} does not answer within {broker.connect_timeout_s:g} s",
            "is the machine on, and does a firewall stand between?",
        ) from error
    except OSError as error:
        raise BrokerAway(
            f"no connection to {where}: {error.strerror or error}",
            "is the broker running, does it listen on this address, and is mqtt.port right?",
        ) from error


def _tls(broker: Broker) -> str:
    context = broker.tls_context()
    if context is None:
        return "off: password and messages can be read on the way"
    try:
        with (
            socket.create_connection((broker.host, broker.port), broker.connect_timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as encrypted,
        ):
            certificate = encrypted.getpeercert() or {}
            return f"{encrypted.version()}, the certificate is valid until {certificate.get('notAfter')}"
    except ssl.SSLCertVerificationError as error:
        raise untrusted("the broker", error) from error
    except OSError as error:
        raise BrokerRefuses(
            f"no TLS: {error}", "does the broker speak TLS on this port (8883 is usual, 1883 is plain)?"
        ) from error


def _authentication(
    broker: Broker, topics: Topics, protocol: Protocol, received: list[bytes], connections: list[Connection]
) -> str:
    def connect(version: Protocol, without: Concessions) -> str:
        connection = Connection(
            broker,
            client_id=f"{topics.root}-{topics.node}-check-{secrets.token_hex(4)}",
            protocol=version,
            on_message=lambda message: received.append(bytes(message.payload)),
            will=Will(_topic(topics), "", 0),
            without=without,
        )
        connections[:] = [connection]
        try:
            connection.open()
        except BrokerLacks as error:  # as the daemon does
            return connect(version, error.without)
        who = f"user {broker.username}" if broker.username is not None else "anyone"
        return f"let in as {who}, MQTT {'5' if version == 5 else '3.1.1'}"

    try:
        try:
            return connect(protocol, Concessions())
        except (BrokerTooOld, BrokerSilent):
            if protocol == 3:
                raise
            return f"{connect(3, Concessions())} (it does not speak 5; the daemon falls back by itself)"
    except BrokerAway as error:
        raise BrokerAway(
            error.message, "is this an MQTT broker, and does it want TLS on this port (8883 is usual)?"
        ) from error


def _limits(connection: Connection, largest_bytes: int) -> str:
    limits = connection.limits
    found = list(limits.lacks)
    if largest_bytes > limits.packet_bytes:
        found.append(
            f"the largest message has {largest_bytes} bytes: Home Assistant's discovery is not sent, "
            "and long events are shortened"
        )
    if limits.keepalive_s is not None:
        found.append(f"the broker asks for a sign of life every {limits.keepalive_s} s")
    return "the daemon will do without: " + "; ".join(found) if found else "none that matters"


def _subscribe(connection: Connection, topics: Topics) -> str:
    commands = topics.commands if connection.limits.wildcards else topics.of("check", "cmd")
    wanted = (_topic(topics), commands)
    for topic in wanted:
        connection.subscribe(topic)
    _wait(connection, lambda: len(connection.subscribed) == len(wanted), "answer to a subscription")
    denied = [f"{topic}: {why}" for topic, why in zip(wanted, connection.subscribed, strict=True) if why]
    if denied:
        raise BrokerRefuses(
            f"no subscription to {'; '.join(denied)}",
            "let this user read these topics in the broker's access list",
        )
    return f"to {' and '.join(wanted)}"


def _publish(connection: Connection, topics: Topics, received: list[bytes], largest_bytes: int) -> str:
    topic = _topic(topics)
    room = connection.limits.packet_bytes - len(topic) - 100
    payload = secrets.token_hex(8).encode().ljust(max(16, min(largest_bytes, room)), b".")
    hint = f"let this user write {topics.root}/{topics.node}/# in the broker's access list"
    began_s = time.monotonic()
    try:
        _send(connection, topic, payload, hint)
        try:
            _wait(connection, lambda: payload in received, "message come back")
        except BrokerAway as error:
            # MQTT 3.1.1 has no word for a refused message: it is acknowledged and dropped.
            raise BrokerRefuses(f"{topic} was acknowledged but {error.message}", hint) from error
        took_ms = (time.monotonic() - began_s) * 1000
    finally:
        with contextlib.suppress(DeliveryError):
            _send(connection, topic, b"", hint)  # retained: it must not stay
    kept = "retained" if connection.limits.retained else "not retained"
    return f"to {topic}, {len(payload)} bytes, {kept}, acknowledged and received back within {took_ms:.0f} ms"


def _send(connection: Connection, topic: str, payload: bytes, hint: str) -> None:
    packet = connection.publish(topic, payload, qos=1, retain=True)
    try:
        _wait(connection, lambda: any(p == packet for p, _ in connection.acknowledged), "acknowledgement")
    except (BrokerAway, BrokerRefuses) as error:
        raise BrokerRefuses(
            f"publishing {len(payload)} bytes to {topic}: {error.message}",
            f"{hint}; does it limit the size of messages, or forbid retained ones?",
        ) from error
    refusal = dict(connection.acknowledged)[packet]
    if refusal is not None:
        raise BrokerRefuses(f"publishing to {topic}: {refusal}", hint)


def _topic(topics: Topics) -> str:
    return f"{topics.root}/{topics.node}/check"


def _wait(connection: Connection, done: Callable[[], bool], what: str, timeout_s: float = 5.0) -> None:
    until_s = time.monotonic() + timeout_s
    while not done():
        left_s = until_s - time.monotonic()
        if left_s <= 0:
            raise BrokerAway(f"no {what} within {timeout_s:g} s", "look into the log of the broker")
        connection.step(left_s)


# Take our devices out of Home Assistant again. For the command line; waits for the broker.

_QUIET_S = 0.5
_WAIT_S = 10.0


def purge_discovery(
    broker: Broker,
    topics: Topics,
    machines: Iterable[str],
    *,
    prefix: str = "homeassistant",
    protocol: Protocol = 5,
) -> list[str]:
    """Empty the retained discovery messages of this node: of these machines, and of any that it once had.

    A daemon that runs with a discovery prefix sends them again at its next connection.

    Returns:
        The topics that were emptied.

    Raises:
        DeliveryError: The broker is away or refuses us.
    """
    found = {discovery_topic(prefix, topics, machine) for machine in machines}

    def received(message: MQTTMessage) -> None:
        if is_ours(bytes(message.payload), topics):
            found.add(message.topic)
        heard_s.append(time.monotonic())

    heard_s = [time.monotonic()]
    connection = Connection(
        broker, client_id=f"{topics.root}-{topics.node}-purge", protocol=protocol, on_message=received
    )
    connection.open()
    try:
        connection.subscribe(f"{prefix}/device/+/config")
        give_up_s = time.monotonic() + _WAIT_S
        # Retained messages follow the answer to a subscription; how many there are, nobody says.
        while not connection.subscribed or time.monotonic() < heard_s[-1] + _QUIET_S:
            if time.monotonic() > give_up_s:
                break
            connection.step(0.1)
        waiting = {connection.publish(topic, b"", qos=1, retain=True) for topic in found}
        while waiting and time.monotonic() < give_up_s + _WAIT_S:
            connection.step(0.1)
            waiting -= {packet for packet, refusal in connection.acknowledged if refusal is None}
        if waiting:
            raise BrokerAway(
                f"{len(waiting)} of {len(found)} discovery messages could not be emptied",
                "try again; check what the broker's access list lets this user publish",
            )
        connection.disconnect()
    finally:
        connection.abort()
    return sorted(found)
