"""Transfers take configurations and banks that an operator signed, try them, and send what is collected.

One at a time, on a thread of its own. What arrives is asked for chunk by chunk and lies on disk; it is
checked by the command that a person would type (`check-config`, `bank add`), in a child, and comes into use
the same way. Then a trial decides whether machines are heard as before; where they are not, it is undone.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any, Final

from echo_stream.config.load import load
from echo_stream.config.schema import Config
from echo_stream.core.errors import CommandRefused, EchoStreamError
from echo_stream.core.files import require_writable, sync_folder
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.daemon.child import checked_config, require_reachable, run_command
from echo_stream.daemon.collected import collected
from echo_stream.daemon.trial import Trial, Undo, machines_heard, replace_file, undo_path
from echo_stream.detect.bank_file import accepted_version
from echo_stream.mqtt.command_models import Manifest
from echo_stream.mqtt.publisher import Publisher
from echo_stream.mqtt.signed import claimed_id, verify
from echo_stream.mqtt.state_payloads import transferred
from echo_stream.mqtt.transfer import LONGEST_MESSAGE, MOST_BYTES, Incoming, Seen, from_chunk

ASK_AGAIN_S: Final = 5.0
GIVE_UP_S: Final = 60.0
LOOK_EVERY_S: Final = 1.0
PART_EVERY_S: Final = 0.065
"""One chunk in this time: 1 MB/s."""
MOST_TEXT: Final = 4000
_WAITING: Final = 8
_INTERRUPTED: Final = "the trial was interrupted, as the daemon or its transfers began anew"

log = get_logger()


@dataclass
class _Job:
    """What is under way."""

    manifest: Manifest
    heard_s: float
    """Monotonic time of the last chunk."""
    asked_s: float = 0.0
    incoming: Incoming | None = None
    trial: Trial | None = None
    undo: Undo | None = None
    note: str = ""
    """What else the operator is told at the end."""
    parts: Iterator[dict[str, Any] | bytes] | None = None
    part: dict[str, Any] | bytes | None = None
    """That waits to be sent."""


class Transfers:
    """The node's side.

    Args:
        path: of the configuration.
        config: what runs; its `plant.trust` holds until the next start.
        publisher: brings transfers and sends what is said of them.
        machines: the machines of the overview; any thread.
        reload: has the configuration read again; why it was refused, empty where it was taken.
        interrupted: what was undone at the start.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        publisher: Publisher,
        *,
        machines: Callable[[], Sequence[Mapping[str, Any]]],
        reload: Callable[[], str],
        interrupted: Undo | None = None,
    ) -> None:
        self._path = path
        self._config = config
        self._publisher = publisher
        self._machines = machines
        self._reload = reload
        self._folder = config.state_dir / "plant"
        self._bank_undo, self._config_undo = self._folder / "undo.json", undo_path(path)
        self._interrupted = interrupted
        self._seen = Seen(self._folder / "seen.json", datetime.now(UTC))
        self._may_answer = LogLimit("refused transfers of operators", 30).admits
        self._may_answer_strangers = LogLimit("refused transfers").admits
        self._job: _Job | None = None
        self._queue: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._stop = Event()
        self._counts = dict.fromkeys(("done", "refused", "rolled_back", "ignored"), 0)
        self.trouble = ""
        """Why what failed its trial is still in use; empty where all is well."""
        self.thread = GuardedThread("transfers of files", self._work, self._stop, name="transfers")
        publisher.take_transfers(self.receive)

    def start(self) -> None:
        """Begins to take transfers."""
        self.thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ends; what is on trial is undone at the next start."""
        self._stop.set()
        self.thread.join(timeout_s)

    def to_json(self) -> dict[str, Any]:
        """Counts since the start, for status and metrics."""
        return {**self._counts, "trouble": self.trouble}

    def receive(self, payload: bytes) -> None:
        """A message on `transfer`. Publisher's thread; never waits."""
        if len(payload) > LONGEST_MESSAGE or self._queue.full():  # a chunk is asked for again
            self._counts["ignored"] += 1
        else:
            self._queue.put_nowait(payload)

    # What follows runs on the thread of the transfers.

    def _work(self) -> None:
        self._end("refused", "an unforeseen error, see the journal of the node")  # where this begins anew
        self._undo_interrupted()
        while not self._stop.is_set():
            sending = self._job is not None and self._job.parts is not None
            with suppress(queue.Empty):
                self.handle(self._queue.get(timeout=PART_EVERY_S if sending else 0.5))
            self.tick(monotonic())

    def _undo_interrupted(self) -> None:
        """At the start, and when this thread is restarted after an unforeseen error."""
        for left in self._folder.glob("*received.*"):
            left.unlink(missing_ok=True)
        done, self._interrupted = self._interrupted, None
        if done is not None:
            self._count_and_say(
                "rolled_back", done.transfer, f"{_INTERRUPTED}; the one from before is used again"
            )
        for kept in (self._bank_undo, self._config_undo):
            if (undo := Undo.load(kept)) is not None:
                self._count_and_say("rolled_back", undo.transfer, f"{_INTERRUPTED}; {self._undone(undo)}")

    def handle(self, payload: bytes) -> None:
        """One message: a manifest, or a chunk that was asked for."""
        chunk = from_chunk(payload)
        if chunk is None:
            self._take_manifest(payload)
            return
        job = self._job
        if job is None or job.incoming is None or chunk[0] != job.manifest.id:
            self._counts["ignored"] += 1
            return
        try:
            if job.incoming.add(*chunk[1:]):
                job.heard_s = monotonic()
                if job.incoming.whole:
                    self._try(job, job.incoming.keep())
                else:
                    self._ask(job)
        except EchoStreamError as refusal:
            self._end("refused", str(refusal))

    def _take_manifest(self, payload: bytes) -> None:
        """Answers are limited: strangers may send as many as they like, and what an operator signed again."""
        manifest: Manifest | None = None
        try:
            manifest = verify(payload, self._config.plant.trust, self._config.node)
            self._begin(manifest)
        except EchoStreamError as refusal:  # also: the configuration on the disk is broken by now
            if (self._may_answer if manifest else self._may_answer_strangers)():
                transfer = manifest.id if manifest else claimed_id(payload)
                self._count_and_say("refused", transfer, str(refusal), manifest)
            else:
                self._counts["refused"] += 1

    def tick(self, now_s: float) -> None:
        """Whatever is due."""
        job = self._job
        if job is None:
            return
        if job.parts is not None:
            self._send(job)
        elif job.trial is not None:
            if now_s - job.asked_s >= LOOK_EVERY_S:
                job.asked_s = now_s
                self._check_trial(job, job.trial, now_s)
        elif job.incoming is not None and now_s - job.heard_s > GIVE_UP_S:
            self._end("refused", f"chunk {job.incoming.wanted} did not come within {GIVE_UP_S:.0f} s")
        elif now_s - job.asked_s > ASK_AGAIN_S:
            self._ask(job)

    def _begin(self, manifest: Manifest) -> None:
        config = self._config
        if (job := self._job) is not None:
            what = f"a transfer ({job.manifest.kind}) by {job.manifest.by}"
            raise CommandRefused(f"{config.node} is busy with {what}; ask again when it is over")
        size = manifest.size or 0
        if (most := MOST_BYTES.get(manifest.kind, size)) < size:
            raise CommandRefused(f"{manifest.kind}: has {size} bytes, at most {most} are taken")
        now = load(self._path)
        known = [machine.id for machine in now.machines]
        if manifest.machine is not None and manifest.machine not in known:
            there = ", ".join(known[:20])
            raise CommandRefused(f"{config.node} has no machine {manifest.machine}; there are {there}")
        self._seen.admit(manifest, datetime.now(UTC))
        job = _Job(manifest, monotonic())
        if manifest.sha256 is None:
            job.parts = collected(now, manifest)
        else:
            suffix = "safetensors" if manifest.kind == "bank" else "yaml"
            try:
                require_writable(self._folder, 2 * size)
            except OSError as error:
                raise CommandRefused(f"{self._folder}: {error.strerror}") from None
            job.incoming = Incoming(self._folder / f"received.{suffix}", size, manifest.sha256)
            self._ask(job)
        self._job = job
        log.info("transfer: begins", what=manifest.kind, machine=manifest.machine, bytes=size, by=manifest.by)

    def _ask(self, job: _Job) -> None:
        job.asked_s = monotonic()
        wanted = job.incoming.wanted if job.incoming else 0
        self._report("send", job.manifest.id, f"chunk {wanted} is next", chunk=wanted)

    def _try(self, job: _Job, file: Path) -> None:
        """What has arrived is checked and taken into use, on trial."""
        self._report("checking", job.manifest.id, "all has arrived")
        before = machines_heard(self._machines(), self._config.encoder.hop_s)
        try:
            if job.manifest.kind == "config":
                self._try_config(job, file, before)
            elif job.manifest.machine is not None:
                self._try_bank(job, file, job.manifest.machine, before)
        finally:
            file.unlink(missing_ok=True)
        if self._job is job:
            self._report("trial", job.manifest.id, "in use on trial, until machines are heard as before")

    def _try_config(self, job: _Job, file: Path, before: set[str]) -> None:
        path, data = self._path, file.read_bytes()
        new = checked_config(path, data)
        job.note = require_reachable(new, self._config, before)
        old: str | None = path.read_bytes().decode("utf-8", "surrogateescape")
        if (failed := Undo.load(self._config_undo)) and failed.applies_to(path):
            old = failed.before  # failed its trial, and could not be taken back
        job.undo = Undo(job.manifest.id, job.manifest.sha256 or "", old)
        job.undo.save(self._config_undo)
        try:
            replace_file(path, data)
        except OSError as error:
            self._config_undo.unlink(missing_ok=True)
            raise CommandRefused(f"{path} cannot be written: {error.strerror}") from None
        if refusal := self._reload():
            raise CommandRefused(f"the daemon refuses it: {refusal}; {self._undone(job.undo)}")
        expected = before & {machine.id for machine in new.machines}
        job.incoming, job.trial = None, Trial(expected, self._config.encoder.hop_s, monotonic())

    def _try_bank(self, job: _Job, file: Path, machine_id: str, before: set[str]) -> None:
        machine = load(self._path).machine(machine_id)
        if machine is None:
            raise CommandRefused(f"there is no machine {machine_id} any more")
        sha256 = job.manifest.sha256 or ""
        job.undo = Undo(job.manifest.id, sha256, accepted_version(machine.bank), machine_id)
        if job.undo.applies_to(machine.bank):
            self._end("done", f"{machine_id}: that bank, {job.undo.before}, is in use already")
            return
        job.undo.save(self._bank_undo)
        options = ["--machine", machine_id, "--accept", "--by", job.manifest.by, "--", str(file)]
        try:
            job.note = f"; {run_command(self._path, ('bank', 'add'), options)}"
        except CommandRefused as error:
            self._undone(job.undo)  # it may have failed after the bank came into use
            raise CommandRefused(error.message.replace(str(file), "the file that was sent")) from None
        bank = (machine_id, accepted_version(machine.bank) or "")
        job.incoming = None
        job.trial = Trial(before, self._config.encoder.hop_s, monotonic(), bank)

    def _check_trial(self, job: _Job, trial: Trial, now_s: float) -> None:
        missing = trial.check(self._machines(), now_s)
        if missing is None or job.undo is None:
            return
        if missing or not self._in_place(job.undo):
            missing = missing or "somebody on the PC changed it meanwhile"
            self._end("rolled_back", f"{missing}; {self._undone(job.undo)}{job.note}")
            return
        self._settle(job.undo)
        self._end("done", f"{trial.summary}{job.note}")

    def _in_place(self, undo: Undo) -> bool:
        """Whether what is tried is still what the next start would find."""
        if not undo.machine:
            return undo.applies_to(self._path)
        with suppress(EchoStreamError):
            machine = load(self._path).machine(undo.machine)
            return machine is not None and undo.applies_to(machine.bank)
        return True

    def _undone(self, undo: Undo) -> str:
        """Puts back what was in use before; what came of it, in words."""
        try:
            if undo.machine:
                outcome = self._undo_bank(undo)
            else:
                outcome = undo.restore(self._path)
                if refusal := self._reload():
                    outcome += f", but the daemon refuses it: {refusal}"
            self._settle(undo)
        except (OSError, EchoStreamError) as error:
            self.trouble = f"what was pushed cannot be taken back: {error}"
            log.error("what was pushed cannot be taken back", reason=str(error))
            return self.trouble
        return outcome

    def _settle(self, undo: Undo) -> None:
        """What was on trial is in use for good, or undone; lasts through a power cut."""
        kept = self._bank_undo if undo.machine else self._config_undo
        kept.unlink(missing_ok=True)
        sync_folder(kept.parent)
        if not (self._bank_undo.exists() or self._config_undo.exists()):
            self.trouble = ""

    def _undo_bank(self, undo: Undo) -> str:
        machine = load(self._path).machine(undo.machine)
        if machine is None or not undo.applies_to(machine.bank):
            return f"the bank of {undo.machine} is the one from before, or was changed meanwhile"
        if undo.before is None:
            machine.bank.unlink()
            sync_folder(machine.bank.parent)
            return f"{undo.machine} has no bank again"
        return run_command(
            self._path, ("bank", "rollback"), ["--machine", undo.machine, "--by", "plant push"]
        )

    def _send(self, job: _Job) -> None:
        """The next part of what is collected, unless one waits still."""
        try:
            if job.part is None and job.parts is not None:
                job.part = next(job.parts, None)
        except (OSError, EchoStreamError) as error:
            self._end("refused", f"a file cannot be read: {error}")
            return
        now_s = monotonic()
        if job.part is not None and self._publisher.offer(job.part):
            job.part, job.heard_s = None, now_s
        elif job.part is None:
            self._job = None
            self._counts["done"] += 1
            log.info("transfer: done", what=job.manifest.kind, by=job.manifest.by)
        elif now_s - job.heard_s > GIVE_UP_S:
            self._end("refused", f"the broker took nothing for {GIVE_UP_S:.0f} s")

    def _end(self, state: str, outcome: str) -> None:
        job, self._job = self._job, None
        if job is None:
            return
        if job.incoming is not None:
            job.incoming.discard()
        self._count_and_say(state, job.manifest.id, outcome, job.manifest)

    def _count_and_say(
        self, state: str, transfer: str | None, outcome: str, manifest: Manifest | None = None
    ) -> None:
        self._counts[state] += 1
        outcome = outcome[:MOST_TEXT]
        asked = {"what": manifest.kind, "by": manifest.by} if manifest else {}
        say = log.info if state == "done" else log.warning
        say(f"transfer: {state.replace('_', ' ')}", outcome=outcome, **asked)
        self._report(state, transfer, outcome)

    def _report(self, state: str, transfer: str | None, outcome: str, **more: int) -> None:
        node, ts = self._config.node, datetime.now(UTC)
        said = transferred(node=node, ts=ts, transfer=transfer, state=state, outcome=outcome, **more)
        self._publisher.transferred(said)
