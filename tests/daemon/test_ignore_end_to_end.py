"""A running daemon learns by `ignore add`, from its own evidence, that a sound is no fault."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from echo_stream.capture.simulator import Simulated
from echo_stream.daemon.status import ask
from tests.support.broker import MosquittoBroker
from tests.support.daemon import Subscriber, daemon, run, subscriber, wait_for
from tests.support.stations import RATE_HZ

BLOCK_S = 0.1
PASS_S = 5.0
TEACH_S = 60.0
CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
evidence: {{post_roll_s: 3, keep_normal_s: 0, min_free_mb: 0}}
machines:
  - id: pump1
    source: {{kind: command, argv: [cat, {pipe}], sample_rate_hz: {rate_hz}, format: f32le}}
    bank: bank.safetensors
    alarm: {{on_delay_s: 2, warning_on_delay_s: 1, off_delay_s: 2}}
"""


class Loudspeaker:
    """Plays the machine's sound into a pipe, and beside it, while it is switched on, what passes."""

    def __init__(self, pipe: Path) -> None:
        os.mkfifo(pipe)
        self._pipe = pipe
        self._over = threading.Event()
        self._passing_until_s = 0.0
        self.played_s = 0.0

    def play(self) -> None:
        """In real time, until it is stopped; on a thread of its own."""
        normal = Simulated(3, RATE_HZ, pace="fast", start_s=200.0)
        passing = Simulated(3, RATE_HZ, [(0.0, 1e6, "rattle")], pace="fast", start_s=200.0)
        blocks = [source.read() for source in (normal, passing)]
        began = time.monotonic()
        with self._pipe.open("wb", buffering=0) as pipe, suppress(BrokenPipeError):
            while not self._over.is_set():
                chosen = blocks[1 if self.played_s < self._passing_until_s else 0]
                assert chosen is not None
                pipe.write(chosen.samples[:, 0].astype(np.float32).tobytes())
                self.played_s += len(chosen.samples) / RATE_HZ
                blocks = [source.read() for source in (normal, passing)]
                time.sleep(max(0.0, began + self.played_s - time.monotonic()))

    def listen_for(self, seconds: float) -> None:
        """Returns when so much more was played."""
        until_s = self.played_s + seconds
        wait_for(lambda: self.played_s >= until_s, seconds + 60, "the loudspeaker plays on")

    def pass_for(self, seconds: float) -> None:
        """From now on what passes is heard, for so long in the time of the sound."""
        self._passing_until_s = self.played_s + seconds

    def pass_by(self, seconds: float) -> None:
        """The same; returns when it has passed."""
        self.pass_for(seconds)
        self.listen_for(seconds)

    def stop(self) -> None:
        """It may still wait for somebody to open the pipe."""
        self._over.set()
        with suppress(OSError):
            os.close(os.open(self._pipe, os.O_RDONLY | os.O_NONBLOCK))


@contextmanager
def loudspeaker(pipe: Path) -> Iterator[Loudspeaker]:
    made = Loudspeaker(pipe)
    thread = threading.Thread(target=made.play, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join(10)


def alarms(told: Subscriber) -> list[dict[str, Any]]:
    return [event for event in told.of("event") if event["level"] == "alarm" and event["to"] == "UNACK"]


def is_complete(folder: Path, event_id: str) -> bool:
    return any(json.loads(path.read_text())["complete"] for path in folder.glob(f"*{event_id}*.json"))


def test_a_sound_is_taught_while_the_daemon_runs(
    tmp_path: Path, broker: MosquittoBroker, simulated_bank: bytes
) -> None:
    pipe = tmp_path / "sound"
    where = {"host": broker.host, "port": broker.port, "pipe": pipe, "rate_hz": RATE_HZ}
    (tmp_path / "config.yaml").write_text(CONFIG.format(**where))
    (tmp_path / "bank.safetensors").write_bytes(simulated_bank)

    def status() -> dict[str, Any]:
        (machine,) = ask(tmp_path / "state/status.sock")["machines"]
        return dict(machine)

    with (
        loudspeaker(pipe) as speaker,
        subscriber(broker.host, broker.port) as told,
        daemon(tmp_path) as process,
    ):
        wait_for(lambda: speaker.played_s > 5, 60, "the daemon listens")
        speaker.pass_by(PASS_S)
        (first,) = wait_for(lambda: alarms(told), 60, "an alarm while nothing is known of the sound")
        wait_for(lambda: not told.of("event")[-1]["active"], 60, "it is over")
        events_before = len(told.of("event"))
        folder = tmp_path / "state" / "evidence" / "pump1"
        wait_for(lambda: is_complete(folder, first["event_id"]), 60, "its sound is kept, to the end")
        words = ("-m", "pump1", "--name", "forklift", "--at", first["ts"])
        said = run(tmp_path, "ignore", "add", *words, apart=True)
        assert "forklift: learned" in said
        wait_for(lambda: status()["known_sounds"] == {"forklift": 0}, TEACH_S, "the daemon takes it")

        speaker.listen_for(3.0)
        speaker.pass_by(PASS_S)
        speaker.listen_for(3.0)
        wait_for(lambda: status()["known_sounds"] == {"forklift": 1}, 60, "it is named and counted")
        raised = [event for event in told.of("event")[events_before:] if event["active"]]
        assert raised == [], "and raises nothing"

        speaker.pass_for(1e6)
        longer = wait_for(lambda: alarms(told)[1:], 60, "an alarm, as it lasts longer than it did")
        assert longer[0]["event_id"] != first["event_id"]
        assert process.poll() is None
    assert "known sound: forklift" in (tmp_path / "log").read_text()
