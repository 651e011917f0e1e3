"""THE CORRIDOR: sound in, features, a score against the normal bank, alarm events out. One thread runs it.

`listen` is what the daemon does for years; `windows_of` and `features_of` are its first lines, for a
recording or a stretch of listening: offline equals online by construction. No clock, no network, no
configuration here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from threading import Event

from echo_stream.capture.sources import AudioSource
from echo_stream.capture.windows import Slicer
from echo_stream.detect.alarm import Alarm
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.types import AlarmEvent, Features, Score, Window

WAIT_S = 0.05  # PortAudio delivers in bursts of up to 0.1 s
OFFLINE_BATCH = 16


@dataclass(slots=True)
class Ear:
    """One channel of one source, cut into windows."""

    machine: str
    source: AudioSource
    window_s: float
    hop_s: float
    channel: int = 0
    keep_s: float = 0.0
    """Sound kept behind the newest window, as evidence."""
    slicer: Slicer = field(init=False)

    def __post_init__(self) -> None:
        rate = self.source.sample_rate_hz
        self.slicer = Slicer(
            window_samples=round(self.window_s * rate),
            hop_samples=round(self.hop_s * rate),
            keep_samples=round(self.keep_s * rate),
        )

    def window(self) -> Window | None:
        """The next window that is complete, or None. Never waits."""
        while (cut := self.slicer.pop()) is None:
            block = self.source.read()
            if block is None:
                return None
            self.slicer.push(block.samples[:, self.channel], block.start, block.gap)
        start, samples = cut
        end = start + len(samples)
        at = self.source.time_of(end)
        return Window(self.machine, samples, start, end, self.source.sample_rate_hz, at)


@dataclass(slots=True)
class Station:
    """Everything that is one machine's own; the encoder is shared."""

    ear: Ear
    scorer: Scorer
    alarms: tuple[Alarm, ...]


Tell = Callable[[AlarmEvent, Window, Score], None]
Observe = Callable[[Window, Score], None]


def listen(stations: Sequence[Station], encoder: Encoder, tell: Tell, observe: Observe, stop: Event) -> None:
    """Walks the corridor until every source has ended or `stop` is set.

    Raises:
        EncoderError: a window cannot be encoded.
    """
    of = {station.ear.machine: station for station in stations}
    for windows in due([station.ear for station in stations], stop):
        for window, features in zip(windows, encoder.encode(windows), strict=True):
            station = of[window.machine]
            score = station.scorer.score_one(features)
            for alarm in station.alarms:
                for event in alarm.step(score.value, window.start, window.end):
                    tell(event, window, score)
            observe(window, score)


def due(ears: Sequence[Ear], stop: Event) -> Iterator[list[Window]]:
    """Windows to encode together: at most one of each machine, those that are complete now."""
    while not stop.is_set():
        windows = [window for ear in ears if (window := ear.window()) is not None]
        if windows:
            yield windows
        elif all(ear.source.ended for ear in ears):
            return
        else:
            stop.wait(WAIT_S)


def windows_of(
    source: AudioSource,
    *,
    machine: str = "",
    channel: int = 0,
    window_s: float,
    hop_s: float,
    stop: Event | None = None,
) -> Iterator[Window]:
    """All windows of a source, in order, until it ends or `stop` is set."""
    ear = Ear(machine, source, window_s, hop_s, channel)
    for windows in due([ear], stop or Event()):
        yield from windows


def features_of(encoder: Encoder, windows: Iterable[Window]) -> Iterator[tuple[Window, Features]]:
    """Windows with their features, encoded in batches, in the order in which they came."""
    batch: list[Window] = []
    for window in windows:
        batch.append(window)
        if len(batch) == OFFLINE_BATCH:
            yield from zip(batch, encoder.encode(batch), strict=True)
            batch = []
    if batch:
        yield from zip(batch, encoder.encode(batch), strict=True)
