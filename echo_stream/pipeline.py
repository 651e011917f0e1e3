"""THE CORRIDOR: sound in, features, a score against the normal bank, alarm events out. One thread runs it.

`listen` is what the daemon does for years; `windows_of` and `features_of` are its first lines, for a
recording or a stretch of listening: offline equals online by construction. No clock, no network, no
configuration here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import sleep

from echo_stream.capture.sanity import inspect
from echo_stream.capture.sources import AudioSource
from echo_stream.capture.windows import Slicer
from echo_stream.detect.alarm import Alarm
from echo_stream.detect.alarm_condition import Condition
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.drift import DriftWatch
from echo_stream.detect.scorer import Scorer
from echo_stream.detect.sensor import SENSOR, SensorFigures, SensorWatch
from echo_stream.detect.sensor_spectrum import hum_and_rumble
from echo_stream.encode.encoder import Encoder
from echo_stream.service.health import Health
from echo_stream.types import AlarmEvent, AlarmLevel, DriftEvent, Features, Score, SensorEvent, Window

Scored = tuple[Window, Score]
Event = AlarmEvent | SensorEvent | DriftEvent

WAIT_S = 0.05  # PortAudio delivers in bursts of up to 0.1 s
BEHIND_S = 3.0  # older windows of a live source than this are skipped: the newest win
BATCH = 16
"""Windows that are encoded together: more are no faster, only later, and take more memory."""
PROOF_S = 600.0
"""A machine that never sounded normal with its bank raises warnings at once but no alarm for so long: most
likely it is the bank that does not fit (docs/adr/0011)."""
OFF = "off"
"""The operating condition of a machine at rest: it raises no alarm."""


@dataclass(slots=True)
class Ear:
    """A source of one channel, cut into windows."""

    machine: str
    source: AudioSource
    window_s: float
    hop_s: float
    keep_s: float = 1.0
    """Sound kept behind the newest window, as evidence."""
    live: bool = False
    """The source does not wait for us: take all that came, and where that is too much, the newest."""
    slicer: Slicer = field(init=False)
    _lost: int = field(init=False, default=0)
    _skipped: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        rate = self.source.sample_rate_hz
        window, hop = round(self.window_s * rate), max(1, round(self.hop_s * rate))
        keep_s = self.window_s + max(self.keep_s, BEHIND_S + self.hop_s)
        self.slicer = Slicer(window, hop, keep_samples=round(keep_s * rate))

    def window(self) -> Window | None:
        """The next window that is complete, or None. Never waits."""
        while self.live or not self.slicer.pending:
            block = self.source.read()
            if block is None:
                break
            self.slicer.push(block.samples[:, 0], block.start, block.gap)
        if self.slicer.pending * self.hop_s > max(BEHIND_S, self.hop_s):
            self.slicer.skip_to_newest()
        cut = self.slicer.pop()
        if cut is None:
            return None
        start, samples = cut
        end = start + len(samples)
        at = self.source.time_of(end)
        return Window(self.machine, samples, start, end, self.source.sample_rate_hz, at)

    @property
    def rested(self) -> bool:
        """The next window has not been heard yet: to ask again at once is in vain."""
        return self.live and not self.slicer.pending

    def losses(self) -> tuple[int, int]:
        """Samples lost and hops skipped since this was last asked."""
        lost, skipped = self.source.lost_samples, self.slicer.skipped_hops
        news = lost - self._lost, skipped - self._skipped
        self._lost, self._skipped = lost, skipped
        return news


@dataclass(slots=True)
class Station:
    """Everything that is one machine's own; the encoder is shared."""

    ear: Ear
    bank: NormalBank
    bank_id: str
    scorer: Scorer
    alarms: tuple[Alarm, ...]
    sensor: SensorWatch
    drift: DriftWatch
    rest: Condition
    """Whether the machine is at rest; a single window that sounds so is not."""
    health: Health
    score: Score | None = None
    """Of the newest window; not the window itself: its samples take memory."""
    heard_until: int = 0
    """Where the newest window ended."""
    proven: bool = False
    """The machine has sounded normal with this bank once: the bank fits what is heard."""
    since: int = 0
    """Absolute sample index from which this bank is in use."""

    def judge(self, scored: Scored) -> Iterator[Event]:
        """What the next window changes: at its sensor first, because that suppresses the machine's alarms."""
        window, score = scored
        self.score, self.heard_until = score, window.end
        yield from self.sensor.step(figures_of(window), window.start, window.end)
        self.rest.step(float(score.condition == OFF), window.start, window.end)
        reasons = {SENSOR: self.sensor.fault is not None, OFF: self.rest.active}
        self.proven |= score.value <= min(alarm.clear for alarm in self.alarms)
        doubted = not self.proven and window.end - self.since < PROOF_S * window.sample_rate_hz
        for alarm in self.alarms:
            for reason, holds in reasons.items():
                yield from (alarm.suppress if holds else alarm.unsuppress)(window.end, reason)
            if doubted and alarm.level is AlarmLevel.ALARM:
                continue
            yield from alarm.step(score.value, window.start, window.end)
        if not any(alarm.active or alarm.suppressed_by for alarm in self.alarms):
            yield from self.drift.step(score.value, window.end)


def figures_of(window: Window) -> SensorFigures:
    """What a window says about its sensor."""
    found = inspect(window.samples)
    hum, rumble = hum_and_rumble(window.samples, window.sample_rate_hz)
    return SensorFigures(found.level_dbfs, found.clipped_share, found.dead, found.stuck, hum, rumble)


def listen(
    stations: Callable[[], Mapping[str, Station]],
    encoder: Encoder,
    *,
    tell: Callable[[Station, Event], None],
    observe: Callable[[Sequence[Scored]], None],
    stop: threading.Event,
) -> None:
    """Walks the corridor until every source has ended or `stop` is set.

    Args:
        stations: asked once a round, so that machines can come and go between two rounds.
        encoder: turns windows into features.
        tell: gets each event, before the windows that follow are looked at.
        observe: gets what was scored, in every round at least once, also where that is nothing.
        stop: ends it.

    Raises:
        EncoderError: a window cannot be encoded.
        SourceError: a source that is not supervised fails.
    """
    while not stop.is_set():
        present = stations()
        windows = due(station.ear for station in present.values())
        for at in range(0, len(windows), BATCH):
            scored = []
            part = windows[at : at + BATCH]
            for window, features in zip(part, encoder.encode(part), strict=True):
                station = present[window.machine]
                scored.append((window, station.scorer.score_one(features)))
                for event in station.judge(scored[-1]):
                    tell(station, event)
            observe(scored)
        if not windows:
            observe([])
        if not windows and all(station.ear.source.ended for station in present.values()):
            return
        if all(present[window.machine].ear.rested for window in windows):
            stop.wait(WAIT_S)


def due(ears: Iterable[Ear]) -> list[Window]:
    """Windows to encode together: at most one of each machine, those that are complete now."""
    return [window for ear in ears if (window := ear.window()) is not None]


def windows_of(source: AudioSource, *, machine: str = "", window_s: float, hop_s: float) -> Iterator[Window]:
    """All windows of a source of one channel, in order, until it ends."""
    ear = Ear(machine, source, window_s, hop_s)
    while True:
        if (window := ear.window()) is not None:
            yield window
        elif source.ended:
            return
        else:
            sleep(WAIT_S)


def features_of(encoder: Encoder, windows: Iterable[Window]) -> Iterator[tuple[Window, Features]]:
    """Windows with their features, encoded in batches, in the order in which they came."""
    batch: list[Window] = []
    for window in windows:
        batch.append(window)
        if len(batch) == BATCH:
            yield from zip(batch, encoder.encode(batch), strict=True)
            batch = []
    if batch:
        yield from zip(batch, encoder.encode(batch), strict=True)
