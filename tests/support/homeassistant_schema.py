"""Runs under a Python that has the `homeassistant` package: a discovery message against its own code.

Reads {"topic": ..., "payload": ...} from standard input, writes {"version": ..., "components":
{key: platform}, "states": {...}} or ends with what is wrong. Templates are rendered by Home Assistant with
the states given. "node" is the node's message, "blueprint" the path of a blueprint: both are checked too.
"""

# mypy: ignore-errors

from __future__ import annotations

import asyncio
import copy
import json
import sys

from homeassistant import const
from homeassistant.components.blueprint import BLUEPRINT_SCHEMA
from homeassistant.components.blueprint.models import Blueprint
from homeassistant.components.mqtt import (
    binary_sensor,
    button,
    discovery,
    event,
    image,
    sensor,
    switch,
    update,
)
from homeassistant.components.mqtt.schemas import DEVICE_DISCOVERY_SCHEMA
from homeassistant.core import HomeAssistant
from homeassistant.helpers import config_validation as cv
from homeassistant.helpers.template import Template
from homeassistant.util.yaml import load_yaml, substitute

PLATFORMS = {
    "binary_sensor": binary_sensor,
    "button": button,
    "event": event,
    "image": image,
    "sensor": sensor,
    "switch": switch,
    "update": update,
}


async def main() -> None:
    """Check, as Home Assistant does on receiving the message."""
    given = json.load(sys.stdin)
    hass = HomeAssistant("/tmp")
    check_blueprint(hass, given["blueprint"])
    check(hass, given["node"]["topic"], given["node"]["payload"], {})
    found, rendered = check(hass, given["topic"], given["payload"], given["states"])
    json.dump({"version": const.__version__, "components": found, "rendered": rendered}, sys.stdout)


def check_blueprint(hass, path):
    """As Home Assistant does when an automation is made of it."""
    data = load_yaml(path)
    Blueprint(data, expected_domain="automation", schema=BLUEPRINT_SCHEMA)
    inputs = {name: asked.get("default", "event.x") for name, asked in data["blueprint"]["input"].items()}
    made = substitute({key: value for key, value in data.items() if key != "blueprint"}, inputs)
    cv._hass.hass = hass
    cv.SCRIPT_SCHEMA(made["actions"])
    cv.CONDITIONS_SCHEMA(made["conditions"])
    cv.TRIGGER_SCHEMA(made["triggers"])


def check(hass, topic, message, states):
    """Platforms of the components, and what their templates say of the states."""
    trimmed = topic.split("/", 1)[1]
    match = discovery.TOPIC_MATCHER.match(trimmed)
    assert match is not None, f"topic: {topic}"
    assert match.group("component") == "device"
    payload = discovery.MQTTDiscoveryPayload(copy.deepcopy(message))
    discovery._replace_all_abbreviations(payload)
    DEVICE_DISCOVERY_SCHEMA(payload)
    found = {}
    rendered = {}
    for key, component in payload["components"].items():
        config = discovery.MQTTDiscoveryPayload(component)
        platform = config.pop("platform")
        discovery._replace_all_abbreviations(config, component_only=True)
        discovery._merge_common_device_options(config, payload)
        config["device"] = payload["device"]
        config["origin"] = payload["origin"]
        config["platform"] = "mqtt"
        checked = PLATFORMS[platform].DISCOVERY_SCHEMA(config)
        found[key] = platform
        if "value_template" in component and component["state_topic"] in states:
            template = Template(component["value_template"], hass)
            value = states[component["state_topic"]]
            rendered[key] = template.async_render_with_possible_json_value(value)
            if platform == "update":
                update.MQTT_JSON_UPDATE_SCHEMA(json.loads(rendered[key]))
        del checked
    return found, rendered


asyncio.run(main())
