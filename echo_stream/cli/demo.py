"""demo shows the whole way in a minute, without microphone, existing broker or download. Main thread.

Nothing in it is staged: `fit-normal` and `run` are the commands that every user runs, the broker, the
subscriber and the evidence are real; only the machine is simulated.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final

from paho.mqtt.client import MQTTMessage

from echo_stream.capture.simulator import FaultKind, SimulatedMachine, write_wav
from echo_stream.cli.demo_broker import HOST, DemoBroker, demo_broker
from echo_stream.config.schema import AlarmSettings
from echo_stream.core.errors import DeliveryError, EchoStreamError
from echo_stream.evidence.store import list_events
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.connection import Connection
from echo_stream.web import installed as web_installed

SEED: Final = 5
RATE_HZ: Final = 16000
NORMAL_S: Final = 60
NORMAL_FROM_S: Final = 600
"""The enrolled minute lies elsewhere in the machine's life than the live stream."""
FAULT: Final[FaultKind] = "bearing"
FAULT_START_S: Final = 15
FAULT_END_S: Final = 28
AGAIN_EVERY_S: Final = 120
"""With --keep the fault comes again so often, and TIMES in all."""
TIMES: Final = 500
PAGE_PORT: Final = 8765
ALARM: Final = AlarmSettings()
"""The delays that every user has until he sets others."""

PATIENCE_S: Final = 150.0
"""After this time the demonstration has failed."""
_STOP_S: Final = 30.0
_SHOWN: Final = {"status", "availability", "alarm", "event", "evidence"}

say = partial(print, flush=True)

CONFIG: Final = """\
# Written by echo-stream demo; an example to play with.
node: demo-pc
state_dir: {state_dir}
encoder: {{kind: spectral, window_s: 2.0, hop_s: 1.0}}
mqtt: {{host: {host}, port: {port}, protocol: {protocol}}}
web: {{enabled: {page}, port: {page_port}}}
machines:
  - id: machine1
    name: Simulated machine
    source:
      kind: simulated
      seed: {seed}
      sample_rate_hz: {rate_hz}
      pace: realtime
      faults: [{faults}]
    bank: banks/machine1.safetensors
    alarm: {{on_delay_s: {on_delay_s:g}, off_delay_s: {off_delay_s:g}}}
"""

WITH_A_MICROPHONE: Final = """\
The same with a microphone:
  1. echo-stream devices                          which inputs there are, and what to write for each
  2. in config.yaml, the machine's source:        source: {kind: microphone, device: "USB Audio"}
     and your broker:                             mqtt: {host: localhost, port: 1883}
  3. echo-stream fit-normal --machine pump3 --minutes 10      while it runs as it should
  4. echo-stream run                              and scratch on the housing for ten seconds"""


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


def run_demo(into: Path, verbose: bool = False, keep: bool = False) -> None:
    """Fit, listen, fault, alarm, clear; leaves recording, bank, log and demo.png in the folder.

    Args:
        into: folder for what is left; made if need be, nothing in it is deleted.
        verbose: print each score as well.
        keep: stay up until Ctrl-C, for the page; the fault comes again and again.

    Raises:
        EchoStreamError: a step failed; the message says which, and where the log is.
    """
    begun_s = time.monotonic()
    state = f"state-{datetime.now(UTC):%Y%m%dT%H%M%S}"  # new each time: no earlier alarm lives on in it
    into.mkdir(parents=True, exist_ok=True)
    machine = SimulatedMachine(SEED, RATE_HZ)
    say(f"A simulated machine: shaft {machine.shaft_hz:.1f} Hz, gear mesh {machine.mesh_hz:.0f} Hz.")
    with demo_broker() as broker:
        page_port = _page_port()
        config = _write_config(into, state, broker, page_port, TIMES if keep else 1)
        recording = into / "normal.wav"
        write_wav(recording, machine.sound(NORMAL_S, start_s=NORMAL_FROM_S), RATE_HZ)
        say(f"1. {NORMAL_S} s of its normal sound: {recording}")
        _fit(config, recording)
        version = "5" if broker.protocol == 5 else "3.1.1"
        say(f"3. A broker: {broker.name} at {HOST}:{broker.port}, MQTT {version}")
        log = into / "daemon.log"
        say(f"4. $ echo-stream run --config {config}    (its log: {log})")
        say(
            f"   Listening in real time; a {FAULT} fault comes at {FAULT_START_S} s, goes at {FAULT_END_S} s."
        )
        if page_port is None:
            say("   The page needs: pip install 'echo-stream[web]'")
        else:
            say(f"   THE PAGE: http://{HOST}:{page_port}/    (while this runs)")
        say("   What a subscriber receives, topic and payload:")
        run = listen(config, log, broker, verbose, keep=keep)
        say("   SIGTERM: the daemon said goodbye and stopped with exit code 0.")
    _summarise(run, into, state, time.monotonic() - begun_s)


def _page_port() -> int | None:
    """A port for the page; None where its libraries are not installed."""
    if not web_installed():
        return None
    for port in (PAGE_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return int(probe.getsockname()[1])
    return None


def _write_config(into: Path, state: str, broker: DemoBroker, page_port: int | None, times: int) -> Path:
    config = into / "config.yaml"
    starts_s = [FAULT_START_S + n * AGAIN_EVERY_S for n in range(times)]
    lasts_s = FAULT_END_S - FAULT_START_S
    text = CONFIG.format(
        state_dir=state,
        host=HOST,
        port=broker.port,
        protocol=broker.protocol,
        seed=SEED,
        rate_hz=RATE_HZ,
        faults=", ".join(f"{{kind: {FAULT}, start_s: {at}, end_s: {at + lasts_s}}}" for at in starts_s),
        page=str(page_port is not None).lower(),
        page_port=page_port or PAGE_PORT,
        on_delay_s=ALARM.on_delay_s,
        off_delay_s=ALARM.off_delay_s,
    )
    config.write_text(text, encoding="utf-8")
    return config


def _fit(config: Path, recording: Path) -> None:
    named = ("--machine", "machine1", "--recordings", str(recording), "--config", str(config))
    arguments = ("fit-normal", *named)
    say(f"2. $ echo-stream {' '.join(arguments)}")
    done = subprocess.run(command(*arguments), stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise EchoStreamError(
            f"fit-normal failed with exit code {done.returncode}", "its message stands above"
        )
    say("\n".join(f"   {line}" for line in done.stdout.splitlines()))


def _summarise(run: Run, into: Path, state: str, took_s: float) -> None:
    def line(what: str, at_s: float, more: str = "") -> None:
        at = f"{run.stream_at + timedelta(seconds=at_s):%H:%M:%S.%f}"[:-5]
        say(f"  {what:<24} {at}  {at_s:5.1f} s  {more}")

    raised_s = (run.raised_at - run.stream_at).total_seconds()
    cleared_s = (run.cleared_at - run.stream_at).total_seconds()
    raised_after = f"{raised_s - FAULT_START_S:.1f} s later, of which {ALARM.on_delay_s:g} s are the on-delay"
    cleared_after = (
        f"{cleared_s - FAULT_END_S:.1f} s later, of which {ALARM.off_delay_s:g} s are the off-delay"
    )
    say("\nSummary: UTC, and seconds since the daemon began to listen")
    line(f"{FAULT} fault began", FAULT_START_S)
    line("alarm was received", raised_s, raised_after)
    line("fault was gone", FAULT_END_S)
    line("alarm was cleared", cleared_s, cleared_after)
    for kept in list_events(into / state / "evidence"):
        if kept.picture is not None:
            picture = shutil.copyfile(kept.picture, into / "demo.png")
            say(f"  The alarm's picture: {picture}, its sound: {kept.clip}")
    say(f"  All this took {took_s:.0f} s.\n")
    say(WITH_A_MICROPHONE)


# The live half: the real daemon as a process, and what a subscriber receives from it.


@dataclass(frozen=True, slots=True)
class Run:
    """The times of one run."""

    stream_at: datetime
    """UTC of the first sample."""
    raised_at: datetime
    """When the event arrived that said the alarm is on."""
    cleared_at: datetime
    """And that it is off."""


def command(*arguments: str) -> list[str]:
    """This program with arguments, as a process of its own."""
    return [sys.executable, "-m", "echo_stream", *arguments]


def listen(config: Path, log: Path, broker: DemoBroker, verbose: bool, *, keep: bool = False) -> Run:
    """Run the daemon until an alarm was raised, cleared and drawn, printing what a subscriber receives.

    With `keep` it goes on until Ctrl-C.

    Raises:
        EchoStreamError: the daemon failed, no alarm came or none went, or it did not stop as it should.
    """
    messages: list[Message] = []

    def received(message: MQTTMessage) -> None:
        text = message.payload.decode("utf-8", "replace")
        messages.append(Message(datetime.now(UTC), message.topic, text))
        if verbose or messages[-1].what in _SHOWN:
            say(message.topic, text)

    subscriber = Connection(
        Broker(host=HOST, port=broker.port),
        client_id="echo-stream-demo",
        protocol=broker.protocol,
        on_message=received,
    )
    try:
        subscriber.open()
        subscriber.subscribe("echo-stream/#")
        with _daemon(config, log) as daemon:
            until_s = time.monotonic() + PATIENCE_S
            while time.monotonic() < until_s and daemon.poll() is None and not _is_over(messages):
                subscriber.step(0.2)
            if keep and daemon.poll() is None:
                say("   It stays up until Ctrl-C.")
                with contextlib.suppress(KeyboardInterrupt, DeliveryError):  # Ctrl-C ends the broker too
                    while daemon.poll() is None:
                        subscriber.step(0.2)
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGTERM)
            code = daemon.wait(_STOP_S)
            with contextlib.suppress(*([DeliveryError] if keep else [])):
                _receive_rest(subscriber, messages)
    finally:
        subscriber.abort()
    lines = log.read_text(encoding="utf-8").splitlines()
    if code != 0:
        raise EchoStreamError(f"the daemon ended with exit code {code}, see {log}", "\n".join(lines[-10:]))
    raised_at = next((m.at for m in messages if m.alarm), None)
    cleared_at = next((m.at for m in messages if m.alarm is False and raised_at), None)
    if raised_at is None or cleared_at is None:
        lacking = "no alarm was raised" if raised_at is None else "the alarm was not cleared"
        raise EchoStreamError(f"{lacking} within {PATIENCE_S:.0f} s", f"see {log}")
    return Run(_stream_began(lines), raised_at, cleared_at)


def _is_over(messages: list[Message]) -> bool:
    """The alarm was raised and cleared, and its evidence is complete."""
    states = [message.alarm for message in messages if message.alarm is not None]
    complete = any(message.what == "evidence" for message in messages)
    return complete and True in states and states[-1] is False


def _receive_rest(subscriber: Connection, messages: list[Message]) -> None:
    """What the daemon published when it stopped, until nothing comes for a while."""
    count = -1
    while count != len(messages):
        count = len(messages)
        subscriber.step(0.5)


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


def _stream_began(lines: list[str]) -> datetime:
    """When the simulated stream began, from the lines of the daemon's log."""
    for line in lines:
        if '"simulated stream begins"' in line:
            return datetime.fromisoformat(json.loads(line)["at"])
    raise EchoStreamError("the daemon's log does not say when the simulated stream began", lines[0])
