"""From the configuration to the parts that it describes: the one place of translation."""

from __future__ import annotations

import sys

from echo_stream.capture.sources import AudioSource
from echo_stream.config import (
    Config,
    EchoEncoder,
    Machine,
    Microphone,
    RecordingSource,
    SimulatedSource,
)
from echo_stream.detect.alarm import Alarm
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.calibration import Calibration, TripLevel
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder, make_encoder
from echo_stream.errors import BankError, SourceError
from echo_stream.pipeline import Ear, Station
from echo_stream.types import AlarmLevel

DAYS_A_MONTH = 30.0


def encoder_of(config: Config) -> Encoder:
    """The one encoder that all machines share.

    Raises:
        CheckpointError: its weights are missing, damaged or of another size.
    """
    settings = config.encoder
    if isinstance(settings, EchoEncoder):
        return make_encoder(
            settings.kind, window_s=settings.window_s, weights=settings.weights, size=settings.size
        )
    return make_encoder(settings.kind, window_s=settings.window_s)


def source_of(machine: Machine) -> AudioSource:
    """The machine's source, opened.

    Raises:
        SourceError: there is no such device or file.
    """
    # Each source is imported where it is chosen: PortAudio is needed by microphones only.
    source = machine.source
    if isinstance(source, Microphone):
        from echo_stream.capture.microphone import Microphone as Device  # noqa: PLC0415

        return Device(source.device, sample_rate_hz=source.sample_rate_hz, channels=source.channel + 1)
    if isinstance(source, RecordingSource):
        from echo_stream.capture.recordings import Recording  # noqa: PLC0415

        return Recording(source.path, pace=source.pace, loop=source.loop)
    if isinstance(source, SimulatedSource):
        from echo_stream.capture.simulated import Simulated  # noqa: PLC0415

        return Simulated(
            seed=source.seed,
            sample_rate_hz=source.sample_rate_hz,
            pace=source.pace,
            faults=[(fault.start_s, fault.end_s, fault.kind) for fault in source.faults],
            start_s=source.start_s,
            duration_s=source.duration_s,
        )
    from echo_stream.capture.stdin import Stdin  # noqa: PLC0415

    return Stdin(
        sys.stdin.fileno(), sample_rate_hz=source.sample_rate_hz, pcm=source.format, channels=source.channels
    )


def channel_of(machine: Machine, source: AudioSource) -> int:
    """Index of the machine's channel.

    Raises:
        SourceError: the source has fewer.
    """
    channel: int = getattr(machine.source, "channel", 0)
    if channel >= source.channels:
        raise SourceError(
            f"{source.description}: there is no channel {channel}: it has {source.channels}",
            f"channels count from 0; correct source.channel of machine {machine.id}",
        )
    return channel


def bank_of(machine: Machine) -> NormalBank:
    """The bank that the configuration names.

    Raises:
        BankError: there is none, or it cannot be read.
    """
    if not machine.bank.exists():
        raise BankError(
            f"machine {machine.id}: there is no bank {machine.bank}",
            f"let it learn what is normal: echo-stream fit-normal --machine {machine.id}",
        )
    return NormalBank.load(machine.bank)


def trip_levels(machine: Machine, calibration: Calibration) -> dict[AlarmLevel, TripLevel]:
    """Where the scores of a machine raise a warning and an alarm, for the rates that the user accepts."""
    alarm = machine.alarm
    rates_per_month = {
        AlarmLevel.WARNING: alarm.warnings_per_week * DAYS_A_MONTH / 7,
        AlarmLevel.ALARM: alarm.false_alarms_per_month,
    }
    return {
        level: calibration.trip_level(rate, on_delay_s=alarm.on_delay_s, off_delay_s=alarm.off_delay_s)
        for level, rate in rates_per_month.items()
    }


def station_of(config: Config, machine: Machine, source: AudioSource, encoder: Encoder) -> Station:
    """Source, bank and alarms of one machine, put together.

    Raises:
        BankError: its bank is missing or damaged.
        BankMismatch: its bank is for another encoder, rate or window.
    """
    cut = config.encoder
    bank = bank_of(machine)
    bank.require(encoder.identity, source.sample_rate_hz, cut.window_s, cut.hop_s)
    calibration = Calibration.from_json(bank.calibration)
    alarms = tuple(
        Alarm(
            machine=machine.id,
            level=level,
            sample_rate_hz=source.sample_rate_hz,
            trip=trip.level,
            clear=calibration.clear_level(trip.level, machine.alarm.dead_band),
            on_delay_s=machine.alarm.on_delay_s,
            off_delay_s=machine.alarm.off_delay_s,
            latching=machine.alarm.latching,
            realarm_s=machine.alarm.realarm_s,
        )
        for level, trip in trip_levels(machine, calibration).items()
    )
    keep_s = config.evidence.pre_roll_s + config.evidence.post_roll_s + 10.0
    ear = Ear(machine.id, source, cut.window_s, cut.hop_s, channel_of(machine, source), keep_s)
    return Station(ear, Scorer(bank), alarms)
