"""plant lists every machine of every node by what the broker keeps of it, the most urgent first.

It reads retained messages alone and changes nothing. Runs in the thread that calls it.
"""

from __future__ import annotations

import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from paho.mqtt.client import MQTTMessage
from rich.console import Console
from rich.table import Table

from echo_stream.cli.common import print_json, quiet, read_config_or_defaults
from echo_stream.cli.watch import Fleet, MachineNow
from echo_stream.core.errors import ConfigError
from echo_stream.mqtt.connection import Broker, BrokerRefuses, BrokerTooOld, Connection, Protocol
from echo_stream.mqtt.payloads import Payload
from echo_stream.pipeline.factory import broker_settings

RETAINED = ("+/status", "+/health", "+/+/availability", "+/+/alarm", "+/+/health", "+/+/bank")
QUIET_S = 1.0
"""All is there when so long no topic came that had not come before; what is sent anew has known topics."""
MOST_S = 60.0
LEAST_COVERAGE = 0.95
URGENCY = ("alarm", "alarm, seen", "not listening", "to acknowledge", "warning", "degraded", "")
"""From the most urgent."""


def collect(broker: Broker, topic_root: str, protocol: Protocol = 5, quiet_s: float = QUIET_S) -> Fleet:
    """What the broker keeps of all nodes.

    Raises:
        DeliveryError: the broker is away, or does not let us in.
    """
    fleet, topics, news_s = Fleet(topic_root), set[str](), time.monotonic()

    def received(message: MQTTMessage) -> None:
        nonlocal news_s
        fleet.apply(message.topic, bytes(message.payload))
        if message.topic not in topics:
            topics.add(message.topic)
            news_s = time.monotonic()

    connection = Connection(
        broker,
        client_id=f"{topic_root}-plant-{secrets.token_hex(4)}",
        protocol=protocol,
        on_message=received,
    )
    try:
        connection.open()
        for topic in RETAINED:
            connection.subscribe(f"{topic_root}/{topic}")
        begins_s = news_s = time.monotonic()
        while (now_s := time.monotonic()) - news_s < quiet_s and now_s - begins_s < MOST_S:
            connection.step(0.1)
        if refused := next(filter(None, connection.subscribed), None):
            raise BrokerRefuses(
                f"the broker does not let this user read {topic_root}/: {refused}",
                f"a user who may read {topic_root}/# is needed",
            )
        connection.disconnect()
    except BrokerTooOld:
        return collect(broker, topic_root, 3, quiet_s)
    finally:
        connection.abort()
    return fleet


def listed(fleet: Fleet, asset: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Nodes and machines as plain JSON, the most urgent machines first.

    Args:
        fleet: what was received.
        asset: only machines that stand there, such as {"line": "3"}.
    """
    machines = [_machine(fleet, now) for now in fleet.machines.values()]
    wanted = (asset or {}).items()
    machines = [m for m in machines if all((m["asset"] or {}).get(key) == value for key, value in wanted)]
    machines.sort(key=lambda m: (URGENCY.index(m["urgency"]), m["node"], m["machine"]))
    nodes = [
        {
            "node": node,
            "online": fleet.nodes.get(node, False),
            "state": health.get("state"),
            "reasons": health.get("reasons", []),
            "counters": health.get("counters", {}),
            "heard": health.get("ts"),
        }
        for node in sorted({*fleet.nodes, *fleet.node_healths, *(node for node, _ in fleet.machines)})
        for health in [fleet.node_healths.get(node, {})]
    ]
    return {"nodes": nodes, "machines": machines}


def _machine(fleet: Fleet, now: MachineNow) -> dict[str, Any]:
    alarm, health, bank = now.alarm or {}, now.health or {}, now.bank or {}
    heard = [each["ts"] for each in (alarm, health, bank) if isinstance(each.get("ts"), str)]
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
        "heard": max(heard, default=None),
    }


def _urgency(fleet: Fleet, now: MachineNow, alarm: Payload, health: Payload) -> str:
    state, level = alarm.get("state"), alarm.get("level")
    if level == "alarm":
        return "alarm" if state in ("UNACK", "LATCHED_UNACK") else "alarm, seen"
    if not fleet.listening(now):
        return "not listening"
    if state in ("RTN_UNACK", "LATCHED_UNACK"):
        return "to acknowledge"
    if level == "warning":
        return "warning"
    coverage = health.get("coverage_10m")
    low = coverage is not None and coverage < LEAST_COVERAGE
    degraded = fleet.node_healths.get(now.node, {}).get("state") == "degraded"
    return "degraded" if low or degraded else ""


def show_plant(broker: str | None, assets: Sequence[str], config: Path | None, as_json: bool) -> None:
    """Ask the broker, and print what it keeps.

    Raises:
        ConfigError: an option says something else than expected.
        DeliveryError: the broker is away, or does not let us in.
    """
    quiet()
    settings = read_config_or_defaults(config)
    asked, wanted = broker_settings(settings), _asset(assets)
    if broker is not None:
        host, port = _address(broker)
        asked = replace(asked, host=host, port=port or asked.port)
    found = listed(collect(asked, settings.mqtt.topic_root, settings.mqtt.protocol), wanted)
    if as_json:
        print_json({"broker": f"{asked.host}:{asked.port}", **found})
    else:
        _print(found)


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


def _asset(texts: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition("=") for text in texts]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise ConfigError(f"--asset {key}{equals}{value}: says no place", "expected KEY=VALUE, as line=3")
    return {key: value for key, _, value in pairs}


def _print(found: Mapping[str, Any]) -> None:
    table = Table("", "machine", "node", "where", "state", "coverage", "bank", "version", "heard")
    for each in found["machines"]:
        where = ", ".join((each["asset"] or {}).values())
        coverage = "-" if each["coverage_10m"] is None else f"{each['coverage_10m']:.2f}"
        bank = f"{each['bank'] or '-'}" + (
            f" ({each['bank_proposed']} waits)" if each["bank_proposed"] else ""
        )
        version = each["versions"].get("echo-stream", "-")
        row = [
            each["urgency"],
            each["name"],
            each["node"],
            where,
            each["state"] or "-",
            coverage,
            bank,
            version,
        ]
        table.add_row(*row, _ago(each["heard"]))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for node in found["nodes"]:
        if not node["online"]:
            print(f"{node['node']}: offline, heard {_ago(node['heard'])}")
        for reason in node["reasons"] if node["online"] else ():
            print(f"{node['node']}: {reason}")
    if not found["machines"]:
        print("the broker keeps nothing of such machines", file=sys.stderr)


def _ago(ts: str | None) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(ts or "")).total_seconds()
    except (ValueError, TypeError):
        return "-"
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
