"""Commands and their replies through a real mosquitto."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.commands import Command, Verb
from echo_stream.mqtt.publisher import Publisher
from tests.support.broker import MosquittoBroker, mosquitto

from .conftest import Process, Subscriber, an_event, wait_until

Publish = Callable[..., Publisher]
Listen = Callable[..., Subscriber]
Logged = list[MutableMapping[str, Any]]
CMD = "echo-stream/pc7/pump3/cmd"
REPLY = "echo-stream/pc7/pump3/reply"
REPLY_SCHEMA = jsonschema.Draft202012Validator(messages.schema("reply"))


def send(operator: Subscriber, payload: object, topic: str = CMD, retain: bool = False, **said: Any) -> None:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    for name, value in said.items():
        setattr(properties, name, value)
    text = payload if isinstance(payload, bytes | str) else json.dumps(payload)
    operator.client.publish(topic, text, qos=1, retain=retain, properties=properties).wait_for_publish(20)


def ready(publisher: Publisher, broker: MosquittoBroker) -> None:
    wait_until(lambda: "Sending SUBACK to echo-stream-pc7" in broker.log, "it listens to commands")


def wait_for(publisher: Publisher, count: int = 1) -> list[Command]:
    taken: list[Command] = []

    def enough() -> bool:
        taken.extend(publisher.commands())
        return len(taken) >= count

    wait_until(enough, "commands")
    assert publisher.commands() == []
    return taken


@pytest.mark.parametrize("protocol", [3, 5])
def test_a_command_reaches_the_pipeline_and_its_outcome_the_sender(
    broker: MosquittoBroker, publish: Publish, listen: Listen, logged: Logged, protocol: int
) -> None:
    operator = listen(broker, REPLY)
    publisher = publish(broker, protocol=protocol)
    ready(publisher, broker)
    send(operator, {"command": "ack", "by": "J. Smith", "id": "17"}, UserProperty=[("client", "panel 4")])
    (command,) = wait_for(publisher)
    assert (command.machine, command.verb, command.by, command.id) == ("pump3", Verb.ACK, "J. Smith", "17")
    publisher.reply(command, ok=True, outcome="alarm: UNACK to ACKED")
    wait_until(lambda: operator.heard, "the reply")
    (reply,) = operator.payloads(REPLY)
    REPLY_SCHEMA.validate(reply)
    assert {k: reply[k] for k in ("command", "id", "ok", "outcome")} == {
        "command": "ack",
        "id": "17",
        "ok": True,
        "outcome": "alarm: UNACK to ACKED",
    }
    (line,) = [line for line in logged if line["event"] == "command received"]
    assert (line["by"], line["command"], line["machine"]) == ("J. Smith", "ack", "pump3")
    if protocol == 5:
        assert line["sender"] == {"client": "panel 4"}


def test_response_topic_and_correlation_are_honoured(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    operator = listen(broker, "operators/#")
    publisher = publish(broker)
    ready(publisher, broker)
    send(operator, {"command": "reset"}, ResponseTopic="operators/4", CorrelationData=b"\x00\x17")
    (command,) = wait_for(publisher)
    publisher.reply(command, ok=False, outcome="nothing is latched")
    wait_until(lambda: operator.heard, "the reply")
    message = operator.heard[0]
    assert message.topic == "operators/4"
    assert message.properties.CorrelationData == b"\x00\x17"  # type: ignore[union-attr]
    assert not message.retain


@pytest.mark.parametrize(
    "topic",
    [
        "operators/#",
        "+/x",
        "$SYS/broker/clients/total",
        "echo-stream/pc7/status",
        "echo-stream/pc7/pump3/alarm",
        "echo-stream/pc8/pump3/cmd",
        "echo-stream",
        "homeassistant/device/echo-stream-pc7-pump3/config",
        "homeassistant/status",
    ],
)
def test_a_response_topic_that_says_something_else_gets_no_reply(
    broker: MosquittoBroker, publish: Publish, listen: Listen, logged: Logged, topic: str
) -> None:
    operator = listen(broker, "operators/4")
    publisher = publish(broker, discovery_prefix="homeassistant")
    ready(publisher, broker)
    everything = listen(broker, "#")
    wait_until(lambda: everything.heard, "what is retained")
    send(operator, {"command": "ack"}, ResponseTopic=topic)
    send(operator, {"command": "nonsense"}, ResponseTopic=topic)
    send(operator, {"command": "reset"}, ResponseTopic="operators/4")
    acknowledge, reset = wait_for(publisher, 2)  # it is obeyed nevertheless
    publisher.reply(acknowledge, ok=True, outcome="done")
    publisher.reply(reset, ok=True, outcome="done")
    wait_until(lambda: operator.heard, "the reply to the last")
    replies = [m.topic for m in everything.heard if b'"outcome"' in m.payload]
    assert replies in ([], ["operators/4"])  # replies leave in the order of the commands
    assert [
        line["topic"] for line in logged if line["event"] == "the reply to a command could not be sent"
    ] == [topic, topic]
    assert publisher.counters().connections == 1


@pytest.mark.parametrize("topic", ["echo-stream/pc7/pump3/reply", "echo-stream/panel/4/reply/ab"])
def test_response_topics_under_our_root_have_a_level_of_their_own(
    broker: MosquittoBroker, publish: Publish, listen: Listen, topic: str
) -> None:
    operator = listen(broker, topic)
    publisher = publish(broker)
    ready(publisher, broker)
    send(operator, {"command": "ack"}, ResponseTopic=topic)
    publisher.reply(*wait_for(publisher), ok=True, outcome="done")
    wait_until(lambda: operator.heard, "the reply")


def test_what_is_malformed_is_refused_with_a_reply(
    broker: MosquittoBroker, publish: Publish, listen: Listen, logged: Logged
) -> None:
    operator = listen(broker, "echo-stream/pc7/+/reply")
    publisher = publish(broker)
    ready(publisher, broker)
    send(operator, b"\xff\x00nonsense")
    send(operator, {"command": "shelve", "id": "a"})
    send(operator, {"command": "ack"}, topic="echo-stream/pc7/nobody/cmd")
    wait_until(lambda: len(operator.heard) == 3, "three refusals")
    replies = [json.loads(message.payload) for message in operator.heard]
    for reply in replies:
        REPLY_SCHEMA.validate(reply)
        assert not reply["ok"]
        assert reply["outcome"].startswith("refused: ")
    assert (replies[1]["command"], replies[1]["id"]) == ("shelve", "a")
    assert "no machine 'nobody'" in replies[2]["outcome"]
    assert publisher.commands() == []
    assert [line["event"] for line in logged].count("command refused") == 3


def test_retained_commands_are_refused_whether_old_or_new(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    operator = listen(broker, REPLY)
    send(operator, {"command": "ack"}, retain=True)
    publisher = publish(broker)
    wait_until(lambda: len(operator.heard) == 1, "one left there before us")
    send(operator, {"command": "reset"}, retain=True)
    wait_until(lambda: len(operator.heard) == 2, "one sent while we listen")
    assert all("retained" in reply["outcome"] for reply in operator.payloads(REPLY))
    assert publisher.commands() == []


def test_refused_commands_do_not_fill_the_log(
    broker: MosquittoBroker, publish: Publish, listen: Listen, logged: Logged
) -> None:
    publisher, operator = publish(broker), listen(broker, REPLY)
    ready(publisher, broker)
    for at in range(200):
        said: dict[str, Any] = {"ResponseTopic": "$SYS/x"} if at % 2 else {}
        send(operator, b"not a command", **said)
    wait_until(lambda: len(operator.heard) >= 100, "each without a response topic is answered")
    said_of = [line["event"] for line in logged]
    assert said_of.count("command refused") == 10
    assert said_of.count("the reply to a command could not be sent") == 10
    assert len(said_of) < 30


def test_a_message_of_50_mb_costs_no_memory(broker: MosquittoBroker, tmp_path: Path, listen: Listen) -> None:
    process = Process(broker, tmp_path / "outbox.sqlite")
    operator = listen(broker, REPLY)
    ready_at = time.monotonic() + 30
    while "Sending SUBACK to echo-stream-pc7" not in broker.log and time.monotonic() < ready_at:
        time.sleep(0.05)
    before_mb = process.peak_mb()
    send(operator, b"x" * 50_000_000)
    send(operator, b"small")  # in order: what comes behind it has arrived, so it has not
    wait_until(lambda: len(operator.heard) >= 1, "the small one is refused")
    assert len(operator.heard) == 1, "the large one arrived too"
    assert process.peak_mb() - before_mb < 20
    process.stop()


def test_too_many_commands_are_refused_not_hoarded(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    operator = listen(broker, REPLY)
    publisher = publish(broker)
    ready(publisher, broker)
    for _ in range(110):
        send(operator, {"command": "ack"})
    wait_until(lambda: len(operator.heard) == 10, "ten refusals")
    assert all("too many" in reply["outcome"] for reply in operator.payloads(REPLY))
    assert len(wait_for(publisher, 100)) == 100


def test_a_command_that_came_while_the_daemon_was_restarted_is_not_lost(
    broker: MosquittoBroker, publish: Publish, listen: Listen, tmp_path: Path
) -> None:
    operator = listen(broker, "none")
    process = Process(broker, tmp_path / "outbox.sqlite")
    wait_until(lambda: "Sending SUBACK to echo-stream-pc7" in broker.log, "it listens to commands")
    process.kill()
    send(operator, {"command": "ack"})
    publisher = publish(broker)
    assert wait_for(publisher)[0].verb is Verb.ACK


def test_a_broker_that_forbids_the_commands_still_gets_the_events(
    tmp_path: Path, publish: Publish, listen: Listen, logged: Logged
) -> None:
    access = tmp_path / "access"
    access.write_text("topic write echo-stream/#\ntopic read echo-stream/+/+/event\n")
    with mosquitto(tmp_path, extra=f"acl_file {access}") as broker:
        heard = listen(broker, "echo-stream/+/+/event")
        publisher = publish(broker)
        publisher.event("event", an_event())
        wait_until(lambda: heard.heard, "the event")
        assert publisher.counters().connections == 1
