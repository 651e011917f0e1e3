"""The enrolments of all machines: commands and sound in, bank versions out, while the daemon listens.

The pipeline's thread only hands over what it hears; the thread here keeps it, and has it fitted by the
command that a person would type, in a child of low priority, one after the other. A queue that is full costs
the enrolment sound, never the pipeline.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shutil
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final

from echo_stream.config.schema import Config, Machine
from echo_stream.config.sources import USUAL_RATE_HZ
from echo_stream.core.errors import CommandRefused
from echo_stream.core.files import require_writable
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.text import duration_text, utc_text
from echo_stream.core.types import Window
from echo_stream.daemon.child import command_line, why_it_failed
from echo_stream.daemon.enrolment import SAMPLE_BYTES, Enrolment, Fit, Limits, Record, Sound, Stage
from echo_stream.daemon.operator_commands import logged
from echo_stream.daemon.stations import StationRegistry
from echo_stream.mqtt.commands import Command, Enrol, EnrolAction, ReplyTo, Verb, parse
from echo_stream.mqtt.event_ids import new_event_id
from echo_stream.mqtt.payloads import Payload

WAITING: Final = 256
"""Pieces of sound that wait for the disk: 25 MB at a hop of 0.5 s and 48 kHz."""
ROUND_S: Final = 0.25
ASK_S: Final = 8.0
FIT_S: Final = 4 * 3600.0
BANK_BYTES: Final = 50_000_000
NORMAL: Final = "normal"

Done = Callable[[bool, str], None]

log = get_logger()


@dataclass(frozen=True, slots=True)
class _Asked:
    command: Command
    done: Done


@dataclass(slots=True)
class _Fitting:
    """The child at work."""

    enrolment: Enrolment
    state: int
    child: subprocess.Popen[bytes]
    until_s: float


class Enrolments:
    """What is being learnt of which machine.

    Args:
        path: of the configuration.
        config: node, state directory and limits.
        registry: the machines.
        journal: gets the beginning and the end of each, with who asked.
    """

    def __init__(
        self, path: Path, config: Config, registry: StationRegistry, journal: Callable[[str, Payload], None]
    ) -> None:
        self._path = path.absolute()
        self._folder = config.state_dir / "enrolments"
        self._node = config.node
        evidence = config.evidence
        self._limits = Limits(evidence.max_mb, evidence.min_free_mb, config.encoder.window_s)
        self._registry = registry
        self._journal = journal
        self._enrolments: dict[str, Enrolment] = {}
        self._said: dict[str, dict[str, Any]] = {}
        self._wanted: frozenset[str] = frozenset()
        """Machines that the pipeline hands sound of."""
        self._until: dict[str, int] = {}
        """The pipeline's: index after the last sample that was handed over."""
        self._queue: queue.Queue[Sound | _Asked] = queue.Queue(WAITING)
        self._fitting: _Fitting | None = None
        self._stop = Event()
        self.thread = GuardedThread("the enrolment", self._work, self._stop)

    def start(self) -> None:
        """Goes on with what an earlier run left."""
        for file in sorted(self._folder.glob("*/enrolment.json")):
            try:
                record = Record.load(file.parent)
            except (OSError, ValueError) as error:
                log.warning("an enrolment cannot be read and is left out", file=str(file), reason=str(error))
                continue
            self._enrolments[record.machine] = Enrolment(file.parent, record, self._limits)
            if record.stage not in (Stage.DONE, Stage.FAILED):
                log.info("an enrolment goes on", machine=record.machine, stage=record.stage.value)
        self._publish_states()
        self.thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Completes what is at hand; a fit is ended, and begun anew at the next start."""
        self._stop.set()
        self.thread.join(timeout_s)
        if self._fitting is not None:
            self._fitting.child.kill()
            self._fitting.child.wait()
        for enrolment in self._enrolments.values():
            if enrolment.record.stage in (Stage.LISTENING, Stage.PAUSED):
                enrolment.suspend()

    # The pipeline's thread.

    def take(self, window: Window, device: str, condition: str = "") -> None:
        """The next window of a machine; returns at once."""
        machine = window.machine
        if machine not in self._wanted:
            self._until.pop(machine, None)
            return
        before = self._until.get(machine)
        begins = before is None or window.end <= before
        first = window.start if before is None or begins else max(window.start, before)
        sound = Sound(
            machine,
            window.samples[first - window.start :].copy(),
            0 if begins or before is None else first - before,
            begins,
            window.sample_rate_hz,
            window.full_scale,
            device,
            condition,
        )
        with contextlib.suppress(queue.Full):  # what comes next says how much was lost
            self._queue.put_nowait(sound)
            self._until[machine] = window.end

    def has_room(self, machine: str) -> bool:
        """Whether a source that waits for us should be read for this machine's enrolment."""
        return machine in self._wanted and self._queue.qsize() < WAITING // 2

    # Any thread.

    def ask(self, command: Command, done: Done) -> None:
        """Has a command `enrol` carried out; `done` is called by the thread of the enrolments.

        Raises:
            CommandRefused: too many wait.
        """
        try:
            self._queue.put_nowait(_Asked(command, done))
        except queue.Full:
            raise CommandRefused("too much waits to be kept; ask again in a moment") from None

    def answer(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What a client of the status socket asks for: a command, or what came of a machine's enrolment.

        Args:
            asked: `{"machine", "command": as over MQTT}`, or `{"machine"}`.
        """
        machine = str(asked.get("machine", ""))
        if "command" not in asked:
            fits = [{"fitted": fit.document, "text": fit.text} for fit in self.fits(machine)]
            return {"ok": True, "enrolling": self.snapshot(machine), "fits": fits}
        outcome: Future[tuple[bool, str]] = Future()
        try:
            command = parse(
                machine, json.dumps(asked["command"]).encode(), ReplyTo(None), {"socket": "status"}
            )
            if command.verb is not Verb.ENROL:
                raise CommandRefused(f"{command.verb} is not taken here")  # noqa: TRY301
            self.ask(command, logged(command, lambda ok, said: outcome.set_result((ok, said))))
            ok, said = outcome.result(ASK_S)
        except CommandRefused as error:
            return {"ok": False, "outcome": error.message}
        except TimeoutError:
            return {"ok": False, "outcome": "the daemon is busy and has not done it yet; ask again"}
        return {"ok": ok, "outcome": said}

    def snapshot(self, machine: str) -> dict[str, Any] | None:
        """How far the enrolment of a machine is; None where none was asked for."""
        return self._said.get(machine)

    def fits(self, machine: str) -> list[Fit]:
        """What came of the newest enrolment of a machine."""
        enrolment = self._enrolments.get(machine)
        return list(enrolment.record.fits) if enrolment else []

    # The thread of the enrolments.

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._queue.get(timeout=ROUND_S)
            except queue.Empty:
                pass
            else:
                if isinstance(item, Sound):
                    self._keep(item)
                else:
                    self._answer(item)
            self._look_after_fits()

    def _keep(self, sound: Sound) -> None:
        enrolment = self._enrolments.get(sound.machine)
        if enrolment is None or not enrolment.listening:
            return
        enrolment.take(sound)
        stage = enrolment.record.stage
        if stage is Stage.FITTING:
            self._note(enrolment, "heard", "")
        elif stage is Stage.FAILED:
            self._note(enrolment, "failed", enrolment.record.said)
        self._publish_states(enrolment)

    def _answer(self, asked: _Asked) -> None:
        try:
            outcome = self._execute(asked.command, asked.command.enrol or Enrol())
        except CommandRefused as error:
            asked.done(False, f"{error.message}{f'; {error.hint}' if error.hint else ''}")
        except Exception as error:
            asked.done(False, f"it failed: {error!r}")
            raise
        else:
            self._publish_states()  # first: the one who is answered looks at once
            asked.done(True, outcome)

    def _execute(self, command: Command, asked: Enrol) -> str:
        machine = self._registry.config.machine(command.machine)
        if machine is None:
            raise CommandRefused(f"no machine {command.machine} here")
        if asked.action is EnrolAction.START:
            return self._begin(machine, command, asked)
        enrolment = self._enrolments.get(machine.id)
        if enrolment is None:
            raise CommandRefused("nothing is being learnt of it")
        stage = enrolment.record.stage
        allowed = {
            EnrolAction.PAUSE: (Stage.LISTENING,),
            EnrolAction.RESUME: (Stage.PAUSED,),
            EnrolAction.FINISH: (Stage.LISTENING, Stage.PAUSED, Stage.FAILED),
            EnrolAction.CANCEL: tuple(Stage),
        }[asked.action]
        if stage not in allowed:
            raise CommandRefused(f"the enrolment is {stage}")
        outcome = self._change(enrolment, asked.action)
        self._note(enrolment, asked.action.value, command.reason or "", command.by)
        return outcome

    def _change(self, enrolment: Enrolment, action: EnrolAction) -> str:
        if action is EnrolAction.PAUSE:
            enrolment.pause()
            return "paused"
        if action is EnrolAction.RESUME:
            enrolment.resume()
            return "listening again"
        if action is EnrolAction.FINISH:
            enrolment.finish()
            return "what was heard so far is being learnt"
        if self._fitting is not None and self._fitting.enrolment is enrolment:
            self._fitting.child.kill()
            self._fitting.child.wait()
            self._fitting = None
        del self._enrolments[enrolment.record.machine]
        shutil.rmtree(enrolment.folder, ignore_errors=True)
        return "the enrolment is forgotten"

    def _begin(self, machine: Machine, command: Command, asked: Enrol) -> str:
        before = self._enrolments.get(machine.id)
        if before is not None and before.record.stage not in (Stage.DONE, Stage.FAILED):
            raise CommandRefused(f"an enrolment is {before.record.stage} already", "cancel it first")
        conditions, told_apart = self._conditions(machine, asked.condition)
        self._require_space(machine, asked.minutes)
        if before is not None:
            shutil.rmtree(before.folder, ignore_errors=True)
        accept = not machine.bank.exists() if asked.accept is None else asked.accept
        record = Record(
            machine=machine.id,
            minutes=asked.minutes,
            conditions=conditions,
            told_apart=told_apart,
            accept=accept,
            by=command.by or "",
            source=machine.source.kind,
            began_at=utc_text(datetime.now(UTC)),
        )
        folder = self._folder / machine.id
        try:
            record.save(folder)
        except OSError as error:
            raise CommandRefused(f"the enrolment cannot be kept: {error.strerror or error}") from None
        enrolment = self._enrolments[machine.id] = Enrolment(folder, record, self._limits)
        self._note(enrolment, "start", command.reason or "", command.by)
        states = " and ".join(conditions)
        return f"listening for {duration_text(60 * asked.minutes)} to learn {states}"

    def _conditions(self, machine: Machine, asked: str | None) -> tuple[list[str], bool]:
        """Which operating states are learnt, and whether the daemon tells them apart."""
        station = self._registry.stations.get(machine.id)
        known = list(station.bank.conditions) if station else []
        if asked is not None:
            return [asked], asked in known and len(known) > 1
        return known or [NORMAL], len(known) > 1

    def _require_space(self, machine: Machine, minutes: float) -> None:
        """Refuses what the disk could not take to its end, with what runs already."""
        rate = self._registry.rate_of(machine.id) or USUAL_RATE_HZ
        needed = min(60 * minutes, self._limits.kept_s(rate)) * rate * SAMPLE_BYTES
        for other in self._enrolments.values():
            if other.record.stage in (Stage.LISTENING, Stage.PAUSED):
                other_rate = other.record.sample_rate_hz or USUAL_RATE_HZ
                all_s = min(other.wanted_s, self._limits.kept_s(other_rate))
                needed += max(0.0, all_s - other.snapshot()["kept_s"]) * other_rate * SAMPLE_BYTES
        try:
            require_writable(self._folder, round(needed + self._limits.min_free_mb * 1e6))
            for folder in (machine.bank.parent, machine.bank.with_suffix(".versions")):
                require_writable(folder, BANK_BYTES)
        except OSError as error:
            raise CommandRefused(f"{error.filename}: {error.strerror}") from None

    def _look_after_fits(self) -> None:
        """Looks after the child; begins the next where there is none."""
        fitting = self._fitting
        if fitting is not None:
            code = fitting.child.poll()
            if code is None and monotonic() < fitting.until_s:
                return
            if code is None:
                fitting.child.kill()
                fitting.child.wait()
            self._fitting = None
            self._attempt(fitting.enrolment, lambda: self._conclude(fitting, code))
            return
        for enrolment in self._enrolments.values():
            stage = enrolment.record.stage
            if stage is Stage.FITTING:
                self._attempt(enrolment, lambda: self._fit(enrolment))  # noqa: B023 - called at once
                return
            gone = self._registry.config.machine(enrolment.record.machine) is None
            if gone and stage in (Stage.LISTENING, Stage.PAUSED):
                self._fail(enrolment, "the machine is no longer in the configuration")
                return

    def _attempt(self, enrolment: Enrolment, work: Callable[[], None]) -> None:
        """What goes wrong ends this enrolment, and no other."""
        try:
            work()
        except (OSError, ValueError, KeyError) as error:
            self._fail(enrolment, f"{type(error).__name__}: {error}")
        self._publish_states()

    def _fail(self, enrolment: Enrolment, said: str) -> None:
        enrolment.fail(said)
        self._note(enrolment, "failed", said)
        self._publish_states()

    def _fit(self, enrolment: Enrolment) -> None:
        """Begins the fit of the next operating state, or ends the enrolment after the last."""
        record, left = enrolment.record, enrolment.to_fit()
        if not left and record.fits:  # the daemon ended between the fit and this
            self._end(enrolment)
            return
        if not left:
            self._fail(enrolment, "too little sound came to learn from")
            return
        state = left[0]
        options = ["--machine", record.machine, "--condition", record.conditions[state]]
        options += ["--heard", str(enrolment.sound_of(state).absolute())]
        options += ["--base", record.fits[-1].bank_id] if record.fits else []
        options += ["--accept" if record.accept and len(left) == 1 else "--no-accept"]
        words = command_line(self._path, ["fit-normal"], options, niced=True)
        with (
            (enrolment.folder / "fit.json").open("wb") as out,
            (enrolment.folder / "fit.log").open("wb") as said,
        ):
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=said)
        self._fitting = _Fitting(enrolment, state, child, monotonic() + FIT_S)

    def _conclude(self, fitting: _Fitting, code: int | None) -> None:
        enrolment = fitting.enrolment
        record = enrolment.record
        if code is None:
            self._fail(enrolment, f"the fit took longer than {duration_text(FIT_S)}")
            return
        if code != 0:
            said = (enrolment.folder / "fit.log").read_text(errors="replace")
            self._fail(enrolment, why_it_failed(said, code))
            return
        found = json.loads((enrolment.folder / "fit.json").read_text())
        fitted = found["fitted"]
        record.fits.append(
            Fit(
                record.conditions[fitting.state],
                fitted["bank"]["id"],
                fitted["verdict"],
                found["text"],
                fitted,
            )
        )
        record.save(enrolment.folder)
        if not enrolment.to_fit():
            self._end(enrolment)

    def _end(self, enrolment: Enrolment) -> None:
        enrolment.done()
        self._note(enrolment, "done", ", ".join(fit.bank_id for fit in enrolment.record.fits))

    def _publish_states(self, only: Enrolment | None = None) -> None:
        """What the other threads may know."""
        for enrolment in [only] if only else list(self._enrolments.values()):
            self._said[enrolment.record.machine] = enrolment.snapshot()
        for gone in self._said.keys() - self._enrolments.keys():
            del self._said[gone]
        self._wanted = frozenset(
            machine for machine, each in self._enrolments.items() if each.record.stage is Stage.LISTENING
        )

    def _note(self, enrolment: Enrolment, what: str, reason: str, by: str | None = None) -> None:
        """In log and journal."""
        record, now = enrolment.record, datetime.now(UTC)
        by = by or record.by
        about: Mapping[str, Any] = {
            "machine": record.machine,
            "by": by,
            "reason": reason,
            "conditions": list(record.conditions),
            "minutes": record.minutes,
        }
        say = log.warning if what == "failed" else log.info
        say(f"enrolment: {what}", heard_s=round(record.passed_s, 1), **about)
        ids = {"event_id": new_event_id(now), "ts": utc_text(now), "node": self._node}
        self._journal("enrolment", {**ids, "enrolment": what, **about})
