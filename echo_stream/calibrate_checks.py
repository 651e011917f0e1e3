"""Checks of a fit that need more than the sound: other sessions, and the levels that came out."""

from __future__ import annotations

from collections.abc import Sequence

from echo_stream.calibrate_heard import Heard
from echo_stream.calibrate_told import number
from echo_stream.detect.calibration import GOOD_ENOUGH, TripLevel
from echo_stream.detect.enrolment import Check, Verdict
from echo_stream.detect.session import MICROPHONE, Enrolment
from echo_stream.detect.words import in_words
from echo_stream.errors import SourceError

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
    bad = [check for check in checks if check.verdict == Verdict.BAD]
    if bad:
        raise SourceError(
            f"{what}: {'; '.join(check.finding for check in bad)}",
            "\n  ".join(check.advice for check in bad),
        )


def check_devices(heard: Heard, kept: Sequence[Enrolment]) -> list[Check]:
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


def check_levels(alarm: TripLevel) -> list[Check]:
    """What the alarm level can notice, and what it promises."""
    return [_sensitivity(alarm), _promise(alarm)]


def _sensitivity(alarm: TripLevel) -> Check:
    name = "Sensitivity"
    if alarm.level <= WEAK:
        return Check(name, Verdict.GOOD, f"an alarm needs a score of {alarm.level:.1f}")
    found = f"an alarm needs a score of {alarm.level:.1f}: only a strong change is noticed"
    if alarm.persistence_hops < alarm.on_delay_hops:
        return Check(
            name,
            Verdict.FAIR,
            f"{found}. The recordings are too short to show how soon an odd moment passes",
            "learn from recordings of half a minute or more, or let it listen by itself (--minutes)",
        )
    return Check(
        name,
        Verdict.FAIR,
        found,
        "now and then this normal sound is far from its usual self: see the highest dots in the report. Is "
        "that another operating state? Then enrol it by itself (--condition). Otherwise listen for longer",
    )


def _promise(alarm: TripLevel) -> Check:
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
