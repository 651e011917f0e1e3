"""The demonstration: its brokers, its failures, and the whole of it as a user sees it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import publish
from paho.mqtt.client import MQTTv5, MQTTv311

from echo_stream.cli.demo import listen
from echo_stream.cli.demo_broker import HOST, DemoBroker, _amqtt, _free_port, demo_broker
from echo_stream.core.errors import DeliveryError, EchoStreamError
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.connection import Connection

ROOT = Path(__file__).parents[2]


def carries_a_message(broker: DemoBroker) -> None:
    received: list[tuple[str, str]] = []
    subscriber = Connection(
        Broker(host=HOST, port=broker.port),
        client_id="subscriber",
        protocol=broker.protocol,
        on_message=lambda message: received.append((message.topic, message.payload.decode(errors="replace"))),
    )
    subscriber.open()
    try:
        subscriber.subscribe("echo-stream/#")
        subscriber.step(10)  # the broker's answer
        version = MQTTv5 if broker.protocol == 5 else MQTTv311
        publish.single("echo-stream/a/b", "grüß dich", 1, hostname=HOST, port=broker.port, protocol=version)
        until_s = time.monotonic() + 60
        while not received and time.monotonic() < until_s:
            subscriber.step(0.1)
    finally:
        subscriber.abort()
    assert received == [("echo-stream/a/b", "grüß dich")]


@pytest.mark.skipif(shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None, reason="no mosquitto here")
def test_mosquitto_is_taken_where_it_is_installed() -> None:
    with demo_broker() as broker:
        assert (broker.name, broker.protocol) == ("mosquitto", 5)
        carries_a_message(broker)
    with pytest.raises(DeliveryError, match="no connection"):
        Connection(Broker(host=HOST, port=broker.port), client_id="late").open()


@pytest.fixture
def collected() -> Iterator[None]:
    """amqtt leaves sockets to the garbage collector, which complains: here, not in another test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()


@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_amqtt_serves_inside_the_process() -> None:
    port = _free_port()
    with _amqtt(port):
        carries_a_message(DemoBroker("amqtt", port, 3))


def test_a_daemon_that_cannot_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("node: pc7\nmachines: []\n")
    with demo_broker() as broker, pytest.raises(EchoStreamError, match="exit code 78") as caught:
        listen(config, tmp_path / "daemon.log", broker, verbose=False)
    assert "expected at least one machine" in caught.value.hint


@pytest.mark.timeout(400)
def test_the_whole_demonstration(tmp_path: Path) -> None:
    """At real-time pace: most of a minute."""
    command = [sys.executable, "-m", "echo_stream", "demo", "--into", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=380, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [
        line for line in done.stdout.splitlines() if line.startswith("echo-stream/demo-pc/machine1/event ")
    ]
    events = [json.loads(line.split(" ", 1)[1]) for line in lines]
    alarms = [event for event in events if event["level"] == "alarm"]
    assert [(e["from"], e["to"]) for e in alarms] == [("NORMAL", "UNACK"), ("UNACK", "RTN_UNACK")]
    assert "echo-stream/demo-pc/status online" in done.stdout
    assert "echo-stream/demo-pc/status offline" in done.stdout
    assert "exit code 0" in done.stdout
    assert "echo-stream devices" in done.stdout
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"normal.wav", "config.yaml", "daemon.log", "demo.png", "banks"} <= left
    assert (tmp_path / "out" / "demo.png").read_bytes().startswith(b"\x89PNG")
    [document] = (tmp_path / "out").glob("state-*/evidence/machine1/*.json")
    assert json.loads(document.read_text())["changes"][0]["change"] == "louder"
