"""The real daemon as a subprocess, and what a real subscriber hears of it."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from echo_stream.core.errors import EchoStreamError
from echo_stream.daemon.status import ask
from tests.support.command import ROOT, command, program

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
FITTED = Path()
"""Folder of what was fitted in this run of the tests, which its workers share; set in conftest."""


class Subscriber:
    """Everything that is published under `echo-stream/`, in order."""

    def __init__(self, host: str, port: int) -> None:
        self.heard: list[tuple[str, Any]] = []
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("echo-stream/#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(host, port)
        self._client.loop_start()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        text = message.payload.decode(errors="replace")
        self.heard.append((message.topic, json.loads(text) if text.startswith("{") else text))

    def of(self, what: str, machine: str | None = None) -> list[Any]:
        """Payloads of topics that end in `what`."""
        end = f"{machine}/{what}" if machine else what
        return [payload for topic, payload in list(self.heard) if topic.endswith(f"/{end}")]

    @property
    def events(self) -> list[Any]:
        """Events, each once: a killed daemon or broker may deliver one twice."""
        return list({event["event_id"]: event for event in self.of("event")}.values())

    def publish(self, topic: str, payload: dict[str, Any]) -> None:
        """QoS 1, not retained."""
        self._client.publish(topic, json.dumps(payload), qos=1)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextlib.contextmanager
def subscriber(host: str, port: int) -> Iterator[Subscriber]:
    listening = Subscriber(host, port)
    try:
        yield listening
    finally:
        listening.close()


def wait_for(what: Callable[[], Any], timeout_s: float, said: str) -> Any:
    """The first true value of `what()`, waited for a minute at least: a PC that runs tests is busy."""
    timeout_s = max(timeout_s, 60.0)
    began = time.monotonic()
    while (waited_s := time.monotonic() - began) < timeout_s:
        if found := what():
            return found
        time.sleep(min(0.05 + waited_s / 50, 0.25))  # each question costs who is asked a few milliseconds
    raise AssertionError(f"not within {timeout_s} s: {said}")


def run(folder: Path, *words: str, apart: bool = False) -> str:
    """A command that must succeed, in this process or as a program of its own; its standard output."""
    done = (program if apart else command)(*words, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


SIMULATED = """\
node: pc7
state_dir: state
machines:
  - id: pump3
    source: {{kind: simulated, seed: {seed}, sample_rate_hz: {rate_hz}, pace: fast, duration_s: {enrolled_s}}}
    bank: banks/pump3.safetensors
"""
PUMP = SIMULATED.format(seed=5, rate_hz=8000, enrolled_s=90)


def fitted(folder: Path, config: str = PUMP, machine: str = "pump3") -> None:
    """What `fit-normal` leaves beside a configuration; fitted once in this run of the tests, then copied."""
    key = hashlib.sha256(f"{machine} {config}".encode()).hexdigest()[:16]
    found = FITTED / key
    found.mkdir(parents=True, exist_ok=True)
    with (found / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # other workers of this run wait for the first
        if not (found / "done").exists():
            (found / "config.yaml").write_text(config)
            run(found, "fit-normal", "--machine", machine)
            (found / "done").touch()
    names = shutil.ignore_patterns("lock", "done", "config.yaml", "state")
    shutil.copytree(found, folder, symlinks=True, dirs_exist_ok=True, ignore=names)


@contextlib.contextmanager
def daemon(folder: Path, module: str = "echo_stream", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """`echo-stream run` in a folder with a config.yaml; its log is in folder/log."""
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, "run"],
            cwd=folder,
            env={**ENVIRONMENT, **environment},
            stderr=log,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def asked(folder: Path) -> dict[str, Any]:
    """What the daemon of a folder says of itself; empty while it does not answer."""
    try:
        return ask(folder / "state/status.sock")
    except EchoStreamError:
        return {}


def terminate(process: subprocess.Popen[str]) -> tuple[int, float]:
    """SIGTERM; exit code and seconds until the end."""
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=60)
    return code, time.monotonic() - began
