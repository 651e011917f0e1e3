"""What a stream is, stretch by stretch, and whose each of its alarms is."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from benchmarks.replay import Raised, Replayed
from echo_stream.alarm.calibration import poisson_upper
from echo_stream.core.types import AlarmLevel

ANNOUNCE_S, CLEAR_S = 10.0, 20.0
"""What is asked: announced so soon after a fault's start, cleared so soon after its end."""
ENROLMENT = "_enroll_"
NORMAL, ANOMALY = "normal", "anomaly"


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a stream of one label: takes that follow each other."""

    label: str
    """normal, anomaly, or something that is neither (a machine that is off)."""
    kind: str
    start_s: float
    end_s: float
    joins_s: tuple[float, ...] = ()
    """Where its takes are joined, its ends left out."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a stream, and the alarms that are its own."""

    stretch: Stretch
    alarms: tuple[Raised, ...]
    stood_already: bool
    """An alarm from before stood when it began, so that nobody was told of this one."""
    seen_until_s: float
    """Where the stream ends, or the next fault begins."""

    @property
    def delay_s(self) -> float | None:
        """From its start to the alarm; None: none came."""
        return self.alarms[0].raised_s - self.stretch.start_s if self.alarms else None

    @property
    def clear_delay_s(self) -> float | None:
        """From its end until the alarm had cleared; None: it had not when the stream ended, or none came."""
        cleared_s = self.alarms[-1].cleared_s if self.alarms else None
        return None if cleared_s is None else cleared_s - self.stretch.end_s

    @property
    def clear_can_be_seen(self) -> bool:
        """There was an alarm, and enough follows to see that it clears."""
        return bool(self.alarms) and self.seen_until_s - self.stretch.end_s >= CLEAR_S


@dataclass(frozen=True, slots=True)
class Judged:
    """A replayed stream against its labels."""

    stretches: tuple[Stretch, ...]
    faults: tuple[Fault, ...]
    false_alarms: tuple[Raised, ...]
    """In normal sound."""
    warnings: tuple[Raised, ...]
    """In normal sound."""
    warnings_at_joins: int
    elsewhere: tuple[Raised, ...]
    """Alarms in what is neither normal nor a fault."""

    @property
    def normal_h(self) -> float:
        """Hours of normal sound."""
        return sum(s.end_s - s.start_s for s in self.stretches if s.label == NORMAL) / 3600

    def verdicts(self) -> Iterator[tuple[bool, str]]:
        """What was asked, whether it is so, and by how much."""
        if self.faults:
            delays = [("stood already", f) if f.stood_already else (_s(f.delay_s), f) for f in self.faults]
            yield (
                all(f.delay_s is not None and f.delay_s <= ANNOUNCE_S for f in self.faults),
                f"announced within {ANNOUNCE_S:g} s: " + _list(delays),
            )
            yield (
                all(len(f.alarms) <= 1 for f in self.faults),
                "at most one alarm a fault: " + _list([(str(len(f.alarms)), f) for f in self.faults]),
            )
            seen = [f for f in self.faults if f.clear_can_be_seen]
            yield (
                all(f.clear_delay_s is not None and f.clear_delay_s <= CLEAR_S for f in seen),
                f"cleared within {CLEAR_S:g} s: "
                + _list(
                    [(_s(f.clear_delay_s) if f in seen else "cannot be seen here", f) for f in self.faults]
                ),
            )
        alarms, warnings, at_joins = len(self.false_alarms), len(self.warnings), self.warnings_at_joins
        at_most = poisson_upper(alarms) / self.normal_h
        yield (
            not alarms and warnings <= (at_joins if self.faults else 1),
            f"normal sound raises no alarm, {'only a join a' if self.faults else 'at most one'} warning: "
            f"{alarms} alarms, {warnings} warnings, {at_joins} of them at joins; "
            f"{alarms / self.normal_h:.0f} false alarms an hour, with 95 % at most {at_most:.0f}",
        )


def read_labels(path: Path) -> dict[str, list[Stretch]]:
    """The stretches of each file of a labels.csv; takes of one label (and of one fault) become one."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[Stretch]] = {}
    for (name, label, kind), group in groupby(rows, lambda row: (row["file"], row["label"], row["kind"])):
        takes = list(group)
        starts_s = [float(take["start_s"]) for take in takes]
        stretch = Stretch(label, kind, starts_s[0], float(takes[-1]["end_s"]), tuple(starts_s[1:]))
        found.setdefault(name, []).append(stretch)
    return found


def machines_in(names: Collection[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Machine, the file that it is fitted on, and its streams; those without a stream are left out."""
    for enrolment in sorted(name for name in names if ENROLMENT in name):
        machine = enrolment.split(ENROLMENT)[0]
        streams = sorted(name for name in names if name.startswith(f"{machine}_") and name != enrolment)
        if streams:
            yield machine, enrolment, streams


def judge(
    replayed: Replayed, stretches: Sequence[Stretch], *, settle_s: Mapping[AlarmLevel, float]
) -> Judged:
    """Whose each alarm is.

    Args:
        replayed: What the corridor made of the stream.
        stretches: What the stream is, in order of time.
        settle_s: Of each level, window and on-delay: what comes so soon after a change still speaks of it.
    """
    alarms = list(replayed.raised[AlarmLevel.ALARM])
    alarm_s, warning_s = settle_s[AlarmLevel.ALARM], settle_s[AlarmLevel.WARNING]
    faults = []
    anomalies = [s for s in stretches if s.label == ANOMALY]
    for stretch in anomalies:
        later_s = [s.start_s for s in anomalies if s.start_s > stretch.start_s]
        own = tuple(a for a in alarms if stretch.start_s < a.raised_s <= stretch.end_s + alarm_s)
        stood = any(
            a.raised_s <= stretch.start_s and (a.cleared_s is None or a.cleared_s > stretch.start_s)
            for a in alarms
        )
        faults.append(Fault(stretch, own, stood, min([*later_s, stretches[-1].end_s])))
    normals = [s for s in stretches if s.label == NORMAL]
    others = [s for s in stretches if s.label not in (NORMAL, ANOMALY)]
    faulty = _widened(anomalies, alarm_s)
    joins_s = [at_s for s in normals for at_s in s.joins_s]
    warnings = _within(replayed.raised[AlarmLevel.WARNING], normals, but=_widened(anomalies, warning_s))
    return Judged(
        tuple(stretches),
        tuple(faults),
        false_alarms=_within(alarms, normals, but=faulty),
        warnings=warnings,
        warnings_at_joins=sum(any(at < w.raised_s <= at + warning_s for at in joins_s) for w in warnings),
        elsewhere=_within(alarms, others, but=faulty),
    )


def _widened(stretches: Sequence[Stretch], settle_s: float) -> list[Stretch]:
    return [Stretch(s.label, s.kind, s.start_s, s.end_s + settle_s) for s in stretches]


def _within(
    raised: Sequence[Raised], stretches: Sequence[Stretch], *, but: Sequence[Stretch]
) -> tuple[Raised, ...]:
    def inside(it: Raised, where: Sequence[Stretch]) -> bool:
        return any(s.start_s < it.raised_s <= s.end_s for s in where)

    return tuple(it for it in raised if inside(it, stretches) and not inside(it, but))


def _s(delay_s: float | None) -> str:
    return "never" if delay_s is None else f"{delay_s:.1f} s"


def _list(figures: Sequence[tuple[str, Fault]]) -> str:
    return ", ".join(f"{fault.stretch.kind} {figure}" for figure, fault in figures)
