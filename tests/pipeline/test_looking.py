"""Windows are encoded in several threads: the same events and scores, to the last bit, in the same order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event as Stop
from threading import get_ident
from typing import cast

import numpy as np

from echo_stream.capture.source import AudioSource
from echo_stream.core.types import AudioBlock, EncoderIdentity, Features, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.loop import listen
from echo_stream.pipeline.station import Event, Scored, Station
from tests.support.stations import build_stations, write_config

MACHINES = tuple(f"m{n}" for n in range(18))
"""Two batches a round."""
SHORT = "duration_s: 4"
FAULTY = "duration_s: 12, faults: [{kind: rattle, start_s: 4, end_s: 12}]"


class Watched:
    """The real encoder, which remembers the threads that called it."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.threads: set[int] = set()

    @property
    def identity(self) -> EncoderIdentity:
        return self._encoder.identity

    @property
    def computed_by(self) -> str:
        return self._encoder.computed_by

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        self.threads.add(get_ident())
        return self._encoder.encode(windows)


class Damaged:
    """The real source, whose samples are damaged."""

    def __init__(self, source: AudioSource) -> None:
        self._source = source

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def read(self) -> AudioBlock | None:
        block = self._source.read()
        return None if block is None else replace(block, samples=block.samples * np.float32(np.nan))


def walk(folder: Path, bank: bytes, threads: int) -> tuple[list[object], set[int]]:
    """Everything that leaves the corridor, in order; and the threads that encoded."""
    folder.mkdir()
    left: list[object] = []
    stations, encoder = build_stations(folder, bank, write_config(folder, FAULTY, MACHINES))
    watched = Watched(encoder)

    def on_event(_station: Station, event: Event) -> None:
        left.append(event)

    def observe(scored: Sequence[Scored]) -> None:
        left.extend((window.machine, window.start, score) for window, score in scored)

    def sampled(_station: Station, window: Window, features: Features, _score: object) -> None:
        left.append((window.machine, features.window.tobytes(), features.segments.tobytes()))

    listen(
        lambda: stations,
        watched,
        on_event=on_event,
        observe=observe,
        sampled=sampled,
        stop=Stop(),
        threads=threads,
    )
    return left, watched.threads


def test_events_and_scores_do_not_depend_on_the_number_of_threads(
    tmp_path: Path, simulated_bank: bytes
) -> None:
    alone, one = walk(tmp_path / "one", simulated_bank, 1)
    together, many = walk(tmp_path / "many", simulated_bank, 3)
    assert alone == together
    assert any(getattr(each, "active", False) for each in alone), "no alarm: nothing was compared"
    assert len(one) == 1
    assert len(many) > 1, "one thread did all: nothing was compared"


def test_what_cannot_be_encoded_in_another_thread_stops_its_machine_only(
    tmp_path: Path, simulated_bank: bytes
) -> None:
    stations, encoder = build_stations(tmp_path, simulated_bank, write_config(tmp_path, SHORT, MACHINES))
    bad = stations["m7"].reader
    bad.source = cast("AudioSource", Damaged(bad.source))
    failed: dict[str, Exception] = {}
    windows = dict.fromkeys(MACHINES, 0)

    def on_failure(machine: str, error: Exception) -> None:
        failed[machine] = error
        stations.pop(machine, None)

    def observe(scored: Sequence[Scored]) -> None:
        for window, _ in scored:
            windows[window.machine] += 1

    listen(
        lambda: stations,
        encoder,
        on_event=lambda *_: None,
        observe=observe,
        stop=Stop(),
        on_failure=on_failure,
        threads=2,
    )
    assert list(failed) == ["m7"]
    assert "not a finite number" in str(failed["m7"])
    assert windows.pop("m7") == 0
    assert set(windows.values()) == {3}
