"""The demonstration: its brokers, its picture, its failures, and the whole of it as a user sees it."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from paho.mqtt import publish
from paho.mqtt.client import MQTTv5, MQTTv311

from echo_stream.capture.simulator import Fault, Scenario, SimulatedMachine
from echo_stream.cli.demo_broker import HOST, DemoBroker, _amqtt, _free_port, demo_broker
from echo_stream.cli.demo_listen import listen
from echo_stream.cli.demo_picture import Run, draw_run, run_figure
from echo_stream.cli.watch import subscribed
from echo_stream.core.errors import DeliveryError, EchoStreamError

ROOT = Path(__file__).parents[2]


def carries_a_message(broker: DemoBroker) -> None:
    heard: list[tuple[str, str]] = []
    with subscribed(
        "echo-stream/#",
        lambda topic, text: heard.append((topic, text)),
        host=HOST,
        port=broker.port,
        protocol=broker.protocol,
    ):
        version = MQTTv5 if broker.protocol == 5 else MQTTv311
        publish.single("echo-stream/a/b", "grüß dich", 1, hostname=HOST, port=broker.port, protocol=version)
        until_s = time.monotonic() + 10
        while not heard and time.monotonic() < until_s:
            time.sleep(0.02)
    assert heard == [("echo-stream/a/b", "grüß dich")]


@pytest.mark.skipif(shutil.which("mosquitto", path="/usr/sbin:/usr/bin") is None, reason="no mosquitto here")
def test_mosquitto_is_taken_where_it_is_installed() -> None:
    with demo_broker() as broker:
        assert (broker.name, broker.protocol) == ("mosquitto", 5)
        carries_a_message(broker)
    with pytest.raises(DeliveryError, match="no broker"), _subscriber(broker.port):
        pass


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


def _subscriber(port: int) -> AbstractContextManager[None]:
    return subscribed("#", lambda *_: None, host=HOST, port=port)


def test_a_daemon_that_cannot_start_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("node: pc7\nmachines: []\n")
    with demo_broker() as broker, pytest.raises(EchoStreamError, match="exit code 78") as caught:
        listen(config, tmp_path / "daemon.log", broker, verbose=False)
    assert "expected at least one machine" in caught.value.hint


def a_run() -> Run:
    machine = SimulatedMachine(5)
    scores = [(float(t), 20.0 if 15 <= t <= 28 else 0.5, 8.0) for t in range(2, 37)]
    samples = Scenario(machine, [Fault("bearing", 15, 28)]).render(0, 36 * 16000)
    return Run(samples, 16000, "bearing", 15.0, 28.0, 19.1, 35.0, scores)


def test_the_picture_shows_sound_over_score_on_one_axis_of_time(tmp_path: Path) -> None:
    sound, score = run_figure(a_run()).axes[:2]
    assert sound.get_xlim() == score.get_xlim()
    assert sound.get_ylabel() == "frequency (kHz)"
    assert score.get_xlabel().endswith("(s)")
    legend = score.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["bearing fault", "threshold", "anomaly score"]
    marked = " ".join(text.get_text() for text in score.texts)
    assert "alarm raised\n19.1 s" in marked
    assert "alarm cleared\n35.0 s" in marked
    draw_run(a_run(), tmp_path / "demo.png")
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.timeout(150)
def test_the_whole_demonstration(tmp_path: Path) -> None:
    """At real-time pace: most of a minute."""
    command = [sys.executable, "-m", "echo_stream", "demo", "--into", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=140, check=False)
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
