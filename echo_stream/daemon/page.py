"""The page's backend answers from the daemon's parts, and carries what people ask to the pipeline.

`observe` and `execute_commands` run on the pipeline thread and return at once; everything else is asked by
the page's own threads, and reads what those parts give to any thread.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from echo_stream.config.schema import Machine
from echo_stream.core.errors import CommandRefused
from echo_stream.core.log import get_logger
from echo_stream.core.types import AlarmLevel
from echo_stream.daemon import logs
from echo_stream.daemon.answers import MOST_SPAN, Answers
from echo_stream.daemon.enrolments import Enrolments
from echo_stream.daemon.events import EventPublisher
from echo_stream.daemon.history import HistoryRecorder
from echo_stream.daemon.page_history import PageHistory
from echo_stream.daemon.page_models import (
    URGENCY,
    WORDS,
    ConfigCheck,
    bank_versions,
    bundle_of,
    disk_of,
    evidence_of,
    failed_card,
    level_of,
    measures_of,
    status_of,
    versions,
)
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.daemon.stations import StationRegistry
from echo_stream.daemon.status import Snapshot
from echo_stream.evidence.store import Kept, find_event, newest_events
from echo_stream.mqtt.commands import Command, ReplyTo, parse
from echo_stream.mqtt.payloads import LevelState, Payload
from echo_stream.pipeline.station import Scored, Station
from echo_stream.web import models
from echo_stream.web.backend import Files, Live
from echo_stream.web.feed import Feed, audible_rate_hz
from echo_stream.web.server import PageServer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from echo_stream.web.access import Sessions

EVIDENCE: Final = "evidence"
MOST_COMMANDS: Final = 100
MOST_LIVE: Final = 256
_NO_STATE: Final = LevelState()

Execute = Callable[[Command, Callable[[bool, str], None]], None]

log = get_logger()


class Page:
    """The page's side of the daemon.

    Args:
        path: of the configuration.
        registry: the machines.
        events: where their alarms stand.
        history: None where none is kept.
        enrolments: what is being learnt.
        overview: what `status` says.
        journal: gets what people answer.
        sampler: what was heard, without its sound.
    """

    def __init__(
        self,
        path: Path,
        registry: StationRegistry,
        events: EventPublisher,
        *,
        history: HistoryRecorder | None,
        enrolments: Enrolments,
        overview: Snapshot,
        journal: Callable[[str, Payload], None],
        sampler: FeatureSampler,
    ) -> None:
        self._registry = registry
        self._events = events
        self.past = PageHistory(registry, history)
        self._enrolments = enrolments
        self._overview = overview
        config = registry.config
        self._state_dir = config.state_dir
        self.node, self.listen = config.node, config.web.listen
        self._commands: deque[tuple[Command, Future[models.Outcome]]] = deque()
        self._faults: deque[tuple[str, datetime, datetime]] = deque(maxlen=MOST_COMMANDS)
        """Machine, begin and end of what was a fault, as somebody said."""
        self._watched: frozenset[str] = frozenset()
        self._live: deque[Live] = deque(maxlen=MOST_LIVE)
        self._config_check = ConfigCheck(path)
        self._feed = Feed(self)
        self._server = PageServer(self._feed, self._app, config.web)
        self.thread = self._server.thread
        self._answers = Answers(
            path, self._state_dir, self.node, journal, limits=config.evidence, sampler=sampler
        )

    def start(self) -> None:
        """Begins to serve; returns at once."""
        self._server.start()

    def stop(self) -> None:
        """Hangs up; commands that wait are not carried out."""
        self._answers.stop()
        self._server.stop()

    def _app(self, sessions: Sessions, hosts: tuple[str, ...]) -> ASGIApp:
        from echo_stream.web.api import Api  # noqa: PLC0415 - half a second of imports, on the page's thread
        from echo_stream.web.app import build_app  # noqa: PLC0415

        operations = Api(self, self._feed).operations()
        return build_app(operations, sessions, hosts, node=self.node, listen=self.listen)

    def on_event(self, kind: str, payload: Payload) -> None:
        """Something happened; any thread, returns at once."""
        self.past.put_event(kind, payload)
        self._feed.touch()

    # The pipeline thread.

    def execute_commands(self, execute: Execute) -> None:
        """Has what was asked since the last call carried out."""
        while self._commands:
            command, future = self._commands.popleft()
            if future.set_running_or_notify_cancel():  # else the one who asked has gone
                execute(command, _replier(future))
                self._feed.touch()
        while self._faults:
            machine, begin, end = self._faults.popleft()
            station = self._registry.stations.get(machine)
            if station is not None:
                station.ways.passed.drop(begin.timestamp(), end.timestamp())

    def observe(self, scored: Sequence[Scored]) -> None:
        """Windows that were scored; those that somebody watches are kept for the page."""
        if not self._watched:
            return
        for window, score in scored:
            if window.machine in self._watched:
                station = self._registry.stations.get(window.machine)
                if station is not None:
                    vibration = self._is_vibration(window.machine)
                    self._live.append(Live(window, score, station.reader.hop_s, vibration))

    def _is_vibration(self, machine: str) -> bool:
        configured = self._registry.config.machine(machine)
        return configured is not None and configured.source.sensor == "vibration"

    def heard_rate_hz(self, machine: str) -> int | None:
        """Sample rate of its live sound as it is sent; None while it is not heard."""
        station = self._registry.stations.get(machine)
        if station is None:
            return None
        rate = station.reader.source.sample_rate_hz
        return audible_rate_hz(rate) if self._is_vibration(machine) else rate

    # The page's threads: echo_stream.web.backend.Backend.

    def machines(self) -> list[models.Machine]:
        """All machines, in the order of the configuration."""
        found = (self._card(machine) for machine in self._registry.config.machines)
        return [each for each in found if each is not None]

    def machine(self, machine: str) -> models.Machine | None:
        """One machine; None where there is none of this id."""
        configured = self._registry.config.machine(machine)
        return self._card(configured) if configured else None

    def _card(self, machine: Machine) -> models.Machine | None:
        station = self._registry.stations.get(machine.id)
        if station is not None:
            return self._listening(station, machine.title)
        failed = self._registry.failed.get(machine.id)
        return failed_card(failed) if failed is not None else None

    def _listening(self, station: Station, name: str) -> models.Machine:
        machine, source, score = station.reader.machine, station.reader.source, station.score
        levels = self._events.levels(machine)
        trips = {each.level: each.trip for each in station.alarms}
        warning, alarm = (
            level_of(levels.get(level, _NO_STATE), trips[level])
            for level in (AlarmLevel.WARNING, AlarmLevel.ALARM)
        )
        capture = source.state
        fault = station.sensor.fault and station.sensor.fault.value
        status, since = status_of(
            alarm, warning, listening=capture == "running", sensor_fault=fault, at_rest=station.rest.active
        )
        coverage = station.health.coverage(monotonic())
        reason = f"the sensor is {fault}" if fault else ""
        if capture != "running" and source.last_error:
            reason = source.last_error.message
        return models.Machine(
            id=machine,
            name=name,
            status=status,
            word=WORDS[status],
            urgency=URGENCY[status],
            since=since,
            reason=reason,
            score=score and round(score.value, 4),
            level_dbfs=score and round(score.level_dbfs, 2),
            operating_state=score.condition if score else "",
            zone=station.zone,
            band_hz=score and score.deciding_band_hz,
            coverage_10m=coverage and round(coverage, 4),
            warning=warning,
            alarm=alarm,
            device=source.description,
            capture=capture,
            bank=station.bank_id,
            sample_rate_hz=source.sample_rate_hz,
        )

    def detail(self, machine: str) -> models.MachineDetail | None:
        """One machine; None where there is none of this id."""
        found = self.machine(machine)
        if found is None:
            return None
        station = self._registry.stations.get(machine)
        zones = station and station.zones
        health: dict[str, Any] = next(
            (each for each in self._overview()["machines"] if each["machine"] == machine), {}
        )
        return models.MachineDetail(
            machine=found,
            recent=[
                models.Window(
                    at_s=each.at_s,
                    score=each.score,
                    level_dbfs=each.level_dbfs,
                    operating_state=each.operating_state,
                    band_hz=each.band_hz,
                )
                for each in self.past.recent(machine)
            ],
            measured=measures_of(health.get("measured") or {}),
            limits_mm_s=list(zones.limits_mm_s) if zones else [],
            health=health,
        )

    def command(
        self, machine: str, asked: Mapping[str, Any], sender: Mapping[str, str]
    ) -> Future[models.Outcome]:
        """Has the pipeline carry out a command, as if it had come over MQTT.

        Raises:
            CommandRefused: it is malformed, or too many wait.
        """
        try:
            command = self._parsed(machine, asked, sender)
        except CommandRefused as error:
            log.warning("command refused", machine=machine, reason=error.message, sender=dict(sender))
            raise
        future: Future[models.Outcome] = Future()
        self._commands.append((command, future))
        return future

    def _parsed(self, machine: str, asked: Mapping[str, Any], sender: Mapping[str, str]) -> Command:
        if len(self._commands) >= MOST_COMMANDS:
            raise CommandRefused("too many commands wait")
        return parse(machine, json.dumps(dict(asked)).encode(), ReplyTo(None), dict(sender))

    def evidence(self, event_id: str) -> tuple[models.Evidence, Files] | None:
        """What was kept of an alarm."""
        kept = find_event(self._state_dir / EVIDENCE, event_id)
        return None if kept is None else evidence_of(kept, self._bank_of(kept))

    def evidence_list(self, machine: str | None, limit: int) -> list[models.Evidence]:
        """The newest alarms of which something was kept."""
        found = newest_events(self._state_dir / EVIDENCE, machine, limit)
        return [evidence_of(kept, self._bank_of(kept))[0] for kept in found]

    def _bank_of(self, kept: Kept) -> Path | None:
        configured = self._registry.config.machine(kept.machine)
        return configured.bank if configured else None

    def answer(self, event_id: str, asked: models.Answer, by: str) -> str:
        """Takes what a person says about an alarm.

        Raises:
            CommandRefused: nothing can come of it.
        """
        kept = find_event(self._state_dir / EVIDENCE, event_id)
        if kept is None:
            raise CommandRefused("nothing was kept of this event, or it is gone")
        if asked.answer == "fault":
            said = self._answers.fault(kept, by, asked.reason or "")
            at = datetime.fromisoformat(kept.event["ts"])
            self._faults.append((kept.machine, at, at))
            return said
        return self._answers.normal(kept, by, asked.reason or "", asked.condition)

    def answer_span(self, machine: str, asked: models.SpanAnswer, by: str) -> str:
        """Takes what a person says about a stretch of history.

        Raises:
            CommandRefused: nothing can come of it.
        """
        begin, end = (datetime.fromtimestamp(each, UTC) for each in (asked.from_s, asked.to_s))
        if not timedelta(0) < end - begin <= MOST_SPAN:
            raise CommandRefused(f"expected an earlier and a later time, {MOST_SPAN.days} days apart at most")
        if asked.answer == "fault":
            said = self._answers.fault_between(machine, begin, end, by, asked.reason or "")
            self._faults.append((machine, begin, end))
            return said
        return self._answers.normal_between(
            machine, begin, end, by=by, reason=asked.reason or "", condition=asked.condition
        )

    def bank(self, machine: str) -> models.Bank:
        """Versions of a machine's bank."""
        configured = self._registry.config.machine(machine)
        versions = bank_versions(configured.bank) if configured else []
        return models.Bank(versions=versions, proposal=self._answers.proposal(machine))

    def change_bank(self, machine: str, asked: models.BankChange, by: str) -> str:
        """Has another version used.

        Raises:
            CommandRefused: there is none such.
        """
        if asked.do == "propose":
            return self._answers.propose(machine, by)
        if asked.do == "rollback":
            return self._answers.rollback(machine, by)
        if asked.bank_id is None:
            raise CommandRefused("accept needs bank_id")
        return self._answers.accept(machine, asked.bank_id, by, anyway=asked.anyway)

    def compare(self, machine: str, bank_id: str) -> models.Comparison:
        """A version beside the one in use.

        Raises:
            CommandRefused: there is none such, or another comparison is under way.
        """
        return models.Comparison.model_validate(self._answers.compare(machine, bank_id))

    def enrolment(self, machine: str) -> models.Enrolment:
        """How far the learning of a machine's normal sound is."""
        station, found = self._registry.stations.get(machine), self._enrolments.snapshot(machine)
        return models.Enrolment(
            enrolling=models.EnrolmentState.model_validate(found) if found else None,
            known=list(station.bank.conditions) if station else [],
        )

    def enrolment_report(self, machine: str, bank_id: str) -> Path | None:
        """The report of a version that an enrolment made."""
        fits = {fit.bank_id: fit for fit in self._enrolments.fits(machine)}
        path = Path(fits[bank_id].document["report"]) if bank_id in fits else None
        return path if path is not None and path.is_file() else None

    def health(self) -> models.Health:
        """How the daemon is."""
        parts = {"viewers": self._feed.viewers, "disk": disk_of(self._state_dir)}
        return models.Health(
            overview=dict(self._overview()),
            parts=parts,
            versions=versions(),
            config=self._config_check.summary(),
        )

    def log_lines(self) -> list[dict[str, Any]]:
        """The last lines of the log."""
        return list(logs.recent_lines())

    def bundle(self) -> bytes:
        """A ZIP for those who help: no secret and no sound is in it."""
        journal = self.past.journal(None, None, 500)
        return bundle_of(self.health(), self.log_lines(), journal, self._registry.config)

    def watch(self, machines: Collection[str]) -> None:
        """From now on windows of these machines are wanted, and of no others."""
        self._watched = frozenset(machines)

    def take_live(self) -> list[Live]:
        """Windows of watched machines since the last call."""
        taken = []
        while self._live:
            taken.append(self._live.popleft())
        return taken


def _replier(future: Future[models.Outcome]) -> Callable[[bool, str], None]:
    return lambda ok, outcome: future.set_result(models.Outcome(ok=ok, outcome=outcome))
