"""bank propose makes a bank version of what the daemon heard, and shows what accepting it would change.

The daemon keeps features of a spread sample (history/sample.py), no sound. What was heard while an alarm or a
warning stood is left out, unless a person says that it was normal. Nothing is learnt until `bank accept`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import echo_stream
from echo_stream.alarm.calibration import Calibration, TripLevel
from echo_stream.config.schema import Config, Machine
from echo_stream.core.calibration import BankCalibration, SensorLimits
from echo_stream.core.errors import BankError
from echo_stream.core.text import Progress, duration_text, person
from echo_stream.core.types import AlarmLevel, Enrolled
from echo_stream.detect.bank import SESSIONS, NormalBank
from echo_stream.fit.fit import enrolments_of, require_same_features
from echo_stream.fit.judge import Judged, judged, known_faults, merged, state_of
from echo_stream.fit.learn import calibrated, joined_held_out, latest_sensitivity
from echo_stream.fit.recorded import held_out_places
from echo_stream.fit.session import Enrolment, Session, to_provenance
from echo_stream.fit.versions import BankVersions
from echo_stream.history.sample import STRETCH, About, FeatureSample, Stretch, path_of
from echo_stream.pipeline.factory import build_encoder, trip_levels

FEWEST = 5
"""Stretches, of all operating states together."""
NEAR_A_FAULT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A version of a bank that was made of what was heard; not in use."""

    machine: str
    bank_id: str
    base_id: str
    path: Path
    windows: Mapping[str, int]
    """That were added, by operating state."""
    left_out: int
    """Windows that were heard while an alarm or a warning stood."""
    heard_h: float
    heard_days: int
    before: Mapping[AlarmLevel, TripLevel]
    after: Mapping[AlarmLevel, TripLevel]
    events: Sequence[Judged]

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "machine": self.machine,
            "bank": {"id": self.bank_id, "base": self.base_id, "path": str(self.path), "accepted": False},
            "windows": dict(self.windows),
            "windows_left_out": self.left_out,
            "heard_h": round(self.heard_h, 2),
            "heard_days": self.heard_days,
            "levels": {
                level.value: {"before": self.before[level].level, "after": self.after[level].level}
                for level in self.after
            },
            "events": [each.to_json() for each in self.events],
        }

    def to_text(self) -> str:
        """For people."""
        states = ", ".join(f"{count} windows of {state}" for state, count in self.windows.items())
        lines = [
            f"{self.machine}: {self.bank_id} is a proposal: bank {self.base_id} and what was heard in "
            f"{duration_text(3600 * self.heard_h)} on {self.heard_days} days: {states}",
            f"  left out: {self.left_out} windows during alarms and warnings",
        ]
        lines += [
            f"  the {level.value} level moves from {self.before[level].level:.1f} to {trip.level:.1f}"
            for level, trip in self.after.items()
        ]
        lines += [f"  {each.level} of {each.at} ({each.event_id}): {each.what}" for each in self.events]
        lines.append("be sure that the machine was well: what is learnt as normal raises no alarm any more")
        lines.append(f"to use it: echo-stream bank accept --machine {self.machine} {self.bank_id}")
        return "\n".join(lines)


def propose(
    config: Config,
    machine: Machine,
    *,
    alarms_were_normal: bool,
    faults: Sequence[str],
    progress: Progress,
    span: tuple[datetime, datetime] | None = None,
    condition: str | None = None,
) -> Proposal:
    """Make a version of the bank in use and what the daemon heard.

    Args:
        config: The configuration.
        machine: Whose bank.
        alarms_were_normal: Learn also what was heard while an alarm or a warning stood.
        faults: Ids of events that were faults: what was heard under alarm within an hour of them is never
            learnt, and it is said whether they are still found.
        progress: Progress.
        span: Learn only what was heard from one time to another, all of it, because a person calls that
            normal; what is far from the bank becomes an operating state of its own.
        condition: With `span`, the name of that state; None: the nearest, or a new one.

    Raises:
        BankError: There is no bank, nothing or too little was heard, or what was learnt before is gone.
        BankMismatch: The bank was fitted with another encoder, rate or window.
    """
    versions = BankVersions(machine.bank)
    versions.require_writable()
    base_id = versions.accepted
    if base_id is None:
        raise BankError(
            f"machine {machine.id}: there is no bank {machine.bank}",
            f"let it learn what is normal first: echo-stream fit-normal --machine {machine.id}",
        )
    bank, encoder = NormalBank.load(machine.bank), build_encoder(config, machine)
    require_same_features(config, bank, encoder)
    sample = read_sample(config, machine, bank)
    unknown = set(faults) - {each.event_id for each in sample.events}
    if unknown:
        known = ", ".join(each.event_id for each in sample.events) or "none"
        raise BankError(f"--fault {sorted(unknown)[0]}: no such event is kept", f"kept are: {known}")
    confirmed = known_faults(config, machine, encoder, bank)
    ids = {*faults, *(each.event_id for each in confirmed)}
    events = merged(confirmed, sample.events)
    kept = enrolments_of(versions, bank, set(bank.conditions))
    learnt = {item.recording for each in kept for item in each.enrolled}
    if span is not None:
        new = chosen = _inside(machine, sample, span, [each for each in events if each.event_id in ids])
        chosen = _with_states(machine, bank, chosen, condition)
    else:
        of_faults = [datetime.fromisoformat(each.at) for each in events if each.event_id in ids]

        def is_normal(stretch: Stretch) -> bool:
            at = datetime.fromisoformat(stretch.at)
            near = any(abs(at - fault) < NEAR_A_FAULT for fault in of_faults)
            return not stretch.alarmed or (alarms_were_normal and not near)

        new = [each for each in sample.stretches if _name(each) not in learnt]
        chosen = [each for each in new if is_normal(each)]
        if len(chosen) < FEWEST:
            raise BankError(
                f"machine {machine.id}: {len(chosen)} stretches of normal sound were heard that the "
                f"bank does not have, {FEWEST} are needed",
                "let the daemon listen for longer, or say --alarms-were-normal where they were",
            )
    progress(0, 2, "fitting")
    enrolments = _enrolments(bank, chosen)
    proposed = _fit(bank, [*enrolments, *kept], kept)
    progress(1, 2, "judging past events")
    found = judged(machine, bank, proposed, events, ids)
    before, after = (trip_levels(machine, Calibration.of(each.calibration)) for each in (bank, proposed))
    bank_id = versions.add(proposed, *enrolments)
    return Proposal(
        machine=machine.id,
        bank_id=bank_id,
        base_id=base_id,
        path=versions.path_of(bank_id),
        windows={each.session.condition: each.session.windows for each in enrolments},
        left_out=sum(len(each.features) for each in new) - sum(len(each.features) for each in chosen),
        heard_h=sample.probation.hours,
        heard_days=len(sample.seconds_a_day),
        before=before,
        after=after,
        events=found,
    )


def _inside(
    machine: Machine, sample: FeatureSample, span: tuple[datetime, datetime], faults: Sequence[Stretch]
) -> list[Stretch]:
    """What is kept of a span of time: stretches of the spread sample, and what led to events.

    Raises:
        BankError: nothing is, or a confirmed fault lies in it.
    """

    def lies_in(stretch: Stretch) -> bool:
        return span[0] <= datetime.fromisoformat(stretch.at) <= span[1]

    from_to = f"from {span[0]:%Y-%m-%d %H:%M:%S} to {span[1]:%Y-%m-%d %H:%M:%S} UTC"
    inside = [each for each in faults if lies_in(each)]
    if inside:
        raise BankError(
            f"machine {machine.id}: a confirmed fault lies in the time {from_to}: that of {inside[0].at}",
            "name a time without it",
        )
    found = [each for each in (*sample.stretches, *sample.events) if lies_in(each)]
    if not found:
        kept = ", ".join(each.at for each in (*sample.stretches, *sample.events)[-5:]) or "none"
        raise BankError(
            f"machine {machine.id}: of the time {from_to} no features are kept",
            f"the daemon keeps {STRETCH} windows now and then, and what led to an alarm; the newest: {kept}",
        )
    return found


def _with_states(
    machine: Machine, bank: NormalBank, stretches: Sequence[Stretch], named: str | None
) -> list[Stretch]:
    return [replace(each, condition=state_of(machine, bank, each.features, named)) for each in stretches]


def _name(stretch: Stretch) -> str:
    """Of the recording that a stretch is, for a bank."""
    return f"heard {stretch.at}"


def read_sample(config: Config, machine: Machine, bank: NormalBank) -> FeatureSample:
    """What the daemon kept of what it heard, in features that the bank can judge.

    Raises:
        BankError: There is nothing, it is damaged, or of other features.
    """
    about = About(bank.encoder, bank.sample_rate_hz, bank.window_s, bank.hop_s)
    path = path_of(config.state_dir, machine.id)
    hint = "let the daemon listen for some hours: it writes what it heard every five minutes"
    try:
        found = FeatureSample.read(path, about)
    except OSError as error:
        raise BankError(f"{path} cannot be read: {error.strerror}", hint) from error
    except ValueError as error:
        raise BankError(f"{path} is damaged: {error}", hint) from error
    if found is None:
        raise BankError(f"{path} was heard with another encoder, rate or window than the bank's", hint)
    return found


def _enrolments(bank: NormalBank, stretches: Sequence[Stretch]) -> list[Enrolment]:
    """One for each operating state that was heard."""
    limits = bank.calibration.sensor if bank.calibration else None
    found = []
    for condition in sorted({each.condition for each in stretches}):
        mine = [each for each in stretches if each.condition == condition]
        enrolled = [
            Enrolled(features, _name(each), i * bank.hop_s, condition)
            for each in mine
            for i, features in enumerate(each.features)
        ]
        levels = [item.features.level_dbfs for item in enrolled]
        own = SensorLimits.fit(levels)
        if limits is not None:  # of hum and rumble features say nothing
            own = replace(own, most_hum=limits.most_hum, most_rumble=limits.most_rumble)
        session = Session(
            condition=condition,
            source="sample",
            device="the daemon's sample of what it heard",
            sample_rate_hz=bank.sample_rate_hz,
            heard_at=mine[0].at,
            windows=len(enrolled),
            minutes=len(enrolled) * bank.hop_s / 60,
            recordings=tuple(dict.fromkeys(item.recording for item in enrolled)),
            by=person(),
            on=platform.node(),
            software_version=echo_stream.__version__,
        )
        found.append(Enrolment(session, enrolled, {"sensor": own.to_json()}))
    return found


def _fit(bank: NormalBank, enrolments: Sequence[Enrolment], kept: Sequence[Enrolment]) -> NormalBank:
    everything = [item for each in enrolments for item in each.enrolled]
    fitted = NormalBank.fit(
        everything,
        encoder=bank.encoder,
        sample_rate_hz=bank.sample_rate_hz,
        window_s=bank.window_s,
        hop_s=bank.hop_s,
        provenance={**bank.provenance, "by": person(), "on": platform.node()},
    )
    places = held_out_places(everything, window_s=bank.window_s, hop_s=bank.hop_s)
    calibration = BankCalibration(
        hop_s=bank.hop_s,
        runs=calibrated(joined_held_out(fitted, everything, places), bank.hop_s).runs,
        sensor=SensorLimits.widest([SensorLimits.from_json(each.figures["sensor"]) for each in enrolments]),
        spectra=bank.calibration.spectra if bank.calibration else {},
        sensitivity=latest_sensitivity(list(reversed(kept))),
    )
    provenance = {**fitted.provenance, SESSIONS: to_provenance([each.session for each in kept])}
    return replace(fitted, calibration=calibration, provenance=provenance)
