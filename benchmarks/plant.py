"""A plant to measure: simulated machines at real-time pace, the real daemon, a real mosquitto, on one PC.

The machines loop half a minute of sound that is computed once, each from a place of its own: with a hundred
of them the simulator would otherwise be most of what is measured. The bank comes from a longer life.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion
from safetensors.numpy import save_file

from benchmarks.looped import LOOP_S
from benchmarks.soak_scene import UNIT_SETS
from echo_stream.cli.bench import of_size
from echo_stream.daemon.status import ask
from echo_stream.detect.bank import NormalBank
from echo_stream.encode.echo import EchoWeights
from tests.support.broker import MosquittoBroker, mosquitto
from tests.support.daemon import ENVIRONMENT, wait_for

QUIET_BROKER = "log_type none\nsys_interval 1"
APART_S = 0.37
FITTED_S, BANK_WINDOWS = 120, 600
"""A bank is fitted on two minutes and made as large as one of ten: what it costs depends on its size."""
GATED = "-gated"
ENCODERS = ("spectral", "echo-tiny", "echo-small", "echo-tiny-gated", "echo-small-gated")


@dataclass(frozen=True)
class Machines:
    """So many machines of one rate."""

    count: int
    rate_hz: int

    def names(self) -> list[str]:
        """Their ids."""
        return [f"m{i}" for i in range(self.count)]


@dataclass
class Plant:
    """A daemon that runs, and its broker."""

    folder: Path
    process: psutil.Process
    broker: psutil.Process
    traffic: Traffic
    ready_s: float
    ready_cpu_s: float
    """CPU seconds of the daemon until it listened."""
    scored_s: float
    """From the start until every machine had a score."""
    broker_address: tuple[str, int]

    def status(self) -> dict[str, Any]:
        """What `echo-stream status` prints."""
        return _status(self.folder)

    def cpu_s(self) -> float:
        """CPU seconds of the daemon, all threads, so far."""
        spent = self.process.cpu_times()
        return float(spent.user + spent.system)

    def rss_mb(self) -> float:
        """Resident memory of the daemon."""
        return float(self.process.memory_info().rss) / 1e6


class Traffic:
    """What the broker counts: the newest of its $SYS figures."""

    def __init__(self, host: str, port: int) -> None:
        self._found: dict[str, float] = {}
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("$SYS/broker/#")
        self._client.on_message = self._on_message
        self._client.connect(host, port)
        self._client.loop_start()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        with contextlib.suppress(ValueError):
            self._found[message.topic.removeprefix("$SYS/broker/")] = float(message.payload)

    def received(self) -> tuple[float, float]:
        """Messages published to the broker, and bytes on the wire to it, so far."""
        return self._found.get("publish/messages/received", 0.0), self._found.get("bytes/received", 0.0)

    def close(self) -> None:
        """End."""
        self._client.disconnect()
        self._client.loop_stop()


@dataclass
class Settings:
    """What is set up."""

    folder: Path
    encoder: str = "spectral"
    banks: Path | None = None
    """Where fitted banks are kept from one run to the next; None: fitted anew."""
    hop_s: float = 1.0
    precision: str = "auto"
    extra: str = ""
    """Further lines for the configuration."""
    source: str = "pace: realtime"
    """Further keys of every machine's source."""
    alarm: str = "{}"
    own_banks: bool = False
    """Each machine reads a file of its own, beside the common one and named after it."""
    daemon: tuple[str, ...] = (sys.executable, "-m", "benchmarks.looped")
    environment: dict[str, str] = field(default_factory=lambda: dict(UNIT_SETS))
    """What the daemon gets beside what this process has: as the systemd unit."""

    def encoder_yaml(self) -> str:
        """The encoder, for the configuration."""
        cut = f"window_s: 2.0, hop_s: {self.hop_s}"
        if self.encoder == "spectral":
            return f"{{kind: spectral, {cut}}}"
        gate = "gate: auto, " if self.encoder.endswith(GATED) else ""
        weights = self.folder / f"{self.size}.safetensors"
        return (
            f"{{kind: echo, size: {self.size}, weights: {weights}, precision: {self.precision}, {gate}{cut}}}"
        )

    @property
    def size(self) -> str:
        """Of ECHO."""
        return self.encoder.removeprefix("echo-").removesuffix(GATED)


def write_weights(path: Path, size: str) -> None:
    """Random weights of a published size: speed does not depend on them."""
    save_file(dict(EchoWeights.random(size).tensors), path)


def prepare(settings: Settings, rates_hz: Sequence[int]) -> None:
    """Weights where they are needed, and a bank for each rate."""
    settings.folder.mkdir(parents=True, exist_ok=True)
    if settings.encoder != "spectral":
        write_weights(settings.folder / f"{settings.size}.safetensors", settings.size)
    for rate_hz in sorted(set(rates_hz)):
        kept = settings.banks and settings.banks / f"{settings.encoder}-{rate_hz}.safetensors"
        own = bank_path(settings, rate_hz)
        own.parent.mkdir(exist_ok=True)
        if kept and kept.exists():
            shutil.copy(kept, own)
            continue
        (settings.folder / "config.yaml").write_text(
            f"node: fit\nstate_dir: fitting\nencoder: {settings.encoder_yaml()}\nmachines:\n"
            f"  - {{id: fit, bank: {own}, source: {{kind: simulated, seed: 3, sample_rate_hz: {rate_hz}, "
            f"pace: fast, duration_s: {FITTED_S}}}}}\n"
        )
        fit = [sys.executable, "-m", "echo_stream", "fit-normal", "-m", "fit"]
        subprocess.run(fit, cwd=settings.folder, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
        larger = of_size(NormalBank.load(own), BANK_WINDOWS)
        own.unlink()
        larger.save(own)
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(own, kept)


def bank_path(settings: Settings, rate_hz: int) -> Path:
    """The bank of all machines of a rate; the daemon loads it for each of them, as if it were its own."""
    return settings.folder / "banks" / f"{rate_hz}.safetensors"


def configure(settings: Settings, group: Machines, broker: MosquittoBroker) -> None:
    """Write config.yaml."""
    lines = [f"node: plant\nstate_dir: state\nencoder: {settings.encoder_yaml()}"]
    lines += [f"mqtt: {{host: {broker.host}, port: {broker.port}}}", settings.extra, "machines:"]
    for n, name in enumerate(group.names()):
        start_s = round(1000 + n * APART_S % LOOP_S, 3)
        source = f"kind: simulated, seed: 3, sample_rate_hz: {group.rate_hz}, start_s: {start_s}"
        bank = bank_path(settings, group.rate_hz)
        bank = bank.with_name(f"{name}.safetensors") if settings.own_banks else bank
        lines.append(
            f"  - {{id: {name}, bank: {bank}, alarm: {settings.alarm}, "
            f"source: {{{source}, {settings.source}}}}}"
        )
    (settings.folder / "config.yaml").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def plant(settings: Settings, machines: Machines) -> Iterator[Plant]:
    """The daemon listens to the machines and every one of them has been scored; `prepare` came before."""
    with mosquitto(settings.folder, extra=QUIET_BROKER) as broker:
        configure(settings, machines, broker)
        _clear(settings.folder / "state")
        assert broker._process is not None
        began_s = time.monotonic()
        with _daemon(settings) as process:
            log = settings.folder / "log"
            wait_for(lambda: _ready(process, log), 600, "READY")
            ready_s = time.monotonic() - began_s
            spent = psutil.Process(process.pid).cpu_times()
            wait_for(lambda: _all_scored(settings.folder), 120, "a score of every machine")
            scored_s = time.monotonic() - began_s
            traffic = Traffic(broker.host, broker.port)
            running = Plant(
                settings.folder,
                psutil.Process(process.pid),
                psutil.Process(broker.pid),
                traffic,
                round(ready_s, 2),
                round(spent.user + spent.system, 2),
                round(scored_s, 2),
                (broker.host, broker.port),
            )
            yield running
            traffic.close()


def _clear(state: Path) -> None:
    """All but the runtime that was chosen for this PC: that is kept, as in life."""
    for path in state.glob("*"):
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "encoder.json":
            path.unlink()


@contextlib.contextmanager
def _daemon(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    with (settings.folder / "log").open("w") as log:
        environment = {**ENVIRONMENT, **settings.environment}
        process = subprocess.Popen(settings.daemon, cwd=settings.folder, env=environment, stderr=log)
        try:
            yield process
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
        finally:
            process.kill()
            process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> bool:
    if process.poll() is not None:
        raise SystemExit(f"the daemon ended: {log.read_text()[-2000:]}")
    return '"event": "listening"' in log.read_text()


def _all_scored(folder: Path) -> bool:
    machines = _status(folder)["machines"]
    time.sleep(1e-3 * len(machines))  # to ask a thousand costs the daemon something
    return all(machine["windows_scored"] for machine in machines)


def _status(folder: Path) -> dict[str, Any]:
    return ask(folder / "state" / "status.sock", timeout_s=30)
