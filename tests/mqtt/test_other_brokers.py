"""The publisher with amqtt and aedes, which speak MQTT 3.1.1 only and forget everything when killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from echo_stream.mqtt.commands import Command
from echo_stream.mqtt.publisher import Publisher
from tests.mqtt.conftest import Process, an_event, wait_until
from tests.support.other_brokers import OtherBroker, other_broker

ROOT = "echo-stream/pc7"
Publish = Callable[..., Publisher]


@pytest.fixture(params=["amqtt", "aedes"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OtherBroker]:
    with other_broker(request.param, tmp_path) as broker:
        yield broker


class Heard:
    """An independent client of MQTT 3.1.1."""

    def __init__(self, broker: OtherBroker) -> None:
        self.messages: list[MQTTMessage] = []
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.reconnect_delay_set(1, 1)
        self.client.on_message = lambda _c, _u, message: self.messages.append(message)
        self.subscribed: list[bool] = []
        self.client.on_connect = lambda client, *_: client.subscribe("#", 1)
        self.client.on_subscribe = lambda *_: self.subscribed.append(True)
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        wait_until(lambda: self.subscribed, "the subscriber is connected")

    def texts(self, topic: str) -> list[str]:
        return [m.payload.decode() for m in list(self.messages) if m.topic == f"{ROOT}/{topic}"]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def heard(other: OtherBroker) -> Iterator[Heard]:
    made = Heard(other)
    yield made
    made.close()


def put(publisher: Publisher, count: int) -> list[str]:
    events = [an_event("pump3", publisher.next_seq("pump3")) for _ in range(count)]
    for event in events:
        publisher.event("event", event)
    return [event["event_id"] for event in events]


def ids(heard: Heard) -> list[str]:
    """Each once: at least once is what is promised."""
    return list(dict.fromkeys(json.loads(text)["event_id"] for text in heard.texts("pump3/event")))


def test_events_states_commands_and_the_good_bye(other: OtherBroker, heard: Heard, publish: Publish) -> None:
    publisher = publish(other)
    publisher.set_available("pump3", True)
    sent = put(publisher, 100)
    wait_until(lambda: publisher.outbox.depth == 0, "delivered")
    wait_until(lambda: ids(heard) == sent, "in order")
    assert publisher.counters().connections == 1, "it was thrown out, and came back"
    late = Heard(other)
    wait_until(lambda: late.texts("pump3/availability")[-1:] == ["online"], "the states are retained")
    late.close()

    heard.client.publish(f"{ROOT}/pump3/cmd", json.dumps({"command": "ack", "id": "7"}), qos=1)
    taken: list[Command] = []

    def arrived() -> bool:
        taken.extend(publisher.commands())
        return bool(taken)

    wait_until(arrived, "the command arrives")
    publisher.reply(taken[0], ok=True, outcome="done")
    wait_until(lambda: heard.texts("pump3/reply"), "the reply arrives")
    assert json.loads(heard.texts("pump3/reply")[0])["id"] == "7"

    assert publisher.stop(5.0)
    wait_until(lambda: heard.texts("status")[-1:] == ["offline"], "a clean stop says offline")
    assert heard.texts("pump3/availability")[-1] == "offline"


def test_nothing_is_lost_over_a_kill_of_the_broker(
    other: OtherBroker, heard: Heard, publish: Publish
) -> None:
    publisher = publish(other)
    sent = put(publisher, 5)
    wait_until(lambda: ids(heard) == sent, "the first")
    other.kill()
    wait_until(lambda: not publisher.connected, "its end is noticed")
    sent += put(publisher, 5)
    other.start()
    wait_until(lambda: publisher.outbox.depth == 0, "delivered")
    wait_until(lambda: publisher.counters().published == len(sent), "counted")
    again = Heard(other)
    wait_until(lambda: again.texts("status")[-1:] == ["online"], "all states are announced again")
    again.close()


def test_the_will_is_said_after_kill_9(other: OtherBroker, heard: Heard, tmp_path: Path) -> None:
    where = {"host": other.host, "port": other.port}
    process = Process(where, tmp_path / "outbox.sqlite")
    wait_until(lambda: heard.texts("status")[-1:] == ["online"], "online")
    process.kill()
    wait_until(lambda: heard.texts("status")[-1] == "offline", "the will")
