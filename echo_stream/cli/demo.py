"""demo: the whole way in a minute, without microphone, existing broker or download. Main thread.

Nothing in it is put on: `fit-normal` and `run` are the commands that every user runs, the broker and the
subscriber are real; only the machine is simulated.
"""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from echo_stream.capture.simulator import Fault, FaultKind, Scenario, SimulatedMachine, write_wav
from echo_stream.cli.demo_broker import HOST, DemoBroker, demo_broker
from echo_stream.cli.demo_listen import Seen, command, listen, say
from echo_stream.cli.demo_picture import Run, draw_run
from echo_stream.config.schema import AlarmSettings
from echo_stream.core.errors import EchoStreamError
from echo_stream.evidence.store import list_events

SEED: Final = 5
RATE_HZ: Final = 16000
NORMAL_S: Final = 60
NORMAL_FROM_S: Final = 600
"""The enrolled minute lies elsewhere in the machine's life than the live stream."""
FAULT: Final[FaultKind] = "bearing"
FAULT_START_S: Final = 15
FAULT_END_S: Final = 28
ALARM: Final = AlarmSettings()
"""The delays that every user has until he sets others."""

CONFIG: Final = """\
# Written by echo-stream demo; an example to play with.
node: demo-pc
state_dir: {state_dir}
encoder: {{kind: spectral, window_s: 2.0, hop_s: 1.0}}
mqtt: {{host: {host}, port: {port}, protocol: {protocol}}}
machines:
  - id: machine1
    name: Simulated machine
    source:
      kind: simulated
      seed: {seed}
      sample_rate_hz: {rate_hz}
      pace: realtime
      faults: [{{kind: {fault}, start_s: {start_s}, end_s: {end_s}}}]
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


def run_demo(into: Path, verbose: bool = False) -> None:
    """Fit, listen, fault, alarm, clear; leaves recording, bank, log and demo.png in the folder.

    Args:
        into: folder for what is left; made if need be, nothing in it is deleted.
        verbose: print each score as well.

    Raises:
        EchoStreamError: a step failed; the message says which, and where the log is.
    """
    begun_s = time.monotonic()
    state = f"state-{datetime.now(UTC):%Y%m%dT%H%M%S}"  # new each time: no earlier alarm lives on in it
    into.mkdir(parents=True, exist_ok=True)
    machine = SimulatedMachine(SEED, RATE_HZ)
    say(f"A simulated machine: shaft {machine.shaft_hz:.1f} Hz, gear mesh {machine.mesh_hz:.0f} Hz.")
    with demo_broker() as broker:
        config = _write_config(into, state, broker)
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
        say("   What a subscriber receives, topic and payload:")
        seen = listen(config, log, broker, verbose)
        say("   SIGTERM: the daemon said goodbye and stopped with exit code 0.")
    run = _run_of(machine, seen)
    draw_run(run, into / "demo.png")
    _summarise(run, seen.stream_at, into, state, time.monotonic() - begun_s)


def _write_config(into: Path, state: str, broker: DemoBroker) -> Path:
    config = into / "config.yaml"
    text = CONFIG.format(
        state_dir=state,
        host=HOST,
        port=broker.port,
        protocol=broker.protocol,
        seed=SEED,
        rate_hz=RATE_HZ,
        fault=FAULT,
        start_s=FAULT_START_S,
        end_s=FAULT_END_S,
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


def _run_of(machine: SimulatedMachine, seen: Seen) -> Run:
    scores = [(_since(seen.stream_at, s["ts"]), s["score"], s["threshold"]) for s in seen.scores]
    heard = Scenario(machine, [Fault(FAULT, FAULT_START_S, FAULT_END_S)])
    return Run(
        samples=heard.render(0, round(scores[-1][0] * RATE_HZ)),
        sample_rate_hz=RATE_HZ,
        fault=FAULT,
        fault_start_s=FAULT_START_S,
        fault_end_s=FAULT_END_S,
        raised_s=(seen.raised_at - seen.stream_at).total_seconds(),
        cleared_s=(seen.cleared_at - seen.stream_at).total_seconds(),
        scores=scores,
    )


def _summarise(run: Run, stream_at: datetime, into: Path, state: str, took_s: float) -> None:
    def line(what: str, at_s: float, more: str = "") -> None:
        at = f"{stream_at + timedelta(seconds=at_s):%H:%M:%S.%f}"[:-5]
        say(f"  {what:<24} {at}  {at_s:5.1f} s  {more}")

    raised_after_s, cleared_after_s = run.raised_s - run.fault_start_s, run.cleared_s - run.fault_end_s
    say("\nSummary: UTC, and seconds since the daemon began to listen")
    line(f"{run.fault} fault began", run.fault_start_s)
    line(
        "alarm reached us",
        run.raised_s,
        f"{raised_after_s:.1f} s later, of which {ALARM.on_delay_s:g} s are the on-delay",
    )
    line("fault was gone", run.fault_end_s)
    line(
        "alarm was cleared",
        run.cleared_s,
        f"{cleared_after_s:.1f} s later, of which {ALARM.off_delay_s:g} s are the off-delay",
    )
    say(f"  The whole run as a picture: {into / 'demo.png'}")
    for kept in list_events(into / state / "evidence"):
        say(f"  What was heard at the alarm: {kept.clip} and {kept.picture or 'no picture yet'}")
    say(f"  All this took {took_s:.0f} s.\n")
    say(WITH_A_MICROPHONE)


def _since(begin: datetime, timestamp: str) -> float:
    return (datetime.fromisoformat(timestamp) - begin).total_seconds()
