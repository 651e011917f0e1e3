"""Page models are made here from what the daemon's parts hold: machines, evidence, proposals of a bank.

One table names a machine's status and how urgent it is, so that the wall, its order and its colours agree.
"""

from __future__ import annotations

import contextlib
import io
import json
import platform
import shutil
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any, Final

from pydantic import ValidationError

from echo_stream import __version__
from echo_stream.config.load import load
from echo_stream.config.schema import Config
from echo_stream.core.errors import EchoStreamError, NoBank
from echo_stream.core.measures import MEASURES
from echo_stream.core.sequences import commonest
from echo_stream.core.text import utc_text
from echo_stream.daemon.stations import FailedMachine
from echo_stream.detect.bank_file import accepted_version, version_numbers
from echo_stream.evidence.normal_sound import file_of
from echo_stream.evidence.store import Kept
from echo_stream.history.minutes import MINUTE_S, MinuteRow
from echo_stream.history.store import JournalEntry
from echo_stream.mqtt.payloads import LevelState
from echo_stream.web import models
from echo_stream.web.backend import Files

WORDS: Final = {
    "alarm": "ALARM",
    "not-heard": "not heard",
    "no-bank": "not learnt yet",
    "sensor-fault": "sensor fault",
    "alarm-over": "alarm ended, not acknowledged",
    "warning": "warning",
    "acknowledged": "alarm, acknowledged",
    "warning-over": "warning ended, not acknowledged",
    "warning-acknowledged": "warning, acknowledged",
    "shelved": "shelved",
    "out-of-service": "out of service",
    "off": "machine off",
    "normal": "normal",
}
"""By status, the most urgent first."""
URGENCY: Final = {status: n for n, status in enumerate(WORDS)}

_OF_ALARM: Final = {
    "UNACK": "alarm",
    "LATCHED_UNACK": "alarm",
    "ACKED": "acknowledged",
    "LATCHED_ACKED": "acknowledged",
    "RTN_UNACK": "alarm-over",
}
_OF_WARNING: Final = {
    "UNACK": "warning",
    "LATCHED_UNACK": "warning",
    "ACKED": "warning-acknowledged",
    "LATCHED_ACKED": "warning-acknowledged",
    "RTN_UNACK": "warning-over",
}


def status_of(
    alarm: models.Level, warning: models.Level, *, listening: bool, sensor_fault: str | None, at_rest: bool
) -> tuple[str, str | None]:
    """The status that matters most, and since when it is so (None: unknown).

    An alarm that somebody set aside says so, even while nothing is heard: else nobody sees why it is silent.
    """
    found: list[tuple[str, str | None]] = []
    for level, words in ((alarm, _OF_ALARM), (warning, _OF_WARNING)):
        if level.state in words:
            found.append((words[level.state], level.since))
    if not listening:
        found.append(("not-heard", None))
    if sensor_fault is not None:
        found.append(("sensor-fault", alarm.since if alarm.state == "SUPPRESSED" else None))
    if alarm.state in models.ASIDE:
        aside = models.ASIDE[alarm.state], alarm.since
        # Nobody is called for a machine that was set aside, but for what was not set aside of it.
        found = [aside, *(each for each in found if each[0].startswith("warning"))]
    if found:
        return min(found, key=lambda each: URGENCY[each[0]])
    if at_rest:
        return "off", alarm.since if alarm.state == "SUPPRESSED" else None
    return "normal", max(filter(None, (alarm.since, warning.since)), default=None)


def level_of(level: LevelState, trip: float) -> models.Level:
    """Where a level stands."""
    since = utc_text(level.since) if level.since else None
    return models.Level(
        state=level.state.value,
        active=level.active,
        since=since,
        event_id=level.event_id,
        trip=round(trip, 4),
    )


def failed_card(failed: FailedMachine) -> models.Machine:
    """A machine that is not listened to."""
    reader = failed.reader if isinstance(failed.error, NoBank) else None
    status = "not-heard" if reader is None else "no-bank"
    return models.Machine(
        id=failed.machine.id,
        name=failed.machine.title,
        status=status,
        word=WORDS[status],
        urgency=URGENCY[status],
        reason=failed.reason if reader is None else "it is heard; let it learn what is normal",
        device=failed.machine.source.kind if reader is None else reader.source.description,
        capture="failed" if reader is None else reader.source.state,
        sample_rate_hz=None if reader is None else reader.source.sample_rate_hz,
    )


def measures_of(measured: Mapping[str, float]) -> list[models.Measure]:
    """What is measured now, with texts and units."""
    return [
        models.Measure(name=name, text=text, value=measured[name], unit=unit)
        for name, (text, unit) in MEASURES.items()
        if name in measured
    ]


def joined_minutes(at_s: float, step_s: float, rows: Sequence[MinuteRow]) -> models.Minute:
    """Minutes as one."""
    states = [row.operating_state for row in rows]
    windows = sum(row.windows for row in rows)
    return models.Minute(
        at_s=at_s,
        score_median=round(median(row.score_median for row in rows), 3),
        score_max=max(row.score_max for row in rows),
        level_dbfs=round(median(row.level_dbfs for row in rows), 1),
        operating_state=commonest(states),
        coverage=round(sum(row.coverage for row in rows) * MINUTE_S / step_s, 3),
        over_alarm=round(sum(row.over_alarm * row.windows for row in rows) / max(1, windows), 4),
        measured={
            name: (
                median(row.measured[name][0] for row in having),
                max(row.measured[name][1] for row in having),
            )
            for name in MEASURES
            if (having := [row for row in rows if name in row.measured])
        },
    )


def journal_items(found: Iterable[tuple[int, JournalEntry]]) -> list[models.JournalItem]:
    """Entries of the journal with their numbers."""
    return [
        models.JournalItem(number=number, kind=entry.kind, event=json.loads(entry.payload))
        for number, entry in found
    ]


def evidence_of(kept: Kept, bank: Path | None) -> tuple[models.Evidence, Files]:
    """What was kept of an alarm.

    Args:
        kept: the document.
        bank: what the configuration names for its machine; None where that is gone.
    """
    nearest, normal = _nearest(kept, bank)
    files = Files(clip=kept.clip, picture=kept.picture, normal=normal)
    return (
        models.Evidence(
            event_id=kept.event_id,
            machine=kept.machine,
            at=utc_text(kept.at),
            event=kept.event,
            complete=kept.complete,
            clip=files.clip is not None,
            picture=files.picture is not None,
            alarm_s=kept.alarm_s,
            onset_s=kept.onset_s,
            duration_s=kept.duration_s,
            bands=[models.Band.model_validate(change) for change in kept.changes],
            lines=list(kept.lines),
            speed=kept.speed,
            full_scale=kept.full_scale,
            normal=nearest,
        ),
        files,
    )


def _nearest(kept: Kept, bank: Path | None) -> tuple[models.NearestNormal | None, Path | None]:
    """The normal sound to hear beside it, and its file; nothing where that is gone or damaged."""
    said = dict(kept.nearest_normal or {})
    path = file_of(bank, str(said.get("version")), str(said.pop("file", ""))) if bank else None
    try:
        return (models.NearestNormal.model_validate(said), path) if path else (None, None)
    except ValidationError:
        return None, None


def versions() -> dict[str, str]:
    """Of this program and the libraries that matter."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - slow, and rarely asked

    found = {"echo-stream": __version__, "python": platform.python_version(), "system": platform.platform()}
    for name in ("numpy", "paho-mqtt", "pydantic", "starlette", "uvicorn", "openvino", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["clock"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return found


def without_secrets(config: Config) -> dict[str, Any]:
    """The configuration as it was understood: files of secrets by name only, no user names, no comments."""
    dumped = config.model_dump(mode="json")
    if dumped["mqtt"].get("username"):
        dumped["mqtt"]["username"] = "***"
    return dumped


RAISED: Final = 1.5
"""A level that grows by more than this is said: much less would be noticed."""


def bank_versions(bank: Path) -> list[models.BankVersion]:
    """Versions beside a bank, oldest first."""
    accepted = accepted_version(bank)
    folder = bank.with_suffix(".versions")
    found = []
    for number in version_numbers(bank):
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


def disk_of(folder: Path) -> dict[str, Any]:
    """How much room the disk of a folder has, or why that is not known."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError as error:
        return {"folder": str(folder), "error": error.strerror}
    return {"folder": str(folder), "free_mb": round(disk.free / 1e6), "total_mb": round(disk.total / 1e6)}


class ConfigCheck:
    """Says what is wrong with a configuration file; it is read again only when it has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: tuple[tuple[int, int, int], str] = ((0, 0, 0), "")

    def summary(self) -> str:
        """Its mistakes, or `ok`."""
        try:
            file = self._path.stat()
        except OSError as error:
            return f"{self._path}: {error.strerror}"
        stamp = file.st_mtime_ns, file.st_size, file.st_ino
        if stamp != self._known[0]:
            try:
                load(self._path)
            except EchoStreamError as error:
                self._known = stamp, str(error)
            else:
                self._known = stamp, "ok"
        return self._known[1]


def bundle_of(
    health: models.Health,
    log: Sequence[Mapping[str, Any]],
    journal: Sequence[models.JournalItem],
    config: Config,
) -> bytes:
    """A ZIP of all that, without secrets."""
    files = {
        "health.json": json.dumps(health.model_dump(), indent=1, default=str),
        "log.jsonl": "\n".join(json.dumps(line) for line in log),
        "journal.jsonl": "\n".join(json.dumps(item.model_dump()) for item in journal),
        "config.json": json.dumps(without_secrets(config), indent=1, default=str),
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, text in files.items():
            bundle.writestr(name, text)
    return data.getvalue()
