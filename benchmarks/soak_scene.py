"""Where the soak takes place: folder, broker, sound server, disk and clock. The soak's main thread.

Everything is real but the host's clock and disk: the daemon gets a wall clock of its own (soak_clock.c) and,
where this is root, a small tmpfs as its state directory. What cannot be had is named in `Scene.without`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from echo_stream.capture.simulator import SimulatedMachine
from tests.support.broker import MosquittoBroker
from tests.support.daemon import SIMULATED, fitted
from tests.support.pulse import PulseServer, missing

PASSWORD = "a-secret-of-the-soak"  # of a broker that lives as long as the soak
LIFE_S = 1000  # the daemon hears the machines from here on; what was enrolled lies before
STATE_MB = 24
LOOP_S = 120
ON_DELAY_S, OFF_DELAY_S = 2, 4

UNIT_SETS = {
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": "4194304",
    "MALLOC_TRIM_THRESHOLD_": "16777216",
}
"""Of the environment that the systemd unit gives the daemon, what concerns memory; a test compares."""

Fault = tuple[float, float, str]


@dataclass(frozen=True)
class Heard:
    """One machine of the soak."""

    name: str
    seed: int
    rate: int
    microphone: bool = False
    faults: tuple[Fault, ...] = ()
    """(start_s, end_s, kind) after the start of the daemon."""


@dataclass
class Scene:
    """All that the daemon depends on."""

    folder: Path
    machines: list[Heard]
    broker: MosquittoBroker
    sound: PulseServer | None = None
    players: dict[str, Player] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: dict(UNIT_SETS))
    """What the daemon gets beside what this process has: as the systemd unit, and the clock and the sound."""
    small_disk: bool = False
    jumping_clock: bool = False

    @property
    def state(self) -> Path:
        """The daemon's state directory."""
        return self.folder / "state"

    def configure(self, *, guest: bool = False, on_delay_s: float = ON_DELAY_S, wrong: str = "") -> None:
        """Write config.yaml; with one machine more, with another delay of the first, or with a mistake."""
        machines = [*self.machines, *([GUEST] if guest else [])]
        text = "".join(
            _machine(machine, on_delay_s if n == 0 else ON_DELAY_S) for n, machine in enumerate(machines)
        )
        (self.folder / "config.yaml").write_text(self._head() + text + wrong)

    def set_clock(self, offset_s: float) -> None:
        """How far the daemon's wall clock is off."""
        with (self.folder / "clock").open("r+b") as clock:
            clock.write(np.int64(offset_s * 1e9).tobytes())

    def set_sink(self, name: str, plugged: bool) -> None:
        """Unplug a microphone, or plug it in again."""
        assert self.sound is not None
        if plugged:
            self.sound.load(name)
            self.players[name].resume()
        else:
            self.players[name].pause()  # or PulseAudio would play it into another sink
            self.sound.unload(name)

    def _head(self) -> str:
        return f"""\
node: soak
state_dir: state
mqtt:
  {{host: {self.broker.host}, port: {self.broker.port}, username: soak, password_file: password}}
evidence: {{pre_roll_s: 5, post_roll_s: 5, max_mb: 8, min_free_mb: 2}}
machines:
"""


GUEST = Heard("guest", 5, 8000)


def _machine(machine: Heard, on_delay_s: float) -> str:
    if machine.microphone:
        source = f"{{kind: microphone, device: {machine.name}, sample_rate_hz: {machine.rate}}}"
    else:
        faults = ", ".join(
            f"{{kind: {kind}, start_s: {start_s:.1f}, end_s: {end_s:.1f}}}"
            for start_s, end_s, kind in machine.faults
        )
        source = (
            f"{{kind: simulated, seed: {machine.seed}, sample_rate_hz: {machine.rate}, start_s: {LIFE_S}, "
            f"faults: [{faults}]}}"
        )
    alarm = f"{{on_delay_s: {on_delay_s}, off_delay_s: {OFF_DELAY_S}}}"
    bank = f"banks/{machine.name}.safetensors"
    return f"  - id: {machine.name}\n    source: {source}\n    bank: {bank}\n    alarm: {alarm}\n"


@cache
def _loops(seed: int, rate: int) -> dict[str | None, bytes]:
    """Normal sound of a machine, and with a rattle."""
    simulated = SimulatedMachine(seed, rate)
    return {kind: simulated.sound(LOOP_S, kind, start_s=LIFE_S).tobytes() for kind in (None, "rattle")}


class Player:
    """Plays a simulated machine into a null sink for ever, whatever happens to the sound server."""

    def __init__(self, sound: PulseServer, machine: Heard) -> None:
        self._loops = _loops(machine.seed, machine.rate)
        self._command = ["pacat", f"--device={machine.name}", f"--rate={machine.rate}", "--channels=1"]
        self._command += ["--format=float32le", "--latency-msec=200"]
        self._environment = sound.env
        self._began, self._machine = 0, machine
        self._faulty = False
        self._ended, self._playing = threading.Event(), threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._playing.set()
        self._thread = threading.Thread(target=self._play, daemon=True)
        self._thread.start()

    def set_fault(self, faulty: bool) -> None:
        """The machine goes wrong, or is well again."""
        self._faulty = faulty

    def pause(self) -> None:
        """Leave the sink."""
        self._playing.clear()
        if self._process is not None:
            self._process.kill()

    def resume(self) -> None:
        """Play again."""
        self._playing.set()

    def close(self) -> None:
        """End."""
        self._ended.set()
        self.pause()
        self._playing.set()
        self._thread.join(5)

    def _play(self) -> None:
        at, size = 0, self._machine.rate // 10 * 4
        while not self._ended.is_set():
            self._playing.wait()
            if self._ended.wait(0.3):
                return
            self._process = subprocess.Popen(
                self._command, env=self._environment, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
            pipe = self._process.stdin
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                while self._playing.is_set():
                    pipe.write(self._loops["rattle" if self._faulty else None][at : at + size])
                    at = (at + size) % (LOOP_S * self._machine.rate * 4)
            self._process.kill()
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
            self._process.wait()


@contextlib.contextmanager
def scene(folder: Path, machines: list[Heard], enrolled_s: int) -> Iterator[Scene]:
    """Sets everything up, fits the banks, and takes everything down; `machines` may lose its microphones."""
    with contextlib.ExitStack() as stack:
        broker = MosquittoBroker(
            folder,
            users={"soak": PASSWORD},
            persistent=True,  # a persistent session of the subscriber outlives a killed broker
            extra="autosave_interval 1\nautosave_on_changes true",
        )
        broker.start()
        stack.callback(_end, broker)
        set_up = Scene(folder, machines, broker)
        (folder / "password").write_text(PASSWORD + "\n")
        (folder / "password").chmod(0o600)
        (folder / "banks").mkdir()
        set_up.state.mkdir()
        _small_disk(set_up, stack)
        _clock(set_up)
        _sound(set_up, stack)
        _fit(set_up, enrolled_s)
        set_up.configure()
        yield set_up


def _end(broker: MosquittoBroker) -> None:
    if broker.running:
        broker.kill()


def _small_disk(scene: Scene, stack: contextlib.ExitStack) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"size={STATE_MB}m", "tmpfs", str(scene.state)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        scene.without.append("disk full: a small tmpfs can be mounted by root only")
        return
    stack.callback(subprocess.run, ["umount", "--lazy", str(scene.state)], check=True)
    scene.small_disk = True


def _clock(scene: Scene) -> None:
    source, library = Path(__file__).with_name("soak_clock.c"), scene.folder / "soak_clock.so"
    if shutil.which("cc") is None:
        scene.without.append("clock jumps: no C compiler for the clock of the daemon's own")
        return
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(source), "-ldl"], check=True)
    (scene.folder / "clock").write_bytes(bytes(8))
    scene.environment |= {"LD_PRELOAD": str(library), "SOAK_CLOCK": str(scene.folder / "clock")}
    scene.jumping_clock = True


def _sound(scene: Scene, stack: contextlib.ExitStack) -> None:
    microphones = [machine for machine in scene.machines if machine.microphone]
    if lacks := missing():
        scene.without.append(f"microphones, and all that happens to them: not installed: {lacks}")
        scene.machines[:] = [machine for machine in scene.machines if not machine.microphone]
        return
    folder = scene.folder / "pulse"
    folder.mkdir()
    # PulseAudio 16 sometimes aborts where memory is shared with clients that come and go (its issue 824).
    (folder / "client.conf").write_text("enable-shm = no\nenable-memfd = no\n")
    scene.sound = PulseServer(folder, {machine.name: (machine.rate, 1) for machine in microphones})
    scene.sound.env["PULSE_CLIENTCONFIG"] = str(folder / "client.conf")
    stack.callback(scene.sound.stop)
    scene.sound.start()
    for machine in microphones:
        scene.players[machine.name] = Player(scene.sound, machine)
        stack.callback(scene.players[machine.name].close)
    added = ("PULSE_SERVER", "PULSE_CLIENTCONFIG", "XDG_RUNTIME_DIR", "ALSA_CONFIG_PATH")
    scene.environment |= {name: scene.sound.env[name] for name in added}


def _fit(scene: Scene, enrolled_s: int) -> None:
    """Banks of sound that the machines made before the soak; machines that sound alike share one."""
    for machine in [*scene.machines, GUEST]:
        config = SIMULATED.format(seed=machine.seed, rate_hz=machine.rate, enrolled_s=enrolled_s)
        folder = scene.folder / "fitted" / machine.name
        fitted(folder, config)
        shutil.copy(folder / "banks/pump3.safetensors", scene.folder / f"banks/{machine.name}.safetensors")
