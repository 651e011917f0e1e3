"""What a version leaves behind is made here, for tests of those that come after it.

Ran with version 0.1 at b4fc89b (`python tests/data/state_0.1/make.py`) and is kept to say how the files came
about; it is not kept running. Beside it are hand-written: site/config.yaml, default/*.yaml. What it makes:

    site/banks, site/state      as the daemon left them at a clean stop, while the broker was away: pump1 is
                                UNACK, pump2 ACKED, pump3 SHELVED for 7 days, pump4 OUT_OF_SERVICE, and the
                                events of fan5 are still in the outbox. Reports of the banks (HTML) and all
                                evidence but pump1's were deleted to keep it small.
    site/recordings             FLAC: normal_1, normal_2, faulty
    site/kept, kept_about.json  a --resume folder with one of two recordings, and what its name is made of
    retained.json               topic -> payload, as mosquitto kept them before it went away
    waiting.json                what waits in the outbox: topic and payload, in order
    scores.jsonl                `score` of faulty and normal_1
    bank.json                   `bank list`, `bank show`
    goes_on.json                `bank extend`, `fit-normal --condition` and `--resume`, on copies
    schemas_0.1, payloads.jsonl the schemas, and real payloads of every kind: [kind, payload]
    default/events.jsonl        events of the default configuration
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

HERE = Path(__file__).resolve().parent
SITE = HERE / "site"
RATE = 8_000
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[2])}
WEEK_S = 7 * 86_400


def code(module: str) -> Any:
    """A module of the version that this ran with; later versions have it elsewhere."""
    return importlib.import_module(f"echo_stream.{module}")


def run(folder: Path, *words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "echo_stream", *words],
        cwd=folder,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def wait_for(what: Callable[[], Any], timeout_s: float, said: str) -> Any:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        if found := what():
            return found
        time.sleep(0.05)
    raise SystemExit(f"not within {timeout_s} s: {said}")


@contextlib.contextmanager
def mosquitto(folder: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    own = folder / "mosquitto.conf"
    own.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n")
    process = subprocess.Popen(["mosquitto", "-c", str(own)], stderr=subprocess.DEVNULL)
    time.sleep(1)
    try:
        yield port, process
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "echo_stream", "run"], cwd=folder, env=ENVIRONMENT, stderr=log
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def logged(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log").read_text().splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


class Told:
    """Everything that is published, in order."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, Any, bool]] = []
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self.client.on_message = self._on_message
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        text = message.payload.decode()
        self.heard.append((message.topic, json.loads(text) if text[:1] == "{" else text, message.retain))

    def of(self, end: str) -> list[Any]:
        return [payload for topic, payload, _ in list(self.heard) if topic.endswith("/" + end)]

    def raised(self, machine: str) -> list[Any]:
        return [e for e in self.of(f"{machine}/event") if (e["level"], e["to"]) == ("alarm", "UNACK")]

    def ask(self, machine: str, **command: Any) -> None:
        before = len(self.of(f"{machine}/reply"))
        self.client.publish(f"echo-stream/pc7/{machine}/cmd", json.dumps(command), qos=1)
        wait_for(lambda: len(self.of(f"{machine}/reply")) > before, 10, f"a reply to {command}")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def write_json(path: Path, what: Any) -> None:
    path.write_text(json.dumps(what, indent=1) + "\n")


def write_lines(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


# ---------------------------------------------------------------------- sound and banks


def sound(seconds: float, start_s: float, **how: Any) -> Any:
    shaft_hz = how.pop("shaft_hz", None)
    machine = code("capture.simulate").SimulatedMachine(3, RATE, shaft_hz)
    return machine.sound(seconds, start_s=start_s, **how)


def make_sound_and_banks(site: Path) -> None:
    folder = site / "recordings"
    folder.mkdir()
    for name, samples in {
        "normal_1": sound(10, 300),
        "normal_2": sound(10, 400),
        "faulty": np.concatenate([sound(3, 500), sound(4, 503, fault="rattle")]),
    }.items():
        soundfile.write(folder / f"{name}.flac", samples, RATE)
    # Relative, as a person would type it: what a session remembers of its recordings is what was typed.
    for condition, seconds, shaft_hz in (("idle", 20, 12.0), ("load", 24, None)):
        name = f"recordings/{condition}.flac"
        soundfile.write(site / name, sound(seconds, 0, shaft_hz=shaft_hz), RATE)
        run(site, "fit-normal", "-m", "pump1", "--condition", condition, name)
        (site / name).unlink()  # not needed again: what was learnt of it lies beside the bank
    for report in site.glob("banks/*/*.html"):
        report.unlink()


# ---------------------------------------------------------------------- state, retained messages


def make_state(site: Path) -> list[tuple[str, Any]]:
    payloads: list[tuple[str, Any]] = []
    text = (site / "config.yaml").read_text()
    with mosquitto(site.parent) as (port, broker):
        (site / "config.yaml").write_text(text.replace("port: 1883", f"port: {port}"))
        told = Told(port)
        with daemon(site) as process:
            for machine in ("pump1", "pump2", "pump3"):
                wait_for(partial(told.raised, machine), 30, f"alarm of {machine}")
            told.ask("pump2", command="ack", by="Jo", reason="seen", id="1")
            told.ask("pump3", command="shelve", duration_s=WEEK_S, by="Jo", id="2")
            told.ask("pump4", command="out_of_service", by="Jo")
            told.ask("pump1", command="reset", level="alarm")
            wait_for(lambda: len(told.of("evidence")) == 3, 30, "three evidence messages")
            wait_for(lambda: told.of("fan5/health")[1:], 20, "health again")
            assert told.of("fan5/event") == []
            again = Told(port)
            wait_for(lambda: len(again.heard) > 10, 5, "retained messages")
            time.sleep(1)
            kept = {topic: payload for topic, payload, retained in list(again.heard) if retained}
            again.close()
            write_json(HERE / "retained.json", dict(sorted(kept.items())))
            payloads += harvest(told)
            told.close()
            broker.kill()

            def of_fan() -> list[dict[str, Any]]:
                return [e for e in logged(site) if e.get("machine") == "fan5" and "->" in e["event"]]

            wait_for(lambda: len(of_fan()) == 4, 60, "events of fan5")
            time.sleep(4)  # its evidence
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
    (site / "config.yaml").write_text(text)
    (site / "log").unlink()
    for folder in (site / "state/evidence").iterdir():
        if folder.name != "pump1":
            shutil.rmtree(folder)
    with contextlib.closing(sqlite3.connect(site / "state/outbox.sqlite")) as outbox:
        outbox.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        rows = outbox.execute("SELECT topic, payload FROM outbox ORDER BY id").fetchall()
    write_json(HERE / "waiting.json", [[topic, json.loads(payload)] for topic, payload in rows])
    return payloads


def harvest(told: Told) -> list[tuple[str, Any]]:
    """Two payloads of each kind and machine."""
    counted: dict[str, int] = {}
    found = []
    for topic, payload, _ in told.heard:
        kind = topic.rsplit("/", 1)[1]
        if not topic.startswith("echo-stream/"):
            continue
        counted[topic] = counted.get(topic, 0) + 1
        if counted[topic] <= 2:
            found.append(({"cmd": "command", "status": "availability"}.get(kind, kind), payload))
    return found


# ---------------------------------------------------------------------- numbers, going on


def make_numbers(site: Path) -> None:
    lines = run(site, "score", "-m", "pump1", "recordings/faulty.flac", "recordings/normal_1.flac")
    (HERE / "scores.jsonl").write_text(lines)
    shown = {
        bank: json.loads(run(site, "bank", "show", "-m", "pump1", bank, "--json")) for bank in ("b1", "b2")
    }
    listed = json.loads(run(site, "bank", "list", "-m", "pump1", "--json"))
    write_json(HERE / "bank.json", {"list": listed, "show": shown})


def make_goes_on(site: Path) -> None:
    """What is learnt on from here, each on a copy."""
    found: dict[str, Any] = {}
    sounds = ("recordings/normal_1.flac", "recordings/normal_2.flac")
    for name, words in {
        "extend": ("bank", "extend", "-m", "pump1", "--condition", "load", "--json", sounds[0]),
        "fit-normal": (
            "fit-normal",
            "-m",
            "pump1",
            "--condition",
            "other",
            "--no-accept",
            "--json",
            sounds[1],
        ),
        "resume": (
            *("fit-normal", "-m", "pump1", "--condition", "load", "--no-accept", "--json"),
            *("--resume", "kept", *sounds),
        ),
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "site"
            shutil.copytree(site, copy, symlinks=True)
            found[name] = json.loads(run(copy, *words))
            shown = json.loads(run(copy, "bank", "show", "-m", "pump1", "b3", "--json"))
            found[name] = {"told": found[name], "levels": shown["levels"], "sessions": shown["sessions"]}
            if name == "resume":
                keep_half(copy, site, copy / sounds[0])
    write_json(HERE / "goes_on.json", found)


def keep_half(copy: Path, site: Path, first: Path) -> None:
    """Of the --resume folder what an interruption after the first recording leaves."""
    encoder = code("build").build_encoder(code("configfile").load(copy / "config.yaml"))
    (part,) = code("archive").parts_of(first, window_s=1.0, hop_s=0.5, details=True)
    file = first.stat()
    about = {
        **asdict(part),
        "path": str(first.resolve()),
        "bytes": file.st_size,
        "modified_ns": file.st_mtime_ns,
        "encoder": asdict(encoder.identity),
        "computed_by": None,
        "version": code("__init__").__version__,
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    assert len(list((copy / "kept").iterdir())) == 2
    (site / "kept").mkdir()
    shutil.copy(copy / "kept" / f"{name}.safetensors", site / "kept/part.safetensors")
    write_json(HERE / "kept_about.json", {**about, "path": "recordings/normal_1.flac"})


# ---------------------------------------------------------------------- the rare payloads


RARE = """\
node: pc7
state_dir: state
encoder: {{kind: spectral, window_s: 1.0, hop_s: 0.5}}
mqtt: {{host: 127.0.0.1, port: {port}}}
evidence: {{enabled: false}}
machines:
"""
ONE = """\
  - id: {id}
    source: {source}
    bank: banks/pump.safetensors
    alarm: {{on_delay_s: 2, warning_on_delay_s: 1, off_delay_s: 2}}
"""


def make_rare(site: Path) -> list[tuple[str, Any]]:
    """Sensor, flood and drift: sound that is dead, many machines at once, sound that has moved a little."""
    found: list[tuple[str, Any]] = []
    with tempfile.TemporaryDirectory() as name, mosquitto(Path(name)) as (port, _):
        folder = Path(name)
        shutil.copytree(site / "banks", folder / "banks", symlinks=True)
        soundfile.write(folder / "dead.wav", np.zeros(RATE * 20), RATE)
        told = Told(port)
        fault = (
            "{kind: simulated, seed: 3, sample_rate_hz: 8000, faults: [{kind: rattle, start_s: 5, end_s: 9}]}"
        )
        machines = [ONE.format(id="dead", source="{kind: recording, path: dead.wav}")]
        machines += [ONE.format(id=f"p{n}", source=fault) for n in range(6)]
        (folder / "config.yaml").write_text(RARE.format(port=port) + "".join(machines))
        with daemon(folder):
            wait_for(lambda: told.of("flood"), 40, "a flood")
            wait_for(lambda: told.of("sensor"), 40, "a sensor fault")
            wait_for(lambda: len(told.of("event")) > 26, 40, "the alarms clear")
        for gain in (2.0, 1.8):
            soundfile.write(folder / "moved.wav", gain * sound(60, 2000), RATE)
            source = "{kind: recording, path: moved.wav, pace: fast, loop: true}"
            (folder / "config.yaml").write_text(
                RARE.format(port=port) + ONE.format(id="moved", source=source)
            )
            shutil.rmtree(folder / "state")
            with daemon(folder):
                until = time.monotonic() + 150
                while time.monotonic() < until and not told.of("drift"):
                    time.sleep(0.1)
            if told.of("drift"):
                print("drift at a gain of", gain)
                break
        else:
            raise SystemExit("no drift")
        found = [(kind, payload) for kind, payload in harvest(told) if kind in ("sensor", "flood", "drift")]
        found += [("event", payload) for payload in told.of("event")[-4:]]
        told.close()
    return found


# ---------------------------------------------------------------------- events of the default configuration


def default_events(port: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(HERE / "default/fit.yaml", folder / "config.yaml")
        for seed in (3, 5, 8):
            run(folder, "fit-normal", "-m", f"seed{seed}", "--minutes", "2")
        text = (HERE / "default/run.yaml").read_text().replace("port: 1883", f"port: {port}")
        (folder / "config.yaml").write_text(text)
        told = Told(port)
        with daemon(folder) as process:
            assert process.wait(120) == 0
        wait_for(lambda: told.of("status")[-1:] == ["offline"], 10, "offline")
        told.close()
        at_s = {line["event_id"]: line["at_s"] for line in logged(folder) if "event_id" in line}
    events = []
    for event in sorted(told.of("event"), key=lambda e: (e["machine"], e["seq"])):
        kept = ("machine", "seq", "level", "from", "to", "cause", "reason", "active", "score", "threshold")
        events.append(
            {
                **{key: event[key] for key in kept},
                "at_s": at_s[event["event_id"]],
                "bands_hz": event["evidence"]["bands_hz"],
            }
        )
    return events


def main() -> None:
    """All of it; takes some minutes."""
    for made in ("banks", "state", "recordings", "kept"):
        shutil.rmtree(SITE / made, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        aside = Path(name)
        site = aside / "site"
        shutil.copytree(SITE, site)
        make_sound_and_banks(site)
        payloads = make_state(site)
        make_numbers(site)
        make_goes_on(site)
        shutil.copytree(site, SITE, symlinks=True, dirs_exist_ok=True)
        payloads += make_rare(site)
        write_lines(HERE / "payloads.jsonl", [list(each) for each in payloads])
        with mosquitto(aside) as (port, _):
            events = default_events(port)
        with mosquitto(aside) as (port, _):
            if events != default_events(port):
                print("DIFFERENT IN A SECOND RUN")
        write_lines(HERE / "default/events.jsonl", events)


if __name__ == "__main__":
    main()
