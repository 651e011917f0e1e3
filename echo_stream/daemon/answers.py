"""Answers turn what people say about an alarm into proposals of a bank, or keep its sound as that of a fault.

Learning runs in a child of low priority, by the command that a person would type (`bank extend`): neither its
memory nor its time is felt where sound is scored. One at a time, and nothing is in use before somebody
accepts it.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

import structlog

from echo_stream.core.errors import CommandRefused
from echo_stream.core.files import write_whole
from echo_stream.core.guard import GuardedThread
from echo_stream.core.text import utc_text
from echo_stream.detect.bank_file import accepted_version
from echo_stream.evidence.recorder import flac
from echo_stream.evidence.store import Kept
from echo_stream.mqtt.payloads import Payload, new_event_id
from echo_stream.web import models

LEARN_S: Final = 1800.0
ASK_S: Final = 60.0
MOST_FAULTS_MB: Final = 500.0

_VERSION: Final = re.compile(r"b([0-9]{1,9})\.safetensors")

log = structlog.get_logger()


class Answers:
    """What people said, and what is being learnt of it. Any thread.

    Args:
        config: path of the configuration.
        state_dir: proposals and confirmed faults are kept below it.
        node: name of this PC.
        journal: gets each answer, with who gave it.
    """

    def __init__(
        self, config: Path, state_dir: Path, node: str, journal: Callable[[str, Payload], None]
    ) -> None:
        self._config = config.absolute()
        self._state_dir = state_dir
        self._node = node
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
        folder = self._state_dir / "faults" / kept.document.parent.name
        clip = kept.clip
        if clip is None:
            raise CommandRefused("the sound of this alarm is gone")
        try:
            used_mb = sum(file.stat().st_size for file in folder.parent.glob("*/*.flac")) / 1e6
            if used_mb > MOST_FAULTS_MB:
                raise CommandRefused(f"confirmed faults take {used_mb:.0f} MB already; remove some of them")
            for file in (clip, kept.document):
                write_whole(folder / file.name, file.read_bytes())
        except OSError as error:
            raise CommandRefused(f"the sound cannot be kept: {error.strerror or error}") from None
        self._note(kept.machine, "fault", by, reason, kept.event_id)
        return "kept as a fault"

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

    def accept(self, machine: str, bank_id: str, by: str) -> str:
        """Has a version used from now on; may wait.

        Raises:
            CommandRefused: there is no such version, or it does not fit.
        """
        said = self._run("bank", "accept", "--machine", machine, "--by", by, "--", bank_id)
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
            words = [
                "bank",
                "extend",
                "--machine",
                kept.machine,
                "--recordings",
                str(self._cut(kept)),
                "--no-trim",
            ]
            states = ["--condition", condition] if condition else []
            found = json.loads(self._run(*words, "--json", *states, learning=True))
            return to_proposal(found, kept.event_id, by)

        self._conclude(kept.machine, fitted, kept.event_id, by)

    def _propose(self, machine: str, by: str) -> None:
        """On a thread of its own."""

        def proposed() -> models.Proposal:
            found = self._run("bank", "propose", "--machine", machine, "--json", learning=True)
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
        path = self._state_dir / "proposals" / kept.document.parent.name / f"{kept.event_id}.flac"
        write_whole(path, flac(samples[min(first, len(samples) // 2) :], rate))
        return path.absolute()

    def _run(self, *words: str, learning: bool = False) -> str:
        """Standard output of a command of ours.

        Raises:
            CommandRefused: it failed; says what it said.
        """
        wait_s, first = (LEARN_S, ["nice", "-n", "10"]) if learning else (ASK_S, [])
        ours = [
            *first,
            sys.executable,
            "-m",
            "echo_stream",
            *words[:2],
            "--config",
            str(self._config),
            *words[2:],
        ]
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
            lines = [line for line in said.splitlines() if line.strip()]
            why = " ".join(lines[-3:]).removeprefix("echo-stream: ")[:500]
            raise CommandRefused(why or f"it ended with code {child.returncode}")
        return out

    def _note(self, machine: str, answer: str, by: str, reason: str, event_id: str | None) -> None:
        now = datetime.now(UTC)
        log.info(f"answer: {answer}", machine=machine, by=by, reason=reason, event_id=event_id)
        about: dict[str, Any] = {"event_id": event_id or new_event_id(now), "ts": utc_text(now)}
        self._journal(
            "answer",
            {**about, "node": self._node, "machine": machine, "answer": answer, "by": by, "reason": reason},
        )


def bank_versions(bank: Path) -> list[models.BankVersion]:
    """Versions beside a bank, oldest first, by their names: reading a hundred of them takes seconds."""
    accepted = accepted_version(bank)
    folder = bank.with_suffix(".versions")
    numbers = (_VERSION.fullmatch(path.name) for path in folder.glob("b*.safetensors"))
    found = []
    for number in sorted(int(match[1]) for match in numbers if match):
        with contextlib.suppress(OSError):  # removed meanwhile
            made_s = (folder / f"b{number}.safetensors").stat().st_mtime
            made = utc_text(datetime.fromtimestamp(made_s, UTC))
            found.append(models.BankVersion(id=f"b{number}", made=made, accepted=accepted == f"b{number}"))
    return found


def to_proposal(fitted: Mapping[str, Any], event_id: str, by: str) -> models.Proposal:
    """What accepting would change, from what `bank extend --json` says.

    Raises:
        KeyError: it says something else.
    """
    change, levels = fitted["change"], fitted["levels"]
    sound = change["new_sound"]
    return models.Proposal(
        state="ready",
        event_id=event_id,
        by=by,
        said="ready",
        bank_id=fitted["bank"]["id"],
        base_id=change["base"],
        verdict=fitted["verdict"],
        checks=[f"{c['name']}: {c['finding']}" for c in fitted["checks"] if c["verdict"] != "ok"],
        alarm_before=change["levels"]["alarm"],
        alarm_after=levels["alarm"]["trip"],
        warning_before=change["levels"]["warning"],
        warning_after=levels["warning"]["trip"],
        score_before=sound["highest_score"],
    )


def to_sample_proposal(found: Mapping[str, Any], by: str) -> models.Proposal:
    """What accepting would change, from what `bank propose --json` says: also what becomes of past events.

    Raises:
        KeyError: it says something else.
    """
    lost = [each for each in found["events"] if each["found_before"] and not each["found_after"]]
    gone = [
        f"{'CONFIRMED FAULT, no longer found' if each['confirmed'] else 'would not have been announced'}: "
        f"{each['level']} of {each['at']}"
        for each in lost
    ]
    learnt = ", ".join(f"{count} windows of {state}" for state, count in found["windows"].items())
    return models.Proposal(
        state="ready",
        by=by,
        said="ready",
        bank_id=found["bank"]["id"],
        base_id=found["bank"]["base"],
        verdict="fail" if any(each["confirmed"] for each in lost) else "ok",
        checks=[
            f"learnt: {learnt}, of {found['heard_h']:.1f} h on {found['heard_days']} days",
            f"left out: {found['windows_left_out']} windows during alarms and warnings",
            f"past alarms and warnings that are still found: {len(found['events']) - len(lost)}",
            *gone,
        ],
        alarm_before=found["levels"]["alarm"]["before"],
        alarm_after=found["levels"]["alarm"]["after"],
        warning_before=found["levels"]["warning"]["before"],
        warning_after=found["levels"]["warning"]["after"],
    )
