"""THE CORRIDOR: sound in, features, a score against the normal bank, alarm events out. One thread runs it.

`listen` is what the daemon does for years; `read_windows` and `encode_windows` are its first lines, for a
recording or a stretch of listening: offline equals online by construction. No clock, no network, no
configuration here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import sleep

from echo_stream.capture.source import AudioSource
from echo_stream.core.types import Features, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.station import Event, Scored, Station, WindowReader

WAIT_S = 0.05  # PortAudio delivers in bursts of up to 0.1 s
BATCH = 16
"""Windows that are encoded together: more are no faster, only later, and take more memory."""


def listen(
    stations: Callable[[], Mapping[str, Station]],
    encoder: Encoder,
    *,
    on_event: Callable[[Station, Event], None],
    observe: Callable[[Sequence[Scored]], None],
    stop: threading.Event,
) -> None:
    """Walks the corridor until every source has ended or `stop` is set.

    Args:
        stations: asked once a round, so that machines can come and go between two rounds.
        encoder: turns windows into features.
        on_event: gets each event, before the windows that follow are looked at.
        observe: gets what was scored, in every round at least once, also where that is nothing.
        stop: ends it.

    Raises:
        EncoderError: a window cannot be encoded.
        SourceError: a source that is not supervised fails.
    """
    while not stop.is_set():
        present = stations()
        windows = due(station.reader for station in present.values())
        for at in range(0, len(windows), BATCH):
            scored = []
            part = windows[at : at + BATCH]
            for window, features in zip(part, encoder.encode(part), strict=True):
                station = present[window.machine]
                scored.append((window, station.scorer.score_one(features)))
                for event in station.judge(scored[-1]):
                    on_event(station, event)
            observe(scored)
        if not windows:
            observe([])
        if not windows and all(station.reader.source.ended for station in present.values()):
            return
        if all(present[window.machine].reader.idle for window in windows):
            stop.wait(WAIT_S)


def due(readers: Iterable[WindowReader]) -> list[Window]:
    """Windows to encode together: at most one of each machine, those that are complete now."""
    return [window for reader in readers if (window := reader.window()) is not None]


def read_windows(
    source: AudioSource, *, machine: str = "", window_s: float, hop_s: float
) -> Iterator[Window]:
    """All windows of a source of one channel, in order, until it ends."""
    reader = WindowReader(machine, source, window_s, hop_s)
    while True:
        if (window := reader.window()) is not None:
            yield window
        elif source.ended:
            return
        else:
            sleep(WAIT_S)


def encode_windows(encoder: Encoder, windows: Iterable[Window]) -> Iterator[tuple[Window, Features]]:
    """Windows with their features, encoded in batches, in the order in which they came."""
    batch: list[Window] = []
    for window in windows:
        batch.append(window)
        if len(batch) == BATCH:
            yield from zip(batch, encoder.encode(batch), strict=True)
            batch = []
    if batch:
        yield from zip(batch, encoder.encode(batch), strict=True)
