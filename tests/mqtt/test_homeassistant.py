"""Discovery against Home Assistant's documented fields, and, where it is installed, against its own code."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from echo_stream.cli.mqtt_check import purge_discovery
from echo_stream.core.types import AlarmState
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.connection import Broker
from echo_stream.mqtt.homeassistant import discovery, discovery_topic, is_ours, unique_id
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
}
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
    },
    "button": {**COMMON, "command_topic": str, "payload_press": str, "qos": int},
}


def a_discovery() -> messages.Payload:
    return discovery(TOPICS, "pump3", name="Pump 3", version="0.1.0")


def test_the_message_as_a_whole() -> None:
    found = a_discovery()
    assert discovery_topic("homeassistant", TOPICS, "pump3") == TOPIC
    assert set(found) == {"dev", "o", "availability", "availability_mode", "cmps"}
    assert set(found["dev"]) == {"ids", "name", "mf", "mdl", "sw"}
    assert found["o"] == {"name": "echo-stream", "sw": "0.1.0"}
    assert found["availability_mode"] == "all"
    assert [a["topic"] for a in found["availability"]] == [
        "echo-stream/pc7/status",
        "echo-stream/pc7/pump3/availability",
    ]
    assert set(found["cmps"]) == {"alarm", "state", "score", "capture", "acknowledge"}


@pytest.mark.parametrize("key", ["alarm", "state", "score", "capture", "acknowledge"])
def test_each_component_has_documented_fields_only(key: str) -> None:
    component = a_discovery()["cmps"][key]
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
    assert len({component["unique_id"] for component in components.values()}) == 5


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
            "HOME ASSISTANT'S OWN CODE WAS NOT ASKED, only the documented fields: set HOMEASSISTANT_PYTHON "
            "to a Python that has the packages homeassistant and paho-mqtt"
        )
    alarm = messages.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels={})
    score = messages.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1)
    given = {
        "topic": TOPIC,
        "payload": a_discovery(),
        "states": {
            "echo-stream/pc7/pump3/alarm": json.dumps(alarm),
            "echo-stream/pc7/pump3/score": json.dumps(score),
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
    assert found["components"] == {
        "alarm": "binary_sensor",
        "state": "sensor",
        "score": "sensor",
        "capture": "binary_sensor",
        "acknowledge": "button",
    }
    assert found["rendered"] == {"alarm": "OFF", "state": "NORMAL", "score": "3.41"}


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
    state = messages.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels={})
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
    wait_until(lambda: len(heard.heard) == 3, "all three")
    publisher.stop(5.0)
    purged = purge_discovery(Broker(broker.host, broker.port), Topics("echo-stream", "pc7"), ["pump3"])
    assert sorted(purged) == ["homeassistant/device/echo-stream_pc7_gone/config", TOPIC]
    late = listen(broker, "homeassistant/#")
    wait_until(lambda: late.heard, "what is left")
    assert late.topics() == ["homeassistant/device/other/config"]
