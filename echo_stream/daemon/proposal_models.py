"""Proposal models say on the page what accepting another version of a bank would change."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from echo_stream.core.text import utc_text
from echo_stream.detect.bank_file import accepted_version
from echo_stream.web import models

RAISED: Final = 1.5
"""A level that grows by more than this is said: much less would be noticed."""
_VERSION: Final = re.compile(r"b([0-9]{1,9})\.safetensors")


def bank_versions(bank: Path) -> list[models.BankVersion]:
    """Versions beside a bank, oldest first, by their names: reading a hundred of them takes seconds."""
    accepted = accepted_version(bank)
    folder = bank.with_suffix(".versions")
    numbers = (_VERSION.fullmatch(path.name) for path in folder.glob("b*.safetensors"))
    found = []
    for number in sorted(int(match[1]) for match in numbers if match):
        with contextlib.suppress(OSError):  # removed meanwhile
            made_s = (folder / f"b{number}.safetensors").stat().st_mtime
            made = utc_text(datetime.fromtimestamp(made_s, UTC))
            found.append(models.BankVersion(id=f"b{number}", made=made, accepted=accepted == f"b{number}"))
    return found


def to_proposal(fitted: Mapping[str, Any], event_id: str, by: str) -> models.Proposal:
    """What accepting would change, from what `bank extend --json` says.

    Raises:
        KeyError: it says something else.
    """
    change, levels = fitted["change"], fitted["levels"]
    sound, events, state = change["new_sound"], change["events"], change["state"]
    before, after = change["levels"]["alarm"], levels["alarm"]["trip"]
    own = state not in {each["condition"] for each in fitted["sessions"][:-1]}
    said = f"it is learnt as operating state {state}"
    said += ", of its own, which raises no level of the others" if own else ""
    higher = (
        [f"the level of an alarm rises from {before:.1f} to {after:.1f}"] if after > RAISED * before else []
    )
    return models.Proposal(
        state="ready",
        event_id=event_id,
        by=by,
        said="ready",
        bank_id=fitted["bank"]["id"],
        base_id=change["base"],
        verdict="fail" if higher or _missed(events) else fitted["verdict"],
        checks=[
            said,
            *higher,
            *event_lines(events),
            *(f"{c['name']}: {c['finding']}" for c in fitted["checks"] if c["verdict"] != "ok"),
        ],
        alarm_before=before,
        alarm_after=after,
        warning_before=change["levels"]["warning"],
        warning_after=levels["warning"]["trip"],
        score_before=sound["highest_score"],
    )


def to_sample_proposal(found: Mapping[str, Any], by: str) -> models.Proposal:
    """What accepting would change, from what `bank propose --json` says: also what becomes of past events.

    Raises:
        KeyError: it says something else.
    """
    learnt = ", ".join(f"{count} windows of {state}" for state, count in found["windows"].items())
    return models.Proposal(
        state="ready",
        by=by,
        said="ready",
        bank_id=found["bank"]["id"],
        base_id=found["bank"]["base"],
        verdict="fail" if _missed(found["events"]) else "ok",
        checks=[
            f"learnt: {learnt}, of {found['heard_h']:.1f} h on {found['heard_days']} days",
            f"left out: {found['windows_left_out']} windows during alarms and warnings",
            *event_lines(found["events"]),
        ],
        alarm_before=found["levels"]["alarm"]["before"],
        alarm_after=found["levels"]["alarm"]["after"],
        warning_before=found["levels"]["warning"]["before"],
        warning_after=found["levels"]["warning"]["after"],
    )


def event_lines(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """What becomes of past events and of confirmed faults, in words."""
    lost = [each for each in events if each["found_before"] and not each["found_after"]]
    faults = [each for each in events if each["confirmed"]]
    lines = []
    if faults:
        found = sum(each["found_after"] for each in faults)
        lines.append(f"confirmed faults that it still finds: {found} of {len(faults)}")
    lines.append(f"past alarms and warnings that are still found: {sum(e['found_after'] for e in events)}")
    lines += [
        f"{'CONFIRMED FAULT, no longer found' if each['confirmed'] else 'would not have been announced'}: "
        f"{each['level']} of {each['at']}"
        for each in lost
    ]
    return lines


def _missed(events: Sequence[Mapping[str, Any]]) -> bool:
    return any(each["confirmed"] and each["found_before"] and not each["found_after"] for each in events)
