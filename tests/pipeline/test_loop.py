"""The corridor: real stations, real encoder, and what leaves it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Event as Stop

import pytest

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import AlarmEvent, EncoderIdentity, Features, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.loop import listen
from echo_stream.pipeline.station import Event, Scored, Station
from tests.support.stations import FAULTY, build_stations, write_config

SHORT = "duration_s: 40"


class Walk:
    """One walk of the corridor until all sources have ended."""

    def __init__(self, stations: dict[str, Station], encoder: Encoder) -> None:
        self.stations = stations
        self.scored: list[Scored] = []
        self.events: list[AlarmEvent] = []
        self.failed: dict[str, Exception] = {}
        listen(
            lambda: self.stations,
            encoder,
            on_event=self._on_event,
            observe=self._observe,
            stop=Stop(),
            on_failure=self._on_failure,
        )

    def _on_event(self, _station: Station, event: Event) -> None:
        if isinstance(event, AlarmEvent):
            self.events.append(event)

    def _observe(self, scored: Sequence[Scored]) -> None:
        self.scored += scored

    def _on_failure(self, machine: str, error: Exception) -> None:
        self.failed[machine] = error
        self.stations = {name: each for name, each in self.stations.items() if name != machine}

    def windows(self, machine: str) -> int:
        return sum(window.machine == machine for window, _ in self.scored)


def test_every_window_is_scored_once_and_in_order(tmp_path: Path, simulated_bank: bytes) -> None:
    walk = Walk(*build_stations(tmp_path, simulated_bank, write_config(tmp_path, SHORT, ("a", "b"))))
    for machine in ("a", "b"):
        starts = [window.start for window, _ in walk.scored if window.machine == machine]
        hop = starts[1] - starts[0]
        assert starts == list(range(0, hop * len(starts), hop))
        assert walk.windows(machine) >= 38
    assert not walk.failed


def test_a_fault_comes_and_goes(tmp_path: Path, simulated_bank: bytes) -> None:
    stations, encoder = build_stations(tmp_path, simulated_bank, write_config(tmp_path, FAULTY))
    walk = Walk(stations, encoder)
    changes = [(event.level.value, event.before.value, event.after.value) for event in walk.events]
    assert ("warning", "NORMAL", "UNACK") in changes
    assert ("alarm", "NORMAL", "UNACK") in changes
    assert ("alarm", "UNACK", "RTN_UNACK") in changes


class FailingEncoder:
    """The real encoder, which cannot encode the windows of one machine."""

    def __init__(self, encoder: Encoder, machine: str) -> None:
        self._encoder = encoder
        self._machine = machine

    @property
    def identity(self) -> EncoderIdentity:
        return self._encoder.identity

    @property
    def computed_by(self) -> str:
        return self._encoder.computed_by

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        if any(window.machine == self._machine for window in windows):
            raise EncoderError("samples are not finite")
        return self._encoder.encode(windows)


def test_a_window_that_cannot_be_encoded_stops_its_machine_only(
    tmp_path: Path, simulated_bank: bytes
) -> None:
    stations, encoder = build_stations(
        tmp_path, simulated_bank, write_config(tmp_path, SHORT, ("a", "b", "c"))
    )
    walk = Walk(stations, FailingEncoder(encoder, "b"))
    assert list(walk.failed) == ["b"]
    assert walk.windows("b") == 0
    assert walk.windows("a") == walk.windows("c") >= 38


class Broken:
    """A part of a station that raises whenever it is used."""

    def __getattr__(self, name: str) -> object:
        raise ZeroDivisionError(name)


@pytest.mark.parametrize("part", ["scorer", "sensor", "ways", "rest", "reader.slicer"])
def test_a_part_that_raises_stops_its_machine_only(tmp_path: Path, simulated_bank: bytes, part: str) -> None:
    stations, encoder = build_stations(tmp_path, simulated_bank, write_config(tmp_path, SHORT, ("a", "b")))
    owner = stations["a"].reader if "." in part else stations["a"]
    setattr(owner, part.rpartition(".")[2], Broken())
    walk = Walk(stations, encoder)
    assert isinstance(walk.failed["a"], ZeroDivisionError)
    assert walk.windows("b") >= 38


def test_without_a_handler_the_exception_is_raised(tmp_path: Path, simulated_bank: bytes) -> None:
    stations, encoder = build_stations(tmp_path, simulated_bank, write_config(tmp_path, SHORT, ("b",)))
    with pytest.raises(EncoderError, match="not finite"):
        listen(
            lambda: stations,
            FailingEncoder(encoder, "b"),
            on_event=lambda *_: None,
            observe=lambda _: None,
            stop=Stop(),
        )
