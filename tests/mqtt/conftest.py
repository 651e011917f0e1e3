"""What the tests of this room share: payloads, a subscriber, a way to wait."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState, BandScore, Neighbour, Score
from echo_stream.mqtt import event_ids
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from tests.support.broker import MosquittoBroker, mosquitto

NOON = datetime(2026, 11, 20, 12, 0, 0, 123_456, tzinfo=UTC)


def wait_until(true: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    """Wait until something holds; the limit is generous because the machine is shared."""
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


def a_score(value: float = 3.41) -> Score:
    bands = (
        BandScore(0, 500, -0.2),
        BandScore(500, 1000, value / 4 + 0.2),
        BandScore(2800, 3500, 3 * value / 4),
    )
    return Score(value, 0.0003, bands, (Neighbour("a.wav", 1.0, 0.2),), -31.25, 2.3, "normal")


def an_event(
    machine: str = "pump3", seq: int = 1, level: AlarmLevel = AlarmLevel.ALARM, **fields: Any
) -> messages.Payload:
    """A valid event payload; `fields` replace those of the AlarmEvent."""
    transition: dict[str, Any] = {
        "before": AlarmState.NORMAL,
        "after": AlarmState.UNACK,
        "cause": "condition",
        "at": 480_000,
        "onset": 336_000,
        "active": True,
        "score": 3.41,
        "threshold": 2.1,
    }
    return messages.event(
        AlarmEvent(machine=machine, level=level, **{**transition, **fields}),
        node="pc7",
        event_id=event_ids.new_event_id(NOON),
        seq=seq,
        ts=NOON,
        onset_ts=NOON - timedelta(seconds=3),
        score=a_score(),
        bank_id="b7",
        bank_sha256="9f" * 32,
        coverage_10m=0.998,
        clip="20261120T120000Z_pump3.flac",
    )


@dataclass
class Subscriber:
    """An independent client that writes down all it is sent."""

    client: Client
    heard: list[MQTTMessage] = field(default_factory=list)

    def topics(self) -> list[str]:
        return [message.topic for message in self.heard]

    def texts(self, topic: str) -> list[str]:
        return [message.payload.decode() for message in list(self.heard) if message.topic == topic]

    def payloads(self, topic: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.texts(topic)]

    def ids(self, topic: str) -> list[str]:
        return [payload["event_id"] for payload in self.payloads(topic)]


def subscribe(
    broker: MosquittoBroker, topic: str = "#", name: str = "", session_expiry: int = 0, **connect: Any
) -> Subscriber:
    """Connect and subscribe; with name, clean_start=False and expiry, the broker keeps what it misses."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = session_expiry
    client = Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTv5)
    subscriber = Subscriber(client)
    ready: list[bool] = []
    client.on_message = lambda _c, _u, message: subscriber.heard.append(message)
    client.on_connect = lambda c, *_: c.subscribe(topic, 1)
    client.on_subscribe = lambda *_: ready.append(True)
    client.connect_async(broker.host, broker.port, properties=properties, **connect)
    client.reconnect_delay_set(1, 1)
    client.loop_start()
    wait_until(lambda: ready, "the subscriber is connected")
    return subscriber


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    with mosquitto(tmp_path) as running:
        yield running


@pytest.fixture
def listen() -> Iterator[Callable[..., Subscriber]]:
    """`listen(broker, topic="#")` -> Subscriber; ended with the test."""
    made: list[Subscriber] = []

    def make(broker: MosquittoBroker, topic: str = "#", **more: Any) -> Subscriber:
        made.append(subscribe(broker, topic, **more))
        return made[-1]

    yield make
    for subscriber in made:
        subscriber.client.disconnect()
        subscriber.client.loop_stop()


@pytest.fixture
def publish(tmp_path: Path) -> Iterator[Callable[..., Publisher]]:
    """`publish(broker, **arguments of Publisher or Broker)` -> a started Publisher; stopped with the test."""
    made: list[Publisher] = []

    def make(broker: MosquittoBroker, *, start: bool = True, **more: Any) -> Publisher:
        where = {name: more.pop(name) for name in list(more) if name in Broker.__dataclass_fields__}
        arguments: dict[str, Any] = {
            "node": "pc7",
            "machines": {"pump3": "Pump 3", "fan1": "Fan 1"},
            "outbox_path": tmp_path / "outbox.sqlite",
            "retry_min_s": 0.05,
            "retry_max_s": 0.2,
            "refused_retry_s": 0.5,
        }
        publisher = Publisher(Broker(broker.host, broker.port, **where), **{**arguments, **more})
        made.append(publisher)
        if start:
            publisher.start()
        return publisher

    yield make
    for publisher in made:
        if publisher.alive:
            publisher.stop(1.0)


class Process:
    """A Publisher in a process of its own (publish_alone.py).

    Args:
        broker: A real one, or the fields of a `Broker`.
        outbox: Its file.
        arguments: Of Publisher and of publish_alone.py.
    """

    def __init__(self, broker: MosquittoBroker | dict[str, Any], outbox: Path, **arguments: Any) -> None:
        given = {
            "broker": broker if isinstance(broker, dict) else {"host": broker.host, "port": broker.port},
            "outbox_path": str(outbox),
            "node": "pc7",
            "machines": {"pump3": "Pump 3", "fan1": "Fan 1"},
            "retry_min_s": 0.05,
            "retry_max_s": 0.2,
            **arguments,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.publish_alone", json.dumps(given)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, **asked: Any) -> Any:
        """Send a command and wait for its answer; BrokenPipeError where the process is gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith("\n"):
            raise BrokenPipeError
        return json.loads(line)

    def peak_mb(self) -> float:
        """The most memory that it ever had, resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return float(status.partition("VmHWM:")[2].split()[0]) / 1000

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._close()

    def wait_for_death(self) -> None:
        """Wait until it has killed itself."""
        assert self._process.wait(60) == -signal.SIGKILL
        self._close()

    def stop(self) -> None:
        """End it properly."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._close()

    def _close(self) -> None:
        self._process.wait(60)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What is logged meanwhile, one mapping a line."""
    with structlog.testing.capture_logs() as lines:
        yield lines
