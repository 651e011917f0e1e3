"""Discovery against Home Assistant's documented fields, and, where it is installed, against its own code."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from echo_stream.cli.mqtt_check import purge_discovery
from echo_stream.core.measures import MEASURES
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt import state_payloads
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.commands import ReplyTo, Verb, parse
from echo_stream.mqtt.homeassistant import discovery, discovery_topic, is_ours, node_discovery, unique_id
from echo_stream.mqtt.publisher import Publisher
from echo_stream.mqtt.topics import Topics
from tests.support.broker import MosquittoBroker

from .conftest import NOON, Subscriber, a_score, wait_until

TOPICS = Topics("echo-stream", "pc7")
TOPIC = "homeassistant/device/echo-stream_pc7_pump3/config"
Publish = Callable[..., Publisher]
Listen = Callable[..., Subscriber]

# home-assistant.io/integrations/mqtt and .../binary_sensor.mqtt, sensor.mqtt, button.mqtt: the options that
# we use, each with what it may hold.
COMMON = {
    "p": str,
    "unique_id": str,
    "default_entity_id": str,
    "name": str,
    "availability": list,
    "icon": str,
    "entity_category": ("config", "diagnostic"),
    "qos": int,
}
COMMANDED = {"command_topic": str, "message_expiry_interval": int}
STATEFUL = {
    **COMMON,
    "state_topic": str,
    "value_template": str,
    "json_attributes_topic": str,
    "expire_after": int,
}
DOCUMENTED: dict[str, dict[str, Any]] = {
    "binary_sensor": {
        **STATEFUL,
        "device_class": ("problem", "connectivity"),
        "payload_on": str,
        "payload_off": str,
    },
    "sensor": {
        **STATEFUL,
        "device_class": ("enum",),
        "options": list,
        "state_class": ("measurement",),
        "suggested_display_precision": int,
        "unit_of_measurement": str,
    },
    "event": {**COMMON, "state_topic": str, "value_template": str, "event_types": list},
    "image": {**COMMON, "image_topic": str, "content_type": ("image/png",)},
    "update": {**STATEFUL, **COMMANDED, "payload_install": str},
    "button": {**COMMON, **COMMANDED, "payload_press": str},
    "switch": {
        **STATEFUL,
        **COMMANDED,
        **dict.fromkeys(("payload_on", "payload_off", "state_on", "state_off"), str),
    },
}
NODE_TOPIC = "homeassistant/device/echo-stream_pc7/config"
BEFORE = {"alarm", "state", "score", "capture", "acknowledge"}
"""Components that an earlier version had: their unique ids must stay, or they would appear twice."""
NOW = BEFORE | {
    *("warning", "event", "sensor_event", "drift_event", "level", "band", "condition", "coverage"),
    *("shelve", "reset", "out_of_service", "evidence", "bank", "enrolled_event"),
}


def a_discovery() -> messages.Payload:
    return discovery(TOPICS, "pump3", name="Pump 3", version="0.1.0")


def test_the_message_as_a_whole() -> None:
    found = a_discovery()
    assert discovery_topic("homeassistant", TOPICS, "pump3") == TOPIC
    assert set(found) == {"dev", "o", "availability", "availability_mode", "cmps"}
    assert set(found["dev"]) == {"ids", "name", "mf", "mdl", "sw", "via_device"}
    assert found["dev"]["via_device"] == node_discovery(TOPICS, version="0.1.0")["dev"]["ids"][0]
    assert set(found["o"]) == {"name", "sw", "url"}
    assert found["availability_mode"] == "all"
    assert [a["topic"] for a in found["availability"]] == [
        "echo-stream/pc7/status",
        "echo-stream/pc7/pump3/availability",
    ]
    assert set(found["cmps"]) == NOW


def test_components_of_before_keep_their_ids() -> None:
    components = a_discovery()["cmps"]
    assert {components[key]["unique_id"] for key in BEFORE} == {
        f"echo-stream_pc7_pump3_{key}" for key in BEFORE
    }


def test_the_page_and_the_area_are_told_where_they_are_known() -> None:
    page = "http://pc7.plant:8765/"
    found = discovery(TOPICS, "pump3", name="P", version="1", page=page, area="hall2")["dev"]
    assert found["configuration_url"] == "http://pc7.plant:8765/#/machine/pump3"
    assert found["suggested_area"] == "hall2"
    assert node_discovery(TOPICS, version="1", page=page)["dev"]["configuration_url"] == page


@pytest.mark.parametrize("name", MEASURES)
def test_a_calibrated_sensor_has_its_measures(name: str) -> None:
    component = discovery(TOPICS, "pump3", name="P", version="1", measures=[name])["cmps"][name]
    documented = DOCUMENTED["sensor"]
    for field, value in component.items():
        allowed = documented[field]
        assert value in allowed if isinstance(allowed, tuple) else isinstance(value, allowed), field
    assert component.get("unit_of_measurement", "") == MEASURES[name].unit
    assert rendered(component, {"measured": {name: 2.5}}) == "2.5"
    assert rendered(component, {"measured": None}) == "None"  # Home Assistant: unknown


def test_a_zone_is_a_sensor_of_its_own() -> None:
    found = discovery(TOPICS, "pump3", name="P", version="1", measures=["velocity_mm_s", "zone"])["cmps"]
    assert {"velocity_mm_s", "zone"} < set(found)
    assert rendered(found["zone"], {"zone": "A/B"}) == "A/B"
    assert set(found["zone"]) <= set(DOCUMENTED["sensor"])


@pytest.mark.parametrize("key", sorted(NOW | {"degraded", "waiting", "worst_coverage"}))
def test_each_component_has_documented_fields_only(key: str) -> None:
    component = (a_discovery()["cmps"] | node_discovery(TOPICS, version="1")["cmps"])[key]
    assert {"p", "unique_id", "default_entity_id"} <= set(component)
    documented = DOCUMENTED[component["p"]]
    for field, value in component.items():
        allowed = documented[field]
        assert value in allowed if isinstance(allowed, tuple) else isinstance(value, allowed), field
    assert re.fullmatch(rf"{component['p']}\.[a-z0-9_]+", component["default_entity_id"])


def test_particulars_of_the_components() -> None:
    components = a_discovery()["cmps"]
    assert components["alarm"]["device_class"] == "problem"
    assert components["alarm"]["json_attributes_topic"] == "echo-stream/pc7/pump3/alarm"
    assert components["state"]["options"] == [state.value for state in AlarmState]
    assert components["score"]["state_class"] == "measurement"
    assert components["score"]["expire_after"] == 60
    assert components["capture"]["entity_category"] == "diagnostic"
    # Offline capture must be shown as such, not as unavailable.
    assert components["capture"]["availability"] == [{"topic": "echo-stream/pc7/status"}]
    assert json.loads(components["acknowledge"]["payload_press"])["command"] == "ack"
    assert len({component["unique_id"] for component in components.values()}) == len(NOW)


def rendered(component: dict[str, Any], payload: messages.Payload) -> str:
    """What Home Assistant's value is, by the template engine that it uses."""
    told = json.loads(json.dumps(payload))
    return (
        jinja2.Environment(autoescape=False).from_string(component["value_template"]).render(value_json=told)
    )


def an_alarm_event(cause: str, level: AlarmLevel, active: bool = True) -> messages.Payload:
    before, after = AlarmState.NORMAL, AlarmState.UNACK
    moved = AlarmEvent("pump3", level, before, after, cause, 10, 5, active, score=3.4, threshold=2.1)
    return messages.event(
        moved, node="pc7", event_id="01J", seq=1, ts=NOON, onset_ts=NOON, score=a_score(), bank_id="b1",
        bank_sha256="9f", coverage_10m=1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("cause", "level", "type_"),
    [
        ("condition", AlarmLevel.ALARM, "alarm"),
        ("condition", AlarmLevel.WARNING, "warning"),
        ("changed_again", AlarmLevel.ALARM, "alarm"),
        ("clear", AlarmLevel.ALARM, "cleared"),
        ("ack", AlarmLevel.WARNING, "acknowledged"),
        ("shelve", AlarmLevel.ALARM, "changed"),
    ],
)
def test_the_event_entity_says_what_happened(cause: str, level: AlarmLevel, type_: str) -> None:
    component = a_discovery()["cmps"]["event"]
    found = json.loads(rendered(component, an_alarm_event(cause, level)))
    assert found["event_type"] == type_
    assert found["event_type"] in component["event_types"]
    assert (found["level"], found["cause"], found["event_id"]) == (level.value, cause, "01J")


def test_templates_say_what_the_payloads_say() -> None:
    components = a_discovery()["cmps"]
    score = state_payloads.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1)
    low, high, _ = score["bands_hz"][0]
    assert rendered(components["band"], score) == f"{round(low)} to {round(high)} Hz"
    assert rendered(components["condition"], score) == score["condition"]
    assert float(rendered(components["level"], score)) == score["level_dbfs"]
    quiet = state_payloads.score(
        replace(a_score(), bands=()), node="pc7", machine="pump3", ts=NOON, threshold=2.1
    )
    assert rendered(components["band"], quiet) == "none"
    levels = {AlarmLevel.WARNING: messages.LevelState(AlarmState.UNACK, True)}
    alarm = state_payloads.alarm_state(node="pc7", machine="pump3", name="P", ts=NOON, levels=levels)
    assert rendered(components["alarm"], alarm) == "OFF"
    assert rendered(components["warning"], alarm) == "ON"
    levels = {AlarmLevel.ALARM: messages.LevelState(AlarmState.OUT_OF_SERVICE)}
    alarm = state_payloads.alarm_state(node="pc7", machine="pump3", name="P", ts=NOON, levels=levels)
    assert rendered(components["out_of_service"], alarm) == "ON"
    node = node_discovery(TOPICS, version="1")["cmps"]
    health = state_payloads.node_health(
        node="pc7", ts=NOON, reasons=["x"], counters={"outbox_depth": 7}, worst_coverage_10m=0.75
    )
    said = [rendered(node[key], health) for key in ("degraded", "waiting", "worst_coverage")]
    assert said == ["ON", "7", "75.0"]


@pytest.mark.parametrize("key", ["acknowledge", "shelve", "reset"])
def test_what_a_press_sends_is_a_command(key: str) -> None:
    component = a_discovery()["cmps"][key]
    assert component["message_expiry_interval"] == 60
    assert parse("pump3", component["payload_press"].encode(), ReplyTo(None)).by == "Home Assistant"


def test_the_switch_sends_commands() -> None:
    switch = a_discovery()["cmps"]["out_of_service"]
    found = [parse("pump3", switch[f"payload_{way}"].encode(), ReplyTo(None)).verb for way in ("on", "off")]
    assert found == [Verb.OUT_OF_SERVICE, Verb.IN_SERVICE]


class _Blueprint(yaml.SafeLoader):
    """Home Assistant's `!input` as the name of the input."""


_Blueprint.add_constructor("!input", lambda _, node: {"input": str(node.value)})


def test_the_blueprint_uses_its_inputs_and_entities_that_exist() -> None:
    path = Path(__file__).parents[2] / "contrib" / "homeassistant" / "echo_stream_alarm.yaml"
    text = path.read_text(encoding="utf-8")
    found = yaml.load(text, _Blueprint)
    inputs = set(found["blueprint"]["input"])
    assert set(re.findall(r"!input (\w+)", text)) == inputs
    assert len(inputs) == 6
    names = {component["name"] for component in a_discovery()["cmps"].values()}
    assert {"Event", "Acknowledge", "Shelve 1 h", "Last evidence"} <= names
    for expression in re.findall(r"{{.*?}}", text, re.DOTALL):
        jinja2.Environment(autoescape=False).parse(expression)
    values = {
        "type": "alarm",
        "trigger": {"to_state": {"attributes": {"cause": "condition", "level": "alarm"}}},
    }
    wanted = jinja2.Environment(autoescape=False).from_string(found["conditions"][0]["value_template"])
    assert wanted.render(values) == "True"
    assert wanted.render(values | {"type": "warning"}) == "False"


def test_unique_ids_fit_a_discovery_topic_and_are_unique() -> None:
    named = [
        ("echo-stream", "pc7", "pump3"),
        ("echo-stream", "pc_7", "pump3"),
        ("echo-stream", "pc", "7_pump3"),
        ("echo-stream", "pc.7", "pump3"),
        ("site/echo-stream", "pc7", "pump3"),
        ("site_echo-stream", "pc7", "pump3"),
        ("echo-stream", "pc7", "Pümpe 3"),
        ("echo-stream", "pc7", "Pämpe 3"),
    ]
    ids = [unique_id(Topics(root, node), machine) for root, node, machine in named]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]+", i) for i in ids)


@pytest.mark.parametrize("payload", [b"", b"{}", b"[]", b"nonsense", b'{"o": {"name": "echo-stream"}}'])
def test_messages_of_others_are_not_ours(payload: bytes) -> None:
    assert not is_ours(payload, TOPICS)


def test_only_messages_of_this_node_are_ours() -> None:
    payload = json.dumps(a_discovery()).encode()
    assert is_ours(payload, TOPICS)
    assert not is_ours(payload, Topics("echo-stream", "pc8"))
    assert not is_ours(payload, Topics("other", "pc7"))


def test_home_assistants_own_code_takes_it() -> None:
    python = os.environ.get("HOMEASSISTANT_PYTHON")
    if not python:
        pytest.skip(
            "HOME ASSISTANT'S OWN CODE WAS NOT ASKED, only the documented fields: run "
            "scripts/test-homeassistant, which sets HOMEASSISTANT_PYTHON"
        )
    alarm = state_payloads.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels={})
    score = state_payloads.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1)
    bank = messages.bank(
        node="pc7", machine="pump3", ts=NOON, installed="b7", proposed="b8", effect="level 2.1 to 2.3"
    )
    given = {
        "topic": TOPIC,
        "payload": a_discovery(),
        "node": {"topic": NODE_TOPIC, "payload": node_discovery(TOPICS, version="1")},
        "blueprint": str(Path(__file__).parents[2] / "contrib" / "homeassistant" / "echo_stream_alarm.yaml"),
        "states": {
            "echo-stream/pc7/pump3/alarm": json.dumps(alarm),
            "echo-stream/pc7/pump3/score": json.dumps(score),
            "echo-stream/pc7/pump3/bank": json.dumps(bank),
            "echo-stream/pc7/pump3/event": json.dumps(an_alarm_event("condition", AlarmLevel.ALARM)),
        },
    }
    script = Path(__file__).parents[1] / "support" / "homeassistant_schema.py"
    done = subprocess.run(
        [python, str(script)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["components"] == {key: each["p"] for key, each in a_discovery()["cmps"].items()}
    assert (
        found["rendered"]
        | {
            "alarm": "OFF",
            "warning": "OFF",
            "state": "NORMAL",
            "score": "3.41",
            "out_of_service": "OFF",
        }
        == found["rendered"]
    )
    assert json.loads(found["rendered"]["event"])["event_type"] == "alarm"
    assert json.loads(found["rendered"]["bank"])["latest_version"] == "b8"


def test_the_picture_is_retained_and_leaves_with_its_machine(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    topic = a_discovery()["cmps"]["evidence"]["image_topic"]
    picture = bytes(range(256)) * 200
    publisher = publish(broker)
    publisher.set_image("nobody", picture)
    publisher.set_image("pump3", picture)
    wait_until(lambda: publisher.connected, "connected")
    heard = listen(broker, "echo-stream/+/+/image")
    wait_until(lambda: heard.heard, "the picture")
    assert [(m.topic, m.payload) for m in heard.heard] == [(topic, picture)]
    publisher.remove_machine("pump3")
    wait_until(lambda: len(heard.heard) == 2, "it is removed")
    assert heard.heard[1].payload == b""


def test_discovery_is_published_again_when_home_assistant_starts(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker, "homeassistant/#")
    publisher = publish(broker, discovery_prefix="homeassistant", birth_delay_s=0.2)
    wait_until(lambda: len(heard.texts(TOPIC)) == 1, "discovery")
    assert heard.payloads(TOPIC)[0]["dev"]["name"] == "Pump 3"
    wait_until(lambda: publisher.connected, "connected")
    heard.client.publish("homeassistant/status", "offline", qos=1)
    heard.client.publish("homeassistant/status", "online", qos=1)
    wait_until(lambda: len(heard.texts(TOPIC)) == 2, "discovery again")
    wait_until(lambda: len(heard.texts(TOPIC.replace("pump3", "fan1"))) == 2, "of each machine")
    late = listen(broker, TOPIC)
    wait_until(lambda: late.heard, "it is retained")
    assert late.heard[0].retain


def test_without_a_prefix_home_assistant_is_told_nothing(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker, "homeassistant/#")
    status = listen(broker, "echo-stream/pc7/status")
    publish(broker)
    wait_until(lambda: status.heard, "the publisher is there")
    assert heard.heard == []


def test_a_machine_that_joins_and_leaves(broker: MosquittoBroker, publish: Publish, listen: Listen) -> None:
    publisher = publish(broker, discovery_prefix="homeassistant", machines={})
    heard = listen(broker)
    wait_until(lambda: publisher.connected, "connected")
    publisher.add_machine("pump3", "Pump 3")
    publisher.set_available("pump3", True)
    state = state_payloads.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels={})
    publisher.set_alarm("pump3", state)
    wait_until(lambda: heard.texts("echo-stream/pc7/pump3/alarm"), "its alarm")
    wait_until(lambda: heard.texts(TOPIC), "its discovery")
    publisher.remove_machine("pump3")
    wait_until(lambda: heard.texts(TOPIC)[-1] == "", "its discovery is removed")
    wait_until(lambda: heard.texts("echo-stream/pc7/pump3/alarm")[-1] == "", "its alarm is removed")
    late = listen(broker, "echo-stream/pc7/pump3/#")
    wait_until(lambda: late.heard, "what is left")
    assert late.texts("echo-stream/pc7/pump3/availability") == ["offline"]
    assert len(late.heard) == 1


def test_purging_removes_our_devices_and_nobody_elses(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    publisher = publish(broker, discovery_prefix="homeassistant", machines={"pump3": "P", "gone": "G"})
    wait_until(lambda: publisher.connected, "connected")
    other = listen(broker, "none")
    foreign = json.dumps({**a_discovery(), "availability": [{"topic": "echo-stream/pc8/status"}]})
    other.client.publish("homeassistant/device/other/config", foreign, qos=1, retain=True).wait_for_publish(
        10
    )
    heard = listen(broker, "homeassistant/#")
    wait_until(lambda: len(heard.heard) == 4, "two machines, the node and the other")
    publisher.stop(5.0)
    purged = purge_discovery(Broker(broker.host, broker.port), Topics("echo-stream", "pc7"), ["pump3"])
    assert sorted(purged) == [NODE_TOPIC, "homeassistant/device/echo-stream_pc7_gone/config", TOPIC]
    late = listen(broker, "homeassistant/#")
    wait_until(lambda: late.heard, "what is left")
    assert late.topics() == ["homeassistant/device/other/config"]
