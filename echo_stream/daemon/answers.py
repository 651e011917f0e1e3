"""Answers turn what people say about an alarm into proposals of a bank, or keep its sound as that of a fault.

Learning runs in a child of low priority, by the command that a person would type (`bank extend`): neither its
memory nor its time is felt where sound is scored. One at a time, and nothing is in use before somebody
accepts it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

import numpy as np

from echo_stream.config.schema import EvidenceSettings
from echo_stream.core.errors import CommandRefused
from echo_stream.core.files import write_whole
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.text import utc_text
from echo_stream.daemon.child import command_line, why_it_failed
from echo_stream.daemon.page_models import to_proposal, to_sample_proposal
from echo_stream.daemon.proposals import lossless, require_room
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.evidence.store import Kept, document_path
from echo_stream.history.sample import FAULTS, FeatureSample
from echo_stream.mqtt.event_ids import new_event_id
from echo_stream.mqtt.payloads import Payload
from echo_stream.web import models

LEARN_S: Final = 1800.0
ASK_S: Final = 60.0
MOST_FAULTS_MB: Final = 500.0
MOST_SPAN: Final = timedelta(days=31)

log = get_logger()


class Answers:
    """What people said, and what is being learnt of it. Any thread.

    Args:
        config: path of the configuration.
        state_dir: proposals and confirmed faults are kept below it.
        node: name of this PC.
        journal: gets each answer, with who gave it.
        limits: of sound on the disk.
        sampler: what was heard, without its sound.
    """

    def __init__(
        self,
        config: Path,
        state_dir: Path,
        node: str,
        journal: Callable[[str, Payload], None],
        *,
        limits: EvidenceSettings,
        sampler: FeatureSampler,
    ) -> None:
        self._config = config.absolute()
        self._state_dir = state_dir
        self._node = node
        self._limits = limits
        self._sampler = sampler
        self._comparing = Lock()
        self._journal = journal
        self._proposals: dict[str, models.Proposal] = {}
        self._lock = Lock()
        self._stop = Event()
        self._learning: GuardedThread | None = None
        self._child: subprocess.Popen[str] | None = None

    def stop(self) -> None:
        """Ends what is being learnt."""
        self._stop.set()
        child = self._child
        if child is not None:
            child.kill()

    def proposal(self, machine: str) -> models.Proposal | None:
        """The newest proposal of a machine since the start; None where there is none."""
        return self._proposals.get(machine)

    def fault(self, kept: Kept, by: str, reason: str) -> str:
        """Keeps the sound of a confirmed fault beyond the evidence's age, and says so.

        Raises:
            CommandRefused: it cannot be kept.
        """
        if kept.clip is None:
            raise CommandRefused("the sound of this alarm is gone")
        folder = self._state_dir / FAULTS
        try:
            for file in (kept.clip, kept.document):
                self._write(folder / kept.document.parent.name / file.name, file.read_bytes(), MOST_FAULTS_MB)
        except OSError as error:
            raise CommandRefused(f"the sound cannot be kept: {error.strerror or error}") from None
        self._note(kept.machine, "fault", by, reason, kept.event_id)
        return "kept as a fault"

    def fault_between(self, machine: str, begin: datetime, end: datetime, by: str, reason: str) -> str:
        """Keeps the features of what was heard in a span of time as those of a confirmed fault.

        Raises:
            CommandRefused: nothing is kept of it, or there is no room.
        """
        found = self._sampler.between(machine, begin, end)
        if found is None or not found[1]:
            raise CommandRefused(
                "nothing is kept of that time: the daemon keeps some seconds now and then, and what led to "
                "an alarm"
            )
        about, stretches = found
        try:
            for stretch in stretches:
                at = datetime.fromisoformat(stretch.at)
                event_id = stretch.event_id or new_event_id(at)
                fault = replace(stretch, level="alarm", event_id=event_id, alarmed=True)
                sample = FeatureSample(about)
                sample.events.append(fault)
                path = document_path(self._state_dir / FAULTS, machine, at, event_id)
                self._write(path.with_suffix(".safetensors"), sample.to_bytes(), MOST_FAULTS_MB)
        except OSError as error:
            raise CommandRefused(f"it cannot be kept: {error.strerror or error}") from None
        self._note(machine, "fault", by, f"{reason} {_from_to(begin, end)}".strip(), None)
        return f"{len(stretches)} stretches of it are kept as a fault; later banks must find them"

    def normal_between(
        self, machine: str, begin: datetime, end: datetime, *, by: str, reason: str, condition: str | None
    ) -> str:
        """Begins to learn what was heard in a span of time, as a proposal; says so.

        Raises:
            CommandRefused: something is being learnt already.
        """
        words = ["--from", begin.isoformat(), "--to", end.isoformat()]
        words += ["--condition", condition] if condition else []
        running = models.Proposal(state="running", by=by, said="it is being learnt")
        self._begin(machine, running, lambda: self._propose(machine, by, *words))
        self._note(machine, "normal", by, f"{reason} {_from_to(begin, end)}".strip(), None)
        return "it is being learnt; the proposal is ready within minutes"

    def compare(self, machine: str, bank_id: str) -> dict[str, Any]:
        """A version beside the one in use, as `bank compare --json` says; may wait.

        Raises:
            CommandRefused: another comparison is under way, or there is no such version.
        """
        if not self._comparing.acquire(blocking=False):
            raise CommandRefused("another comparison is under way; try again in some seconds")
        try:
            self._sampler.flush()
            said = self._run("bank", "compare", "--machine", machine, "--json", "--", bank_id)
            found: dict[str, Any] = json.loads(said)
            return found
        finally:
            self._comparing.release()

    def _write(self, path: Path, data: bytes, max_mb: float) -> None:
        """Within the quota of its folder, and what stays free.

        Raises:
            OSError: there is no room, or it cannot be written.
        """
        folder = path.parent.parent
        folder.mkdir(parents=True, exist_ok=True)
        require_room(folder, len(data), max_mb=max_mb, min_free_mb=self._limits.min_free_mb)
        write_whole(path, data)

    def normal(self, kept: Kept, by: str, reason: str, condition: str | None) -> str:
        """Begins to learn the sound of an alarm, from its onset on, as a proposal; says so.

        Raises:
            CommandRefused: something is being learnt already, or there is no sound.
        """
        if kept.clip is None:
            raise CommandRefused("the sound of this alarm is gone")
        running = models.Proposal(state="running", event_id=kept.event_id, by=by, said="it is being learnt")
        self._begin(kept.machine, running, lambda: self._learn(kept, by, condition))
        self._note(kept.machine, "normal", by, reason, kept.event_id)
        return "it is being learnt; the proposal is ready within minutes"

    def propose(self, machine: str, by: str) -> str:
        """Begins to make a proposal of what the daemon heard since, and says so.

        Raises:
            CommandRefused: something is being learnt already.
        """
        running = models.Proposal(state="running", by=by, said="it is being learnt")
        self._begin(machine, running, lambda: self._propose(machine, by))
        self._note(machine, "propose", by, "", None)
        return "what was heard is being learnt; the proposal is ready within minutes"

    def _begin(self, machine: str, running: models.Proposal, work: Callable[[], None]) -> None:
        with self._lock:
            if self._learning is not None and self._learning.alive:
                raise CommandRefused("another sound is being learnt; try again when that is done")
            self._proposals[machine] = running
            self._learning = GuardedThread("the learning of an answer", work, self._stop, name="answer")
            self._learning.start()

    def accept(self, machine: str, bank_id: str, by: str, *, anyway: bool = False) -> str:
        """Has a version used from now on; may wait. `anyway`: though it misses a confirmed fault.

        Raises:
            CommandRefused: there is no such version, or it does not fit.
        """
        lost = ["--anyway"] if anyway else []
        said = self._run("bank", "accept", "--machine", machine, "--by", by, *lost, "--", bank_id)
        self._note(machine, "accept", by, said.strip(), None)
        return said.strip()

    def rollback(self, machine: str, by: str) -> str:
        """Has the version before used again; may wait.

        Raises:
            CommandRefused: there is none.
        """
        said = self._run("bank", "rollback", "--machine", machine, "--by", by)
        self._note(machine, "rollback", by, said.strip(), None)
        return said.strip()

    def _learn(self, kept: Kept, by: str, condition: str | None) -> None:
        """On a thread of its own."""

        def fitted() -> models.Proposal:
            self._sampler.flush()  # the event itself is to be judged too
            words = [
                "bank",
                "extend",
                "--machine",
                kept.machine,
                "--recordings",
                str(self._cut(kept)),
                "--no-trim",
                "--own-state",
            ]
            states = ["--condition", condition] if condition else []
            found = json.loads(self._run(*words, "--json", *states, learning=True))
            return to_proposal(found, kept.event_id, by)

        self._conclude(kept.machine, fitted, kept.event_id, by)

    def _propose(self, machine: str, by: str, *more: str) -> None:
        """On a thread of its own."""

        def proposed() -> models.Proposal:
            self._sampler.flush()
            found = self._run("bank", "propose", "--machine", machine, "--json", *more, learning=True)
            return to_sample_proposal(json.loads(found), by)

        self._conclude(machine, proposed, None, by)

    def _conclude(
        self, machine: str, work: Callable[[], models.Proposal], event_id: str | None, by: str
    ) -> None:
        try:
            proposal = work()
        # RuntimeError is libsndfile's.
        except (CommandRefused, OSError, RuntimeError, ValueError, KeyError) as error:
            said = error.message if isinstance(error, CommandRefused) else f"{type(error).__name__}: {error}"
            proposal = models.Proposal(state="failed", event_id=event_id, by=by, said=said)
            log.warning("a sound could not be learnt", machine=machine, reason=said)
        else:
            log.info("a proposal of a bank is ready", machine=machine, bank=proposal.bank_id, by=by)
        self._proposals[machine] = proposal

    def _cut(self, kept: Kept) -> Path:
        """The sound from the onset on, as a recording of its own."""
        import soundfile  # noqa: PLC0415 - only who answers pays

        assert kept.clip is not None  # noqa: S101 - `normal` looked
        samples, rate = soundfile.read(kept.clip, dtype="float32")
        begins_s = kept.alarm_s or 0.0 if kept.onset_s is None else kept.onset_s
        first = round(begins_s * rate)
        samples *= np.float32(kept.full_scale)  # what is learnt keeps its unit
        suffix, data = lossless(samples[min(first, len(samples) // 2) :], rate)
        path = self._state_dir / "proposals" / kept.document.parent.name / f"{kept.event_id}.{suffix}"
        self._write(path, data, self._limits.max_mb)
        return path.absolute()

    def _run(self, *words: str, learning: bool = False) -> str:
        """Standard output of a command of ours.

        Raises:
            CommandRefused: it failed; says what it said.
        """
        wait_s = LEARN_S if learning else ASK_S
        ours = command_line(self._config, words[:2], words[2:], niced=learning)
        try:
            child = subprocess.Popen(ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        except OSError as error:
            raise CommandRefused(f"{words[0]} {words[1]} cannot be run: {error.strerror}") from None
        self._child = child
        try:
            out, said = child.communicate(timeout=wait_s)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()
            raise CommandRefused(f"{words[0]} {words[1]} took longer than {wait_s:g} s") from None
        if child.returncode != 0:
            raise CommandRefused(why_it_failed(said, child.returncode))
        return out

    def _note(self, machine: str, answer: str, by: str, reason: str, event_id: str | None) -> None:
        now = datetime.now(UTC)
        log.info(f"answer: {answer}", machine=machine, by=by, reason=reason, event_id=event_id)
        about: dict[str, Any] = {"event_id": event_id or new_event_id(now), "ts": utc_text(now)}
        self._journal(
            "answer",
            {**about, "node": self._node, "machine": machine, "answer": answer, "by": by, "reason": reason},
        )


def _from_to(begin: datetime, end: datetime) -> str:
    return f"({begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC)"
