"""What fit-normal and `bank extend` have to tell: for people, for programs, and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo_stream.detect.calibration import TripLevel
from echo_stream.detect.enrolment import Check, Verdict, worst
from echo_stream.detect.session import LeftOut, Session
from echo_stream.detect.words import clock, in_words
from echo_stream.types import AlarmLevel

DAYS_A_MONTH = 30.0


@dataclass(frozen=True, slots=True)
class Change:
    """What accepting an extended bank would change, and how strange the new sound was to the old one."""

    base_id: str
    levels: Mapping[AlarmLevel, TripLevel]
    """Of the bank that was extended."""
    median_score: float
    """Of the new sound, against the old bank."""
    highest_score: float
    share_over: Mapping[AlarmLevel, float]
    """Share of the new windows over the old trip level."""
    raised: Mapping[AlarmLevel, int]
    """How often the old bank would have raised a warning, an alarm, with its delays."""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "base": self.base_id,
            "levels": {level.value: trip.level for level, trip in self.levels.items()},
            "new_sound": {
                "median_score": round(self.median_score, 3),
                "highest_score": round(self.highest_score, 3),
                "share_over": {level.value: round(share, 4) for level, share in self.share_over.items()},
                "raised": {level.value: count for level, count in self.raised.items()},
            },
        }


@dataclass(frozen=True, slots=True)
class Fitted:
    """A new version of a bank."""

    machine: str
    title: str
    bank_id: str
    path: Path
    """What the configuration names."""
    report: Path
    accepted: bool
    windows: int
    minutes: float
    conditions: tuple[str, ...]
    levels: Mapping[AlarmLevel, TripLevel]
    checks: Sequence[Check]
    session: Session
    """What was newly learnt."""
    kept_sessions: Sequence[Session]
    """What was taken over from the version before."""
    change: Change | None = None

    @property
    def minutes_needed(self) -> float:
        """More normal sound, until the bound on false alarms is good."""
        return self.levels[AlarmLevel.ALARM].minutes_needed

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Disturbances that were not learnt."""
        return self.session.left_out

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "machine": self.machine,
            "bank": {"id": self.bank_id, "path": str(self.path), "accepted": self.accepted},
            "report": str(self.report),
            "verdict": worst(self.checks).value,
            "windows": self.windows,
            "minutes": round(self.minutes, 2),
            "conditions": list(self.conditions),
            "levels": {
                level.value: {
                    "trip": trip.level,
                    "expected_per_month": trip.expected_per_month,
                    "upper95_per_month": trip.upper95_per_month,
                }
                for level, trip in self.levels.items()
            },
            "minutes_needed": round(self.minutes_needed, 1),
            "left_out": [asdict(each) for each in self.left_out],
            "checks": [asdict(check) for check in self.checks],
            "sessions": [asdict(each) for each in (*self.kept_sessions, self.session)],
            **({"change": self.change.to_json()} if self.change else {}),
        }

    def in_words(self) -> str:
        """For people, on a terminal."""
        lines = [
            f"{self.machine}: bank {self.bank_id} fitted on {self.windows} windows, "
            f"{self.minutes:.1f} minutes of normal sound ({', '.join(self.conditions)})"
        ]
        lines += [f"  {check.name.lower()}: {check.finding}" for check in self.checks if _worth_saying(check)]
        lines += [f"  left out: {self.left_out_in_words(each)}" for each in self.left_out]
        lines += [f"  {level.value} {promise(level, trip)}" for level, trip in self.levels.items()]
        if self.minutes_needed > 0:
            lines.append(
                f"  {in_words(self.minutes_needed * 60)} more of normal sound would make that bound good"
            )
        lines += [f"  {line}" for line in change_in_words(self)]
        use = "in use" if self.accepted else "not in use"
        lines += [f"  report: {self.report}", f"  {self.path} ({use})"]
        if not self.accepted:
            lines.append(f"to use it: echo-stream bank accept --machine {self.machine} {self.bank_id}")
        return "\n".join(lines)

    def left_out_in_words(self, each: LeftOut) -> str:
        """Where it was, how far from normal, how loud, at which frequencies."""
        trip = self.levels[AlarmLevel.ALARM].level
        of = f" of {each.recording}" if len(self.session.recordings) > 1 else ""
        return (
            f"{clock(each.start_s)} to {clock(each.end_s)}{of}, score {each.score:.0f} "
            f"(an alarm is at {trip:.1f}), {each.level_dbfs:.0f} dBFS, most at {hertz(each.band_hz)}"
        )


def _worth_saying(check: Check) -> bool:
    return check.name != "Promise" and (check.verdict != Verdict.GOOD or check.name == "Disturbances")


def promise(level: AlarmLevel, trip: TripLevel) -> str:
    """Trip level and what it promises, the warning by the week, the alarm by the month."""
    days, every = (7.0, "a week") if level == AlarmLevel.WARNING else (DAYS_A_MONTH, "a month")
    expected = number(trip.expected_per_month * days / DAYS_A_MONTH)
    most = number(trip.upper95_per_month * days / DAYS_A_MONTH)
    return (
        f"at a score of {trip.level:.1f}: false {level.value}s about {expected} {every}, with 95 % certainty "
        f"at most {most}"
    )


def change_in_words(fitted: Fitted) -> list[str]:
    """What accepting an extended bank would change, line by line; none for one that was fitted anew."""
    change = fitted.change
    if change is None:
        return []
    lines = [
        f"against bank {change.base_id} the new sound scores {change.median_score:.1f} in the middle and "
        f"{change.highest_score:.1f} at most"
    ]
    for level, trip in fitted.levels.items():
        before, count = change.levels[level].level, change.raised[level]
        times = {0: "never", 1: "once"}.get(count, f"{count} times")
        lines.append(
            f"{100 * change.share_over[level]:.0f} % of it is over the {level.value} level, and would have "
            f"raised it {times}; accepting moves that level from {before:.1f} to {trip.level:.1f}"
        )
    if change.share_over[AlarmLevel.ALARM] > 0:
        lines.append("be sure that the machine was well: what is learnt as normal raises no alarm any more")
    return lines


def number(value: float) -> str:
    """Two digits that count, without an exponent: 0.25, 1, 42, 420."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):.0f}"
    return f"{value:.2g}"


def hertz(band_hz: tuple[float, float]) -> str:
    """A band for people: 800 to 1200 Hz."""
    return f"{number(band_hz[0])} to {number(band_hz[1])} Hz"
