"""The JSON Schemas are made from the models, with the examples of examples.json.

`scripts/make-mqtt-docs` writes schemas/*.json and docs/mqtt.md by it; a test fails when they are stale.
"""

from __future__ import annotations

import json
from copy import deepcopy
from functools import cache
from importlib import resources
from typing import Any

from pydantic import JsonValue
from pydantic.json_schema import GenerateJsonSchema

from echo_stream.mqtt.command_models import Command, Manifest, Reply, Transfer, Transferred
from echo_stream.mqtt.models import Drift, Enrolled, Event, Evidence, Flood, Model, Sensor
from echo_stream.mqtt.state_models import Alarm, Bank, Health, NodeHealth, Score

MODELS: dict[str, type[Model]] = {
    "event": Event,
    "alarm": Alarm,
    "score": Score,
    "health": Health,
    "node": NodeHealth,
    "evidence": Evidence,
    "sensor": Sensor,
    "drift": Drift,
    "flood": Flood,
    "bank": Bank,
    "enrolled": Enrolled,
    "command": Command,
    "reply": Reply,
    "transfer": Transfer,
    "manifest": Manifest,
    "transferred": Transferred,
}
"""The model of each schema by its name; `availability` is a plain word and has none."""


class _AsWritten(GenerateJsonSchema):
    """Fields and examples stay in the order in which they are written."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:  # noqa: ARG002 - its interface
        return value


def example(name: str) -> dict[str, Any]:
    """The documented example of a payload."""
    return deepcopy(_examples()[name])


@cache
def _examples() -> dict[str, dict[str, Any]]:
    text = resources.files(__package__).joinpath("examples.json").read_text("utf-8")
    found: dict[str, dict[str, Any]] = json.loads(text)
    return found


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a payload, without references: readable from top to bottom."""
    if name == "availability":
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Status and availability",
            "description": "Plain text, not JSON. Retained. `status`: the daemon of the node runs (`offline` "
            "is also its last will). `availability`: capture and bank of the machine work; true only while "
            "`status` is `online` too.",
            "type": "string",
            "enum": ["online", "offline"],
            "examples": ["online"],
        }
    found = MODELS[name].model_json_schema(by_alias=True, schema_generator=_AsWritten)
    if name != "command":  # has several
        found["examples"] = [example(name)]
    definitions = found.pop("$defs", {})
    plain = _plain(found, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": found["title"]}
    return {**head, **{key: value for key, value in plain.items() if key != "title"}}


def _plain(node: JsonValue, definitions: dict[str, Any]) -> Any:
    """References put in place, `X or null` as one type, no titles made from the names of fields."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = dict(definitions[str(node["$ref"]).rsplit("/", 1)[1]])
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    kept = {
        key: value
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if "examples" in kept:
        examples = kept.pop("examples")
        return {**_plain(kept, definitions), "examples": examples}
    plain = {key: _plain(value, definitions) for key, value in kept.items()}
    choices = plain.get("anyOf")
    if isinstance(choices, list) and len(choices) == 2 and choices[1] == {"type": "null"}:
        del plain["anyOf"]
        value = dict(choices[0])
        if "enum" in value:
            value["enum"] = [*value["enum"], None]
            value.pop("type", None)
        else:
            value["type"] = [value["type"], "null"]
        plain = {**value, **plain}
    if "const" in plain:
        plain.pop("type", None)
    return plain
