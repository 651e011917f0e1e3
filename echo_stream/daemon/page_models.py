"""Page models are made here from what the daemon's parts hold. Pure but for the versions of libraries."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import ValidationError

from echo_stream import __version__
from echo_stream.config.schema import Config
from echo_stream.core.errors import NoBank
from echo_stream.core.measures import MEASURES
from echo_stream.core.sequences import commonest
from echo_stream.core.text import utc_text
from echo_stream.daemon.stations import FailedMachine
from echo_stream.evidence.normal_sound import file_of
from echo_stream.evidence.store import Kept
from echo_stream.history.minutes import MINUTE_S, MinuteRow
from echo_stream.history.store import JournalEntry
from echo_stream.mqtt.payloads import LevelState
from echo_stream.web import models
from echo_stream.web.backend import Files
from echo_stream.web.status import URGENCY, WORDS, LevelFacts


def facts_of(level: LevelState) -> LevelFacts:
    """Where a level stands, for its one word."""
    return LevelFacts(level.state.value, level.active, utc_text(level.since) if level.since else None)


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
    nearest, heard = _nearest(kept, bank)
    files = Files(clip=kept.clip, picture=kept.picture, normal=heard)
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
