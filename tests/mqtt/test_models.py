"""The models against the schemas and payloads of version 0.1: what was right then is right now."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from echo_stream.mqtt.payloads import SCHEMAS
from echo_stream.mqtt.schema import MODELS, json_schema

OLD = Path(__file__).parents[1] / "data" / "state_0.1"

ADDED = {"node", "bank", "enrolled", "transfer", "manifest", "transferred"}
"""Version 0.1 did not have them."""


def types(node: dict[str, Any]) -> set[str]:
    found = node.get("type", [])
    return {found} if isinstance(found, str) else set(found)


def narrower(old: Any, new: Any, where: str) -> list[str]:
    """Each place where the new schema refuses what the old one accepted."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return [] if old == new or new is True else [where]
    wrong: list[str] = []
    if "const" in new and new["const"] != old.get("const"):
        wrong.append(f"{where}: const")
    if "enum" in new and not set(map(str, old.get("enum", [object()]))) <= set(map(str, new["enum"])):
        wrong.append(f"{where}: enum")
    if types(new) and not types(old) <= types(new):
        wrong.append(f"{where}: type {types(old)} {types(new)}")
    if types(new) and not types(old) and "enum" not in old and "const" not in old:
        wrong.append(f"{where}: type is new")
    wrong += [
        f"{where}: requires {name}" for name in set(new.get("required", [])) - set(old.get("required", []))
    ]
    for key in ("minimum", "exclusiveMinimum", "minLength", "minItems"):
        if key in new and new[key] > old.get(key, float("-inf")):
            wrong.append(f"{where}: {key}")
    for key in ("maximum", "exclusiveMaximum", "maxLength", "maxItems"):
        if key in new and new[key] < old.get(key, float("inf")):
            wrong.append(f"{where}: {key}")
    if "pattern" in new and new["pattern"] != old.get("pattern"):
        wrong.append(f"{where}: pattern")
    if "properties" in old and new.get("additionalProperties") is False:
        gone = set(old["properties"]) - set(new.get("properties", {}))
        wrong += [f"{where}: no {name}" for name in gone]
    for name, property_ in old.get("properties", {}).items():
        wrong += narrower(property_, new.get("properties", {}).get(name, True), f"{where}.{name}")
    for key in ("items", "additionalProperties"):
        if key in new and isinstance(old.get(key), dict):
            wrong += narrower(old[key], new[key], f"{where}[{key}]")
    for at, (a, b) in enumerate(zip(old.get("prefixItems", []), new.get("prefixItems", []), strict=False)):
        wrong += narrower(a, b, f"{where}[{at}]")
    if new.get("allOf", old.get("allOf")) != old.get("allOf"):
        wrong.append(f"{where}: allOf")
    return wrong


@pytest.mark.parametrize("name", sorted(set(SCHEMAS) - ADDED))
def test_the_schema_accepts_all_that_the_old_one_accepted(name: str) -> None:
    old = json.loads((OLD / "schemas_0.1" / f"{name}.json").read_text())
    assert narrower(old, json_schema(name), name) == []


def test_the_comparison_sees_what_is_narrower() -> None:
    old = json.loads((OLD / "schemas_0.1" / "event.json").read_text())
    for change in (
        {"required": [*old["required"], "new"]},
        {"properties": {**old["properties"], "score": {"type": "number"}}},
        {"properties": {**old["properties"], "seq": {"type": "integer", "minimum": 2}}},
        {"properties": {key: value for key, value in old["properties"].items() if key != "reason"}},
        {"properties": {**old["properties"], "level": {"type": "string", "enum": ["alarm"]}}},
    ):
        assert narrower(old, {**old, **change}, "event")


def test_real_payloads_of_the_old_version_fit() -> None:
    counted: dict[str, int] = {}
    for line in (OLD / "payloads.jsonl").read_text().splitlines():
        name, payload = json.loads(line)
        if name not in MODELS:
            continue
        jsonschema.Draft202012Validator(json_schema(name)).validate(payload)
        MODELS[name].model_validate_json(json.dumps(payload))
        counted[name] = counted.get(name, 0) + 1
    assert {"event", "alarm", "score", "health"} <= set(counted)


@pytest.mark.parametrize("name", MODELS)
def test_model_and_schema_agree_on_the_example(name: str) -> None:
    for example in json_schema(name)["examples"]:
        MODELS[name].model_validate_json(json.dumps(example))
        jsonschema.Draft202012Validator(json_schema(name)).validate(example)


def test_the_optional_fields_of_an_event() -> None:
    [example] = json_schema("event")["examples"]
    for more in ({"path": "slow"}, {"why": "a little above for an hour"}, {"unsaved": True}):
        jsonschema.Draft202012Validator(json_schema("event")).validate({**example, **more})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema("event")).validate({**example, "path": "fast"})
