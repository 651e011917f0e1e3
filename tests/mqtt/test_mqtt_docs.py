"""docs/mqtt.md is what the schemas say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema

from echo_stream.mqtt import payloads as messages

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "make-mqtt-docs"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_schema_has_its_section_and_its_example_fits() -> None:
    page = (ROOT / "docs" / "mqtt.md").read_text()
    for name in messages.SCHEMAS:
        schema = messages.schema(name)
        section = page.split(f"\n## {schema['title']}\n")[1].split("\n## ")[0]
        for block in re.findall(r"```json\n(.*?)```", section, re.DOTALL):
            jsonschema.Draft202012Validator(schema).validate(json.loads(block))
        for field in schema.get("properties", {}):
            assert f"`{field}`" in section, f"{name}.{field}"


def test_the_commands_of_the_examples_are_commands() -> None:
    page = (ROOT / "docs" / "mqtt.md").read_text()
    found = re.findall(r"payload: '(\{\"command\".*?\})'", page)
    assert found
    for text in found:
        jsonschema.Draft202012Validator(messages.schema("command")).validate(json.loads(text))
