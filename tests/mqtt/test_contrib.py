"""The shipped Telegraf configuration and Node-RED flow read only what the schemas have.

With NODE_RED=/path/to/node-red (`npm install node-red`) a real Node-RED imports the flow.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from datetime import datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import jsonschema
import pytest

from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.commands import Verb
from tests.mqtt.conftest import an_event, wait_until
from tests.support.broker import MosquittoBroker, free_port

ROOT = Path(__file__).resolve().parents[2]
TELEGRAF = tomllib.loads((ROOT / "contrib" / "telegraf.conf").read_text())["inputs"]["mqtt_consumer"]
FLOW = json.loads((ROOT / "contrib" / "node-red-flow.json").read_text())
OF_TOPICS = {f"echo-stream/+/+/{name}": name for name in messages.SCHEMAS} | {
    "echo-stream/+/health": "node",
    "echo-stream/+/flood": "flood",
}
NUMBERS = int | float


def flattened(value: object, name: str = "") -> dict[str, object]:
    """Keys of an object joined with _, as Telegraf's json parser joins them; null is left out."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if isinstance(value, dict | list):
        return {
            key: leaf
            for part, each in inside
            for key, leaf in flattened(each, f"{name}_{part}" if name else str(part)).items()
        }
    return {} if value is None else {name: value}


def parsed(config: dict[str, Any], payload: object) -> tuple[dict[str, object], dict[str, object]]:
    """Tags and fields that Telegraf makes of a payload.

    Source: plugins/parsers/json/README.md of Telegraf: numbers are fields; strings and booleans only where
    `json_string_fields` names them; the time and the tags are no fields.
    """
    flat = flattened(payload)
    datetime.fromisoformat(str(flat.pop(config["json_time_key"])))

    def named(key: str, option: str) -> bool:
        return any(fnmatchcase(key, pattern) for pattern in config[option])

    tags = {key: flat.pop(key) for key in list(flat) if named(key, "tag_keys")}
    fields = {
        key: value
        for key, value in flat.items()
        if named(key, "json_string_fields") or (isinstance(value, NUMBERS) and not isinstance(value, bool))
    }
    return tags, {key: value for key, value in fields.items() if not named(key, "fieldexclude")}


def paths(schema: dict[str, Any], whole: dict[str, Any], name: str = "") -> set[str]:
    """Every path that a payload of the schema can have, joined as `flattened` joins them."""
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    found = {name} if name else set()
    for each in schema.get("anyOf", ()):
        found |= paths(each, whole, name)
    for key, each in schema.get("properties", {}).items():
        found |= paths(each, whole, f"{name}_{key}" if name else key)
    if isinstance(more := schema.get("additionalProperties"), dict):
        found |= paths(more, whole, f"{name}_any")
    if items := schema.get("items") or next(iter(schema.get("prefixItems", ())), None):
        found |= paths(items, whole, f"{name}_0")
    return found


@pytest.mark.parametrize("config", TELEGRAF, ids=lambda config: config["name_override"])
def test_telegraf_takes_every_example(config: dict[str, Any]) -> None:
    (topic,) = config["topics"]
    schema = messages.schema(OF_TOPICS[topic])
    for example in schema["examples"]:
        tags, fields = parsed(config, {**example, "asset": {"site": "west"}})
        assert tags["node"] == example["node"]
        assert ("machine" in tags) == ("machine" in example)
        assert fields, "a measurement without a field is dropped"
        assert not [key for key in fields if re.search(r"_\d+(_|$)", key)], "a list is no time series"
        validator = jsonschema.Draft202012Validator(schema)
        empty = dict(example)
        for key in example:
            if validator.is_valid({**empty, key: None}):
                empty[key] = None
        assert parsed(config, empty)[1], "also where all that may be null is"


@pytest.mark.parametrize("config", TELEGRAF, ids=lambda config: config["name_override"])
def test_telegraf_names_only_what_the_schema_has(config: dict[str, Any]) -> None:
    schema = messages.schema(OF_TOPICS[config["topics"][0]])
    there = paths(schema, schema)
    options = ("tag_keys", "json_string_fields", "fieldexclude")
    for pattern in [config["json_time_key"], *(each for option in options for each in config[option])]:
        assert any(fnmatchcase(path, pattern) for path in there), pattern


def test_telegraf_reads_every_payload_of_a_machine_that_has_figures() -> None:
    read = {OF_TOPICS[topic] for config in TELEGRAF for topic in config["topics"]}
    left = {"evidence", "availability", "command", "reply", "bank", "enrolled"}  # words: no figures
    left |= {"transfer", "manifest", "transferred"}
    assert read == set(messages.SCHEMAS) - left


def functions() -> dict[str, str]:
    return {node["id"]: node["func"] for node in FLOW if node["type"] == "function"}


def test_the_flow_hangs_together() -> None:
    nodes = {node["id"]: node for node in FLOW}
    assert len(nodes) == len(FLOW)
    for node in FLOW:
        assert {target for output in node.get("wires", ()) for target in output} <= nodes.keys()
        assert node.get("broker", "es_broker") in (*nodes, "localhost")
        assert node.get("z", "es_tab") in nodes
    topics = {node["topic"] for node in FLOW if node["type"] == "mqtt in"}
    assert topics == {"echo-stream/+/+/event"}


def test_the_flow_reads_only_fields_of_the_schema_and_is_the_one_of_the_docs() -> None:
    schema = messages.schema("event")
    there = paths(schema, schema)
    used = set(re.findall(r"\bevent\.(\w+(?:\.\w+)?)", functions()["es_announce"]))
    assert len(used) > 5
    assert {name for name in used if name.replace(".", "_") not in there} == set()
    section = (ROOT / "docs" / "mqtt.md").read_text().split("## Node-RED")[1].split("\n## ")[0]
    assert [text.strip() for text in re.findall(r"```js\n(.*?)```", section, re.DOTALL)] == [
        *functions().values()
    ]


def test_the_functions_of_the_flow_run() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("NODE-RED FUNCTIONS NOT RUN: node is not installed")
    alarm = messages.schema("event")["examples"][0] | {"level": "alarm", "to": "UNACK", "merged": False}
    told = {**alarm, "event_id": "2"} | {"level": "warning"}
    code = f"""
        const kept = {{}}, context = {{get: k => kept[k], set: (k, v) => {{ kept[k] = v; }}}};
        const announce = msg => {{ {functions()["es_announce"]} }};
        const command = msg => {{ {functions()["es_ack"]} }};
        const said = {json.dumps([alarm, alarm, told])}.map(payload => announce({{payload}}));
        console.log(JSON.stringify([said, command({{topic: "t"}})]));
    """
    done = subprocess.run([node, "-e", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    (first, again, warning), command = json.loads(done.stdout)
    assert first["payload"].startswith(f"{alarm['machine']}: sounds abnormal since ")
    assert (again, warning) == (None, None)
    jsonschema.Draft202012Validator(messages.schema("command")).validate(command["payload"])


def test_a_real_node_red_imports_the_flow_announces_an_alarm_once_and_acknowledges(
    tmp_path: Path, broker: MosquittoBroker, publish: Any
) -> None:
    program = os.environ.get("NODE_RED")
    if not program:
        pytest.skip("NO REAL NODE-RED IMPORTED THE FLOW: npm install node-red, then NODE_RED=.../node-red")
    publisher = publish(broker)
    admin, flow = f"http://127.0.0.1:{free_port()}", json.loads(json.dumps(FLOW))
    for node in flow:
        if node["type"] == "mqtt-broker":
            node["port"] = str(broker.port)
        if node["type"] == "debug":
            node["console"] = True  # said on standard output too
    (tmp_path / "settings.js").write_text("module.exports = {credentialSecret: false};")
    words = [program, "--userDir", str(tmp_path), "--port", admin.rpartition(":")[2], "empty.json"]

    def asked(path: str, body: bytes | None = None) -> int:
        request = Request(admin + path, data=body, headers={"Content-Type": "application/json"})
        try:
            with urlopen(request, timeout=60) as reply:
                return int(reply.status)
        except URLError:
            return 0

    with (tmp_path / "said").open("w") as said, subprocess.Popen(words, stdout=said) as running:

        def log() -> str:
            return (tmp_path / "said").read_text()

        try:
            wait_until(lambda: asked("/flows") == 200, "Node-RED answers", 60)
            assert asked("/flows", json.dumps(flow).encode()) == 204
            wait_until(lambda: "Connected to broker" in log(), "Node-RED is connected", 60)
            event = an_event()
            for _ in range(2):  # at least once: the same message twice
                publisher.event("event", event)
            publisher.event("event", an_event(seq=2, machine="fan1"))
            wait_until(lambda: "fan1: sounds abnormal since" in log(), "the later alarm", 30)
            assert log().count("pump3: sounds abnormal since") == 1
            assert asked("/inject/es_button", b"") == 200
            commands: list[Any] = []

            def acknowledged() -> bool:
                commands.extend(publisher.commands())
                return bool(commands)

            wait_until(acknowledged, "the acknowledgement", 30)
            assert [(c.machine, c.verb, c.by) for c in commands] == [("pump3", Verb.ACK, "control room")]
        finally:
            running.terminate()
