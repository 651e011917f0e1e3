"""Speeds that other programs publish: what is read of a message, what is of use, what a broker does to it."""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest

from echo_stream.mqtt.publisher import Publisher
from echo_stream.mqtt.speeds import Speed, SpeedTopic, read_rpm
from tests.support.broker import MosquittoBroker

from .conftest import Subscriber, wait_until

Publish = Callable[..., Publisher]
Listen = Callable[..., Subscriber]
Logged = list[MutableMapping[str, Any]]
TOPIC = "plant/pump3/rpm"


@pytest.mark.parametrize(
    ("payload", "key", "rpm"),
    [
        (b"1480", None, 1480.0),
        (b" 1480.5\n", None, 1480.5),
        (b"-1480", None, 1480.0),
        (b"0", None, 0.0),
        (b'{"rpm": 1480}', "rpm", 1480.0),
        (b'{"drive": {"rpm": "1480.5"}}', "drive.rpm", 1480.5),
    ],
)
def test_a_speed_is_read(payload: bytes, key: str | None, rpm: float) -> None:
    assert read_rpm(payload, key) == rpm


@pytest.mark.parametrize(
    ("payload", "key", "said"),
    [
        (b"", None, "expected a number of at most 1,000,000, found ''"),
        (b"1480 rpm", None, "found '1480 rpm'"),
        (b"1480,5", None, "found '1480,5'"),
        (b"nan", None, "expected a number"),
        (b"1e999", None, "expected a number"),
        (b"\xff\x00", None, "expected a number"),
        (b'{"rpm": 1480}', None, "of JSON, name the key: rpm.key"),
        (b"1480", "rpm", "it has no key rpm: '1480'"),
        (b'{"rpm": 1480}', "drive.rpm", "it has no key drive.rpm"),
        (b'{"rpm": null}', "rpm", "found 'None'"),
        (b'{"rpm": true}', "rpm", "found 'True'"),
        (b'{"rpm": [1]}', "rpm", "found '[1]'"),
        (b"not JSON\x1b[2J", "rpm", "expected JSON with the key rpm, found 'not JSON?[2J'"),
        (b"[" * 4000, "rpm", "expected JSON"),
        (b"9" * 5000, None, "it has 5000 bytes, at most 4096 are read"),
        (b'{"rpm": ' + b"9" * 4000 + b"}", "rpm", "expected a number"),
    ],
)
def test_what_is_no_speed_is_said(payload: bytes, key: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=r"expected|it has") as refused:
        read_rpm(payload, key)
    assert said in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("protocol", [3, 5])
def test_the_newest_speed_is_known_with_its_age(
    broker: MosquittoBroker, publish: Publish, listen: Listen, logged: Logged, protocol: int
) -> None:
    drive = listen(broker, "nothing/else")
    drive.client.publish(TOPIC, "700", qos=1, retain=True).wait_for_publish(20)
    topics = {"pump3": SpeedTopic(TOPIC), "fan1": SpeedTopic(TOPIC, "rpm", 0.2)}
    publisher = publish(broker, protocol=protocol, speeds=topics)

    def known(machine: str = "pump3") -> Speed:
        found = publisher.speed(machine)
        assert found is not None
        return found

    wait_until(lambda: "retained" in known().text, "the retained value")
    assert (known().rpm, known().usable, known().bad) == (None, False, 0)
    drive.client.publish(TOPIC, "1480", qos=1, retain=True)  # kept for others, but it comes as it is said
    wait_until(lambda: known().rpm == 1480.0, "a speed")
    assert known().usable
    assert known().text.startswith("1480 rpm, ")
    wait_until(lambda: known("fan1").bad == 1, "the other machine reads another key of it")
    assert not known("fan1").usable
    drive.client.publish(TOPIC, "fast", qos=1)
    drive.client.publish(TOPIC, "faster", qos=1)
    drive.client.publish(TOPIC, '{"rpm": 900}', qos=1)
    wait_until(lambda: known("fan1").rpm == 900.0, "the speed of the other")
    assert (known().rpm, known().bad) == (1480.0, 3)
    time.sleep(0.25)
    assert not known("fan1").usable
    assert "max_age_s is 0.2" in known("fan1").text
    drive.client.publish(TOPIC, "0", qos=1)
    wait_until(lambda: known().rpm == 0.0, "it stands still")
    assert (known().usable, known().text) == (False, "the shaft stands still")
    mine = [line for line in logged if line.get("topic") == TOPIC and line.get("machine") == "pump3"]
    assert [line["event"] for line in mine] == [
        "a speed cannot be read and is not used",
        "speeds are read again",
    ]
    assert mine[0]["reason"] == "expected a number of at most 1,000,000, found 'fast'"
    assert mine[1]["bad"] == 3

    publisher.set_speeds({"pump3": SpeedTopic(TOPIC), "fan1": SpeedTopic("plant/fan1/rpm")})
    assert known().rpm == 0.0, "what stays is kept"
    wait_until(lambda: "plant/fan1/rpm (QoS 1)" in broker.log, "the new topic is asked for")
    drive.client.publish("plant/fan1/rpm", "600", qos=1)
    wait_until(lambda: known("fan1").rpm == 600.0, "the new topic")
    assert publisher.commands() == []
