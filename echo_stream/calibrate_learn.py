"""From what was heard to a bank: checks, trimming, fit, trip levels; for fit-normal and `bank extend`."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

import echo_stream
from echo_stream.build import trip_levels
from echo_stream.calibrate_heard import Heard
from echo_stream.calibrate_told import number
from echo_stream.config import Config, Machine
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.calibration import GOOD_ENOUGH, Calibration, TripLevel
from echo_stream.detect.enrolment import OFF, Check, Verdict, check_enrolment
from echo_stream.detect.folds import folds_of, runs_of
from echo_stream.detect.scorer import Scorer
from echo_stream.detect.sensor import SensorLimits
from echo_stream.detect.session import (
    MICROPHONE,
    PROVENANCE,
    Enrolment,
    LeftOut,
    Session,
    to_provenance,
)
from echo_stream.detect.trimming import Trimming, keep_all, trim
from echo_stream.detect.words import in_words
from echo_stream.encode.encoder import Encoder
from echo_stream.errors import SourceError
from echo_stream.types import AlarmLevel, Enrolled

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Learnt:
    """A fitted bank, and all that there is to say about how it came about."""

    bank: NormalBank
    calibration: Calibration
    levels: Mapping[AlarmLevel, TripLevel]
    checks: Sequence[Check]
    heard: Heard
    trimming: Trimming
    enrolment: Enrolment
    """What was newly learnt."""
    kept: Sequence[Enrolment]
    """What was taken over."""
    windows: int
    """Learnt in all, taken over ones too."""
    scores: Float64
    """(windows heard,) of each window as a stranger would score: held out, or left out."""


def learn(
    config: Config,
    machine: Machine,
    encoder: Encoder,
    heard: Heard,
    kept: Sequence[Enrolment],
    *,
    condition: str,
    trimmed: bool,
) -> Learnt:
    """Fit a bank on what was heard, and on what was taken over.

    Raises:
        SourceError: what was heard is not fit to be learnt.
        BankError: there is too little of it.
    """
    cut = config.encoder
    enrolled = heard.enrolled
    trimming = trim(enrolled, window_s=cut.window_s, hop_s=cut.hop_s) if trimmed else keep_all(enrolled)
    signals = [stretch.signal for stretch in heard.stretches]
    checks = check_enrolment(signals, trimming, condition=condition, window_s=cut.window_s, hop_s=cut.hop_s)
    _refuse_bad(heard, checks)
    mine = [enrolled[i] for i in trimming.kept]
    everything = [*mine, *(item for each in kept for item in each.enrolled)]
    limits = heard.sensor_limits(trimming.kept.tolist())
    bank = NormalBank.fit(
        everything,
        encoder=encoder.identity,
        sample_rate_hz=heard.sample_rate_hz,
        window_s=cut.window_s,
        hop_s=cut.hop_s,
        provenance={"machine": machine.id, "by": person(), "on": platform.node()},
    )
    places = held_out_places(everything, window_s=cut.window_s, hop_s=cut.hop_s)
    calibration = _calibrate(bank, everything, places)
    levels = trip_levels(machine, calibration)
    all_limits = [limits, *(SensorLimits.from_json(each.figures["sensor"]) for each in kept)]
    saved = {**calibration.to_json(), "sensor": _widest(all_limits).to_json()}
    provenance = {**bank.provenance, PROVENANCE: to_provenance([each.session for each in kept])}
    bank = replace(bank.with_calibration(saved), provenance=provenance)
    scores, left_out = _scores(bank, enrolled, trimming, places)
    session = _session(heard, mine, condition, left_out, minutes=len(mine) * cut.hop_s / 60)
    figures = {"sensor": limits.to_json(), "spectrum": heard.spectrum.to_json()}
    return Learnt(
        bank=bank,
        calibration=calibration,
        levels=levels,
        checks=[*checks, *_check_devices(heard, kept), _check_promise(levels[AlarmLevel.ALARM])],
        heard=heard,
        trimming=trimming,
        enrolment=Enrolment(session, mine, figures),
        kept=kept,
        windows=len(everything),
        scores=scores,
    )


def held_out_places(enrolled: Sequence[Enrolled], *, window_s: float, hop_s: float) -> list[NDArray[np.intp]]:
    """Which of the enrolled windows each score of each run of `NormalBank.held_out` belongs to."""
    places = []
    for condition in sorted({item.condition for item in enrolled}):
        members = np.array([i for i, item in enumerate(enrolled) if item.condition == condition], np.intp)
        items = [enrolled[i] for i in members]
        for fold in folds_of(items, window_s=window_s, hop_s=hop_s):
            places += [members[run] for run in runs_of(items, fold, hop_s=hop_s)]
    return places


def in_runs(enrolled: Sequence[Enrolled], values: Float64, hop_s: float) -> list[Float64]:
    """Values of windows, cut wherever the next window does not follow at hop spacing."""
    follows = [
        after.recording == before.recording and after.start_s - before.start_s < 1.5 * hop_s
        for before, after in pairwise(enrolled)
    ]
    return np.split(values, np.flatnonzero(~np.array(follows, dtype=bool)) + 1)


def person() -> str:
    """Who runs this: behind sudo, the one who called it."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return str(os.getuid())


def now() -> str:
    """UTC, as the histories have it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _refuse_bad(heard: Heard, checks: Sequence[Check]) -> None:
    bad = [check for check in checks if check.verdict == Verdict.BAD]
    if bad:
        raise SourceError(
            f"{heard.device}: {'; '.join(check.finding for check in bad)}",
            "\n  ".join(check.advice for check in bad),
        )


def _calibrate(
    bank: NormalBank, enrolled: Sequence[Enrolled], places: Sequence[NDArray[np.intp]]
) -> Calibration:
    """Trip levels rest on the states in which there can be an alarm: not on a machine that is off."""
    runs = [
        run
        for run, members in zip(bank.held_out, places, strict=True)
        if enrolled[members[0]].condition != OFF
    ]
    return Calibration.fit(runs or bank.held_out, bank.hop_s)


def _widest(limits: Sequence[SensorLimits]) -> SensorLimits:
    return SensorLimits(
        min(each.quietest_dbfs for each in limits),
        max(each.loudest_dbfs for each in limits),
        max(each.most_hum for each in limits),
        max(each.most_rumble for each in limits),
    )


def _scores(
    bank: NormalBank,
    enrolled: Sequence[Enrolled],
    trimming: Trimming,
    places: Sequence[NDArray[np.intp]],
) -> tuple[Float64, tuple[LeftOut, ...]]:
    """Scores of all windows that were heard, and the disturbances among them."""
    scores = np.empty(len(enrolled))
    for run, members in zip(bank.held_out, places, strict=True):
        mine = members < len(trimming.kept)  # what was taken over comes after what was heard
        scores[trimming.kept[members[mine]]] = run[mine]
    scorer = Scorer(bank)
    left_out = []
    for stretch in trimming.trimmed:
        found = scorer.score([enrolled[i].features for i in stretch.members])
        scores[stretch.members] = [score.value for score in found]
        worst_score = max(found, key=lambda score: score.value)
        band = max(worst_score.bands, key=lambda band: band.contribution)
        left_out.append(
            LeftOut(
                recording=stretch.recording,
                start_s=stretch.start_s,
                end_s=stretch.end_s,
                score=worst_score.value,
                level_dbfs=max(enrolled[i].features.level_dbfs for i in stretch.members),
                band_hz=(band.low_hz, band.high_hz),
            )
        )
    return scores, tuple(left_out)


def _session(
    heard: Heard,
    learnt: Sequence[Enrolled],
    condition: str,
    left_out: tuple[LeftOut, ...],
    *,
    minutes: float,
) -> Session:
    return Session(
        condition=condition,
        source=heard.source,
        device=heard.device,
        sample_rate_hz=heard.sample_rate_hz,
        heard_at=f"{heard.heard_at:%Y-%m-%dT%H:%M:%SZ}",
        windows=len(learnt),
        minutes=minutes,
        recordings=tuple(stretch.name for stretch in heard.stretches),
        left_out=left_out,
        by=person(),
        on=platform.node(),
        software_version=echo_stream.__version__,
    )


def _check_devices(heard: Heard, kept: Sequence[Enrolment]) -> list[Check]:
    """Recordings do not say which microphone made them."""
    other = next((each.session for each in kept if each.session.source != heard.source), None)
    if other is None or MICROPHONE not in {other.source, heard.source}:
        return []
    return [
        Check(
            "Device",
            Verdict.FAIR,
            f"condition {other.condition!r} was learnt from {other.device}, this one from {heard.device}",
            "make sure that it is the same microphone in the same place with the same gain",
        )
    ]


def _check_promise(alarm: TripLevel) -> Check:
    name = "Promise"
    most = f"with 95 % certainty at most {number(alarm.upper95_per_month)} false alarms a month"
    if alarm.minutes_needed <= 0:
        return Check(name, Verdict.GOOD, most)
    return Check(
        name,
        Verdict.FAIR,
        f"{most}: so little sound cannot promise more",
        f"{in_words(alarm.minutes_needed * 60)} more of normal sound would bring that to at most "
        f"{GOOD_ENOUGH * alarm.asked_per_month:.0f}",
    )
