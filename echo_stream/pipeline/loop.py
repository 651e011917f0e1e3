"""THE CORRIDOR: sound in, features, a score against the normal bank, alarm events out. One thread runs it.

`listen` is what the daemon does for years; `read_windows` and `encode_windows` are its first lines, for a
recording or a stretch of listening: offline equals online by construction. No clock, no network, no
configuration here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import sleep

from echo_stream.capture.source import AudioSource
from echo_stream.core.types import Features, Score, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.elsewhere import take_rises
from echo_stream.pipeline.looking import BATCH, Looked, look
from echo_stream.pipeline.station import Event, Scored, Station, WindowReader

WAIT_S = 0.05  # PortAudio delivers in bursts of up to 0.1 s
OnFailure = Callable[[str, Exception], None]
Sampled = Callable[[Station, Window, Features, Score], None]


def listen(
    stations: Callable[[], Mapping[str, Station]],
    encoder: Encoder,
    *,
    on_event: Callable[[Station, Event], None],
    observe: Callable[[Sequence[Scored]], None],
    stop: threading.Event,
    on_failure: OnFailure | None = None,
    expecting: Callable[[], bool] = lambda: False,
    sampled: Sampled = lambda *_: None,
    asked: Callable[[str], bool] = lambda _: False,
) -> None:
    """Walks the corridor until every source has ended or `stop` is set.

    Args:
        stations: asked once a round, so that machines can come and go between two rounds.
        encoder: turns windows into features.
        on_event: gets each event, before the windows that follow are looked at.
        observe: gets what was scored, in every round at least once, also where that is nothing.
        stop: ends it.
        on_failure: gets a machine's id and the exception that its part raised; it must take the machine out
            of `stations`, and the others go on. Without it the exception is raised.
        expecting: whether more machines will come although all present sources have ended.
        sampled: gets each window with its features and score, before its alarms do.
        asked: whether the next window of a machine is to be encoded in any case, where the encoder is gated.

    Raises:
        EncoderError: a window cannot be encoded, and there is no `on_failure`.
        SourceError: a source that is not supervised fails, and there is no `on_failure`.
    """
    on_failure = on_failure or _raise
    while not stop.is_set():
        present = stations()
        windows = due((station.reader for station in present.values()), on_failure)
        places = {machine: station.surroundings for machine, station in present.items()}
        take_rises(windows, places)
        for batch in look(encoder, windows, partial(_needs, present, asked)):
            scored = []
            for looked in batch:
                if not isinstance(looked, Looked):
                    on_failure(looked[0].machine, looked[1])
                    continue
                window, station = looked.window, present[looked.window.machine]
                try:
                    features, score = station.score_of(looked.features, encoded=looked.encoded)
                    scored.append((window, score))
                    sampled(station, window, features, score)
                    for event in station.judge(scored[-1], places):
                        on_event(station, event)
                except Exception as error:  # noqa: BLE001 - one machine must not silence the others
                    on_failure(window.machine, error)
            observe(scored)
        if not windows:
            observe([])
        ended = all(station.reader.source.ended for station in present.values())
        if not windows and ended and not expecting():
            return
        if all(present[window.machine].reader.idle for window in windows):
            stop.wait(WAIT_S)


def due(readers: Iterable[WindowReader], on_failure: OnFailure) -> list[Window]:
    """Windows to encode together: at most one of each machine, those that are complete now."""
    found = []
    for reader in readers:
        try:
            window = reader.window()
        except Exception as error:  # noqa: BLE001 - one machine must not silence the others
            on_failure(reader.machine, error)
            continue
        if window is not None:
            found.append(window)
    return found


def _needs(
    stations: Mapping[str, Station], asked: Callable[[str], bool], window: Window, gate: Features
) -> bool:
    return stations[window.machine].needs(window, gate, asked=asked(window.machine))


def _raise(_machine: str, error: Exception) -> None:
    raise error


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
