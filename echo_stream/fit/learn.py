"""Learning turns recorded sound into a bank: checks, trimming, fit, trip levels."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

import echo_stream
from echo_stream.alarm.calibration import GOOD_ENOUGH, Calibration, TripLevel
from echo_stream.alarm.condition import hops_in
from echo_stream.config.schema import AlarmSettings, Config, Machine
from echo_stream.core.calibration import BankCalibration, NormalSpectrum, SensorLimits
from echo_stream.core.checks import Check, Verdict
from echo_stream.core.errors import SourceError
from echo_stream.core.sensitivity import Sensitivity
from echo_stream.core.text import duration_text, person
from echo_stream.core.types import OFF, AlarmLevel, Enrolled, Float64
from echo_stream.detect.bank import SESSIONS, NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.announced import announced
from echo_stream.fit.checks import check_enrolment
from echo_stream.fit.recorded import Joined, Recordings, held_out_places, joined_clips, minutes_of
from echo_stream.fit.session import MICROPHONE, Enrolment, LeftOut, Session, to_provenance
from echo_stream.fit.smallest_fault import sensitivity_of
from echo_stream.fit.summary import LATER, number, sensitivity_text
from echo_stream.fit.trimming import Outlier, Trimming, keep_all, trim
from echo_stream.pipeline.factory import build_alarms, trip_levels

LEAST_TELLING_S = 60.0
"""Of an operating state: of less, what is left without a block of it is too little to compare with."""
ON_DELAY_S = AlarmSettings().on_delay_s
"""Of an alarm, by default."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A fitted bank, and all that there is to say about how it came about."""

    bank: NormalBank
    calibration: Calibration
    levels: Mapping[AlarmLevel, TripLevel]
    checks: Sequence[Check]
    recordings: Recordings
    trimming: Trimming
    enrolment: Enrolment
    """What was newly learnt."""
    kept: Sequence[Enrolment]
    """What was taken over."""
    windows: int
    """Learnt in all, taken over ones too."""
    scores: Float64
    """(windows,) held-out score of each recorded window; of one left out, its score against the bank."""


@dataclass(frozen=True, slots=True)
class _Fit:
    """A bank on what was kept of the recordings, and on what was taken over."""

    bank: NormalBank
    everything: Sequence[Enrolled]
    """What was kept first, then what was taken over."""
    places: Sequence[NDArray[np.intp]]
    """Which of them each held-out score belongs to."""
    calibration: Calibration
    levels: Mapping[AlarmLevel, TripLevel]
    by_name_alone: int
    """Clips that were joined though nobody knows whether they follow each other."""


def learn(
    config: Config,
    machine: Machine,
    encoder: Encoder,
    recordings: Recordings,
    kept: Sequence[Enrolment],
    *,
    condition: str,
    trimmed: bool,
) -> Learnt:
    """Fit a bank on recordings, and on what was taken over.

    Raises:
        SourceError: the recordings are not fit to be learnt.
        BankError: there is too little of it.
    """
    window_s, hop_s = config.encoder.window_s, config.encoder.hop_s
    enrolled = recordings.enrolled
    signals = [signal for outlier in recordings.segments for signal in outlier.signals]

    def checked(trimming: Trimming) -> list[Check]:
        return check_enrolment(signals, trimming, condition=condition, window_s=window_s, hop_s=hop_s)

    trimming = trim(enrolled, window_s=window_s, hop_s=hop_s) if trimmed else keep_all(enrolled)
    refuse_bad(recordings.device, checked(trimming))
    fit = _fit(config, machine, encoder=encoder, recordings=recordings, kept=kept, trimming=trimming)
    false_outliers = _false_outliers(fit, enrolled, trimming)
    if false_outliers:
        trimming = trimming.restore(false_outliers)
        fit = _fit(config, machine, encoder=encoder, recordings=recordings, kept=kept, trimming=trimming)
    scores, left_out = _scores(fit, enrolled, trimming)
    mine = [enrolled[i] for i in trimming.kept]
    limits = recordings.sensor_limits(trimming.kept.tolist())
    session = _session(recordings, mine, condition, left_out, minutes=minutes_of(mine, window_s))
    checks = [
        *recordings.notes,
        *checked(trimming),
        *check_devices(recordings, kept),
        *check_levels(fit.levels[AlarmLevel.ALARM]),
        *check_continuity(fit.by_name_alone),
    ]
    sensitivity = _measured_sensitivity(machine, encoder, fit, recordings, trimming)
    figures: dict[str, Any] = {"sensor": limits.to_json(), "spectrum": recordings.spectrum.to_json()}
    if sensitivity is not None:
        figures["sensitivity"] = sensitivity.to_json()
    enrolment = Enrolment(session, mine, figures)
    bank = _completed(fit, limits, enrolment, kept)
    checks += check_sensitivity(bank.calibration)
    return Learnt(
        bank=bank,
        calibration=fit.calibration,
        levels=fit.levels,
        checks=checks,
        recordings=recordings,
        trimming=trimming,
        enrolment=enrolment,
        kept=kept,
        windows=len(fit.everything),
        scores=scores,
    )


def _fit(
    config: Config,
    machine: Machine,
    *,
    encoder: Encoder,
    recordings: Recordings,
    kept: Sequence[Enrolment],
    trimming: Trimming,
) -> _Fit:
    enrolled, window_s, hop_s = recordings.enrolled, config.encoder.window_s, config.encoder.hop_s
    everything = [
        *(enrolled[i] for i in trimming.kept),
        *(item for each in kept for item in each.enrolled),
    ]
    bank = NormalBank.fit(
        everything,
        encoder=encoder.identity,
        sample_rate_hz=recordings.sample_rate_hz,
        window_s=window_s,
        hop_s=hop_s,
        provenance={"machine": machine.id, "by": recordings.by or person(), "on": platform.node()},
    )
    places = held_out_places(everything, window_s=window_s, hop_s=hop_s)
    on_delay_s = machine.alarm.on_delay_s
    joined = joined_held_out(bank, everything, places, on_delay_s)
    calibration = calibrated(joined, bank.hop_s)
    levels = trip_levels(machine, calibration)
    return _Fit(bank, everything, places, calibration, levels, joined.by_name_alone)


def _false_outliers(fit: _Fit, enrolled: Sequence[Enrolled], trimming: Trimming) -> list[Outlier]:
    """What was left out and yet would not even raise a warning: it belongs to the machine."""
    scorer, warning = Scorer(fit.bank), fit.levels[AlarmLevel.WARNING].level
    return [
        outlier
        for outlier in trimming.trimmed
        if max(s.value for s in scorer.score([enrolled[i].features for i in outlier.members])) <= warning
    ]


def _completed(fit: _Fit, limits: SensorLimits, new: Enrolment, kept: Sequence[Enrolment]) -> NormalBank:
    """The bank with its calibration, and with the sessions that were taken over in its provenance."""
    all_limits = [limits, *(SensorLimits.from_json(each.figures["sensor"]) for each in kept)]
    calibration = BankCalibration(
        hop_s=fit.calibration.hop_s,
        runs=fit.calibration.runs,
        sensor=SensorLimits.widest(all_limits),
        spectra=_spectra([new, *kept]),
        sensitivity=latest_sensitivity([new, *reversed(kept)]),
    )
    sessions = to_provenance([each.session for each in kept])
    provenance = {**fit.bank.provenance, SESSIONS: sessions}
    return replace(fit.bank, calibration=calibration, provenance=provenance)


def _measured_sensitivity(
    machine: Machine, encoder: Encoder, fit: _Fit, recordings: Recordings, trimming: Trimming
) -> Sensitivity | None:
    """What would be announced of the state that is learnt; None at rest, and where no samples are at hand."""
    learnt = [recordings.enrolled[i] for i in trimming.kept]
    condition = learnt[0].condition
    if condition == OFF:  # nothing is announced there
        return None
    known = {(item.recording, item.start_s) for item in learnt}
    probes = [probe for probe in recordings.probes if (probe.recording, probe.start_s) in known]
    if not probes:
        return None
    saved = BankCalibration(fit.calibration.hop_s, fit.calibration.runs)
    _, ways = build_alarms(machine, replace(fit.bank, calibration=saved))
    from_score = announced(ways.levels, ways.timing, fit.calibration.runs)
    return sensitivity_of(fit.bank, encoder, probes, condition, from_score)


def latest_sensitivity(enrolments: Sequence[Enrolment]) -> Sensitivity | None:
    """Of the first enrolment that has one; it was measured when that was learnt."""
    found = (each.figures.get("sensitivity") for each in enrolments)
    return next((Sensitivity.from_json(each) for each in found if each), None)


def now() -> str:
    """UTC, as the histories have it."""
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def calibrated(joined: Joined, hop_s: float) -> Calibration:
    """Of held-out scores, as the daemon reads them."""
    return Calibration.fit([run.round(4) for run in joined.runs], hop_s)


def joined_held_out(
    bank: NormalBank,
    enrolled: Sequence[Enrolled],
    places: Sequence[NDArray[np.intp]],
    on_delay_s: float = ON_DELAY_S,
) -> Joined:
    """Held-out scores, clips of one series joined.

    Trip levels rest on the states in which there can be an alarm: not on a machine that is off. Nor, beside
    states that are longer, on one of so few seconds that it can hardly be judged without a part of itself.
    """
    seconds = Counter(item.condition for item in enrolled)
    running = [i for i, members in enumerate(places) if enrolled[members[0]].condition != OFF]
    told = [i for i in running if seconds[enrolled[places[i][0]].condition] * bank.hop_s >= LEAST_TELLING_S]
    mine = told or running or list(range(len(places)))
    return joined_clips(
        [bank.held_out[i] for i in mine],
        [places[i] for i in mine],
        enrolled,
        window_s=bank.window_s,
        hop_s=bank.hop_s,
        held_hops=hops_in(on_delay_s, bank.hop_s) + 1,
    )


def _spectra(enrolments: Sequence[Enrolment]) -> dict[str, NormalSpectrum]:
    """The normal spectrum of each operating state; an enrolment of an older version may lack it."""
    found: dict[str, list[tuple[NormalSpectrum, int]]] = {}
    for each in enrolments:
        if (saved := each.figures.get("spectrum")) is not None:
            spectrum = NormalSpectrum.from_json(saved)
            found.setdefault(each.session.condition, []).append((spectrum, each.session.windows))
    return {state: NormalSpectrum.joined(*zip(*parts, strict=True)) for state, parts in found.items()}


def _scores(
    fit: _Fit, enrolled: Sequence[Enrolled], trimming: Trimming
) -> tuple[Float64, tuple[LeftOut, ...]]:
    """Scores of all recorded windows, and the disturbances among them."""
    scores = np.empty(len(enrolled))
    for run, members in zip(fit.bank.held_out, fit.places, strict=True):
        mine = members < len(trimming.kept)  # what was taken over comes after the new recordings
        scores[trimming.kept[members[mine]]] = run[mine]
    scorer = Scorer(fit.bank)
    left_out = []
    for outlier in trimming.trimmed:
        found = scorer.score([enrolled[i].features for i in outlier.members])
        scores[outlier.members] = [score.value for score in found]
        worst_score = max(found, key=lambda score: score.value)
        band = max(worst_score.bands, key=lambda band: band.contribution)
        left_out.append(
            LeftOut(
                recording=outlier.recording,
                start_s=outlier.start_s,
                end_s=outlier.end_s,
                score=worst_score.value,
                level_dbfs=max(enrolled[i].features.level_dbfs for i in outlier.members),
                band_hz=(band.low_hz, band.high_hz),
            )
        )
    return scores, tuple(left_out)


def _session(
    recordings: Recordings,
    learnt: Sequence[Enrolled],
    condition: str,
    left_out: tuple[LeftOut, ...],
    *,
    minutes: float,
) -> Session:
    return Session(
        condition=condition,
        source=recordings.source,
        device=recordings.device,
        sample_rate_hz=recordings.sample_rate_hz,
        heard_at=f"{recordings.heard_at:%Y-%m-%dT%H:%M:%SZ}",
        windows=len(learnt),
        minutes=minutes,
        recordings=tuple(outlier.name for outlier in recordings.segments),
        left_out=left_out,
        by=recordings.by or person(),
        on=platform.node(),
        software_version=echo_stream.__version__,
    )


# Checks of a fit that need more than the sound: other sessions, and the levels that came out.

CONTINUOUS_MIN = 2.0
"""Of sound in stretches that are as long as an alarm waits: enough to see odd moments pass."""
WEAK = 50.0
"""An alarm level of so many spreads of normal sound: real and simulated faults scored from 40 to 300."""


def refuse_bad(what: str, checks: Sequence[Check]) -> None:
    """Raise where one of the checks is bad.

    Args:
        what: The recordings or the device.
        checks: All that were done.

    Raises:
        SourceError: all that is wrong, with what to do.
    """
    bad = [check for check in checks if check.verdict == Verdict.FAIL]
    if bad:
        raise SourceError(
            f"{what}: {'; '.join(check.finding for check in bad)}",
            "\n  ".join(check.advice for check in bad),
        )


def check_devices(recordings: Recordings, kept: Sequence[Enrolment]) -> list[Check]:
    """Recordings do not say which microphone made them."""
    other = next((each.session for each in kept if each.session.source != recordings.source), None)
    if other is None or MICROPHONE not in {other.source, recordings.source}:
        return []
    return [
        Check(
            "Device",
            Verdict.WARN,
            f"condition {other.condition!r} was learnt from {other.device}, "
            f"this one from {recordings.device}",
            "make sure that it is the same microphone in the same place with the same gain",
        )
    ]


def check_continuity(by_name_alone: int) -> list[Check]:
    """Short clips show odd moments, and not for how long they last."""
    if not by_name_alone:
        return []
    return [
        Check(
            "Continuity",
            Verdict.WARN,
            f"{by_name_alone + 1} short clips were put in the order of their names; whether they follow "
            f"each other is not known, {CONTINUOUS_MIN:.0f} min of continuous sound are missing to see how "
            "soon an odd moment passes",
            "learn from recordings of half a minute or more, or let it listen by itself (--minutes)",
        )
    ]


def check_levels(alarm: TripLevel) -> list[Check]:
    """What the alarm level can notice, and what it promises."""
    return [_sensitivity(alarm), _promise(alarm)]


def _sensitivity(alarm: TripLevel) -> Check:
    name = "Sensitivity"
    found = f"an alarm within seconds needs a score of {alarm.level:.1f}"
    if alarm.persistence_hops < alarm.on_delay_hops:
        missing_s = max(0.0, 60 * CONTINUOUS_MIN - 3600 * alarm.continuous_hours)
        return Check(
            name,
            Verdict.WARN,
            f"{found}: the recordings are too short to show how soon an odd moment passes, "
            f"{duration_text(missing_s)} of continuous sound are missing",
            "learn from recordings of half a minute or more, or let it listen by itself (--minutes). Until "
            "then the alarm goes by what the machine did in the minutes and days before",
        )
    if alarm.level <= WEAK:
        return Check(name, Verdict.OK, found)
    return Check(
        name,
        Verdict.WARN,
        f"{found}: only a strong change is noticed so soon",
        "now and then this normal sound is far from its usual self: see the highest dots in the report. Is "
        "that another operating state? Then enrol it by itself (--condition). Otherwise listen for longer",
    )


def check_sensitivity(calibration: BankCalibration | None) -> list[Check]:
    """How large a fault must be."""
    found = calibration and calibration.sensitivity
    if not found:
        return []
    name, smallest_db = "Smallest fault", found.smallest_db
    if not found.blind:
        return [Check(name, Verdict.OK, sensitivity_text(found))]
    least = "nothing that was tried" if smallest_db is None else f"nothing under {smallest_db:.0f} dB"
    return [
        Check(
            name,
            Verdict.FAIL,
            f"{least} more in a third of an octave would raise an alarm: this bank is as good as blind",
            "learn from more of the normal sound, without voices, doors and other machines, and enrol each "
            "operating state by itself (--condition)",
        )
    ]


def _promise(alarm: TripLevel) -> Check:
    name = "Promise"
    most = f"with 95 % certainty at most {number(alarm.upper95_per_month)} false alarms a month"
    if alarm.minutes_needed <= 0:
        return Check(name, Verdict.OK, most)
    return Check(
        name,
        Verdict.WARN,
        f"{most} of those that come within seconds: so little sound cannot prove more",
        f"{LATER}; {duration_text(alarm.minutes_needed * 60)} more of normal sound would prove at most "
        f"{GOOD_ENOUGH * alarm.asked_per_month:.0f}",
    )
