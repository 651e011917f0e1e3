"""A fleet is what is known of all machines of all nodes, by the messages that the broker has of them.

What others publish is not trusted: it is held against the model of its payload, and bounded.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from pydantic import ValidationError

from echo_stream.mqtt.models import Drift, Event
from echo_stream.mqtt.models import Payload as PayloadModel
from echo_stream.mqtt.payloads import ONLINE, Payload
from echo_stream.mqtt.state_models import Alarm, Bank, Health, NodeHealth, Score

MOST_NODES: Final = 2_000
MOST_MACHINES: Final = 10_000
MOST_BYTES: Final = 65_536
"""Of one message; ours have 3 kB."""
MOST_ID: Final = 100
"""Letters of a node's or machine's id."""
MOST_TEXT: Final = 300
MOST_ITEMS: Final = 50
_MODELS: Final[dict[str, type[PayloadModel]]] = {
    "alarm": Alarm,
    "score": Score,
    "health": Health,
    "event": Event,
    "bank": Bank,
    "drift": Drift,
}


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
    drift: Payload | None = None
    """Newest drift since the watching began (schemas/drift.json)."""


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
    changed: set[tuple[str, str]] = field(default_factory=set, compare=False)
    """(node, machine) of which something came since the reader emptied it; (node, "") of a node."""
    trouble: str = ""
    """Why there is no connection to the broker; empty while there is one."""
    too_many: bool = False
    """More nodes or machines publish than are taken in."""

    def listening(self, machine: MachineNow) -> bool:
        """Capture and bank of a machine work, and the daemon that says so is there."""
        return bool(machine.available) and self.nodes.get(machine.node, False)

    def apply(self, topic: str, payload: bytes) -> bool:
        """Take a message in; whether it was one of ours."""
        if not topic.startswith(f"{self.root}/") or len(payload) > MOST_BYTES:
            return False
        levels = topic.removeprefix(f"{self.root}/").split("/")
        if len(levels) not in (2, 3) or not all(0 < len(each) <= MOST_ID for each in levels):
            return False
        if not topic.isprintable():
            return False
        node, machine, what = levels[0], "".join(levels[1:-1]), levels[-1]
        taken = (
            self._of_machine(node, machine, what, payload) if machine else self._of_node(node, what, payload)
        )
        if taken:
            self.changed.add((node, machine))
        return taken

    def _of_node(self, node: str, what: str, payload: bytes) -> bool:
        kept: dict[str, Any] = self.nodes if what == "status" else self.node_healths
        if what not in ("status", "health"):
            return False
        if not payload:  # the broker's administrator has taken the node away
            return kept.pop(node, None) is not None
        if node not in kept and len(kept) >= MOST_NODES:
            self.too_many = True
            return False
        found = payload == ONLINE.encode() if what == "status" else _document(NodeHealth, payload)
        if found is not None:
            kept[node] = found
        return found is not None

    def _of_machine(self, node: str, machine: str, what: str, payload: bytes) -> bool:
        known = self.machines.get((node, machine))
        if known is None and not payload:
            return False
        if known is None and len(self.machines) >= MOST_MACHINES:
            self.too_many = True
            return False
        now = known or MachineNow(node, machine)
        if not _take(now, what, payload):
            return False
        self.machines[node, machine] = now
        if now == MachineNow(node, machine):
            del self.machines[node, machine]
        return True


def _take(now: MachineNow, what: str, payload: bytes) -> bool:
    if what == "availability":
        now.available = payload == ONLINE.encode() if payload else None
        return True
    if what not in _MODELS:
        return False
    document = _document(_MODELS[what], payload) if payload else None
    if payload and document is None:
        return False
    setattr(now, what, document)
    return True


def _document(model: type[PayloadModel], payload: bytes) -> Payload | None:
    """A payload that is what its model says, shortened; None of any other."""
    try:
        model.model_validate_json(payload)  # as JSON: strict models take no list for a tuple from Python
    except ValidationError as error:
        # A newer version may say more, which nobody here reads.
        if any(each["type"] != "extra_forbidden" for each in error.errors(include_url=False)):
            return None
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return None if seconds_since(document["ts"]) is None else _bounded(document)


def _bounded(value: Any, depth: int = 6) -> Any:
    """The same with short texts that can be shown, finite numbers, few items; keys are kept once for all."""
    if isinstance(value, str):
        text = value[:MOST_TEXT]
        return text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    if isinstance(value, float) and not isfinite(value):
        return None
    if not depth or not isinstance(value, list | dict):
        return None if isinstance(value, list | dict) else value
    if isinstance(value, list):
        return [_bounded(each, depth - 1) for each in value[:MOST_ITEMS]]
    items = list(value.items())[:MOST_ITEMS]
    return {sys.intern(key[:MOST_ID]): _bounded(each, depth - 1) for key, each in items}


def seconds_since(ts: str | None) -> float | None:
    """How long ago a time of a payload is; None where it is none."""
    try:
        return (datetime.now(UTC) - datetime.fromisoformat(ts or "")).total_seconds()
    except (ValueError, TypeError):
        return None
