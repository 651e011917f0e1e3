"""bench measures what this PC can carry: the real corridor with simulated machines, as fast as it goes.

Runs in the CLI, on one thread beside the encoder's own. Nothing is sent: delivery ends before the publisher's
thread.
"""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from echo_stream import __version__
from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.condition import Condition
from echo_stream.alarm.sensor import SensorWatch
from echo_stream.alarm.ways import Levels, Timing, Ways
from echo_stream.capture.simulator import Simulated
from echo_stream.cli.common import print_json, quiet, read_config_or_defaults
from echo_stream.config.schema import Config, EchoEncoder, Windowing
from echo_stream.core.errors import MissingExtra
from echo_stream.core.types import AlarmLevel, EncoderIdentity, Enrolled, Features, Window
from echo_stream.daemon.events import EventPublisher
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.encoder_gate import MIDDLE
from echo_stream.detect.reference import Reference
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder, make_encoder
from echo_stream.encode.runtime import GPU, class_of, cpu
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from echo_stream.pipeline.factory import build_encoder, sensor_limits
from echo_stream.pipeline.health import Health
from echo_stream.pipeline.looking import BATCH
from echo_stream.pipeline.loop import encode_windows, listen, read_windows
from echo_stream.pipeline.station import Scored, Station, WindowReader

if TYPE_CHECKING:
    from echo_stream.encode.echo_encoder import EchoEncoder as Echo

RAPL = Path("/sys/class/powercap")
RATES_HZ = (16_000, 48_000, 96_000)
STAND_INS = ("tiny", "small")
"""Sizes of ECHO that are measured where no weights are configured."""
LOAD = 0.7
"""Of the time there is; the rest is for what else the PC does, and for its bad moments."""
MEASURE_S = 0.7
LOOP_S = 15.0
BANK_WINDOWS = 600
"""Ten minutes of normal sound, as `fit-normal` listens by default."""
FAR = 1e6
"""A trip level that nothing reaches: alarms are rare."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one encoder leaves room for at one rate."""

    rate_hz: int
    encode_ms: float
    """Of a window, in batches, on all cores."""
    rest_ms: float
    """Of a window: ring, windows, scorer, alarms, health and messages."""
    machines: int
    """That this PC carries at a load of `LOAD`."""
    gated_machines: int | None = None
    """The same with ECHO's gate, of normal sound: computed (`gated_ms`). None: not of ECHO."""
    watts: float | None = None
    """Of the processor meanwhile, all of it; None where the kernel does not tell."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One encoder on this PC."""

    encoder: str
    about: str
    """Where its weights come from; empty where it has none."""
    runtime: str
    """That it runs in; empty where there is no choice."""
    auto: str
    """The runtime that `auto` picks."""
    runtimes_ms: Mapping[str, float]
    """The net alone for one window of 2 s at 48 kHz, in each runtime that is usable here."""
    capacities: Sequence[Capacity]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)


def this_pc() -> str:
    """Processor, its class, cores and program, in a line."""
    model = cpu().get("model name") or platform.machine()
    cores = len(os.sched_getaffinity(0))
    return f"{model} ({this_class()}), {cores} core(s), echo-stream {__version__}"


def this_class() -> str:
    """The class of this PC."""
    return class_of(cpu(), platform.machine())


def energy_j(folder: Path = RAPL) -> float | None:
    """Energy of all processor packages; it begins anew now and then. None: the kernel does not tell."""
    found = []
    for zone in folder.glob("intel-rapl:*"):
        try:
            if (zone / "name").read_text("ascii").startswith("package"):
                found.append(1e-6 * int((zone / "energy_uj").read_text("ascii")))
        except (OSError, ValueError):  # since 2020 only root may read it
            return None
    return sum(found) if found else None


def gated_ms(echo: Capacity, spectral: Capacity, every: int) -> float:
    """Time of a window behind ECHO's gate, of normal sound.

    Each `every`-th window and those outside the middle are encoded by ECHO, all by the spectral encoder. What
    the gate's own score takes is in `spectral.rest_ms`, with more than that: an upper limit.
    """
    share = 1 / every + (1 - MIDDLE) * (1 - 1 / every)
    return share * echo.encode_ms + echo.rest_ms + spectral.encode_ms + spectral.rest_ms


def measure(config: Config) -> Iterator[Measured]:
    """The configured encoder, and those that could be had instead.

    Raises:
        CheckpointError: the configured weights are missing, damaged or of another size.
        EncoderError: the configured runtime is not there.
    """
    cut = config.encoder
    own = _configured(config, cut) if isinstance(cut, EchoEncoder) else None  # what is wrong is said at once
    encoder = make_encoder("spectral", window_s=cut.window_s)
    spectral = [_capacity(encoder, rate_hz, cut) for rate_hz in RATES_HZ]
    yield Measured("spectral", "", "", "", {}, spectral)
    if own is not None and isinstance(cut, EchoEncoder):
        about = f"weights {cut.weights}"
        yield _echo("echo", about, *own, cut, spectral)
        if _has_gpu() and cut.runtime != GPU:
            on_gpu = _made(config, cut, GPU, "float32")
            yield _echo("echo on the GPU", about, on_gpu, on_gpu, cut, spectral)
    else:
        for size in STAND_INS:
            try:
                stand_in = _stand_in(size)
            except MissingExtra as error:  # what is not installed is no reason to say nothing of the rest
                yield Measured(f"echo {size}", f"not measured: {error.hint}", "", "", {}, [])
                continue
            about = "random weights: none are configured"
            yield _echo(f"echo {size}", about, stand_in, stand_in, cut, spectral)
            if _has_gpu():
                stand_in = _stand_in(size, GPU, "float32")
                yield _echo(f"echo {size} on the GPU", about, stand_in, stand_in, cut, spectral)


def _configured(config: Config, settings: EchoEncoder) -> tuple[Echo, Echo]:
    """The encoder as it is configured, and as `auto` would have it; measured now, whatever is remembered."""
    asked = settings.runtime, settings.precision
    own = _made(config, settings, *asked)
    return own, own if asked == ("auto", "auto") else _made(config, settings, "auto", "auto")


def _made(config: Config, settings: EchoEncoder, runtime: str, precision: str) -> Echo:
    wanted = settings.model_copy(update={"runtime": runtime, "precision": precision, "gate": None})
    with tempfile.TemporaryDirectory() as folder:
        anew = config.model_copy(update={"encoder": wanted, "state_dir": Path(folder)})
        return cast("Echo", build_encoder(anew))


def _has_gpu() -> bool:
    try:
        from echo_stream.encode.runtime_openvino import devices
    except MissingExtra:
        return False
    return any(each.startswith("GPU") for each in devices())


def _stand_in(size: str, runtime: str = "auto", precision: str = "auto") -> Echo:
    from echo_stream.encode.echo import EchoWeights
    from echo_stream.encode.echo_encoder import EchoEncoder as Echo

    return Echo(EchoWeights.random(size), runtime, precision)


def _echo(
    name: str, about: str, own: Echo, auto: Echo, cut: Windowing, spectral: Sequence[Capacity]
) -> Measured:
    every = cut.gate_every if isinstance(cut, EchoEncoder) else EchoEncoder.model_fields["gate_every"].default
    capacities = []
    for beside in spectral:
        found = _capacity(own, beside.rate_hz, cut)
        gated = int(LOAD * 1e3 * cut.hop_s / gated_ms(found, beside, every))
        capacities.append(replace(found, gated_machines=gated))
    return Measured(
        encoder=name,
        about=about,
        runtime=own.computed_by,
        auto=auto.computed_by,
        runtimes_ms=auto.choice.milliseconds,
        capacities=capacities,
    )


class _Metered:
    """An encoder with a stopwatch."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.identity: EncoderIdentity = encoder.identity
        self.computed_by = encoder.computed_by
        self.spent_s = 0.0

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Of the encoder inside."""
        began_s = monotonic()
        found = self._encoder.encode(windows)
        self.spent_s += monotonic() - began_s
        return found


def _capacity(encoder: Encoder, rate_hz: int, cut: Windowing) -> Capacity:
    """The corridor with a batch of machines, for as long as it takes to be sure."""
    bank = _bank(encoder, rate_hz, cut)
    metered, stop = _Metered(encoder), Event()
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(
            Broker(host="127.0.0.1"), node="bench", machines={}, outbox_path=Path(folder) / "outbox.sqlite"
        )
        events = EventPublisher("bench", publisher)
        stations = {f"bench{n}": _station(f"bench{n}", bank, rate_hz, cut, n) for n in range(BATCH)}
        for name, station in stations.items():
            events.add_station(station, name)
        began_s, windows = 0.0, 0

        def observe(scored: Sequence[Scored]) -> None:
            nonlocal began_s, windows
            now_s = monotonic()
            for window, score in scored:
                station = stations[window.machine]
                station.health.scored(window, score, spent_s=0.0, lag_s=0.0, now_s=now_s)
                events.score(station, (window, score))
            if not began_s:  # the first round warms up
                began_s, metered.spent_s = monotonic(), 0.0
                return
            windows += len(scored)
            if monotonic() - began_s > MEASURE_S:
                stop.set()

        before_j = energy_j()
        walked_s = monotonic()
        listen(lambda: stations, metered, on_event=events.publish, observe=observe, stop=stop)
        took_s, walked_s = monotonic() - began_s, monotonic() - walked_s
        after_j = energy_j()
        publisher.stop(0.0)
    encode_ms, all_ms = 1e3 * metered.spent_s / windows, 1e3 * took_s / windows
    machines = int(LOAD * 1e3 * cut.hop_s / all_ms)
    watts = None
    if before_j is not None and after_j is not None and after_j > before_j:
        watts = round((after_j - before_j) / walked_s, 1)
    return Capacity(rate_hz, round(encode_ms, 3), round(all_ms - encode_ms, 3), machines, watts=watts)


def _source(rate_hz: int, start_s: float, duration_s: float | None = None) -> Simulated:
    return Simulated(1, rate_hz, pace="fast", start_s=start_s, duration_s=duration_s, loop_s=LOOP_S)


def _bank(encoder: Encoder, rate_hz: int, cut: Windowing) -> NormalBank:
    """Fitted on a little sound, and then made as large as a real one, for that is what scoring costs."""
    windows = read_windows(
        _source(rate_hz, 0.0, 12 * cut.window_s), window_s=cut.window_s, hop_s=cut.window_s
    )
    enrolled = [
        Enrolled(features, "bench", window.start / rate_hz)
        for window, features in encode_windows(encoder, windows)
    ]
    bank = NormalBank.fit(
        enrolled, encoder=encoder.identity, sample_rate_hz=rate_hz, window_s=cut.window_s, hop_s=cut.window_s
    )
    return of_size(bank, BANK_WINDOWS)


def of_size(bank: NormalBank, kept: int) -> NormalBank:
    """A bank of one operating state with so many normal windows: those that it has, over and over.

    It costs what a bank of that size costs, and scores as before.
    """
    gate = bank.gate and replace(bank.gate, references=(_of_size(bank.gate.references[0], kept),))
    return replace(bank, references=(_of_size(bank.references[0], kept),), gate=gate)


def _of_size(own: Reference, kept: int) -> Reference:
    which = np.resize(np.arange(len(own.start_s)), kept)
    return replace(
        own,
        recordings=[own.recordings[i] for i in which.tolist()],
        start_s=own.start_s[which],
        window=replace(own.window, normals=own.window.normals[which]),
    )


def _station(name: str, bank: NormalBank, rate_hz: int, cut: Windowing, number: int) -> Station:
    timing = Timing(rate_hz, cut.hop_s, on_delay_s=7.0, off_delay_s=6.0, dead_band=0.1)
    ways = Ways(Levels(FAR, 0.9 * FAR, floor=FAR, per_month=1.0), timing)
    warning = Alarm.at_level(
        name,
        AlarmLevel.WARNING,
        sample_rate_hz=rate_hz,
        trip=FAR,
        clear=0.9 * FAR,
        on_delay_s=3.0,
        off_delay_s=6.0,
        implied_by=ways,
    )
    alarm = Alarm(name, AlarmLevel.ALARM, sample_rate_hz=rate_hz, condition=ways)
    return Station(
        reader=WindowReader(name, _source(rate_hz, 0.7 * number), cut.window_s, cut.hop_s),
        bank=bank,
        bank_id="bench",
        scorer=Scorer(bank),
        alarms=(warning, alarm),
        ways=ways,
        sensor=SensorWatch(name, sample_rate_hz=rate_hz, limits=sensor_limits(bank)),
        rest=Condition(0.5, 0.25, on_delay=2 * rate_hz, off_delay=0),
        health=Health(name, cut.hop_s, monotonic()),
    )


def run_bench(config: Path | None, as_json: bool) -> None:
    """Measure with this configuration, or the defaults, and print what was found."""
    quiet()
    settings = read_config_or_defaults(config)
    cut = settings.encoder
    found = []
    if not as_json:
        print(f"{this_pc()}\nwindows of {cut.window_s:g} s, one every {cut.hop_s:g} s; ms are of one window")
    for one in measure(settings):
        found.append(one)
        if not as_json:
            _print_measured(one)
    if as_json:
        own = {
            "pc": this_pc(),
            "class": this_class(),
            "window_s": cut.window_s,
            "hop_s": cut.hop_s,
            "load": LOAD,
        }
        print_json({**own, "encoders": [one.to_json() for one in found]})
    else:
        print(f"\nmachines: at a load of {LOAD:.0%}, all with the same rate and encoder; see docs/scaling.md")
        print(*_table(found), sep="\n")


def _table(found: Sequence[Measured]) -> Iterator[str]:
    """What was measured as rows of docs/scaling.md, where other classes of PC have theirs."""
    rates = ", ".join(f"{rate_hz / 1000:g}" for rate_hz in RATES_HZ)
    yield f"\n| class | encoder | ms a window at {rates} kHz | machines | with the gate | W |"
    yield "|---|---|---|---|---|---|"
    for one in found:
        each = one.capacities
        columns = [
            [f"{at.encode_ms + at.rest_ms:.3g}" for at in each],
            [str(at.machines) for at in each],
            [str(at.gated_machines) for at in each if at.gated_machines is not None],
            [f"{at.watts:g}" for at in each if at.watts is not None],
        ]
        cells = [", ".join(column) or "-" for column in columns]
        name = " ".join(filter(None, (one.encoder, one.runtime)))
        yield f"| {' | '.join([this_class(), name, *cells])} |"


def _print_measured(one: Measured) -> None:
    print(f"\n{one.encoder}" + (f", {one.about}" if one.about else ""), flush=True)
    for runtime, ms in one.runtimes_ms.items():
        used = "".join(
            [", auto picks it" if runtime == one.auto else "", ", in use" if runtime == one.runtime else ""]
        )
        print(f"  {runtime:20} {ms:8.2f} ms, the net alone, 2 s at 48 kHz{used}")
    for at in one.capacities:
        times = f"encoding {at.encode_ms:7.2f} ms  the rest {at.rest_ms:6.2f} ms"
        print(f"  {at.rate_hz / 1000:4.0f} kHz  {times}  {at.machines:6} machines", flush=True)
