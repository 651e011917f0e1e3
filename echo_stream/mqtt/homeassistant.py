"""How Home Assistant learns of our machines: one discovery message a machine. Pure; any thread.

Source: home-assistant.io/integrations/mqtt, device discovery of 2024.11; `default_entity_id` of 2025.10.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from echo_stream.core.types import AlarmState
from echo_stream.mqtt.payloads import OFFLINE, ONLINE, Payload
from echo_stream.mqtt.topics import Topics

ORIGIN = "echo-stream"
"""This name in `o` marks our own messages."""


def discovery_topic(prefix: str, topics: Topics, machine: str) -> str:
    """Where the discovery message of a machine goes, retained; an empty one there removes the device."""
    return f"{prefix}/device/{unique_id(topics, machine)}/config"


def unique_id(topics: Topics, machine: str) -> str:
    """One word for a machine of a node; its letters are those that discovery topics allow.

    Where letters had to be replaced, or the word could be read in two ways, a hash tells machines apart.
    """
    parts = (topics.root, topics.node, machine)
    word = "_".join(re.sub(r"[^a-zA-Z0-9-]", "_", part) for part in parts)
    if word == "_".join(parts) and word.count("_") == len(parts) - 1:
        return word
    return f"{word}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def discovery(
    topics: Topics, machine: str, *, name: str, version: str, score_expires_s: float = 60.0
) -> Payload:
    """The discovery message of one machine.

    Args:
        topics: Root and node.
        machine: Its id.
        name: What people call it.
        version: Of echo-stream.
        score_expires_s: After so long without a new score, Home Assistant shows it as unavailable.
    """
    device = unique_id(topics, machine)
    alarm = topics.of(machine, "alarm")
    status = {"topic": topics.status}
    components: dict[str, dict[str, Any]] = {
        "alarm": {
            "p": "binary_sensor",
            "name": "Alarm",
            "device_class": "problem",
            "state_topic": alarm,
            "value_template": "{{ 'ON' if value_json.levels.alarm.active else 'OFF' }}",
            "json_attributes_topic": alarm,
        },
        "state": {
            "p": "sensor",
            "name": "State",
            "device_class": "enum",
            "options": [state.value for state in AlarmState],
            "state_topic": alarm,
            "value_template": "{{ value_json.state }}",
        },
        "score": {
            "p": "sensor",
            "name": "Anomaly score",
            "state_class": "measurement",
            "suggested_display_precision": 2,
            "icon": "mdi:pulse",
            "state_topic": topics.of(machine, "score"),
            "value_template": "{{ value_json.score }}",
            "expire_after": max(1, round(score_expires_s)),
        },
        "capture": {
            "p": "binary_sensor",
            "name": "Listening",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": topics.of(machine, "availability"),
            "payload_on": ONLINE,
            "payload_off": OFFLINE,
            # Its own: it has to say "disconnected" just when the machine's other entities are unavailable.
            "availability": [status],
        },
        "acknowledge": {
            "p": "button",
            "name": "Acknowledge",
            "command_topic": topics.of(machine, "cmd"),
            "payload_press": json.dumps({"command": "ack", "by": "Home Assistant"}),
            "qos": 1,
        },
    }
    for key, component in components.items():
        component["unique_id"] = f"{device}_{key}"
        component["default_entity_id"] = f"{component['p']}.{_slug(f'{topics.node}_{machine}_{key}')}"
    return {
        "dev": {"ids": [device], "name": name, "mf": ORIGIN, "mdl": "Machine sound monitor", "sw": version},
        "o": {"name": ORIGIN, "sw": version},
        "availability": [status, {"topic": topics.of(machine, "availability")}],
        "availability_mode": "all",
        "cmps": components,
    }


def is_ours(payload: bytes, topics: Topics) -> bool:
    """A discovery message of this node's daemon, also for a machine that is configured no more."""
    try:
        found = json.loads(payload)
        return bool(found["o"]["name"] == ORIGIN and {"topic": topics.status} in found["availability"])
    except (ValueError, KeyError, TypeError):
        return False


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
