"""EventPublisher makes payloads of the events of the corridor, with wall time, id and payload. Pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

from echo_stream import __version__
from echo_stream.alarm.flood import ChatterCounter, FloodGate, FloodReport
from echo_stream.core.calibration import NormalSpectrum
from echo_stream.core.log import get_logger
from echo_stream.core.types import (
    NEW_STEADY_STATE,
    AlarmEvent,
    AlarmLevel,
    AlarmState,
    DriftEvent,
    Features,
    SensorEvent,
)
from echo_stream.daemon.saved_state import Levels, restore_state, save_state
from echo_stream.evidence.normal_sound import file_of
from echo_stream.evidence.recorder import Evidence
from echo_stream.evidence.store import Kept
from echo_stream.mqtt import event_ids, payloads, state_payloads
from echo_stream.mqtt.payloads import LevelState, Payload
from echo_stream.mqtt.publisher import Kind, Publisher
from echo_stream.mqtt.speeds import Speed
from echo_stream.pipeline.nearest_normal import kept_clips, nearest_normal
from echo_stream.pipeline.station import Event, Scored, Station

log = get_logger()


class EventPublisher:
    """Turns what the corridor finds into payloads, and keeps with each what a restart must know.

    Args:
        node: name of this PC.
        publisher: takes the payloads; never waits for the network.
    """

    def __init__(self, node: str, publisher: Publisher) -> None:
        self._node = node
        self.evidence: Evidence | None = None
        """Keeps the sound of each alarm; None where nothing is to be kept."""
        self.on_event: Callable[[Kind, Payload], None] = lambda _kind, _payload: None
        """Gets each event that is sent, for the journal and the page; must return at once."""
        self.notify: Callable[[Kind, Payload], None] = lambda _kind, _payload: None
        """Gets each event before the broker's outbox does: what is in there is no longer told anew."""
        self.recent_features: Callable[[str], Sequence[Features]] = lambda _machine: ()
        """Features of a machine's newest windows."""
        self._ids = event_ids.EventIds()
        self._names: dict[str, str] = {}
        self._publisher = publisher
        self._levels: dict[str, Levels] = {}
        self._flood = FloodGate()
        self._chatter = ChatterCounter()

    def add_station(self, station: Station, name: str) -> None:
        """A machine is listened to from now on: its alarms go on where they stood, and the broker knows.

        Args:
            station: the machine's.
            name: what people call it.
        """
        machine = station.reader.machine
        self._names[machine] = name
        self._levels[machine] = restore_state(station, self._publisher.outbox.snapshot(machine))
        now = datetime.now(UTC)
        for level in self._levels[machine].values():
            self._ids.begin_after(level.event_id or "", now)
        self._publish_alarm_state(machine, now)

    def rename(self, machine: str, name: str) -> None:
        """People call a machine otherwise from now on; any thread."""
        if machine in self._names:
            self._names[machine] = name
            self._publish_alarm_state(machine, datetime.now(UTC))

    def publish(self, station: Station, event: Event) -> None:
        """What the corridor found: log line, and for a transition outbox and retained state."""
        if isinstance(event, AlarmEvent):
            self.transition(station, event)
        elif isinstance(event, SensorEvent):
            self._sensor(station, event)
        else:
            self._drift(station, event)

    def _sensor(self, station: Station, event: SensorEvent) -> None:
        source, fault = station.reader.source, event.after and event.after.value
        log.warning(f"sensor fault: {fault}" if fault else "the sensor is well again", machine=event.machine)
        ts = source.time_of(event.at)
        onset = None if event.onset is None else source.time_of(event.onset)
        event_id = self._ids.new(ts)
        payload = payloads.sensor(event, node=self._node, event_id=event_id, ts=ts, onset_ts=onset)
        self._send("sensor", payload, snapshot=self._snapshot(station, ts))

    def _drift(self, station: Station, event: DriftEvent) -> None:
        say = (
            "the sound creeps away from what it was: extend the bank?"
            if event.active
            else "the sound no longer creeps away"
        )
        log.warning(say, machine=event.machine, median=round(event.median, 2), limit=event.limit)
        ts = station.reader.source.time_of(event.at)
        since = None if event.onset is None else station.reader.source.time_of(event.onset)
        payload = payloads.drift(event, node=self._node, event_id=self._ids.new(ts), ts=ts, since=since)
        self._send("drift", payload, snapshot=self._snapshot(station, ts))

    def transition(self, station: Station, event: AlarmEvent, reason: str | None = None) -> None:
        """A transition of an alarm, with what its cause alone does not say."""
        source, machine = station.reader.source, event.machine
        ts = source.time_of(event.at)
        onset = None if event.onset is None else source.time_of(event.onset)
        event_id = self._ids.new(ts)
        was = self._levels[machine][event.level]
        since = was.since if event.before == event.after else ts
        self._levels[machine][event.level] = LevelState(event.after, event.active, since, onset, event_id)
        steady = event.cause == NEW_STEADY_STATE
        wanted = event.level is AlarmLevel.ALARM and (event.after is AlarmState.UNACK or steady)
        kept = self.evidence if wanted else None
        clip, picture = kept.names(machine, ts, event_id) if kept else (None, None)
        why = event.why
        if steady:
            sound = kept.clip_path(machine, ts, event_id) if kept else None
            why += f"; if it is normal: {_learn_command(machine, sound)}"
        alone, report = self._flood.take(event, monotonic())
        payload = payloads.event(
            event,
            node=self._node,
            event_id=event_id,
            seq=self._publisher.next_seq(machine),
            ts=ts,
            onset_ts=onset,
            score=station.score,
            bank_id=station.bank_id,
            bank_sha256=station.bank.sha256,
            coverage_10m=station.health.coverage(monotonic()),
            clip=clip,
            picture=picture,
            merged=not alone,
            reason=reason or _reason(station, event),
            path=event.path and event.path.value,
            why=why or None,
        )
        if report is not None:
            self._publish_flood(report)
        self._send("event", payload, snapshot=self._snapshot(station, ts))
        self._publish_alarm_state(machine, ts)
        if self._chatter.take(event, event.at / source.sample_rate_hz):
            log.warning(
                "the alarm chatters: delays or dead-band are too small", machine=machine, level=event.level
            )
        if kept:
            speed = self._publisher.speed(machine)
            _keep(kept, station, event, payload, features=self.recent_features(machine), speed=speed)
        say = log.warning if event.active else log.info
        say(
            f"{event.level} {event.before} -> {event.after}",
            machine=machine,
            cause=event.cause,
            path=event.path and event.path.value,
            at_s=round(event.at / source.sample_rate_hz, 3),
            score=payload["score"],
            threshold=payload["threshold"],
            event_id=event_id,
        )

    def _send(self, kind: Kind, payload: Payload, snapshot: dict[str, Any] | None = None) -> None:
        self.notify(kind, self._publisher.placed(payload))
        self._publisher.event(kind, payload, snapshot=snapshot)
        self.on_event(kind, payload)

    def levels(self, machine: str) -> Levels:
        """Where the two levels of a machine stand, a copy; any thread."""
        return dict(self._levels.get(machine) or {})

    def tick(self) -> None:
        """Once in a while, also when nothing happens: a flood ends by itself."""
        report = self._flood.tick(monotonic())
        if report is not None:
            self._publish_flood(report)

    def _publish_flood(self, report: FloodReport) -> None:
        ts = datetime.now(UTC)
        since = ts - timedelta(seconds=report.at_s - report.since_s)
        say = (
            "alarms flood: warnings are announced as one" if report.active else "the flood of alarms is over"
        )
        log.warning(say, announcements=report.announcements, machines=report.machines)
        payload = payloads.flood(
            node=self._node,
            event_id=self._ids.new(ts),
            ts=ts,
            since=since,
            active=report.active,
            announcements=report.announcements,
            machines=report.machines,
        )
        self._send("flood", payload)

    def score(self, station: Station, scored: Scored) -> None:
        """The newest score of a machine, as telemetry."""
        window, score = scored
        if self.evidence:
            self.evidence.on_samples_buffered(window.machine, window.end, window.captured_at)
        trips = {alarm.level: alarm.trip for alarm in station.alarms}
        payload = state_payloads.score(
            score,
            node=self._node,
            machine=window.machine,
            ts=window.captured_at,
            threshold=trips[AlarmLevel.ALARM],
            warning_threshold=trips[AlarmLevel.WARNING],
        )
        self._publisher.score(window.machine, payload)

    def health(self, found: Mapping[str, Any]) -> None:
        """How well a machine is being listened to; `found` is its part of the overview."""
        payload = state_payloads.health(
            node=self._node,
            machine=found["machine"],
            ts=datetime.now(UTC),
            capture=found["capture"],
            coverage_10m=found["coverage_10m"],
            level_dbfs=found["level_dbfs"],
            measured=found.get("measured"),
            zone=found.get("zone"),
            overruns=found["gaps"],
            lost_samples=found["samples_lost"],
            real_time_factor=found["real_time_factor"],
            versions={"echo-stream": __version__, "bank": found["bank"]},
            counters={"windows_scored": found["windows_scored"], "hops_skipped": found["hops_skipped"]},
            outlook=found["outlook"],
            enrolling=found["enrolling"],
        )
        self._publisher.health(found["machine"], payload)

    def bank(self, machine: str, installed: str | None, proposed: str | None, effect: str) -> None:
        """Which version of a machine's bank is in use, and which is proposed."""
        payload = payloads.bank(
            node=self._node,
            machine=machine,
            ts=datetime.now(UTC),
            installed=installed,
            proposed=proposed,
            effect=effect,
        )
        self._publisher.set_bank(machine, payload)

    def enrolled(self, machine: str, bank_id: str, *, accepted: bool) -> None:
        """A version of a machine's bank was made, by whichever way; any thread but the pipeline's."""
        now = datetime.now(UTC)
        payload = payloads.enrolled(
            node=self._node,
            machine=machine,
            event_id=self._ids.new(now),
            ts=now,
            bank_id=bank_id,
            accepted=accepted,
        )
        self.notify("enrolled", self._publisher.placed(payload))
        self._publisher.event("enrolled", payload)

    def node_health(
        self, reasons: Sequence[str], counters: Mapping[str, int], worst_coverage_10m: float | None
    ) -> None:
        """Whether all parts of the daemon work."""
        payload = state_payloads.node_health(
            node=self._node,
            ts=datetime.now(UTC),
            reasons=reasons,
            counters=counters,
            worst_coverage_10m=worst_coverage_10m,
        )
        self._publisher.node_health(payload)

    def evidence_complete(self, kept: Kept) -> None:
        """Sound and picture of an alarm are on the disk; called on the evidence's own thread."""
        payload = payloads.evidence(
            node=self._node,
            machine=kept.machine,
            event_id=kept.event_id,
            ts=datetime.now(UTC),
            clip=kept.document.with_suffix(".flac").name,
            picture=kept.picture.name if kept.picture else None,
            lines=kept.lines,
            folder=str(kept.document.parent),
        )
        self._send("evidence", payload)

    def _publish_alarm_state(self, machine: str, ts: datetime) -> None:
        name, levels = self._names[machine], self._levels[machine]
        payload = state_payloads.alarm_state(
            node=self._node, machine=machine, name=name, ts=ts, levels=levels
        )
        self._publisher.set_alarm(machine, payload)

    def save_states(self, stations: Iterable[Station]) -> None:
        """Keeps what a restart must know of the past of each machine, also where nothing happens."""
        now = datetime.now(UTC)
        for station in stations:
            self._publisher.outbox.save_snapshot(station.reader.machine, self._snapshot(station, now))

    def _snapshot(self, station: Station, at: datetime) -> dict[str, Any]:
        """Kept in one transaction with the event that led here."""
        return save_state(station, self._levels[station.reader.machine], at)


def _reason(station: Station, event: AlarmEvent) -> str | None:
    """What the cause of a transition alone does not say."""
    if station.sensor.fault is not None:
        return station.sensor.fault.value
    held = station.surroundings if event.cause == "suppress" else None
    return held.why if held is not None and held.holds_warning else None


def _learn_command(machine: str, sound: Path | None) -> str:
    """What makes a new operating state of a sound; by listening anew where none of it is kept."""
    source = f"--recordings {sound}" if sound else "--minutes 5"
    return f"echo-stream fit-normal --machine {machine} --condition NAME --accept {source}"


def _keep(
    evidence: Evidence,
    station: Station,
    event: AlarmEvent,
    payload: Mapping[str, Any],
    *,
    features: Sequence[Features],
    speed: Speed | None,
) -> None:
    reader, bank, path = station.reader, station.bank, station.bank_path
    since_onset = event.at - (event.at if event.onset is None else event.onset)
    windows = max(1, round(since_onset / (reader.hop_s * reader.source.sample_rate_hz)))
    condition = station.score.condition if station.score else ""

    def nearest() -> dict[str, Any] | None:
        found = path and nearest_normal(bank, path, features[-windows:], condition)
        return found.to_json() if found else None

    def normal_sound() -> list[dict[str, Any]]:
        kept = kept_clips(bank, path, condition) if path else []
        files = [(file_of(path, version, clip.file), clip) for version, clip in kept] if path else []
        return [{"path": str(file.absolute()), "full_scale": clip.full_scale} for file, clip in files if file]

    evidence.alarm(
        payload,
        at=event.at,
        onset=event.onset,
        sample_rate_hz=station.reader.source.sample_rate_hz,
        bands=station.score.bands if station.score else (),
        history=station.reader.slicer.history,
        normal=_normal_spectrum(station),
        nearest=nearest,
        lines_hz=station.lines_hz(speed.rpm if speed and speed.usable else None),
        speed=None if speed is None else speed.to_json(),
        normal_sound=normal_sound,
    )


def _normal_spectrum(station: Station) -> NormalSpectrum | None:
    """Of the operating state that the machine is nearest to now; None where the bank does not keep it."""
    spectra = station.bank.calibration.spectra if station.bank.calibration else {}
    return spectra.get(station.score.condition) if station.score else None
