"""A station is everything that is one machine's own: windows, bank, scorer, alarms, sensor.

Runs on the pipeline thread. The encoder is shared by all stations and is not here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.condition import Condition
from echo_stream.alarm.outlook import Outlook
from echo_stream.alarm.sensor import SENSOR, SensorFigures, SensorWatch
from echo_stream.alarm.ways import Ways
from echo_stream.alarm.zone import ZoneWatch
from echo_stream.capture.figures import hum_and_rumble, signal_figures
from echo_stream.capture.physical import Meter
from echo_stream.capture.source import AudioSource
from echo_stream.capture.windows import Slicer
from echo_stream.core.log import get_logger
from echo_stream.core.text import duration_text
from echo_stream.core.types import (
    OFF,
    AlarmEvent,
    AlarmPath,
    DriftEvent,
    Features,
    Score,
    SensorEvent,
    Window,
)
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.encoder_gate import GateWatch
from echo_stream.detect.known_sounds import Occurrences
from echo_stream.detect.scorer import Scorer
from echo_stream.detect.steady import STEADY_S, SteadyWatch
from echo_stream.pipeline.elsewhere import ELSEWHERE, Places, Surroundings, louder_at
from echo_stream.pipeline.health import Health

log = get_logger()


@dataclass(slots=True)
class KnownSoundGate:
    """Decides whether a window counts towards an alarm: it does, unless its sound is known as no fault.

    What does not count is no evidence in either direction: it raises nothing, clears nothing, and is in no
    past. The score itself is not changed: status, MQTT and history show it as it is.
    """

    _occurrences: Occurrences = field(default_factory=Occurrences)

    def passes(self, window: Window, score: Score, scorer: Scorer, clear: float) -> bool:
        """Whether the next window is a known sound, and so says nothing of the machine.

        Args:
            window: what was scored.
            score: what came out.
            scorer: what scored it.
            clear: the clear level of the machine's warning.
        """
        passes, begins = self._occurrences.step(
            score.known_sound,
            scorer.known_sounds,
            normal=score.value <= clear and not score.known_sound,
            start=window.start,
            end=window.end,
            rate=window.sample_rate_hz,
        )
        if begins:
            log.info(f"known sound: {score.known_sound}", machine=window.machine, score=round(score.value, 2))
        return passes

    def known_sounds(self, scorer: Scorer) -> dict[str, int]:
        """How often each taught sound came since the start."""
        return {name: self._occurrences.counts[name] for name in sorted(scorer.known_sounds)}


Scored = tuple[Window, Score]
Event = AlarmEvent | SensorEvent | DriftEvent
BEGINS = ("condition", "changed_again")
"""Causes of events that say that something is wrong now."""
OUTLOOK_S = 10.0
"""How often what is known of the alarms is put together."""
BEHIND_S = 3.0  # older windows of a live source than this are skipped: the newest win


@dataclass(slots=True)
class WindowReader:
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
        rate, full_scale = self.source.sample_rate_hz, self.source.full_scale
        return Window(self.machine, samples, start, end, rate, at, full_scale)

    @property
    def idle(self) -> bool:
        """The next window is not complete yet: to ask again at once is in vain."""
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

    reader: WindowReader
    bank: NormalBank
    bank_id: str
    scorer: Scorer
    alarms: tuple[Alarm, ...]
    """The warning, then the alarm."""
    ways: Ways
    """The condition of the alarm."""
    sensor: SensorWatch
    rest: Condition
    """Whether the machine is at rest; a single window that sounds so is not."""
    health: Health
    bank_path: Path | None = None
    """What the configuration names; sound that was kept for the bank lies beside it."""
    surroundings: Surroundings | None = None
    """What comes from elsewhere; None: nothing is known of that."""
    steady: SteadyWatch = field(default_factory=lambda: SteadyWatch(1.0))
    """Tells when a new sound has become steady."""
    encoder_gate: GateWatch | None = None
    """Says which windows are encoded; None: all are."""
    gate: KnownSoundGate = field(default_factory=KnownSoundGate)
    """Known sounds, which do not count towards an alarm."""
    meter: Meter | None = None
    """Of a calibrated sensor."""
    measured: Mapping[str, float] = field(default_factory=dict)
    """What it measured in the newest window, in physical units; replaced by the pipeline thread."""
    zones: ZoneWatch | None = None
    """Where its user has limits for its velocity."""
    zone: str | None = None
    """Of the last minute; nothing depends on it."""
    lines_hz: Callable[[float | None], Mapping[str, float]] = lambda _rpm: {}
    """Where shaft, gear and bearing have their lines, by name, at the speed that its topic says."""
    score: Score | None = None
    """Of the newest window; not the window itself: its samples take memory."""
    scored_until: int = 0
    """Where the newest window ended."""
    drifting: bool = False
    """The advisory of a creep was announced and is not over."""
    trips: Mapping[str, float] = field(default_factory=dict)
    """Trip levels now, by alarm level; replaced by the pipeline thread."""
    outlook: Outlook | None = None
    """What the ways to an alarm know; replaced by the pipeline thread, so that others can read it."""
    outlook_at: int = 0

    def needs(self, window: Window, gate: Features, *, asked: bool) -> bool:
        """Whether the next window is to be encoded now, by its spectral features or as asked."""
        watch = self.encoder_gate
        if watch is None:
            return True
        alarmed = any(each.active for each in self.alarms) or self.ways.step_way.changing
        levels = *(each.clear for each in self.alarms), self.ways.levels_now[AlarmPath.STEP]
        lowest = min(level for level in levels if level is not None)
        stretch = self.reader.slicer.stretch(window.start)
        return watch.needs(
            window,
            gate,
            alarmed=alarmed,
            lowest=lowest,
            asked=asked,
            unbroken_from=None if stretch is None else stretch[0],
        )

    def score_of(self, features: Features, *, encoded: bool) -> tuple[Features, Score]:
        """Features and score of the next window, which `needs` was asked about where the encoder is gated.

        Args:
            features: Of the encoder; those of its gate where it was not encoded.
            encoded: Whether it was.
        """
        watch = self.encoder_gate
        if watch is None:
            return features, self.scorer.score_one(features)
        if not encoded:
            return watch.hold(features)
        return watch.take(features, self.scorer.score_one(features))

    def judge(self, scored: Scored, places: Places | None = None) -> Iterator[Event]:
        """What the next window changes: at its sensor first, because that suppresses the machine's alarms.

        Args:
            scored: The window and its score.
            places: What surrounds all machines, where this one has a reference among them.
        """
        window, score = scored
        self.score, self.scored_until = score, window.end
        if self.meter is not None:
            self.measured = self.meter.measure(window.samples, window.sample_rate_hz)
        if self.zones is not None:
            self.zone = self.zones.step(self.measured.get("velocity_mm_s"))
        self.ways.passed.now_s = window.captured_at.timestamp()
        yield from self.sensor.step(sensor_figures(window, score.level_dbfs), window.start, window.end)
        self.rest.step(float(score.condition == OFF), window.start, window.end)
        reasons = {SENSOR: self.sensor.masks_machine, OFF: self.rest.active}
        if self.sensor.fault is not None and self.surroundings is not None:
            self.surroundings.rises.forget()
        passes = self.gate.passes(window, score, self.scorer, self.alarms[0].clear)
        passes |= self._comes_from_elsewhere(window, score, places)
        events: list[AlarmEvent] = []
        for alarm in reversed(self.alarms):  # the alarm first, as it implies the warning
            own: list[AlarmEvent] = []
            held = alarm is self.alarms[0] and self._holds_warning and not alarm.active
            for reason, holds in {**reasons, ELSEWHERE: held}.items():
                own += (alarm.suppress if holds else alarm.unsuppress)(window.end, reason)
            own += alarm.step(score.value, window.start, window.end, score.condition, counts=not passes)
            events = own + events
        self.trips = {alarm.level.value: alarm.trip for alarm in self.alarms}
        yield from (_with_gain(event, score.gain_db) for event in events)
        alarm = self.alarms[1]
        changed = alarm.active and not alarm.suppressed_by and not self.ways.renewed
        if self.steady.step(score, changed=changed):
            yield from (
                replace(event, why=self._steady_text(event)) for event in alarm.tell_steady(window.end)
            )
        if self.outlook is None or window.end - self.outlook_at >= OUTLOOK_S * window.sample_rate_hz:
            self.outlook, self.outlook_at = Outlook.of(self.ways), window.end
        yield from self._advisory(window.end)

    def _steady_text(self, event: AlarmEvent) -> str:
        ago_s = (event.at - (event.at if event.onset is None else event.onset)) / self.bank.sample_rate_hz
        return (
            f"new steady state: the machine sounds otherwise since {duration_text(ago_s)}, and the same for "
            f"{duration_text(STEADY_S)}: a fault, or another load, speed or product"
        )

    @property
    def _holds_warning(self) -> bool:
        return self.surroundings is not None and self.surroundings.holds_warning

    def _comes_from_elsewhere(self, window: Window, score: Score, places: Places | None) -> bool:
        if self.surroundings is None or self.surroundings.reference is None or places is None:
            return False
        warning = self.alarms[0]
        louder = louder_at(window, places) if score.value > warning.clear else ("", 0.0)
        return self.surroundings.step(window, score, louder, trip=warning.trip, clear=warning.clear)

    def _advisory(self, at: int) -> Iterator[DriftEvent]:
        """Where minutes creep away from what they were."""
        creep = self.ways.creeping
        if (creep is not None) == self.drifting:
            return
        self.drifting = creep is not None
        slow, onset = (creep, creep.onset) if creep else (self.ways.slow_way, None)
        yield DriftEvent(self.reader.machine, self.drifting, at, slow.now, slow.clear, onset)


def _with_gain(event: AlarmEvent, gain_db: float | None) -> AlarmEvent:
    """Say so where a knob or a hand explains what begins."""
    if gain_db is None or not event.active or event.cause not in BEGINS:
        return event
    louder = "louder" if gain_db > 0 else "quieter"
    said = f"everything {louder} by {abs(gain_db):.1f} dB, spectrum unchanged: gain or distance?"
    return replace(event, why="; ".join(filter(None, (event.why, said))))


def sensor_figures(window: Window, level_dbfs: float | None = None) -> SensorFigures:
    """What a window says about its sensor; its level is that of its features where they are at hand."""
    found = signal_figures(window.samples, window.full_scale, level_dbfs)
    hum, rumble = hum_and_rumble(window.samples, window.sample_rate_hz)
    return SensorFigures(found.level_dbfs, found.clipped_share, found.dead, found.stuck, hum, rumble)
