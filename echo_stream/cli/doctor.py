"""doctor checks whether this PC is fit for the job, a line with advice each. Runs in the CLI.

What needs a device, a broker or an encoder comes in as a callable, so that a check knows none of them; what
such a callable raises as EchoStreamError is a finding, not a failure of the doctor.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from time import monotonic, sleep

import numpy as np

from echo_stream.capture.reconnect import RATE_TOLERANCE
from echo_stream.cli.common import print_json, quiet, read_config_or_defaults
from echo_stream.cli.mqtt_check import check as check_broker
from echo_stream.config.schema import Config, Machine
from echo_stream.config.sources import USUAL_RATE_HZ, Microphone
from echo_stream.core.checks import Check, Verdict, worst
from echo_stream.core.errors import DeliveryError, EchoStreamError
from echo_stream.core.level import FULL_SCALE
from echo_stream.core.types import AudioBlock, Float32, Window
from echo_stream.mqtt.topics import Topics
from echo_stream.pipeline.factory import broker_settings, build_encoder
from echo_stream.pipeline.loop import WAIT_S
from echo_stream.pipeline.sources import open_sources

_QUIET_DBFS = -75.0
"""Near the noise floor of a 16-bit converter and a cheap preamplifier."""
_UNSYNCHRONISED = 5
"""TIME_ERROR of adjtimex(2)."""


def cpu_speed(measure: Callable[[], float], machines: int) -> Check:
    """Whether the PC keeps up.

    Args:
        measure: the real-time factor of one machine: seconds of work for a second of its sound.
        machines: how many are configured.
    """
    try:
        factor = measure() * machines
    except EchoStreamError as error:
        return _failed("cpu", error)
    finding = f"{machines} machine(s) take {factor:.2f} s of work for a second of sound"
    if factor >= 1:
        advice = "a longer hop_s, the spectral encoder or a smaller size, another runtime, or a faster PC"
        return Check("cpu", Verdict.FAIL, finding, advice)
    if factor >= 0.5:
        return Check("cpu", Verdict.WARN, finding, "little is left for other work: think of a longer hop_s")
    return Check("cpu", Verdict.OK, finding)


def disk_space(folder: Path, wanted_mb: float) -> Check:
    """Whether the disk under the state directory holds what will be kept there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        free_mb = shutil.disk_usage(there).free / 1e6
    except OSError as error:
        return Check("disk", Verdict.FAIL, f"{there}: {error.strerror}", "check the disk: dmesg, mount")
    finding = f"{free_mb:.0f} MB free at {there}, {wanted_mb:.0f} MB wanted"
    if free_mb < wanted_mb:
        verdict = Verdict.FAIL if free_mb < wanted_mb / 10 else Verdict.WARN
        return Check("disk", verdict, finding, "make room, or lower evidence.max_mb, or move state_dir")
    return Check("disk", Verdict.OK, finding)


def broker(connect: Callable[[], str]) -> Check:
    """Whether the broker takes us: `connect` says what it reached, or raises."""
    try:
        return Check("broker", Verdict.OK, connect())
    except EchoStreamError as error:
        return _failed("broker", error)


def time_sync(clock_state: Callable[[], int] | None = None) -> Check:
    """Whether the kernel's clock is disciplined (timesyncd, chrony, ntpd or PTP), by adjtimex(2)."""
    if (clock_state or _clock_state)() == _UNSYNCHRONISED:
        advice = "timedatectl set-ntp true; without it the times of events drift, nothing else"
        return Check("time", Verdict.WARN, "the clock is not synchronised", advice)
    return Check("time", Verdict.OK, "the clock is synchronised")


def state_directory(folder: Path) -> Check:
    """Whether this user can keep state there, and no other user can change it."""
    name = "state"
    if not folder.exists():
        advice = "echo-stream install-service makes it; or mkdir it for the user that runs echo-stream"
        return Check(name, Verdict.WARN, f"{folder} is not there yet", advice)
    if not folder.is_dir():
        return Check(name, Verdict.FAIL, f"{folder} is not a directory", "name another state_dir")
    if not os.access(folder, os.W_OK | os.X_OK):
        advice = "ask as the user that runs it: sudo -u echo-stream echo-stream doctor"
        return Check(name, Verdict.FAIL, f"{folder} cannot be written by this user", advice)
    if folder.stat().st_mode & 0o002:
        return Check(name, Verdict.FAIL, f"{folder} can be written by everybody", f"chmod o-w {folder}")
    return Check(name, Verdict.OK, f"{folder} can be written")


def audio_access(cards: Path = Path("/dev/snd")) -> Check:
    """Whether the kernel has sound cards that this user may open."""
    captures = sorted(cards.glob("pcm*c"))
    if not captures:
        advice = "plug the microphone in (lsusb, arecord -l); a sound server elsewhere needs no card here"
        return Check("cards", Verdict.WARN, f"no capture device in {cards}", advice)
    closed = [path.name for path in captures if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        advice = "join the group: sudo usermod -aG audio USER, then log in anew (the service has it already)"
        return Check("cards", Verdict.FAIL, f"this user may not open {', '.join(closed)}", advice)
    return Check("cards", Verdict.OK, f"{len(captures)} capture device(s)")


def inputs(list_inputs: Callable[[], Sequence[str]], wanted: Sequence[str]) -> Check:
    """Whether the configured devices are there, by their names or parts of them."""
    try:
        names = list_inputs()
    except EchoStreamError as error:
        return _failed("devices", error)
    absent = [want for want in wanted if not any(want.lower() in name.lower() for name in names)]
    if absent:
        there = ", ".join(names) or "none"
        advice = "echo-stream devices prints what to write into the configuration"
        return Check("devices", Verdict.FAIL, f"not there: {', '.join(absent)}; there are: {there}", advice)
    return Check("devices", Verdict.OK if names else Verdict.WARN, f"{len(names)} input(s)")


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """A few seconds of one channel, as the doctor listened."""

    samples: Float32
    """(n,), full scale is -1 to 1."""
    sample_rate_hz: int
    """What the device was asked for."""
    measured_rate_hz: float | None = None
    """Samples that came over the seconds that it took; None where nothing was measured."""


def sound(machine: str, listen: Callable[[], ProbeResult]) -> list[Check]:
    """What a machine's source delivers: its rate, its level, and whether it clips."""
    try:
        result = listen()
    except EchoStreamError as error:
        return [_failed(f"sound of {machine}", error)]
    checks = [_level(machine, result.samples), _clipping(machine, result.samples)]
    if result.measured_rate_hz is not None:
        checks.insert(0, _rate(machine, result.measured_rate_hz, result.sample_rate_hz))
    return checks


def _rate(machine: str, measured_hz: float, nominal_hz: int) -> Check:
    name, finding = f"rate of {machine}", f"{measured_hz:.0f} Hz measured, {nominal_hz} Hz configured"
    if abs(measured_hz / nominal_hz - 1) > RATE_TOLERANCE:
        advice = "set sample_rate_hz to what the device really does, or use another port or cable"
        return Check(name, Verdict.FAIL, finding, advice)
    return Check(name, Verdict.OK, finding)


def _level(machine: str, samples: Float32) -> Check:
    name = f"level of {machine}"
    if samples.size == 0 or not np.isfinite(samples).all():
        return Check(name, Verdict.FAIL, "no usable samples came", "unplug the device and plug it in again")
    power = float(np.var(samples, dtype=np.float64))
    if power == 0:
        return Check(name, Verdict.FAIL, "silence: every sample is the same", "unmute it: alsamixer, F4")
    level_dbfs = 10 * np.log10(power)
    finding = f"{level_dbfs:.0f} dBFS"
    if level_dbfs < _QUIET_DBFS:
        advice = "raise the gain (alsamixer, F4), or bring the microphone nearer; is the machine running?"
        return Check(name, Verdict.WARN, finding, advice)
    return Check(name, Verdict.OK, finding)


def _clipping(machine: str, samples: Float32) -> Check:
    name = f"clipping of {machine}"
    clipped = int(np.count_nonzero(np.abs(samples) >= FULL_SCALE))
    if clipped:
        advice = "lower the gain (alsamixer, F4) until peaks stay under -6 dBFS; then fit anew"
        return Check(name, Verdict.FAIL, f"{clipped} of {samples.size} samples at full scale", advice)
    peak = float(np.max(np.abs(samples), initial=0.0))
    return Check(name, Verdict.OK, f"none; peak {20 * np.log10(max(peak, 1e-9)):.0f} dBFS")


def _failed(name: str, error: EchoStreamError) -> Check:
    return Check(name, Verdict.FAIL, error.message, error.hint)


def _clock_state() -> int:
    return int(
        ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(512))
    )  # a struct timex of zeros only asks


# The checks of one configuration, in the order of the report.

LISTEN_S = 3.0
PATIENCE_S = 6.0


def examine(config: Config) -> Iterator[Check]:
    """All checks, one after the other; the last ones listen for some seconds to each machine."""
    yield cpu_speed(lambda: _real_time_factor(config), max(1, len(config.machines)))
    yield disk_space(config.state_dir, config.evidence.max_mb + config.evidence.min_free_mb)
    yield state_directory(config.state_dir)
    yield time_sync()
    yield broker(lambda: _reach_broker(config))
    wanted = [m.source.device for m in config.machines if isinstance(m.source, Microphone)]
    yield audio_access()
    yield inputs(_input_names, wanted)
    for machine in config.machines:
        if machine.source.kind != "stdin":
            yield from sound(machine.id, partial(_listen, machine))


def _real_time_factor(config: Config) -> float:
    """Seconds of work for a second of one machine's sound; the median of some windows."""
    encoder, cut = build_encoder(config), config.encoder
    rate = max((m.source.fixed_rate_hz or 0 for m in config.machines), default=0) or USUAL_RATE_HZ
    samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(rate * cut.window_s)).astype(np.float32)
    window = Window("doctor", samples, 0, len(samples), rate, datetime.now(UTC))
    spent_s = []
    for _ in range(8):
        began_s = monotonic()
        encoder.encode([window])
        spent_s.append(monotonic() - began_s)
    return float(np.median(spent_s)) / cut.hop_s


def _reach_broker(config: Config) -> str:
    topics = Topics(config.mqtt.topic_root, config.node)
    for step in check_broker(broker_settings(config), topics, protocol=config.mqtt.protocol):
        if not step.ok:
            raise DeliveryError(f"{step.name}: {step.found}", step.hint)
    return f"{config.mqtt.host}:{config.mqtt.port} takes what is published"


def _input_names() -> list[str]:
    from echo_stream.capture.devices import list_inputs

    return [name for found in list_inputs() for name in (*found.names, found.write)]


def _listen(machine: Machine) -> ProbeResult:
    source = open_sources([machine], patient=False)[machine.id]
    rate, blocks, began_s = source.sample_rate_hz, list[AudioBlock](), monotonic()
    first_s = last_s = began_s
    with closing(source):
        while last_s - first_s < LISTEN_S and not source.ended and monotonic() - began_s < PATIENCE_S:
            block = source.read()
            if block is None:
                sleep(WAIT_S)
                continue
            last_s = monotonic()
            first_s = first_s if blocks else last_s
            blocks.append(block)
    samples = np.concatenate([block.samples[:, 0] for block in blocks]) if blocks else np.zeros(0, np.float32)
    live = machine.source.realtime and last_s - first_s > LISTEN_S / 2
    measured_hz = (len(samples) - len(blocks[0].samples)) / (last_s - first_s) if live else None
    return ProbeResult(samples, rate, measured_hz)


def run_doctor(config: Path | None, as_json: bool) -> Verdict:
    """Print every check as soon as it is done, or all of them as JSON; the worst verdict."""
    quiet()
    checks = []
    for check in examine(read_config_or_defaults(config)):
        checks.append(check)
        if not as_json:
            advice = f"\n        {check.advice}" if check.advice else ""
            print(f"{check.verdict.upper():4}  {check.name}: {check.finding}{advice}", flush=True)
    if as_json:
        print_json({"verdict": worst(checks), "checks": [asdict(check) for check in checks]})
    return worst(checks)
