"""Summaries show what a fit did: for people, for programs, and for the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo_stream.alarm.calibration import Calibration, TripLevel
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Check, Verdict, worst
from echo_stream.core.errors import BankError
from echo_stream.core.sensitivity import BLIND_DB, Sensitivity
from echo_stream.core.text import DAYS_A_MONTH, clock, duration_text
from echo_stream.core.types import AlarmLevel
from echo_stream.detect.bank import NormalBank
from echo_stream.evidence.normal_sound import folder_of, read_clips
from echo_stream.fit.judge import Judged, judged, known_faults, merged, past_events
from echo_stream.fit.session import LeftOut, Session, from_provenance
from echo_stream.fit.versions import BankVersions
from echo_stream.pipeline.factory import build_encoder, trip_levels

MOST_NAMES = 8
SAID = ("Disturbances", "Smallest fault")
"""Checks that are told also where they are good."""
LATER = (
    "what no enrolment can prove the daemon measures while it listens: echo-stream status says how many "
    "hours it heard without a false alarm"
)


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
    state: str = ""
    """Operating state as which it was learnt."""
    events: Sequence[Judged] = ()
    """Past events and confirmed faults, by the old bank and the new."""

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "base": self.base_id,
            "state": self.state,
            "events": [each.to_json() for each in self.events],
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
    sensitivity: Sensitivity | None = None

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
            "sensitivity": self.sensitivity.to_json() if self.sensitivity else None,
            "checks": [asdict(check) for check in self.checks],
            "sessions": [asdict(each) for each in (*self.kept_sessions, self.session)],
            **({"change": self.change.to_json()} if self.change else {}),
        }

    def to_text(self) -> str:
        """For people, on a terminal."""
        lines = [
            f"{self.machine}: bank {self.bank_id} fitted on {self.windows} windows, "
            f"{self.minutes:.1f} minutes of normal sound ({', '.join(self.conditions)})"
        ]
        lines += [f"  {check.name.lower()}: {check.finding}" for check in self.checks if _worth_saying(check)]
        lines += [f"  left out: {self.left_out_text(each)}" for each in self.left_out]
        lines += [f"  {level.value} {promise(level, trip)}" for level, trip in self.levels.items()]
        if self.minutes_needed > 0:
            lines.append(f"  {LATER}")
        lines += [f"  {line}" for line in change_text(self)]
        use = "in use" if self.accepted else "not in use"
        lines += [f"  report: {self.report}", f"  {self.path} ({use})"]
        if not self.accepted:
            lines.append(f"to use it: echo-stream bank accept --machine {self.machine} {self.bank_id}")
        return "\n".join(lines)

    def left_out_text(self, each: LeftOut) -> str:
        """Where it was, how far from normal, how loud, at which frequencies."""
        trip = self.levels[AlarmLevel.ALARM].level
        of = f" of {each.recording}" if len(self.session.recordings) > 1 else ""
        return (
            f"{clock(each.start_s)} to {clock(each.end_s)}{of}, score {each.score:.0f} "
            f"(an alarm is at {trip:.1f}), {each.level_dbfs:.0f} dBFS, most at {hertz(each.band_hz)}"
        )


def _worth_saying(check: Check) -> bool:
    return check.name != "Promise" and (check.verdict != Verdict.OK or check.name in SAID)


def promise(level: AlarmLevel, trip: TripLevel) -> str:
    """Trip level and what is known of it, the warning by the week, the alarm by the month.

    Of an alarm it is the strong way alone, which spends a third of what the user accepts.
    """
    days, every = (7.0, "a week") if level == AlarmLevel.WARNING else (DAYS_A_MONTH, "a month")
    asked = number(trip.asked_per_month * days / DAYS_A_MONTH)
    most = number(trip.upper95_per_month * days / DAYS_A_MONTH)
    measured = duration_text(trip.measured_hours * 3600)
    plural = "" if asked == "1" else "s"
    return (
        f"at a score of {trip.level:.1f}, set for {asked} false {level.value}{plural} {every}; {measured} of "
        f"normal sound prove, with 95 % certainty, at most {most}"
    )


def change_text(fitted: Fitted) -> list[str]:
    """What accepting an extended bank would change, line by line; none for one that was fitted anew."""
    change = fitted.change
    if change is None:
        return []
    lines = [
        f"against bank {change.base_id} the new sound scores {change.median_score:.1f} in the middle and "
        f"{change.highest_score:.1f} at most; it is learnt as operating state {change.state}"
    ]
    for level, trip in fitted.levels.items():
        before, count = change.levels[level].level, change.raised[level]
        times = {0: "never", 1: "once"}.get(count, f"{count} times")
        lines.append(
            f"{100 * change.share_over[level]:.0f} % of it is over the {level.value} level, and would have "
            f"raised it {times}; accepting moves that level from {before:.1f} to {trip.level:.1f}"
        )
    lines += [f"{each.level} of {each.at} ({each.event_id}): {each.what}" for each in change.events]
    if change.share_over[AlarmLevel.ALARM] > 0:
        lines.append("be sure that the machine was well: what is learnt as normal raises no alarm any more")
    return lines


MOST_DB = 30.0
"""No larger rise is tried (smallest_fault.py)."""


def sensitivity_text(found: Sensitivity) -> str:
    """What is announced how soon, in half of all thirds of an octave."""
    said = []
    for path in found.paths:
        steady, impacts = (_gain(found.middle_db(path, impacts=impacts)) for impacts in (False, True))
        said.append(
            f"{steady} (as impacts {impacts}) after {duration_text(found.after_s[path])} ({path.value})"
        )
    return f"half of all thirds of an octave raise an alarm when they become louder by {', '.join(said)}"


def _gain(gain_db: float | None) -> str:
    return f"more than {MOST_DB:.0f} dB" if gain_db is None else f"{gain_db:.0f} dB"


def sensitivity_lines(found: Sensitivity | None) -> list[str]:
    """All thirds of an octave, one a line, below a head."""
    if found is None:
        return ["  smallest   how large a fault must be is not known: fit again to know"]
    lines = [f"  smallest   {sensitivity_text(found)}"]
    if found.blind:
        lines.append(f"  BLIND      nothing under {BLIND_DB:.0f} dB more would be announced anywhere")
    paths = found.paths
    lines.append(f"  {'band':>18s}   louder by so many dB: {' / '.join(paths)}, and the same as impacts")
    for fault in found.faults:
        columns = (
            " / ".join(f"{'-' if gains.get(path) is None else f'{gains[path]:.0f}':>2s}" for path in paths)
            for gains in (fault.steady_db, fault.impacts_db)
        )
        lines.append(f"  {fault.low_hz:7.0f} to {fault.high_hz:5.0f} Hz   {'     '.join(columns)}")
    return lines


def number(value: float) -> str:
    """Two digits that count, without an exponent: 0.25, 1, 42, 420."""
    if value >= 100:
        return f"{float(f'{value:.2g}'):.0f}"
    return f"{value:.2g}"


def hertz(band_hz: tuple[float, float]) -> str:
    """A band for people: 800 to 1200 Hz."""
    return f"{number(band_hz[0])} to {number(band_hz[1])} Hz"


def names(recordings: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = len(recordings) - MOST_NAMES
    return ", ".join(recordings[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


# What is known of a machine's bank versions, for people and programs: `bank list` and `bank show`.


def summaries(machine: Machine) -> list[dict[str, Any]]:
    """One of each version, oldest first; a version that cannot be read says why."""
    versions = BankVersions(machine.bank)
    found = []
    for bank_id in versions.ids():
        line: dict[str, Any] = {"id": bank_id, "accepted": bank_id == versions.accepted}
        try:
            line |= _summary(NormalBank.load(versions.path_of(bank_id)), machine.bank)
        except BankError as error:
            line["error"] = error.message
        found.append(line)
    return found


def facts(machine: Machine, bank_id: str | None) -> dict[str, Any]:
    """All that is known of one version, by default of the one in use.

    Raises:
        BankError: there is no such version, or it cannot be read.
    """
    versions = BankVersions(machine.bank)
    accepted = versions.accepted
    path = versions.path_of(bank_id) if bank_id else machine.bank
    bank = NormalBank.load(path)
    shown = bank_id or accepted or ""
    report = versions.report_of(shown)
    levels = trip_levels(machine, Calibration.of(bank.calibration))
    sensitivity = bank.calibration and bank.calibration.sensitivity
    return {
        "machine": machine.id,
        "id": shown,
        "accepted": shown == accepted,
        "path": str(path),
        "sha256": bank.sha256,
        "report": str(report) if report.exists() else None,
        **_summary(bank, machine.bank),
        "normal_sound": _kept_sound_s(bank, machine.bank),
        "on": bank.provenance.get("on", ""),
        "software_version": bank.software_version,
        "encoder": asdict(bank.encoder),
        "sample_rate_hz": bank.sample_rate_hz,
        "window_s": bank.window_s,
        "hop_s": bank.hop_s,
        "levels": {level.value: trip.to_json() for level, trip in levels.items()},
        "sensitivity": sensitivity.to_json() if sensitivity else None,
        "sessions": [asdict(session) for session in from_provenance(bank.provenance)],
        "history": [entry for entry in versions.history() if entry["id"] == shown],
    }


def _summary(bank: NormalBank, path: Path) -> dict[str, Any]:
    sessions = from_provenance(bank.provenance)
    minutes = sum(each.minutes for each in sessions) if sessions else bank.n_held_out * bank.hop_s / 60
    return {
        "created": bank.created,
        "windows": bank.n_held_out,
        "minutes": round(minutes, 2),
        "conditions": list(bank.conditions),
        "normal_sound_s": round(sum(_kept_sound_s(bank, path).values()), 1),
        "by": bank.provenance.get("by", ""),
    }


def _kept_sound_s(bank: NormalBank, path: Path) -> dict[str, float]:
    """Seconds of normal sound to compare alarms with, by operating state."""
    found: dict[str, float] = {}
    for version in bank.session_ids:
        for clip in read_clips(folder_of(path, version)):
            found[clip.condition] = round(found.get(clip.condition, 0.0) + clip.duration_s, 1)
    return found


def bank_summary(found: dict[str, Any]) -> str:
    """What `facts` gave, for people."""
    encoder = found["encoder"]
    weights = f", weights {encoder['weights_sha256'][:12]}" if encoder["weights_sha256"] else ""
    lines = [
        f"{found['machine']}: bank {found['id']} ({'in use' if found['accepted'] else 'not in use'})",
        f"  fitted     {found['created']} by {found['by'] or 'unknown'} on {found['on'] or 'unknown'}, "
        f"echo-stream {found['software_version']}",
        f"  learnt of  {found['minutes']:.1f} min, {found['windows']} windows of {found['window_s']:g} s "
        f"every {found['hop_s']:g} s at {found['sample_rate_hz']} Hz",
        f"  encoder    {encoder['kind']} version {encoder['version']}{weights}",
    ]
    for name, saved in found["levels"].items():
        level = AlarmLevel(name)
        lines.append(f"  {name:10s} {promise(level, TripLevel(**saved))}")
    saved = found["sensitivity"]
    lines += sensitivity_lines(Sensitivity.from_json(saved) if saved else None)
    for session in found["sessions"]:
        lines.append(
            f"  learnt     {session['condition']}: {duration_text(session['minutes'] * 60)} from "
            f"{names(session['recordings'])}, enrolled {session['heard_at']} by {session['by']} "
            f"({session['id']})"
        )
        lines += [
            f"  left out   {clock(each['start_s'])} to {clock(each['end_s'])} of {each['recording']}, score "
            f"{each['score']:.1f}"
            for each in session["left_out"]
        ]
    kept = ", ".join(f"{seconds:.0f} s of {state}" for state, seconds in found["normal_sound"].items())
    lines.append(f"  to hear    {kept or 'no normal sound was kept to compare alarms with'}")
    lines += [
        f"  {entry['did']:10s} {entry['at']} {entry.get('by', '')}".rstrip() for entry in found["history"]
    ]
    lines.append(f"  files      {found['path']}" + (f", {found['report']}" if found["report"] else ""))
    return "\n".join(lines)


def compared(config: Config, machine: Machine, bank_id: str) -> dict[str, Any]:
    """A version beside the one in use, and what both make of past events and confirmed faults.

    Raises:
        BankError: there is no such version, or one cannot be read.
        BankMismatch: it is for another encoder, rate or window, so that nothing can be compared.
    """
    versions, encoder = BankVersions(machine.bank), build_encoder(config, machine)
    old, new = NormalBank.load(machine.bank), NormalBank.load(versions.path_of(bank_id))
    cut = config.encoder
    new.require(encoder.identity, old.sample_rate_hz, cut.window_s, cut.hop_s)
    faults = known_faults(config, machine, encoder, new)
    events = merged(faults, past_events(config, machine, new))
    found = judged(machine, old, new, events, {each.event_id for each in faults})
    return {
        "in_use": facts(machine, None),
        "other": facts(machine, bank_id),
        "events": [{**each.to_json(), "what": each.what} for each in found],
    }


def comparison_text(found: dict[str, Any]) -> str:
    """What `compared` gave, for people."""
    both = found["in_use"], found["other"]
    lines = [f"{'':24s}{both[0]['id'] + ' (in use)':>16s}{both[1]['id']:>16s}"]
    lines.append(f"{'learnt of, min':24s}{both[0]['minutes']:16.1f}{both[1]['minutes']:16.1f}")
    for level in ("warning", "alarm"):
        trips = [each["levels"][level]["level"] for each in both]
        lines.append(f"{level + ' above':24s}{trips[0]:16.1f}{trips[1]:16.1f}")
    lines.append(
        f"{'operating states':24s}{', '.join(both[0]['conditions'])} | {', '.join(both[1]['conditions'])}"
    )
    lines += [
        f"{each['level']} of {each['at']} ({each['event_id']}): {each['what']}" for each in found["events"]
    ]
    return "\n".join(lines)
