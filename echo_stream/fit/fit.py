"""fit-normal and `bank extend` choose which sound is learnt and beside what, and save the new version."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.calibration import Calibration, TripLevel
from echo_stream.alarm.condition import hops_in, rises
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Check, Verdict
from echo_stream.core.errors import BankError, BankMismatch, SourceError
from echo_stream.core.text import Progress
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.normal_sound import folder_of, write_clips
from echo_stream.fit.judge import check_known_faults, judged, known_faults, merged, past_events, state_of
from echo_stream.fit.learn import Learnt, learn, now
from echo_stream.fit.listen import read_recordings, record_source
from echo_stream.fit.recorded import Recordings, in_runs
from echo_stream.fit.report import write_report
from echo_stream.fit.session import Enrolment, Session, from_provenance
from echo_stream.fit.summary import Change, Fitted
from echo_stream.fit.versions import BankVersions
from echo_stream.pipeline.factory import build_encoder, trip_levels

FRESH = "fit anew with --fresh, and enrol every operating state"


class Acquire(Protocol):
    """Where the sound comes from: recordings, or the machine's own source."""

    def __call__(
        self, *, encoder: Encoder, condition: str, others: Sequence[Session], progress: Progress
    ) -> Recordings:
        """Acquire it; `others` is what the bank was learnt from so far."""
        ...


def recordings(config: Config, machine: Machine, paths: Sequence[Path]) -> Acquire:
    """Files and folders of normal sound."""
    return partial(read_recordings, config, machine, paths)


def own_source(config: Config, machine: Machine, minutes: float) -> Acquire:
    """So many minutes of the machine's own source."""
    return partial(record_source, config, machine, minutes)


def fit(
    config: Config,
    machine: Machine,
    acquire: Acquire,
    *,
    condition: str,
    accept: bool,
    progress: Progress,
    trimmed: bool = True,
    fresh: bool = False,
    base: str | None = None,
) -> Fitted:
    """Learn the normal sound of one operating state, as a new version of the bank.

    Other operating states of the accepted bank are taken over; the same one is replaced.

    Args:
        config: The configuration.
        machine: Whose bank.
        acquire: Where the sound comes from.
        condition: The operating state of the sound.
        accept: Use the new version at once.
        progress: Progress.
        trimmed: Leave out short sounds that do not belong.
        fresh: Take nothing over.
        base: Version whose other operating states are taken over; None: the accepted one.

    Raises:
        SourceError: no sound, or none that is fit to be learnt: the message says why, the hint what to do.
        BankError: there is too little of it, or what was learnt before cannot be read.
        BankMismatch: what was learnt before was encoded in another way.
    """
    BankVersions(machine.bank).require_writable()
    encoder = build_encoder(config, machine)
    kept, notes = ([], []) if fresh else _other_conditions(config, machine, encoder, condition, base)
    found = acquire(encoder=encoder, condition=condition, others=[e.session for e in kept], progress=progress)
    learnt = learn(config, machine, encoder, found, kept, condition=condition, trimmed=trimmed)
    faults = known_faults(config, machine, encoder, learnt.bank)
    checks = [*notes, *learnt.checks, *check_known_faults(machine, learnt.bank, faults)]
    return _save(machine, learnt, checks=checks, accept=accept, progress=progress)


def extend(
    config: Config,
    machine: Machine,
    acquire: Acquire,
    *,
    condition: str | None,
    accept: bool,
    progress: Progress,
    trimmed: bool = True,
    own_state: bool = False,
) -> Fitted:
    """Add more normal sound of an operating state that the bank knows, as a new version.

    Args:
        config: The configuration.
        machine: Whose bank.
        acquire: Where the sound comes from.
        condition: Which operating state; None where the bank has one only.
        accept: Use the new version at once; otherwise it is a proposal.
        progress: Progress.
        trimmed: Leave out short sounds that do not belong.
        own_state: Sound that is far from all that the bank knows becomes an operating state of its own,
            named `condition`; without that it is read twice, and named after the day.

    Raises:
        SourceError: no sound, or none that is fit to be learnt.
        BankError: there is no bank, it has no such state, or what was learnt before cannot be read.
        BankMismatch: what was learnt before was encoded in another way.
    """
    versions = BankVersions(machine.bank)
    versions.require_writable()
    encoder = build_encoder(config, machine)
    base_id = versions.accepted
    if base_id is None:
        raise BankError(
            f"machine {machine.id}: there is no bank {machine.bank} to extend",
            f"let it learn what is normal first: echo-stream fit-normal --machine {machine.id}",
        )
    bank = NormalBank.load(machine.bank)
    require_same_features(config, bank, encoder)
    kept = enrolments_of(versions, bank, set(bank.conditions))
    how: dict[str, Any] = {"encoder": encoder, "others": [e.session for e in kept], "progress": progress}
    if not own_state:
        state = _state_to_extend(bank, condition)
    elif condition:
        state = condition
    else:
        looked = acquire(condition="", **how)
        state = state_of(machine, bank, [item.features for item in looked.enrolled], None)
    found = acquire(condition=state, **how)
    _refuse_again(found, kept, state)
    learnt = learn(config, machine, encoder, found, kept, condition=state, trimmed=trimmed)
    faults = known_faults(config, machine, encoder, bank)
    events = merged(faults, past_events(config, machine, bank))
    found_by = judged(machine, bank, learnt.bank, events, {each.event_id for each in faults})
    change = replace(_change(config, machine, bank, base_id, learnt), state=state, events=found_by)
    checks = [*learnt.checks, *check_known_faults(machine, learnt.bank, faults)]
    return _save(machine, learnt, checks=checks, accept=accept, progress=progress, change=change)


def _save(
    machine: Machine,
    learnt: Learnt,
    *,
    checks: Sequence[Check],
    accept: bool,
    progress: Progress,
    change: Change | None = None,
) -> Fitted:
    """The bank and its report, as a new version."""
    versions = BankVersions(machine.bank)
    progress(1, 1, "saving")
    bank_id = versions.add(learnt.bank, learnt.enrolment)
    checks = [*checks, *_keep_sound(versions, bank_id, learnt)]
    fitted = Fitted(
        machine=machine.id,
        title=machine.title,
        bank_id=bank_id,
        path=machine.bank,
        report=versions.report_of(bank_id),
        accepted=accept,
        windows=learnt.windows,
        minutes=learnt.enrolment.session.minutes + sum(each.session.minutes for each in learnt.kept),
        conditions=learnt.bank.conditions,
        levels=learnt.levels,
        checks=checks,
        session=learnt.enrolment.session,
        kept_sessions=[each.session for each in learnt.kept],
        change=change,
        sensitivity=learnt.bank.calibration.sensitivity if learnt.bank.calibration else None,
    )
    progress(1, 1, "writing the report")
    try:
        write_report(fitted, learnt, machine.alarm)
    except Exception as error:  # noqa: BLE001 - the bank is there: what only describes it must not hide that
        finding = f"the report could not be written: {error}"
        advice = "the bank is in order; make room, and fit again for a report"
        fitted = replace(fitted, checks=[*checks, Check("Report", Verdict.WARN, finding, advice)])
    if accept:
        versions.accept(bank_id, at=now(), by=learnt.enrolment.session.by)
    return fitted


def _keep_sound(versions: BankVersions, bank_id: str, learnt: Learnt) -> list[Check]:
    """Some of what was learnt, to be heard beside an alarm; a bank without it is as good."""
    left_out = [(each.recording, each.start_s, each.end_s) for each in learnt.enrolment.session.left_out]
    try:
        clips = learnt.recordings.clips(left_out)
        if clips:
            write_clips(folder_of(versions.path, bank_id), clips)
    except (OSError, SourceError) as error:
        finding = f"no normal sound could be kept to compare alarms with: {error}"
        return [Check("Normal sound", Verdict.WARN, finding, "the bank is in order; make room and fit again")]
    return []


def _other_conditions(
    config: Config, machine: Machine, encoder: Encoder, condition: str, base: str | None
) -> tuple[list[Enrolment], list[Check]]:
    """What the bank knows of other operating states, and what has to be said about it."""
    versions = BankVersions(machine.bank)
    if base is None and versions.accepted is None:
        return [], []
    try:
        bank = NormalBank.load(machine.bank if base is None else versions.path_of(base))
    except BankError as error:  # fitting again is how one gets rid of it
        finding = f"the bank that was in use cannot be read, nothing was taken over: {error.message}"
        return [], [Check("Bank before", Verdict.WARN, finding, "enrol its other operating states again")]
    others = set(bank.conditions) - {condition}
    if not others:
        return [], []
    require_same_features(config, bank, encoder)
    return enrolments_of(versions, bank, others), []


def require_same_features(config: Config, bank: NormalBank, encoder: Encoder) -> None:
    """Refuse to extend a bank whose features are others than the configuration's.

    Raises:
        BankMismatch: naming every difference.
    """
    cut = config.encoder
    try:
        bank.require(encoder.identity, bank.sample_rate_hz, cut.window_s, cut.hop_s)
    except BankMismatch as error:
        raise BankMismatch(f"the bank cannot be extended: {error.message}", FRESH) from None


def enrolments_of(versions: BankVersions, bank: NormalBank, conditions: set[str]) -> list[Enrolment]:
    """What the bank learnt of these operating states.

    Raises:
        BankError: it does not say, or what was enrolled is gone or damaged.
    """
    sessions = [s for s in from_provenance(bank.provenance) if s.condition in conditions]
    unknown = conditions - {session.condition for session in sessions}
    if unknown:
        raise BankError(
            f"{versions.path} cannot be extended: the bank does not say what it was fitted on for "
            f"{', '.join(sorted(unknown))}",
            FRESH,
        )
    return [Enrolment.load(versions.enrolled_of(session.id), session.id) for session in sessions]


def _state_to_extend(bank: NormalBank, condition: str | None) -> str:
    known = ", ".join(bank.conditions)
    if condition is None and len(bank.conditions) == 1:
        return bank.conditions[0]
    if condition is None:
        raise BankError(
            "the bank has several operating states, and none was named", f"name it with --condition: {known}"
        )
    if condition not in bank.conditions:
        raise BankError(
            f"the bank knows no operating state {condition!r}, only {known}",
            f"a new one is learnt by fit-normal --condition {condition}",
        )
    return condition


def _refuse_again(recordings: Recordings, kept: Sequence[Enrolment], condition: str) -> None:
    """The same recording twice would be its own neighbour, and make all else look far."""
    known = {
        Path(name).resolve()
        for each in kept
        if each.session.condition == condition
        for name in each.session.recordings
    }
    again = [
        s.name
        for s in recordings.segments
        if recordings.source == "recordings" and Path(s.name).resolve() in known
    ]
    if again:
        raise BankError(
            f"{again[0]}: the recording is in the bank already", "name only recordings that are new"
        )


def _change(config: Config, machine: Machine, bank: NormalBank, base_id: str, learnt: Learnt) -> Change:
    """How strange the new sound was to the old bank."""
    levels = trip_levels(machine, Calibration.of(bank.calibration))
    enrolled, hop_s = learnt.enrolment.enrolled, config.encoder.hop_s
    values = np.array([score.value for score in Scorer(bank).score([item.features for item in enrolled])])
    new = in_runs(enrolled, values, hop_s)
    off_hops = hops_in(machine.alarm.off_delay_s, hop_s)

    def raised(run: NDArray[np.float64], trip: TripLevel) -> int:
        on_hops = trip.on_delay_hops
        return int(rises(run, trip=trip.level, clear=trip.clear, on_hops=on_hops, off_hops=off_hops).sum())

    return Change(
        base_id=base_id,
        levels=levels,
        median_score=float(np.median(values)),
        highest_score=float(values.max()),
        share_over={level: float(np.mean(values > trip.level)) for level, trip in levels.items()},
        raised={level: sum(raised(run, trip) for run in new) for level, trip in levels.items()},
    )
