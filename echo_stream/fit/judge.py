"""Judging says what a bank would make of past events, and whether it still finds the confirmed faults.

Confirmed faults are the regression set of every later bank. `STATE/faults` keeps the sound of each and its
features; features of another encoder are made anew from the sound. Nothing else is learnt from them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from echo_stream.alarm.calibration import Calibration
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Check, Verdict
from echo_stream.core.errors import BankError, SourceError
from echo_stream.core.files import write_whole
from echo_stream.core.log import get_logger
from echo_stream.core.sequences import commonest
from echo_stream.core.types import OFF, AlarmLevel, Features
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.store import Kept, list_events, machine_folder
from echo_stream.fit.announced import Announced, announced
from echo_stream.fit.listen import recording_of
from echo_stream.history.sample import FAULTS, About, FeatureSample, Stretch, path_of
from echo_stream.pipeline.factory import build_alarms, trip_levels
from echo_stream.pipeline.loop import encode_windows, read_windows

JUDGED = 8
"""Last windows of an event: about what its on-delay saw."""
MOST_FAULTS = 200
"""The newest; each is a score of a few windows."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class Judged:
    """A past event, by the bank in use and by another."""

    event_id: str
    at: str
    level: str
    confirmed: bool
    """A person said that it was a fault."""
    before: bool
    """The bank in use finds it, had it listened for an hour."""
    after: bool
    """The other does."""

    @property
    def what(self) -> str:
        """What becomes of it."""
        if self.after:
            return "still found"
        if not self.before:
            return "found by neither"
        return "CONFIRMED FAULT, NO LONGER FOUND" if self.confirmed else "would not have been announced"

    @property
    def lost(self) -> bool:
        """Found by the bank in use, and not by the other."""
        return self.before and not self.after

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "event_id": self.event_id,
            "at": self.at,
            "level": self.level,
            "confirmed": self.confirmed,
            "found_before": self.before,
            "found_after": self.after,
        }


def about_of(bank: NormalBank) -> About:
    """What the features of a bank depend on."""
    return About(bank.encoder, bank.sample_rate_hz, bank.window_s, bank.hop_s)


def judged(
    machine: Machine, old: NormalBank, new: NormalBank, events: Sequence[Stretch], faults: Collection[str]
) -> list[Judged]:
    """What two banks make of events.

    Args:
        machine: Whose settings.
        old: The bank in use.
        new: Another of the same features.
        events: With the windows that led to them.
        faults: Ids of those that were faults.
    """
    if not events:
        return []
    finds = [finder(machine, bank) for bank in (old, new)]
    found = []
    for event in events:
        before, after = (each(event) for each in finds)
        found.append(Judged(event.event_id, event.at, event.level, event.event_id in faults, before, after))
    return found


def finder(machine: Machine, bank: NormalBank) -> Callable[[Stretch], bool]:
    """Tells whether a bank, with the machine's settings, would announce an event, should it last."""
    calibration, scorer = Calibration.of(bank.calibration), Scorer(bank)
    (warning, _), ways = build_alarms(machine, bank)
    from_score: Announced = announced(ways.levels, ways.timing, calibration.runs)

    def found(event: Stretch) -> bool:
        scores = scorer.score(event.features[-JUDGED:])
        if all(score.condition == OFF for score in scores):
            return False
        values = [score.value for score in scores[len(scores) // 2 :]]  # the first are from before
        if event.level == AlarmLevel.WARNING.value:
            return float(np.median(values)) > warning.trip
        return from_score.path(values) is not None

    return found


def merged(faults: Sequence[Stretch], events: Sequence[Stretch]) -> list[Stretch]:
    """Confirmed faults and other events, each once."""
    known = {each.event_id for each in faults}
    return [*faults, *(each for each in events if each.event_id not in known)]


def state_of(machine: Machine, bank: NormalBank, features: Sequence[Features], named: str | None) -> str:
    """The operating state as which sound is learnt that a person calls normal.

    What is far from all that the bank knows becomes a state of its own: within another state it would be
    that state's widest spread, and raise its levels so far that little is noticed (docs/adr/0053).

    Args:
        machine: Whose settings.
        bank: The bank in use.
        features: Of the sound.
        named: What the person calls it; None: the nearest state, or a new one named after the day.
    """
    if named:
        return named
    scores = Scorer(bank).score(features)
    level = trip_levels(machine, Calibration.of(bank.calibration))[AlarmLevel.ALARM].level
    if max(score.value for score in scores) <= level:
        states = [score.condition for score in scores]
        return commonest(states)
    base = f"learnt-{datetime.now(UTC):%Y-%m-%d}"
    names = (base, *(f"{base}-{number}" for number in range(2, 100)))
    return next(name for name in names if name not in bank.conditions)


def past_events(config: Config, machine: Machine, bank: NormalBank) -> list[Stretch]:
    """The newest events whose features the daemon kept; none where it kept none of this bank's."""
    try:
        found = FeatureSample.read(path_of(config.state_dir, machine.id), about_of(bank))
    except (OSError, ValueError):
        return []
    return found.events if found else []


def known_faults(config: Config, machine: Machine, encoder: Encoder, bank: NormalBank) -> list[Stretch]:
    """Confirmed faults of a machine in features of a bank, oldest first.

    One that is of other features, and whose sound is gone, is said in the log and left out.
    """
    folder = config.state_dir / FAULTS
    about = about_of(bank)
    found = {
        each.event_id: each
        for path in sorted(machine_folder(folder, machine.id).glob("*.safetensors"))
        for each in _kept_features(path, about)
    }
    for kept in list_events(folder, machine.id):
        if kept.event_id in found:
            continue
        try:
            fault = _encoded(config, machine, encoder, bank, kept)
        except (OSError, SourceError) as error:
            log.warning("confirmed fault cannot be used", event_id=kept.event_id, reason=str(error))
            continue
        found[kept.event_id] = fault
        save_fault(kept.document.with_suffix(".safetensors"), about, fault)
    return sorted(found.values(), key=lambda each: each.at)[-MOST_FAULTS:]


def _kept_features(path: Path, about: About) -> list[Stretch]:
    try:
        found = FeatureSample.read(path, about)
    except (OSError, ValueError) as error:
        log.warning("features of a confirmed fault cannot be read", file=str(path), reason=str(error))
        return []
    return found.events if found else []


def save_fault(path: Path, about: About, fault: Stretch) -> None:
    """Keep the features of a confirmed fault; who may only read goes on without."""
    sample = FeatureSample(about)
    sample.events.append(fault)
    try:
        write_whole(path, sample.to_bytes())
    except OSError as error:
        log.warning("features of a confirmed fault cannot be kept", file=str(path), reason=str(error))


def _encoded(config: Config, machine: Machine, encoder: Encoder, bank: NormalBank, kept: Kept) -> Stretch:
    """From its sound: the windows between the onset and the alarm, at least one.

    Raises:
        SourceError: the sound is gone, damaged or of another rate.
    """
    if kept.clip is None:
        raise SourceError("its sound is gone")
    cut, alarm_s = config.encoder, kept.alarm_s or 0.0
    begins_s = alarm_s if kept.onset_s is None else kept.onset_s
    features: list[Features] = []
    with closing(recording_of(machine, kept.clip)) as source:
        rate = source.sample_rate_hz
        if rate != bank.sample_rate_hz:
            raise SourceError(f"its sound has {rate} Hz, the bank {bank.sample_rate_hz} Hz")
        windows = (
            dataclasses.replace(window, samples=window.samples * np.float32(kept.full_scale))
            for window in read_windows(source, machine=machine.id, window_s=cut.window_s, hop_s=cut.hop_s)
            if window.start >= round(begins_s * rate)
        )
        for window, each in encode_windows(encoder, windows):
            features.append(each)
            if window.end >= round(alarm_s * rate) and len(features) >= JUDGED // 2:
                break
    if not features:
        raise SourceError("its sound is shorter than a window after the onset")
    level = str(kept.event.get("level", AlarmLevel.ALARM.value))
    at = kept.at.isoformat(timespec="seconds")
    return Stretch(at, "", True, tuple(features), level, kept.event_id)


def check_known_faults(machine: Machine, bank: NormalBank, faults: Sequence[Stretch]) -> list[Check]:
    """Whether a bank finds the confirmed faults; nothing to say where there are none."""
    if not faults:
        return []
    finds = finder(machine, bank)
    missed = [fault for fault in faults if not finds(fault)]
    name, count = "Known faults", len(faults)
    if not missed:
        return [Check(name, Verdict.OK, f"all {count} confirmed faults would be found again")]
    which = ", ".join(fault.at for fault in missed[:3])
    finding = f"{len(missed)} of {count} confirmed faults would not be found again: {which}"
    advice = "was a fault learnt as normal? Enrol without it, or go on with the bank in use"
    return [Check(name, Verdict.WARN, finding, advice)]


def require_faults_found(
    config: Config, machine: Machine, encoder: Encoder, old: NormalBank, new: NormalBank
) -> None:
    """Refuse a bank that no longer finds a confirmed fault.

    Raises:
        BankError: naming them.
    """
    if about_of(old) != about_of(new):
        return
    faults = known_faults(config, machine, encoder, new)
    lost = [each for each in judged(machine, old, new, faults, [f.event_id for f in faults]) if each.lost]
    if lost:
        which = ", ".join(f"{each.at} ({each.event_id})" for each in lost[:5])
        raise BankError(
            f"machine {machine.id}: confirmed faults that are found now would no longer be found: {which}",
            "keep the bank in use; or, where that is what you want: bank accept --anyway",
        )
