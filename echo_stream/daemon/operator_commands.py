"""Operator commands change alarms, mark what is heard as normal, and have it enrolled. Pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from echo_stream.alarm.alarm import Alarm
from echo_stream.core.errors import CommandRefused, EchoStreamError
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.types import AlarmEvent
from echo_stream.daemon.proposals import Done, ProposalWriter
from echo_stream.evidence.recorder import longest
from echo_stream.mqtt.commands import Command, Verb
from echo_stream.pipeline.station import Station

_may_log = LogLimit("commands", 100)
_may_log_refusal = LogLimit("refused commands")

log = get_logger()

Transition = Callable[[Station, AlarmEvent, str], None]
Reply = Callable[[bool, str], None]
Ask = Callable[[Command, Done], None]
"""Has something done that takes a while; raises CommandRefused."""


def execute(
    command: Command,
    stations: Mapping[str, Station],
    transition: Transition,
    proposals: ProposalWriter,
    *,
    enrol: Ask,
    accept_bank: Ask,
    reply: Reply,
) -> None:
    """Carries a command out, or refuses it. Pipeline thread; never waits for a disk.

    Args:
        command: well-formed.
        stations: those present.
        transition: gets each transition that comes of it, with who asked and why.
        proposals: keeps the sound that somebody calls normal.
        enrol: has an enrolment begun or changed; the machine may lack a bank.
        accept_bank: has a version of a bank taken into use; likewise.
        reply: gets whether it was done, and the outcome or the reason in words; for what takes a
            while later, on the thread that did it.
    """
    done = logged(command, reply)
    try:
        if command.verb is Verb.ENROL:
            enrol(command, done)
            return
        if command.verb is Verb.ACCEPT_BANK:
            accept_bank(command, done)
            return
        station = _find(command.machine, stations)
        if command.verb is Verb.MARK_NORMAL:
            _propose(station, proposals, done)
            return
        outcome = _execute(command, station, transition)
    except EchoStreamError as error:
        done(False, error.message)
    else:
        done(True, outcome)


def logged(command: Command, reply: Reply) -> Done:
    """The reply to a command, which the log hears too."""
    asked = {"machine": command.machine, "by": command.by, "sender": command.sender}

    def done(ok: bool, outcome: str) -> None:
        if ok and _may_log.admits():
            log.info(f"command: {command.verb}", outcome=outcome, **asked)
        elif not ok and _may_log_refusal.admits():
            log.warning(f"command refused: {command.verb}", reason=outcome, **asked)
        reply(ok, outcome)

    return done


def _find(machine: str, stations: Mapping[str, Station]) -> Station:
    station = stations.get(machine)
    if station is None:
        raise EchoStreamError(f"no machine {machine} is listened to")
    return station


def _execute(command: Command, station: Station, transition: Transition) -> str:
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


def _propose(station: Station, proposals: ProposalWriter, done: Done) -> None:
    """The sound that is in memory, as a proposal to learn from."""
    reader, rate = station.reader, station.reader.source.sample_rate_hz
    end = station.scored_until
    stretch = reader.slicer.stretch(end - 1)
    samples = longest(reader.slicer.history, end, (stretch[0] if stretch else end) - end, rate)
    if not len(samples):
        raise EchoStreamError(
            "there is no sound in memory to keep", "try again when sound comes from the machine"
        )
    proposals.add(reader.machine, samples, rate, done)
