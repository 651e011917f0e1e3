"""Checks decide whether recorded sound is fit to be learnt as normal. Pure; fit time only.

Each check ends in one word that a traffic light can show, a finding with its figure, and what to do about it.
A bad one means: learn nothing from this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echo_stream.core.checks import Check, Verdict
from echo_stream.core.text import clock, duration_text
from echo_stream.core.types import OFF, Float64
from echo_stream.fit.trimming import Trimming

SILENCE_DBFS = -120.0
"""Under the noise of any converter: the last bit of 24 is at -144, of 16 at -96."""
FEWEST_WINDOWS = 10
"""As many scores a trip level needs at least."""
GOOD_S = 300.0
"""Less normal sound than this has not met all that the machine does."""
CLIPPED_WINDOW = 1e-4
"""Share of samples at full scale from which a window counts as clipped: 3 of 32,000 is chance, 30 is not."""
CLIPPED_SAMPLES = 0.01
"""Clipping a larger share of all samples teaches the distortion: in Gaussian noise its products lie 37 dB
below the sound at 0.15 %, 28 dB at 1 % and 19 dB at 5 % (computed)."""
STEP_DB = 6.0
"""A level that changes by so much and stays is another operating state; loads of one gearbox: up to 3."""
STEP_STAYS_S = 10.0
DRIFT_DB = 3.0
"""Between the first and the last quarter: a machine that is still warming up."""
LOST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Signal:
    """What the sensor delivered in one recording or stretch of listening, window by window in time order."""

    recording: str
    start_s: Float64
    """(windows,)"""
    level_dbfs: Float64
    """(windows,) root mean square without the mean."""
    clipped_share: Float64
    """(windows,) of the samples, 0 to 1."""

    def __len__(self) -> int:
        return len(self.start_s)


def check_enrolment(
    signals: Sequence[Signal], trimming: Trimming, *, condition: str, window_s: float, hop_s: float
) -> list[Check]:
    """All checks of the sound of one operating state, in the order of the report.

    Args:
        signals: One of each recording; their windows in a row are those that `trimming` counts.
        trimming: What was left out of them; a disturbance must not make the rest look clipped.
        condition: The operating state.
        window_s: Length of a window.
        hop_s: Between the starts of two windows.
    """
    kept = np.zeros(sum(map(len, signals)), dtype=bool)
    kept[trimming.kept] = True
    clipped = np.concatenate([signal.clipped_share for signal in signals])[kept]
    levels_dbfs = np.concatenate([signal.level_dbfs for signal in signals])[kept]
    return [
        check_length(signals, window_s=window_s, hop_s=hop_s),
        check_silence(levels_dbfs, condition),
        check_clipping(clipped),
        check_steadiness(signals, hop_s=hop_s),
        check_gaps(signals, hop_s=hop_s),
        check_disturbances(trimming),
    ]


def check_length(signals: Sequence[Signal], *, window_s: float, hop_s: float) -> Check:
    """Is it enough to learn from?"""
    windows = sum(map(len, signals))
    heard_s = sum((len(signal) - 1) * hop_s + window_s for signal in signals if len(signal))
    finding = f"{duration_text(heard_s)} of sound, {windows} windows"
    if windows < FEWEST_WINDOWS:
        least_s = (FEWEST_WINDOWS - 1) * hop_s + window_s
        return Check(
            "Length",
            Verdict.FAIL,
            f"too short: {finding}",
            f"at least {duration_text(least_s)} is needed, 10 min or more is good",
        )
    if heard_s < GOOD_S:
        return Check(
            "Length",
            Verdict.WARN,
            f"short: {finding}",
            "listen for 10 min or more, in which the machine does all that it usually does",
        )
    return Check("Length", Verdict.OK, finding)


def check_silence(levels_dbfs: Float64, condition: str) -> Check:
    """Is there sound at all? `levels_dbfs` (windows,)."""
    median_dbfs = float(np.median(levels_dbfs))
    silent = float(np.mean(levels_dbfs <= SILENCE_DBFS))
    if condition == OFF:
        return Check("Sound", Verdict.OK, f"level {_dbfs(median_dbfs)}, the machine is off")
    if silent > LOST_SHARE:
        return Check(
            "Sound",
            Verdict.FAIL,
            f"silent: {silent:.0%} of the windows are not over {SILENCE_DBFS:.0f} dBFS",
            f"check the cable and the input's level; a machine at rest is enrolled with --condition {OFF}",
        )
    return Check("Sound", Verdict.OK, f"level {_dbfs(median_dbfs)}")


def check_clipping(clipped_share: Float64) -> Check:
    """Is the input overdriven? `clipped_share` (windows,)."""
    windows = float(np.mean(clipped_share >= CLIPPED_WINDOW))
    samples = float(np.mean(clipped_share))
    found = f"{_percent(samples)} of the samples are at full scale, in {_percent(windows)} of the windows"
    advice = "lower the gain of the input until the loudest sound stays below full scale, and listen again"
    if samples > CLIPPED_SAMPLES:
        return Check("Clipping", Verdict.FAIL, f"clipped: {found}", advice)
    if windows > 0:
        return Check("Clipping", Verdict.WARN, f"a little is clipped, and is learnt: {found}", advice)
    return Check("Clipping", Verdict.OK, "no sample reaches full scale")


def check_steadiness(signals: Sequence[Signal], *, hop_s: float) -> Check:
    """Did the level jump and stay, or drift? Looked for inside of each recording, not between two."""
    name = "Steadiness"
    for signal in signals:
        step = level_step(signal, hop_s=hop_s)
        if step is not None:
            at_s, by_db = step
            return Check(
                name,
                Verdict.FAIL,
                f"the level jumped by {by_db:+.0f} dB at {clock(at_s)} of {signal.recording} and stayed",
                "two operating states? enrol each by itself: --condition idle, then --condition load; one "
                "state that comes and goes? listen for longer, so that it comes and goes several times",
            )
    drifts_db = [_drift_db(signal, hop_s=hop_s) for signal in signals]
    drift_db = max(drifts_db, key=abs, default=0.0)
    if abs(drift_db) > DRIFT_DB:
        where = signals[drifts_db.index(drift_db)].recording
        return Check(
            name,
            Verdict.WARN,
            f"the level changed by {drift_db:+.0f} dB from the start to the end of {where}",
            "was the machine still warming up? listen again when it has settled",
        )
    return Check(name, Verdict.OK, "the level did not jump and did not drift")


def check_gaps(signals: Sequence[Signal], *, hop_s: float) -> Check:
    """Did sound get lost on its way? Windows are missing where it did."""
    expected = sum(round((s.start_s[-1] - s.start_s[0]) / hop_s) + 1 for s in signals if len(s))
    lost = expected - sum(map(len, signals))
    if lost <= 0:
        return Check("Gaps", Verdict.OK, "no sound was lost")
    share = lost / expected
    found = f"{_percent(share)} of the sound was lost on its way ({duration_text(lost * hop_s)})"
    verdict = Verdict.WARN if share > LOST_SHARE else Verdict.OK
    return Check("Gaps", verdict, found, "see `echo-stream doctor`: USB cable, hub, power saving, a slow PC")


def check_disturbances(trimming: Trimming) -> Check:
    """What was left out, and what stood out and was kept nevertheless."""
    name = "Disturbances"
    if trimming.kept_outliers:
        where = ", ".join(
            f"{clock(s.start_s)} to {clock(s.end_s)} of {s.recording}" for s in trimming.kept_outliers[:3]
        )
        return Check(
            name,
            Verdict.WARN,
            f"this stands out, but is too long or too much to be left out: {where}",
            "if it does not belong to the machine, listen again in a calmer hour; it is learnt as normal now",
        )
    if not trimming.trimmed:
        return Check(name, Verdict.OK, "nothing stood out; nothing was left out")
    left_out_s = sum(outlier.end_s - outlier.start_s for outlier in trimming.trimmed)
    count = len(trimming.trimmed)
    finding = (
        f"{count} short {'sound' if count == 1 else 'sounds'} left out, {duration_text(left_out_s)} in all"
    )
    return Check(name, Verdict.OK, finding)


def level_step(signal: Signal, *, hop_s: float) -> tuple[float, float] | None:
    """Where the level jumps by at least `STEP_DB` and stays: time and dB; None where it does not.

    The two sides must not overlap (19 windows in 20 of each lie on their own side of the middle) and be
    steady by themselves: a state that comes and goes is no step.
    """
    levels_dbfs, n = signal.level_dbfs, len(signal)
    fewest = max(round(STEP_STAYS_S / hop_s), n // 10)
    splits = np.arange(fewest, n - fewest + 1)
    if len(splits) == 0:
        return None
    total = np.cumsum(levels_dbfs)
    apart_db = (total[-1] - total[splits - 1]) / (n - splits) - total[splits - 1] / splits
    split = int(splits[np.argmax(splits * (n - splits) * apart_db**2)])
    before, after = levels_dbfs[:split], levels_dbfs[split:]
    step_db = float(np.median(after) - np.median(before))
    middle = (np.median(before) + np.median(after)) / 2
    quiet, loud = (before, after) if step_db > 0 else (after, before)
    parted = min(float(np.mean(quiet < middle)), float(np.mean(loud > middle))) >= 0.95
    steady = abs(step_db) > 2 * max(_range_db(before), _range_db(after))
    return (float(signal.start_s[split]), step_db) if abs(step_db) >= STEP_DB and parted and steady else None


def _drift_db(signal: Signal, *, hop_s: float) -> float:
    """From the first to the last quarter; 0 where the level changes as much within one of them."""
    quarter = len(signal) // 4
    if quarter * hop_s < STEP_STAYS_S:
        return 0.0
    first, last = signal.level_dbfs[:quarter], signal.level_dbfs[-quarter:]
    drift_db = float(np.median(last) - np.median(first))
    return drift_db if abs(drift_db) > max(_range_db(first), _range_db(last)) else 0.0


def _range_db(levels_dbfs: Float64) -> float:
    """What eight in ten keep to."""
    return float(np.ptp(np.quantile(levels_dbfs, [0.1, 0.9])))


def _dbfs(level_dbfs: float) -> str:
    return f"{level_dbfs:.0f} dBFS"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"
