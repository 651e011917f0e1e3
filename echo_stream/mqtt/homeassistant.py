"""How Home Assistant learns of us: one discovery message for the node, one a machine. Pure; any thread.

Source: home-assistant.io/integrations/mqtt, device discovery of 2024.11; `default_entity_id` of 2025.10.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection
from typing import Any

from echo_stream.core.measures import MEASURES, OF_SOUND
from echo_stream.core.types import AlarmState
from echo_stream.mqtt.payloads import OFFLINE, ONLINE, Payload
from echo_stream.mqtt.topics import Topics

ORIGIN = "echo-stream"
"""This name in `o` marks our own messages."""
ORIGIN_URL = "https://arxiv.org/abs/2508.14689"
"""The one public address of the project, as in pyproject.toml."""
COMMAND_EXPIRES_S = 60
"""A press that could not be delivered for so long must not arrive: the alarm may be another one by then. Home
Assistant before 2026.11 passes the field over."""
SHELVE_S = 3600
BY = "Home Assistant"

EVENT_TYPES = ("alarm", "warning", "cleared", "acknowledged", "changed")
_EVENT_TYPE = (
    "{% set type = value_json.level if value_json.cause in ('condition', 'changed_again', 'realarm')"
    " else 'cleared' if value_json.cause == 'clear'"
    " else 'acknowledged' if value_json.cause == 'ack' else 'changed' %}"
)
_EVENT = _EVENT_TYPE + (
    "{{ {'event_type': type, 'event_id': value_json.event_id, 'level': value_json.level,"
    " 'cause': value_json.cause, 'reason': value_json.reason, 'why': value_json.get('why'),"
    " 'state': value_json.to, 'score': value_json.score, 'delayed': value_json.delayed,"
    " 'merged': value_json.merged} | tojson }}"
)
_SENSOR_EVENT = (
    "{{ {'event_type': 'sensor_fault' if value_json.active else 'sensor_well',"
    " 'fault': value_json.to or value_json.from, 'event_id': value_json.event_id} | tojson }}"
)
_DRIFT_EVENT = (
    "{{ {'event_type': 'drift' if value_json.active else 'drift_over',"
    " 'since': value_json.since, 'event_id': value_json.event_id} | tojson }}"
)
_ENROLLED_EVENT = (
    "{{ {'event_type': 'enrolled', 'bank': value_json.bank, 'accepted': value_json.accepted,"
    " 'event_id': value_json.event_id} | tojson }}"
)
_BANK = (  # its own fields alone: Home Assistant refuses others
    "{{ {'installed_version': value_json.installed_version, 'latest_version': value_json.latest_version,"
    " 'title': value_json.title, 'release_summary': value_json.release_summary} | tojson }}"
)
_COVERAGE = "{{ none if value_json.coverage_10m is none else value_json.coverage_10m * 100 }}"
_WORST_COVERAGE = (
    "{{ none if value_json.worst_coverage_10m is none else value_json.worst_coverage_10m * 100 }}"
)
_BAND = (
    "{% if value_json.band1_low_hz is defined %}"
    "{{ value_json.band1_low_hz | round | int }} to {{ value_json.band1_high_hz | round | int }} Hz"
    "{% else %}none{% endif %}"
)


def discovery_topic(prefix: str, topics: Topics, machine: str | None) -> str:
    """Where the discovery message of a machine, or the node, goes; an empty one removes the device."""
    return f"{prefix}/device/{unique_id(topics, machine)}/config"


def unique_id(topics: Topics, machine: str | None) -> str:
    """One word for a machine of a node, or the node; its letters are those that discovery topics allow.

    Where letters had to be replaced, or the word could be read in two ways, a hash tells machines apart.
    """
    parts = (topics.root, topics.node) if machine is None else (topics.root, topics.node, machine)
    word = "_".join(re.sub(r"[^a-zA-Z0-9-]", "_", part) for part in parts)
    if word == "_".join(parts) and word.count("_") == len(parts) - 1:
        return word
    return f"{word}_{hashlib.sha256(repr(parts).encode()).hexdigest()[:8]}"


def node_discovery(topics: Topics, *, version: str, page: str | None = None) -> Payload:
    """The discovery message of the node, by which its machines are reached.

    Args:
        topics: Root and node.
        version: Of echo-stream.
        page: Address of its page, where others can reach it.
    """
    health = {"state_topic": topics.health, "entity_category": "diagnostic"}
    components: dict[str, dict[str, Any]] = {
        "degraded": {
            "p": "binary_sensor",
            "name": "Degraded",
            "device_class": "problem",
            "value_template": "{{ 'ON' if value_json.state == 'degraded' else 'OFF' }}",
            "json_attributes_topic": topics.health,
            **health,
        },
        "waiting": {
            "p": "sensor",
            "name": "Events waiting for the broker",
            "state_class": "measurement",
            "icon": "mdi:tray-full",
            "value_template": "{{ value_json.counters.outbox_depth }}",
            **health,
        },
        "worst_coverage": {
            "p": "sensor",
            "name": "Worst coverage",
            "state_class": "measurement",
            "unit_of_measurement": "%",
            "suggested_display_precision": 1,
            "icon": "mdi:percent-outline",
            "value_template": _WORST_COVERAGE,
            **health,
        },
    }
    return _message(
        topics,
        None,
        {"name": f"echo-stream {topics.node}", "mdl": "Machine sound monitor", **_page(page)},
        components,
        version=version,
    )


def discovery(
    topics: Topics,
    machine: str,
    *,
    name: str,
    version: str,
    score_expires_s: float = 60.0,
    page: str | None = None,
    area: str | None = None,
    measures: Collection[str] = (),
) -> Payload:
    """The discovery message of one machine.

    Args:
        topics: Root and node.
        machine: Its id.
        name: What people call it.
        version: Of echo-stream.
        score_expires_s: After so long without a new score, Home Assistant shows it as unavailable.
        page: Address of the node's page, where others can reach it.
        area: Where it stands, as Home Assistant's suggestion.
        measures: Names of what its health says in physical units (`core.measures`), and `zone`.
    """
    device = {"name": name, "mdl": "Machine sound monitor", "via_device": unique_id(topics, None)}
    device |= _page(f"{page}#/machine/{machine}" if page else None)
    device |= {"suggested_area": area} if area else {}
    components = {
        **_alarm_entities(topics, machine),
        **_bank_entities(topics, machine),
        "evidence": {
            "p": "image",
            "name": "Last evidence",
            "image_topic": topics.of(machine, "image"),
            "content_type": "image/png",
            # Its own: what was heard is there to be seen also while nothing is heard.
            "availability": [{"topic": topics.status}],
        },
        **_measurements(topics, machine, max(1, round(score_expires_s))),
        **{name: _measure(topics, machine, name) for name in measures if name in MEASURES},
        **({"zone": _zone(topics, machine)} if "zone" in measures else {}),
        **_controls(topics, machine),
    }
    return _message(topics, machine, device, components, version=version)


def _message(
    topics: Topics,
    machine: str | None,
    device: dict[str, Any],
    components: dict[str, dict[str, Any]],
    *,
    version: str,
) -> Payload:
    unique = unique_id(topics, machine)
    names = (topics.node,) if machine is None else (topics.node, machine)
    for key, component in components.items():
        component["unique_id"] = f"{unique}_{key}"
        component["default_entity_id"] = f"{component['p']}.{_slug('_'.join((*names, key)))}"
    availability = [{"topic": topics.status}]
    if machine is not None:
        availability.append({"topic": topics.of(machine, "availability")})
    return {
        "dev": {"ids": [unique], "mf": ORIGIN, "sw": version, **device},
        "o": {"name": ORIGIN, "sw": version, "url": ORIGIN_URL},
        "availability": availability,
        "availability_mode": "all",
        "cmps": components,
    }


def _page(page: str | None) -> dict[str, str]:
    return {"configuration_url": page} if page else {}


def _alarm_entities(topics: Topics, machine: str) -> dict[str, dict[str, Any]]:
    alarm = topics.of(machine, "alarm")
    return {
        "alarm": {
            "p": "binary_sensor",
            "name": "Alarm",
            "device_class": "problem",
            "state_topic": alarm,
            "value_template": "{{ 'ON' if value_json.levels.alarm.active else 'OFF' }}",
            "json_attributes_topic": alarm,
        },
        "warning": {
            "p": "binary_sensor",
            "name": "Warning",
            "device_class": "problem",
            "state_topic": alarm,
            "value_template": "{{ 'ON' if value_json.levels.warning.active else 'OFF' }}",
        },
        "state": {
            "p": "sensor",
            "name": "State",
            "device_class": "enum",
            "options": [state.value for state in AlarmState],
            "state_topic": alarm,
            "value_template": "{{ value_json.state }}",
        },
        "event": {
            "p": "event",
            "name": "Event",
            "event_types": list(EVENT_TYPES),
            "state_topic": topics.of(machine, "event"),
            "value_template": _EVENT,
            "qos": 1,
        },
        "sensor_event": _diagnostic_event(
            "Sensor event", ["sensor_fault", "sensor_well"], topics.of(machine, "sensor"), _SENSOR_EVENT
        ),
        "drift_event": _diagnostic_event(
            "Drift event", ["drift", "drift_over"], topics.of(machine, "drift"), _DRIFT_EVENT
        ),
    }


def _diagnostic_event(name: str, types: list[str], topic: str, template: str) -> dict[str, Any]:
    return {
        "p": "event",
        "name": name,
        "event_types": types,
        "entity_category": "diagnostic",
        "state_topic": topic,
        "value_template": template,
        "qos": 1,
    }


def _bank_entities(topics: Topics, machine: str) -> dict[str, dict[str, Any]]:
    return {
        "enrolled_event": _diagnostic_event(
            "Enrolment event", ["enrolled"], topics.of(machine, "enrolled"), _ENROLLED_EVENT
        ),
        "bank": {
            "p": "update",
            "name": "Bank",
            "icon": "mdi:school",
            "entity_category": "config",
            "state_topic": topics.of(machine, "bank"),
            "value_template": _BANK,
            "payload_install": _command("accept_bank"),
            # Its own: a machine without a bank is not listened to, and needs one most.
            "availability": [{"topic": topics.status}],
            **_commanded(topics, machine),
        },
    }


def _measurements(topics: Topics, machine: str, score_expires_s: int) -> dict[str, dict[str, Any]]:
    of_score = {"state_topic": topics.of(machine, "score"), "expire_after": score_expires_s}
    return {
        "score": {
            "p": "sensor",
            "name": "Anomaly score",
            "state_class": "measurement",
            "suggested_display_precision": 2,
            "icon": "mdi:pulse",
            "value_template": "{{ value_json.score }}",
            **of_score,
        },
        "level": {
            "p": "sensor",
            "name": "Level",
            "state_class": "measurement",
            "unit_of_measurement": "dBFS",
            "suggested_display_precision": 1,
            "icon": "mdi:volume-high",
            "value_template": "{{ value_json.level_dbfs }}",
            **of_score,
        },
        "band": {
            "p": "sensor",
            "name": "Deciding band",
            "icon": "mdi:sine-wave",
            "value_template": _BAND,
            **of_score,
        },
        "condition": {
            "p": "sensor",
            "name": "Operating state",
            "icon": "mdi:cog",
            "value_template": "{{ value_json.condition }}",
            **of_score,
        },
        "coverage": {
            "p": "sensor",
            "name": "Coverage",
            "state_class": "measurement",
            "unit_of_measurement": "%",
            "suggested_display_precision": 1,
            "icon": "mdi:percent-outline",
            "entity_category": "diagnostic",
            "state_topic": topics.of(machine, "health"),
            "value_template": _COVERAGE,
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
            "availability": [{"topic": topics.status}],
        },
    }


def _measure(topics: Topics, machine: str, name: str) -> dict[str, Any]:
    text, unit = MEASURES[name]
    found = {
        "p": "sensor",
        "name": text,
        "state_class": "measurement",
        "suggested_display_precision": 1 if name in OF_SOUND else 2,
        "icon": "mdi:volume-high" if name in OF_SOUND else "mdi:vibrate",
        "state_topic": topics.of(machine, "health"),
        # A sensor that is not calibrated any more is unknown, not an error in the log.
        "value_template": f"{{{{ (value_json.measured or {{}}).get('{name}') }}}}",
    }
    return {**found, "unit_of_measurement": unit} if unit else found


def _zone(topics: Topics, machine: str) -> dict[str, Any]:
    return {
        "p": "sensor",
        "name": "Vibration zone",
        "icon": "mdi:vibrate",
        "state_topic": topics.of(machine, "health"),
        "value_template": "{{ value_json.zone }}",
    }


def _controls(topics: Topics, machine: str) -> dict[str, dict[str, Any]]:
    common = _commanded(topics, machine)
    return {
        "acknowledge": {"p": "button", "name": "Acknowledge", "payload_press": _command("ack"), **common},
        "shelve": {
            "p": "button",
            "name": "Shelve 1 h",
            "icon": "mdi:alarm-snooze",
            "payload_press": _command("shelve", duration_s=SHELVE_S),
            **common,
        },
        "reset": {"p": "button", "name": "Reset", "payload_press": _command("reset"), **common},
        "out_of_service": {
            "p": "switch",
            "name": "Out of service",
            "icon": "mdi:wrench-clock",
            "entity_category": "config",
            "state_topic": topics.of(machine, "alarm"),
            "value_template": "{{ 'ON' if value_json.levels.alarm.state == 'OUT_OF_SERVICE' else 'OFF' }}",
            "state_on": "ON",
            "state_off": "OFF",
            "payload_on": _command("out_of_service"),
            "payload_off": _command("in_service"),
            **common,
        },
    }


def _commanded(topics: Topics, machine: str) -> dict[str, Any]:
    return {
        "command_topic": topics.of(machine, "cmd"),
        "qos": 1,
        "message_expiry_interval": COMMAND_EXPIRES_S,
    }


def _command(verb: str, **fields: Any) -> str:
    return json.dumps({"command": verb, "by": BY, **fields})


def is_ours(payload: bytes, topics: Topics) -> bool:
    """A discovery message of this node's daemon, also for a machine that is configured no more."""
    try:
        found = json.loads(payload)
        return bool(found["o"]["name"] == ORIGIN and {"topic": topics.status} in found["availability"])
    except (ValueError, KeyError, TypeError):
        return False


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
