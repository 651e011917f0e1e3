"""Operator commands change alarms: acknowledge, shelve, reset, out of service, mark normal. Pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import structlog

from echo_stream.alarm.alarm import Alarm
from echo_stream.core.errors import CommandRefused, EchoStreamError
from echo_stream.core.files import write_whole
from echo_stream.core.types import AlarmEvent
from echo_stream.evidence.recorder import flac, longest
from echo_stream.mqtt.commands import Command, Verb
from echo_stream.pipeline.station import Station

log = structlog.get_logger()

Transition = Callable[[Station, AlarmEvent, str], None]


def execute(
    command: Command, stations: Mapping[str, Station], transition: Transition, proposals: Path
) -> tuple[bool, str]:
    """Carries a command out, or refuses it: whether it was done, and the outcome or the reason in words.

    Args:
        command: well-formed.
        stations: those present.
        transition: gets each transition that comes of it, with who asked and why.
        proposals: folder for the sound that somebody calls normal.
    """
    asked = {"machine": command.machine, "by": command.by, "sender": command.sender}
    try:
        outcome = _execute(command, stations, transition, proposals)
    except EchoStreamError as error:
        log.warning(f"command refused: {command.verb}", reason=error.message, **asked)
        return False, error.message
    log.info(f"command: {command.verb}", outcome=outcome, **asked)
    return True, outcome


def _execute(
    command: Command, stations: Mapping[str, Station], transition: Transition, proposals: Path
) -> str:
    station = stations.get(command.machine)
    if station is None:
        raise EchoStreamError(f"no machine {command.machine} is listened to")
    if command.verb is Verb.MARK_NORMAL:
        return f"kept as {_propose(station, proposals)}: echo-stream bank extend learns from it"
    at = station.scored_until
    done, refusals = [], []
    for alarm in station.alarms:
        if command.level not in (None, alarm.level):
            continue
        try:
            events = _apply(command, alarm, at)
        except CommandRefused as error:
            refusals.append(error)
            continue
        done.append(f"{alarm.level} is {alarm.state}")
        asked = " ".join(filter(None, [f"by {command.by}" if command.by else "", command.reason or ""]))
        for event in events:
            transition(station, event, asked)
    if not done:
        raise refusals[0]
    return ", ".join(done)


def _apply(command: Command, alarm: Alarm, at: int) -> Sequence[AlarmEvent]:
    if command.verb is Verb.SHELVE:
        return alarm.shelve(at, command.duration_s or 0.0)
    verbs = {
        Verb.ACK: alarm.ack,
        Verb.RESET: alarm.reset,
        Verb.UNSHELVE: alarm.unshelve,
        Verb.OUT_OF_SERVICE: alarm.out_of_service,
        Verb.IN_SERVICE: alarm.in_service,
    }
    return verbs[command.verb](at)


def _propose(station: Station, proposals: Path) -> Path:
    """The sound that is in memory, as a proposal to learn from."""
    reader, rate = station.reader, station.reader.source.sample_rate_hz
    end = station.scored_until
    stretch = reader.slicer.stretch(end - 1)
    samples = longest(reader.slicer.history, end, (stretch[0] if stretch else end) - end, rate)
    if not len(samples):
        raise EchoStreamError(
            "there is no sound in memory to keep", "try again when sound comes from the machine"
        )
    path = proposals / reader.machine / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.flac"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, flac(samples, rate))
    except OSError as error:
        raise EchoStreamError(f"{path} cannot be written: {error.strerror}") from None
    return path
