"""What is known of a machine's bank versions, for people and programs: `bank list` and `bank show`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from echo_stream.build import trip_levels
from echo_stream.calibrate_told import promise
from echo_stream.config import Machine
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.calibration import Calibration, TripLevel
from echo_stream.detect.session import from_provenance
from echo_stream.detect.versions import BankVersions
from echo_stream.detect.words import clock
from echo_stream.detect.words import in_words as time_in_words
from echo_stream.errors import BankError
from echo_stream.report_words import names
from echo_stream.types import AlarmLevel


def summaries(machine: Machine) -> list[dict[str, Any]]:
    """One of each version, oldest first; a version that cannot be read says why."""
    versions = BankVersions(machine.bank)
    found = []
    for bank_id in versions.ids():
        line: dict[str, Any] = {"id": bank_id, "accepted": bank_id == versions.accepted}
        try:
            line |= _summary(NormalBank.load(versions.path_of(bank_id)))
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
    levels = trip_levels(machine, Calibration.from_json(bank.calibration))
    return {
        "machine": machine.id,
        "id": shown,
        "accepted": shown == accepted,
        "path": str(path),
        "sha256": bank.sha256,
        "report": str(report) if report.exists() else None,
        **_summary(bank),
        "on": bank.provenance.get("on", ""),
        "software_version": bank.software_version,
        "encoder": asdict(bank.encoder),
        "sample_rate_hz": bank.sample_rate_hz,
        "window_s": bank.window_s,
        "hop_s": bank.hop_s,
        "levels": {level.value: trip.to_json() for level, trip in levels.items()},
        "sessions": [asdict(session) for session in from_provenance(bank.provenance)],
        "history": [entry for entry in versions.history() if entry["id"] == shown],
    }


def _summary(bank: NormalBank) -> dict[str, Any]:
    sessions = from_provenance(bank.provenance)
    minutes = sum(each.minutes for each in sessions) if sessions else bank.n_held_out * bank.hop_s / 60
    return {
        "created": bank.created,
        "windows": bank.n_held_out,
        "minutes": round(minutes, 2),
        "conditions": list(bank.conditions),
        "by": bank.provenance.get("by", ""),
    }


def in_words(found: dict[str, Any]) -> str:
    """What `facts` gave, for people."""
    encoder = found["encoder"]
    weights = f", weights {encoder['weights_sha256'][:12]}" if encoder["weights_sha256"] else ""
    lines = [
        f"{found['machine']}: bank {found['id']} ({'in use' if found['accepted'] else 'not in use'})",
        f"  fitted     {found['created']} by {found['by'] or 'unknown'} on {found['on'] or 'unknown'}, "
        f"echo-stream {found['software_version']}",
        f"  heard      {found['minutes']:.1f} min, {found['windows']} windows of {found['window_s']:g} s "
        f"every {found['hop_s']:g} s at {found['sample_rate_hz']} Hz",
        f"  encoder    {encoder['kind']} version {encoder['version']}{weights}",
    ]
    for name, saved in found["levels"].items():
        level = AlarmLevel(name)
        lines.append(f"  {name:10s} {promise(level, TripLevel(**saved))}")
    for session in found["sessions"]:
        lines.append(
            f"  learnt     {session['condition']}: {time_in_words(session['minutes'] * 60)} from "
            f"{names(session['recordings'])}, enrolled {session['heard_at']} by {session['by']} "
            f"({session['id']})"
        )
        lines += [
            f"  left out   {clock(each['start_s'])} to {clock(each['end_s'])} of {each['recording']}, score "
            f"{each['score']:.1f}"
            for each in session["left_out"]
        ]
    lines += [
        f"  {entry['did']:10s} {entry['at']} {entry.get('by', '')}".rstrip() for entry in found["history"]
    ]
    lines.append(f"  files      {found['path']}" + (f", {found['report']}" if found["report"] else ""))
    return "\n".join(lines)
