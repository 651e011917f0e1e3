"""The factory builds the parts that the configuration describes; sources alone are opened in `sources`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.calibration import Calibration, Trip, TripLevel
from echo_stream.alarm.condition import Condition
from echo_stream.alarm.sensor import SensorWatch
from echo_stream.alarm.ways import WAYS, Levels, Timing, Ways
from echo_stream.alarm.zone import ZoneWatch
from echo_stream.capture.physical import Meter
from echo_stream.capture.source import AudioSource
from echo_stream.config.schema import Config, EchoEncoder, Machine
from echo_stream.config.sources import PublishedSpeed
from echo_stream.core.calibration import SensorLimits
from echo_stream.core.errors import NoBank
from echo_stream.core.level import FLOOR_DBFS
from echo_stream.core.text import DAYS_A_MONTH
from echo_stream.core.types import AlarmLevel
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.bank_file import accepted_version
from echo_stream.detect.encoder_gate import GateWatch
from echo_stream.detect.known_sound_file import load_fitting
from echo_stream.detect.rises import Rises
from echo_stream.detect.scorer import Scorer
from echo_stream.detect.steady import SteadyWatch
from echo_stream.encode.encoder import Encoder, EncoderByMachine, GatedEncoder, encoder_of, make_encoder
from echo_stream.evidence.lines import lines_hz
from echo_stream.evidence.recorder import Evidence
from echo_stream.evidence.store import Kept
from echo_stream.pipeline.elsewhere import Surroundings
from echo_stream.pipeline.health import Health
from echo_stream.pipeline.station import Station, WindowReader

if TYPE_CHECKING:
    from echo_stream.encode.echo import EchoDimensions
    from echo_stream.history.store import HistoryStore
    from echo_stream.mqtt.broker import Broker
    from echo_stream.mqtt.publisher import Publisher
    from echo_stream.mqtt.speeds import SpeedTopic

FoundTrip = TypeVar("FoundTrip", Trip, TripLevel)

ABOVE_WARNING = 0.5
"""Spreads of held-out sound by which an alarm's level lies over the warning's at least."""

LONGEST_DELAY_S = 60.0  # of the sound between onset and alarm no more than this is kept in memory
REST_S = 2.0  # a machine must sound at rest for so long; less than the on-delay of its alarms


def build_encoder(config: Config, machine: Machine | None = None) -> Encoder:
    """The one encoder that all machines share, or that of one machine alone.

    Low lines are a machine's own: where some have them, the shared encoder asks each window whose it is.

    Raises:
        CheckpointError: its weights are missing, damaged or of another size.
    """
    settings = config.encoder
    if not isinstance(settings, EchoEncoder):
        kind, window_s = settings.kind, settings.window_s
        if machine is not None:
            return make_encoder(kind, window_s=window_s, low_lines=machine.source.low_lines)
        shared = make_encoder(kind, window_s=window_s)
        with_lines = [each.id for each in config.machines if each.source.low_lines]
        if not with_lines:
            return shared
        return EncoderByMachine(
            shared, dict.fromkeys(with_lines, make_encoder(kind, window_s=window_s, low_lines=True))
        )
    size: str | EchoDimensions = settings.size
    if settings.dimensions is not None:
        from echo_stream.encode import echo  # noqa: PLC0415 - of ECHO alone

        own = settings.dimensions
        size = echo.EchoDimensions(
            embed_dim=own.embed_dim, encoder_depth=own.depth, num_heads=own.heads, mlp_ratio=own.mlp_ratio
        )
    made = make_encoder(
        settings.kind,
        window_s=settings.window_s,
        weights=settings.weights,
        size=size,
        runtime=settings.runtime,
        precision=settings.precision,
        cache=config.state_dir / "encoder.json",
    )
    if settings.gate is None:
        return made
    return GatedEncoder(made, make_encoder("spectral", window_s=settings.window_s), settings.gate_every)


def load_bank(machine: Machine) -> NormalBank:
    """The bank that the configuration names.

    Raises:
        NoBank: there is none.
        BankError: it cannot be read.
    """
    if not machine.bank.exists():
        raise NoBank(
            f"machine {machine.id}: there is no bank {machine.bank}",
            f"let it learn what is normal: echo-stream fit-normal --machine {machine.id}",
        )
    return NormalBank.load(machine.bank)


def load_fitting_bank(config: Config, machine: Machine, encoder: Encoder, sample_rate_hz: int) -> NormalBank:
    """The same, where it fits encoder, rate and window; otherwise a BankMismatch."""
    bank = load_bank(machine)
    own = encoder_of(encoder, machine.id)
    bank.require(own.identity, sample_rate_hz, config.encoder.window_s, config.encoder.hop_s)
    return bank


def trip_levels(machine: Machine, calibration: Calibration) -> dict[AlarmLevel, TripLevel]:
    """Where the scores of a machine raise a warning and an alarm, for the rates that the user accepts.

    Each with its own on-delay; the alarm's level is that of the strong way, which may spend its share of the
    rate (`Ways`). What lasts longer is rarer, so that the alarm's level could lie below the
    warning's; it lies above it, by `ABOVE_WARNING` at least: there is no alarm without a warning, and an
    alarm takes more than a warning does.
    """
    return _trips(machine, calibration.trip_level)


def _trips(machine: Machine, find: Callable[..., FoundTrip]) -> dict[AlarmLevel, FoundTrip]:
    alarm = machine.alarm
    rates_per_month = {
        AlarmLevel.WARNING: alarm.warnings_per_week * DAYS_A_MONTH / 7,
        AlarmLevel.ALARM: alarm.false_alarms_per_month / WAYS,
    }
    levels: dict[AlarmLevel, FoundTrip] = {}
    at_least = -math.inf
    for level, rate in rates_per_month.items():
        levels[level] = find(
            rate,
            on_delay_s=alarm.on_delays_s[level],
            off_delay_s=alarm.off_delay_s,
            dead_band=alarm.dead_band,
            at_least=at_least,
        )
        at_least = levels[level].level + ABOVE_WARNING
    return levels


def build_ways(machine: Machine, calibration: Calibration, sample_rate_hz: int) -> Ways:
    """The condition of a machine's alarm, which has heard nothing yet."""
    return _ways(machine, calibration, sample_rate_hz, _trips(machine, calibration.trip)[AlarmLevel.ALARM])


def _ways(machine: Machine, calibration: Calibration, sample_rate_hz: int, strong: Trip) -> Ways:
    settings = machine.alarm
    timing = Timing(
        sample_rate_hz=sample_rate_hz,
        hop_s=calibration.hop_s,
        on_delay_s=settings.on_delays_s[AlarmLevel.ALARM],
        off_delay_s=settings.off_delay_s,
        dead_band=settings.dead_band,
    )
    levels = Levels(
        strong=strong.level,
        clear=strong.clear,
        floor=calibration.floor(timing.held_hops),
        per_month=settings.false_alarms_per_month,
    )
    return Ways(levels, timing)


def build_alarms(machine: Machine, bank: NormalBank) -> tuple[tuple[Alarm, Alarm], Ways]:
    """The warning and the alarm of a machine, with trip levels from its bank; and the alarm's condition."""
    calibration, settings = Calibration.of(bank.calibration), machine.alarm
    trips = _trips(machine, calibration.trip)
    ways = _ways(machine, calibration, bank.sample_rate_hz, trips[AlarmLevel.ALARM])
    warning = Alarm.at_level(
        machine.id,
        AlarmLevel.WARNING,
        sample_rate_hz=bank.sample_rate_hz,
        trip=trips[AlarmLevel.WARNING].level,
        clear=trips[AlarmLevel.WARNING].clear,
        on_delay_s=settings.on_delays_s[AlarmLevel.WARNING],
        off_delay_s=settings.off_delay_s,
        implied_by=ways,
        latching=settings.latching,
        realarm_s=settings.realarm_s,
    )
    alarm = Alarm(
        machine.id,
        AlarmLevel.ALARM,
        sample_rate_hz=bank.sample_rate_hz,
        condition=ways,
        latching=settings.latching,
        realarm_s=settings.realarm_s,
    )
    return (warning, alarm), ways


def build_scorer(machine: Machine, bank: NormalBank) -> Scorer:
    """What scores the windows of a machine, with the sounds that were taught as no fault."""
    return Scorer(bank, load_fitting(machine.bank, bank))


def build_gate(bank: NormalBank, before: GateWatch | None = None) -> GateWatch | None:
    """What says which windows are encoded; None where all are. It counts on from the one before."""
    if bank.gate is None:
        return None
    return GateWatch(bank.gate) if before is None else GateWatch(bank.gate, before.encoded, before.left_out)


def build_surroundings(machine: Machine, hop_s: float) -> Surroundings:
    """What tells a change of the machine from one elsewhere; of a machine without a reference, for others."""
    return Surroundings(Rises(hop_s), machine.alarm.on_delays_s[AlarmLevel.WARNING], machine.reference)


def sensor_limits(bank: NormalBank) -> SensorLimits:
    """What the sensor of the machine must lie outside of to be called broken; without a fit, nothing is."""
    saved = bank.calibration and bank.calibration.sensor
    return saved or SensorLimits(FLOOR_DBFS, 0.0)


def build_station(config: Config, machine: Machine, source: AudioSource, encoder: Encoder) -> Station:
    """Source, bank and alarms of one machine, put together.

    Raises:
        BankError: its bank is missing or damaged.
        BankMismatch: its bank is for another encoder, rate or window.
    """
    cut = config.encoder
    bank = load_fitting_bank(config, machine, encoder, source.sample_rate_hz)
    reader = WindowReader(
        machine.id,
        source,
        cut.window_s,
        cut.hop_s,
        keep_s=_kept_s(config, machine),
        live=machine.source.realtime,
    )
    alarms, ways = build_alarms(machine, bank)
    return Station(
        reader=reader,
        meter=build_meter(machine),
        lines_hz=partial(expected_lines_hz, machine),
        zones=build_zones(machine, cut.hop_s),
        bank=bank,
        bank_id=accepted_version(machine.bank) or "",
        bank_path=machine.bank,
        scorer=build_scorer(machine, bank),
        encoder_gate=build_gate(bank),
        alarms=alarms,
        ways=ways,
        sensor=SensorWatch(machine.id, sample_rate_hz=source.sample_rate_hz, limits=sensor_limits(bank)),
        rest=Condition(0.5, 0.25, on_delay=round(REST_S * source.sample_rate_hz), off_delay=0),
        health=Health(machine.id, cut.hop_s, monotonic()),
        surroundings=build_surroundings(machine, cut.hop_s),
        steady=SteadyWatch(cut.hop_s),
    )


def build_meter(machine: Machine) -> Meter | None:
    """What measures in physical units; None where the sensor is not calibrated."""
    known = machine.source.calibration
    return None if known is None else Meter(known.unit, known.units_at_full_scale, known.envelope_hz)


def build_zones(machine: Machine, hop_s: float) -> ZoneWatch | None:
    """What tells the zone of its velocity; None where it has no limits."""
    return None if machine.limits is None else ZoneWatch(machine.limits.velocity_mm_s, hop_s)


def expected_lines_hz(machine: Machine, published_rpm: float | None) -> dict[str, float]:
    """Where shaft, gear and bearing have their lines, by name; nothing where the speed is not known.

    Args:
        machine: with its speed, or the topic that says it.
        published_rpm: what that topic says, where it is of use.
    """
    known, given = machine.bearing, machine.rpm
    bearing = None if known is None else (known.balls, known.d, known.D, known.angle)
    rpm = published_rpm if isinstance(given, PublishedSpeed) else given
    return {} if rpm is None else lines_hz(rpm, machine.gear_teeth, bearing)


def _kept_s(config: Config, machine: Machine) -> float:
    """How much sound stays in memory: from before the onset of an alarm to the end of its evidence."""
    evidence = config.evidence
    delay_s = min(machine.alarm.on_delay_s + config.encoder.window_s, LONGEST_DELAY_S)
    return evidence.pre_roll_s + delay_s + evidence.post_roll_s + 5.0


# From the configuration to the parts of delivery: broker, publisher, evidence. Only the daemon imports MQTT:
# with paho it is a seventh of what every command takes to begin.


def build_evidence(
    config: Config, on_complete: Callable[[Kept], None], on_picture: Callable[[str, bytes], None]
) -> Evidence | None:
    """What keeps the sound of alarms, not started yet; None where nothing is to be kept."""
    wanted = config.evidence
    if not wanted.enabled:
        return None
    return Evidence(
        config.state_dir / "evidence",
        pre_roll_s=wanted.pre_roll_s,
        post_roll_s=wanted.post_roll_s,
        max_mb=wanted.max_mb,
        max_days=wanted.max_days,
        min_free_mb=wanted.min_free_mb,
        on_complete=on_complete,
        on_picture=on_picture,
    )


def build_history(config: Config) -> HistoryStore | None:
    """What keeps minute rows, not started yet; None where no history is wanted."""
    from echo_stream.history.store import HISTORY_FILE, HistoryStore  # noqa: PLC0415

    if not config.history.enabled:
        return None
    return HistoryStore(config.state_dir / HISTORY_FILE, max_days=config.history.max_days)


def broker_settings(config: Config) -> Broker:
    """Where the broker is, and how it lets us in."""
    from echo_stream.mqtt.broker import Broker  # noqa: PLC0415

    mqtt, tls = config.mqtt, config.mqtt.tls
    return Broker(
        host=mqtt.host,
        port=mqtt.port,
        username=mqtt.username,
        password_file=mqtt.password_file,
        tls=tls.on,
        ca_file=tls.ca_file,
        cert_file=tls.cert_file,
        key_file=tls.key_file,
    )


def speed_topics(config: Config) -> dict[str, SpeedTopic]:
    """Where the speeds of machines are published, by id of the machine."""
    from echo_stream.mqtt.speeds import SpeedTopic  # noqa: PLC0415

    return {
        machine.id: SpeedTopic(machine.rpm.topic, machine.rpm.key, machine.rpm.max_age_s)
        for machine in config.machines
        if isinstance(machine.rpm, PublishedSpeed)
    }


def build_publisher(config: Config) -> Publisher:
    """The MQTT side, not started yet."""
    from echo_stream.mqtt.publisher import Publisher  # noqa: PLC0415

    mqtt = config.mqtt
    return Publisher(
        broker_settings(config),
        node=config.node,
        machines={machine.id: machine.title for machine in config.machines},
        assets={machine.id: machine.asset for machine in config.machines},
        measures={machine.id: machine.measures for machine in config.machines},
        speeds=speed_topics(config),
        page=config.web.address,
        outbox_path=config.state_dir / "outbox.sqlite",
        topic_root=mqtt.topic_root,
        protocol=mqtt.protocol,
        outbox_max_rows=config.outbox.max_rows,
        outbox_max_age_s=config.outbox.max_days * 86_400,
        discovery_prefix=mqtt.discovery_prefix,
        score_interval_s=mqtt.score_interval_s,
    )
