"""watch follows the live state of all machines of all nodes, as the broker has it.

`follow` runs on the thread that calls it.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from paho.mqtt.client import MQTTMessage

from echo_stream.core.errors import DeliveryError
from echo_stream.mqtt.connection import Broker, BrokerTooOld, Connection, Protocol
from echo_stream.mqtt.payloads import ONLINE, Payload


@dataclass
class MachineNow:
    """What is known of one machine; None where nothing was received yet."""

    node: str
    machine: str
    available: bool | None = None
    """Capture and bank work; counts only while the node is online, see `Fleet.listening`."""
    alarm: Payload | None = None
    """Newest alarm state (schemas/alarm.json)."""
    score: Payload | None = None
    """Newest score (schemas/score.json)."""
    health: Payload | None = None
    """Newest health (schemas/health.json)."""
    event: Payload | None = None
    """Newest event since the watching began (schemas/event.json)."""
    bank: Payload | None = None
    """Version of the bank in use, and the one proposed (schemas/bank.json)."""


@dataclass
class Fleet:
    """All machines of which a message came."""

    root: str
    nodes: dict[str, bool] = field(default_factory=dict)
    """Node to whether its daemon is online."""
    node_healths: dict[str, Payload] = field(default_factory=dict)
    """Node to its newest health (schemas/node_health.json)."""
    machines: dict[tuple[str, str], MachineNow] = field(default_factory=dict)
    """(node, machine) to what is known of it."""
    trouble: str = ""
    """Why there is no connection to the broker; empty while there is one."""

    def listening(self, machine: MachineNow) -> bool:
        """Capture and bank of a machine work, and the daemon that says so is there."""
        return bool(machine.available) and self.nodes.get(machine.node, False)

    def apply(self, topic: str, payload: bytes) -> bool:
        """Take a message in; whether it was one of ours."""
        if not topic.startswith(f"{self.root}/"):
            return False
        levels = topic.removeprefix(f"{self.root}/").split("/")
        if len(levels) == 2 and levels[1] == "status":
            self.nodes[levels[0]] = payload == ONLINE.encode()
            return True
        if len(levels) == 2 and levels[1] == "health":
            document = _document(payload)
            self.node_healths |= {levels[0]: document} if document is not None else {}
            return document is not None
        if len(levels) != 3:
            return False
        node, machine, what = levels
        now = self.machines.get((node, machine), MachineNow(node, machine))
        if not _take(now, what, payload):
            return False
        self.machines[node, machine] = now
        return True


def _take(now: MachineNow, what: str, payload: bytes) -> bool:
    if what == "availability":
        now.available = payload == ONLINE.encode()
        return True
    if what not in ("alarm", "score", "health", "event", "bank"):
        return False
    document = _document(payload)
    if document is None:
        return False
    setattr(now, what, document)
    return True


def _document(payload: bytes) -> Payload | None:
    try:
        document: Any = json.loads(payload)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def follow(
    broker: Broker,
    topic_root: str,
    on_change: Callable[[Fleet], None],
    stop: threading.Event,
    *,
    protocol: Protocol = 5,
    every_s: float = 0.5,
    retry_s: float = 2.0,
) -> None:
    """Call `on_change` when something was received, at most every `every_s`, until `stop` is set.

    A broker that is away or refuses us is shown in `Fleet.trouble` and tried again.
    """
    fleet = Fleet(topic_root)
    while not stop.is_set():
        try:
            _follow_one(broker, fleet, on_change, stop, protocol=protocol, every_s=every_s)
        except BrokerTooOld:
            protocol = 3
        except DeliveryError as error:
            fleet.trouble = error.message
            on_change(fleet)
            stop.wait(retry_s)


def _follow_one(
    broker: Broker,
    fleet: Fleet,
    on_change: Callable[[Fleet], None],
    stop: threading.Event,
    *,
    protocol: Protocol,
    every_s: float,
) -> None:
    changed = True

    def received(message: MQTTMessage) -> None:
        nonlocal changed
        changed |= fleet.apply(message.topic, bytes(message.payload))

    connection = Connection(
        broker,
        client_id=f"{fleet.root}-watch-{secrets.token_hex(4)}",
        protocol=protocol,
        on_message=received,
    )
    try:
        connection.open()
        fleet.trouble = ""
        connection.subscribe(f"{fleet.root}/+/status")
        connection.subscribe(f"{fleet.root}/+/+/+")
        shown_s = 0.0
        while not stop.is_set():
            connection.step(every_s)
            if changed and time.monotonic() - shown_s >= every_s:
                changed = False
                shown_s = time.monotonic()
                on_change(fleet)
        connection.disconnect()
    finally:
        connection.abort()
