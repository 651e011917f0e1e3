"""The live half of the demonstration: the real daemon as a process, and what a subscriber sees of it.

Main thread; the subscriber's thread only fills a queue.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Final

from echo_stream.cli.demo_broker import HOST, DemoBroker
from echo_stream.cli.watch import subscribed
from echo_stream.core.errors import EchoStreamError

PATIENCE_S: Final = 75.0
"""After this time the demonstration has failed."""
_STOP_S: Final = 10.0
_AFTERWARDS_S: Final = 3.0
"""A few more scores, for the picture."""
_TOLD: Final = {"status", "availability", "alarm", "event", "evidence"}

say = partial(print, flush=True)


@dataclass(frozen=True, slots=True)
class Message:
    """One that the subscriber received."""

    at: datetime
    """UTC of its arrival."""
    topic: str
    text: str

    @property
    def what(self) -> str:
        """The last part of the topic."""
        return self.topic.rsplit("/", 1)[-1]

    @property
    def alarm(self) -> bool | None:
        """Whether the alarm is on after this; None if it does not say."""
        event = json.loads(self.text) if self.what == "event" else {}
        return event["active"] if event.get("level") == "alarm" else None


@dataclass(frozen=True, slots=True)
class Seen:
    """What the subscriber saw of one run."""

    stream_at: datetime
    """UTC of the first sample."""
    raised_at: datetime
    """When the event arrived that said the alarm is on."""
    cleared_at: datetime
    """And that it is off."""
    scores: list[dict[str, Any]]
    """Payloads of the score messages."""


def command(*arguments: str) -> list[str]:
    """This program with arguments, as a process of its own."""
    return [sys.executable, "-m", "echo_stream", *arguments]


def listen(config: Path, log: Path, broker: DemoBroker, verbose: bool) -> Seen:
    """Run the daemon until an alarm was raised and cleared, printing what a subscriber receives.

    Raises:
        EchoStreamError: the daemon failed, no alarm came or none went, or it did not stop as it should.
    """
    queue: Queue[Message] = Queue()

    def received(topic: str, text: str) -> None:
        queue.put(Message(datetime.now(UTC), topic, text))

    with (
        subscribed("echo-stream/#", received, host=HOST, port=broker.port, protocol=broker.protocol),
        _daemon(config, log) as daemon,
    ):
        messages = _watch(queue, daemon, verbose)
        if daemon.poll() is None:
            daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(_STOP_S)
        _watch(queue, daemon, verbose)  # what it said when it stopped
    lines = log.read_text(encoding="utf-8").splitlines()
    if code != 0:
        raise EchoStreamError(f"the daemon ended with exit code {code}, see {log}", "\n".join(lines[-10:]))
    raised_at = next((m.at for m in messages if m.alarm), None)
    cleared_at = next((m.at for m in messages if m.alarm is False and raised_at), None)
    if raised_at is None or cleared_at is None:
        lacking = "no alarm was raised" if raised_at is None else "the alarm was not cleared"
        raise EchoStreamError(f"{lacking} within {PATIENCE_S:.0f} s", f"see {log}")
    scores = [json.loads(m.text) for m in messages if m.what == "score"]
    return Seen(_stream_began(lines), raised_at, cleared_at, scores)


@contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command("run", "--config", str(config)), stdout=file, stderr=file)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _watch(queue: Queue[Message], daemon: subprocess.Popen[bytes], verbose: bool) -> list[Message]:
    """Print what comes until an alarm came and went, the daemon has ended or the patience is over."""
    messages: list[Message] = []
    until_s = time.monotonic() + PATIENCE_S
    raised = False
    while time.monotonic() < until_s:
        try:
            message = queue.get(timeout=0.2)
        except Empty:
            if daemon.poll() is not None:
                break
            continue
        messages.append(message)
        if verbose or message.what in _TOLD:
            say(message.topic, message.text)
        if raised and message.alarm is False:
            until_s = min(until_s, time.monotonic() + _AFTERWARDS_S)
        raised = raised or message.alarm is True
    return messages


def _stream_began(lines: list[str]) -> datetime:
    """When the simulated stream began, from the lines of the daemon's log."""
    for line in lines:
        if '"simulated stream begins"' in line:
            return datetime.fromisoformat(json.loads(line)["at"])
    raise EchoStreamError("the daemon's log does not say when the simulated stream began", lines[0])
