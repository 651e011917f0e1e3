"""A plant is every machine of every node that publishes to one broker: what it keeps of them, and commands.

Runs in the thread that calls it.
"""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import MQTTMessage

from echo_stream.cli.common import read_config_or_defaults
from echo_stream.cli.fleet import Fleet, MachineNow, seconds_since
from echo_stream.core.errors import CommandRefused, ConfigError, DeliveryError
from echo_stream.core.text import clean_lines
from echo_stream.mqtt.broker import Broker, BrokerRefuses, BrokerTooOld
from echo_stream.mqtt.connection import Connection, Protocol
from echo_stream.mqtt.payloads import Payload
from echo_stream.mqtt.topics import Topics
from echo_stream.pipeline.factory import broker_settings

KEPT = ("+/status", "+/health", "+/+/availability", "+/+/alarm", "+/+/health", "+/+/bank")
QUIET_S = 1.0
"""All is there when so long no topic came that had not come before; what is sent anew has known topics."""
MOST_S = 60.0
REPLY_S = 10.0
LOOK_S = 10.0
LEAST_COVERAGE = 0.95
SILENT_S = 600.0
"""A health comes each ten seconds: older, and nothing passes between the broker and its node."""
URGENCY = (
    "alarm",
    "alarm, seen",
    "not listening",
    "not heard lately",
    "to acknowledge",
    "warning",
    "degraded",
    "",
)
"""From the most urgent."""


@dataclass(frozen=True)
class Plant:
    """The broker that all nodes publish to."""

    broker: Broker
    topic_root: str
    protocol: Protocol = 5

    @classmethod
    def of(cls, broker: str | None, config: Path | None) -> Plant:
        """That of the configuration, or at another address with the same user, password and TLS.

        Raises:
            ConfigError: `broker` is no HOST[:PORT].
        """
        settings = read_config_or_defaults(config)
        asked = broker_settings(settings)
        if broker is not None:
            host, port = _address(broker)
            asked = replace(asked, host=host, port=port or asked.port)
        return cls(asked, settings.mqtt.topic_root, settings.mqtt.protocol)

    @contextmanager
    def connected(
        self, topics: Sequence[str], on_message: Callable[[MQTTMessage], None]
    ) -> Iterator[Connection]:
        """A connection that is subscribed to `topics` below the root.

        Raises:
            DeliveryError: the broker is away, or does not let us in.
        """
        connection = self._open(self.protocol, on_message)
        try:
            for topic in topics:
                connection.subscribe(f"{self.topic_root}/{topic}")
            until_s = time.monotonic() + MOST_S
            while len(connection.subscribed) < len(topics) and time.monotonic() < until_s:
                connection.step(0.1)
            if refused := next(filter(None, connection.subscribed), None):
                raise BrokerRefuses(
                    f"the broker does not let this user read {self.topic_root}/: {refused}",
                    f"a user who may read {self.topic_root}/# is needed",
                )
            yield connection
            connection.disconnect()
        finally:
            connection.abort()

    def _open(self, protocol: Protocol, on_message: Callable[[MQTTMessage], None]) -> Connection:
        connection = Connection(
            self.broker,
            client_id=f"{self.topic_root}-plant-{secrets.token_hex(4)}",
            protocol=protocol,
            on_message=on_message,
        )
        try:
            connection.open()
        except BrokerTooOld:
            return self._open(3, on_message)
        return connection


def collect(plant: Plant, quiet_s: float = QUIET_S) -> Fleet:
    """What the broker keeps of all nodes.

    Raises:
        DeliveryError: the broker is away, or does not let us in.
    """
    fleet, known, news_s = Fleet(plant.topic_root), set[str](), time.monotonic()

    def received(message: MQTTMessage) -> None:
        nonlocal news_s
        fleet.apply(message.topic, bytes(message.payload))
        if message.topic not in known:
            known.add(message.topic)
            news_s = time.monotonic()

    with plant.connected(KEPT, received) as connection:
        begins_s = news_s = time.monotonic()
        while (now_s := time.monotonic()) - news_s < quiet_s and now_s - begins_s < MOST_S:
            connection.step(0.1)
    return fleet


def follow(
    plant: Plant,
    topics: Sequence[str],
    on_change: Callable[[Fleet], None],
    stop: Event,
    *,
    every_s: float = 0.5,
    retry_s: tuple[float, float] = (1.0, 30.0),
) -> None:
    """Call `on_change` when something was received, at most every `every_s`, until `stop` is set.

    Also each LOOK_S: what says nothing changes too. A broker that is away or refuses us is shown in
    `Fleet.trouble` and tried again, after waits that double from the first to the second of `retry_s`.
    """
    fleet, news, wait_s = Fleet(plant.topic_root), Event(), retry_s[0]

    def received(message: MQTTMessage) -> None:
        if fleet.apply(message.topic, bytes(message.payload)):
            news.set()

    while not stop.is_set():
        try:
            with plant.connected(topics, received) as connection:
                fleet.trouble, wait_s, shown_s = "", retry_s[0], 0.0
                news.set()
                while not stop.is_set():
                    connection.step(every_s)
                    since_s = time.monotonic() - shown_s
                    if since_s >= LOOK_S or (news.is_set() and since_s >= every_s):
                        news.clear()
                        shown_s = time.monotonic()
                        on_change(fleet)
        except DeliveryError as error:
            fleet.trouble = error.message
            on_change(fleet)
            # With jitter, so that many do not come back at once.
            stop.wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            wait_s = min(2 * wait_s, retry_s[1])


def ask(plant: Plant, machine: str, command: Mapping[str, Any], wait_s: float = REPLY_S) -> str:
    """Send a command to a machine, written NODE/MACHINE, and wait for what became of it.

    Args:
        plant: where.
        machine: such as `pc7/pump3`.
        command: as in schemas/command.json.
        wait_s: for the reply.

    Raises:
        ConfigError: `machine` is not of that form.
        CommandRefused: the daemon did not carry it out; says why.
        DeliveryError: the broker is away, or no daemon answered.
    """
    node, _, name = machine.partition("/")
    try:
        topics = Topics(plant.topic_root, node)
        replies = topics.of(name, "reply").removeprefix(f"{plant.topic_root}/")
    except DeliveryError as error:
        raise ConfigError(f"{machine}: is no machine", "expected NODE/MACHINE, as pc7/pump3") from error
    mark, answers = secrets.token_hex(8), list[Payload]()

    def received(message: MQTTMessage) -> None:
        with suppress(ValueError):
            reply = json.loads(message.payload)
            if isinstance(reply, dict) and reply.get("id") == mark:
                answers.append(reply)

    with plant.connected([replies], received) as connection:
        text = json.dumps({**command, "id": mark})
        connection.publish(topics.of(name, "cmd"), text, qos=1, expiry_s=round(wait_s))
        until_s = time.monotonic() + wait_s
        while not answers and time.monotonic() < until_s:
            connection.step(0.1)
    if not answers:
        raise DeliveryError(
            f"{machine} did not answer within {wait_s:.0f} s; it may follow later",
            "Is its node online, and may this user publish to its topic cmd? See: echo-stream plant list",
        )
    outcome = clean_lines(str(answers[0].get("outcome")))
    if not answers[0].get("ok"):
        raise CommandRefused(f"{machine}: {outcome}")
    return outcome


def listed(fleet: Fleet, asset: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Nodes and machines as plain JSON, the most urgent machines first.

    Args:
        fleet: what was received.
        asset: only machines at this place, such as {"line": "3"}.
    """
    machines = [machine_now(fleet, now) for now in fleet.machines.values()]
    machines = [m for m in machines if stands_at(m["asset"], asset)]
    machines.sort(key=lambda m: (URGENCY.index(m["urgency"]), m["node"], m["machine"]))
    nodes = sorted({*fleet.nodes, *fleet.node_healths, *(node for node, _ in fleet.machines)})
    return {"nodes": [node_now(fleet, node) for node in nodes], "machines": machines}


def node_now(fleet: Fleet, node: str) -> dict[str, Any]:
    """A node as plain JSON."""
    health = fleet.node_healths.get(node, {})
    return {
        "node": node,
        "online": fleet.nodes.get(node, False),
        "state": health.get("state"),
        "reasons": health.get("reasons", []),
        "counters": health.get("counters", {}),
        "heard": health.get("ts"),
    }


def stands_at(place: Mapping[str, str] | None, wanted: Mapping[str, str] | None) -> bool:
    """Whether a machine stands where it is wanted, such as {"line": "3"}."""
    return all((place or {}).get(key) == value for key, value in (wanted or {}).items())


def machine_now(fleet: Fleet, now: MachineNow) -> dict[str, Any]:
    """A machine as plain JSON."""
    alarm, health, bank = now.alarm or {}, now.health or {}, now.bank or {}
    times = [each["ts"] for each in (alarm, health, bank) if isinstance(each.get("ts"), str)]
    proposed = bank.get("latest_version")
    return {
        "node": now.node,
        "machine": now.machine,
        "name": alarm.get("name", now.machine),
        "asset": next((each["asset"] for each in (alarm, health, bank) if each.get("asset")), None),
        "urgency": _urgency(fleet, now, alarm, health),
        "listening": fleet.listening(now),
        "capture": health.get("capture"),
        "state": alarm.get("state"),
        "level": alarm.get("level"),
        "active": alarm.get("active"),
        "event_id": alarm.get("event_id"),
        "coverage_10m": health.get("coverage_10m"),
        "bank": bank.get("installed_version"),
        "bank_proposed": proposed if proposed != bank.get("installed_version") else None,
        "versions": health.get("versions", {}),
        "heard": max(times, default=None),
    }


def _urgency(fleet: Fleet, now: MachineNow, alarm: Payload, health: Payload) -> str:
    state, level = alarm.get("state"), alarm.get("level")
    if level == "alarm":
        return "alarm" if state in ("UNACK", "LATCHED_UNACK") else "alarm, seen"
    if not fleet.listening(now):
        return "not listening"
    if (seconds_since(health.get("ts")) or 0.0) > SILENT_S:
        return "not heard lately"
    if state in ("RTN_UNACK", "LATCHED_UNACK"):
        return "to acknowledge"
    if level == "warning":
        return "warning"
    coverage = health.get("coverage_10m")
    low = coverage is not None and coverage < LEAST_COVERAGE
    degraded = fleet.node_healths.get(now.node, {}).get("state") == "degraded"
    return "degraded" if low or degraded else ""


def _address(text: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.netloc == text and parts.username is None:
            return parts.hostname, parts.port
    except ValueError:  # no number of a port
        pass
    raise ConfigError(
        f"--broker {text}: is no broker", "expected HOST or HOST:PORT, such as broker.plant:8883"
    )
