"""Operator commands on a real station."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from echo_stream.core.errors import CommandRefused
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState
from echo_stream.daemon.operator_commands import execute
from echo_stream.daemon.proposals import ProposalWriter
from echo_stream.mqtt.commands import Command, ReplyTo, Verb
from echo_stream.pipeline.station import Station
from tests.support.daemon import wait_for
from tests.support.stations import build_stations, write_config


class Console:
    """A station, and what became of the commands for it."""

    def __init__(self, station: Station, folder: Path) -> None:
        self.station = station
        self.transitions: list[tuple[AlarmEvent, str]] = []
        self.replies: list[tuple[bool, str]] = []
        self.proposals = ProposalWriter(folder, max_mb=10, min_free_mb=0)
        self.enrolled: list[Command] = []

    def send(self, verb: Verb, machine: str = "pump1", **more: object) -> tuple[bool, str]:
        command = Command(machine, verb, ReplyTo(None), **more)  # type: ignore[arg-type]
        before = len(self.replies)
        execute(
            command,
            {"pump1": self.station},
            lambda _station, event, asked: self.transitions.append((event, asked)),
            self.proposals,
            enrol=self._enrol,
            accept_bank=self._enrol,
            reply=lambda ok, text: self.replies.append((ok, text)),
        )
        found: list[tuple[bool, str]] = wait_for(lambda: self.replies[before:], 20, "a reply")
        return found[0]

    def _enrol(self, command: Command, done: Callable[[bool, str], None]) -> None:
        if command.machine == "pump9":
            raise CommandRefused("too much waits")
        self.enrolled.append(command)
        done(True, "listening")


@pytest.fixture
def console(tmp_path: Path, simulated_bank: bytes) -> Iterator[Console]:
    made, _ = build_stations(tmp_path, simulated_bank, write_config(tmp_path))
    console = Console(made["pump1"], tmp_path / "proposals")
    console.proposals.start()
    yield console
    console.proposals.stop()


def test_a_machine_without_a_bank_can_be_enrolled(console: Console) -> None:
    assert console.send(Verb.ENROL, machine="fan7") == (True, "listening")
    assert [command.machine for command in console.enrolled] == ["fan7"]
    assert console.send(Verb.ENROL, machine="pump9") == (False, "too much waits")


def test_shelve_and_unshelve_both_levels(console: Console) -> None:
    assert console.send(Verb.SHELVE, duration_s=60.0, by="Jo", reason="cleaning") == (
        True,
        "warning is SHELVED, alarm is SHELVED",
    )
    assert [asked for _, asked in console.transitions] == ["by Jo cleaning"] * 2
    ok, _ = console.send(Verb.UNSHELVE, level=AlarmLevel.ALARM)
    assert ok
    assert [alarm.state for alarm in console.station.alarms] == [AlarmState.SHELVED, AlarmState.NORMAL]


def test_what_the_state_does_not_allow_is_refused_and_changes_nothing(console: Console) -> None:
    for verb in (Verb.ACK, Verb.RESET, Verb.UNSHELVE, Verb.IN_SERVICE):
        ok, reason = console.send(verb)
        assert not ok
        assert reason
    assert console.transitions == []


def test_out_of_service_and_back(console: Console) -> None:
    assert console.send(Verb.OUT_OF_SERVICE)[0]
    assert {alarm.state for alarm in console.station.alarms} == {AlarmState.OUT_OF_SERVICE}
    assert console.send(Verb.IN_SERVICE)[0]
    assert {alarm.state for alarm in console.station.alarms} == {AlarmState.NORMAL}


def test_an_unknown_machine(console: Console) -> None:
    assert console.send(Verb.ACK, "pump9") == (False, "no machine pump9 is listened to")


def test_mark_normal_needs_sound_and_keeps_it(console: Console) -> None:
    ok, reason = console.send(Verb.MARK_NORMAL)
    assert not ok
    assert "no sound in memory" in reason
    for _ in range(5):
        window = console.station.reader.window()
        assert window is not None
        console.station.scored_until = window.end
    ok, outcome = console.send(Verb.MARK_NORMAL)
    assert ok
    assert "bank extend" in outcome
    ok, reason = console.send(Verb.MARK_NORMAL)
    assert not ok
    assert "less than 10 s ago" in reason
