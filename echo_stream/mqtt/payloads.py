"""The payload builders make what is sent, as dicts: here what happened; state_payloads.py has how things are.

Plain dicts, not validated: an alarm goes out whatever its values are. The models say what each field means,
and the tests hold every builder against it. Numbers that are not finite are sent as null, because JSON knows
no NaN.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Any

from echo_stream.core.text import utc_text
from echo_stream.core.types import (
    AlarmEvent,
    AlarmLevel,
    AlarmState,
    BandScore,
    DriftEvent,
    Score,
    SensorEvent,
)

Payload = dict[str, Any]

SCHEMA_VERSION = 1
SCHEMAS = (
    *("event", "alarm", "score", "health", "node", "evidence", "sensor", "drift", "flood"),
    *("bank", "enrolled"),
    *("availability", "command", "reply"),
    *("transfer", "manifest", "transferred"),
)
"""Names of the JSON Schemas that ship with the package."""
_BANDS_TOLD = 5
_BANDS_FLAT = 3


def schema(name: str) -> Payload:
    """The JSON Schema (2020-12) of a payload; `name` is one of `SCHEMAS`."""
    text = resources.files(__package__).joinpath("schemas", f"{name}.json").read_text(encoding="utf-8")
    loaded: Payload = json.loads(text)
    return loaded


def fitting_text(payload: Payload, fits: Callable[[str], bool]) -> str | None:
    """A payload as JSON, shortened as far as `fits` asks for it; None where it cannot be made to fit.

    Who, what and when stay; what explains it goes first.
    """
    text = _text(payload)
    steps: tuple[Callable[[Payload], Payload], ...] = (
        lambda p: {key: value for key, value in p.items() if not key.startswith("band")},  # said twice
        lambda p: {key: value for key, value in p.items() if key not in ("why", "asset")},
        lambda p: p | ({"evidence": {**p["evidence"], "bands_hz": []}} if "evidence" in p else {}),
        lambda p: p | ({"reason": str(p["reason"])[:80]} if p.get("reason") else {}),
        lambda p: p | ({"bank": {**p["bank"], "sha256": p["bank"]["sha256"][:12]}} if "bank" in p else {}),
        lambda p: p | ({"machines": p["machines"][:20]} if "machines" in p else {}),
        lambda p: p | ({"machines": p["machines"][:3]} if "machines" in p else {}),
    )
    for step in steps:
        if fits(text):
            return text
        with contextlib.suppress(TypeError, KeyError):  # of a damaged row
            payload = step(payload)
            text = _text(payload)
    return text if fits(text) else None


def _text(payload: Payload) -> str:
    return json.dumps(payload, separators=(",", ":"))


def bands_hz(bands: Sequence[BandScore]) -> list[list[float | None]]:
    """The bands that carry the score, largest first: [lower Hz, upper Hz, share of all that raise it]."""
    raising = [band for band in bands if band.contribution > 0]
    total = sum(band.contribution for band in raising)
    raising.sort(key=lambda band: band.contribution, reverse=True)
    return [
        [number(band.low_hz), number(band.high_hz), number(band.contribution / total)]
        for band in raising[:_BANDS_TOLD]
    ]


def flat_bands(bands: Sequence[BandScore]) -> Payload:
    """The first three of `bands_hz` as fields of their own, which time series and dashboards can take."""
    names = ("low_hz", "high_hz", "share")
    return {
        f"band{n}_{name}": value
        for n, band in enumerate(bands_hz(bands)[:_BANDS_FLAT], 1)
        for name, value in zip(names, band, strict=True)
    }


def number(value: float | None) -> float | None:
    """Six significant digits; None for what JSON cannot say."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")


ONLINE = "online"
OFFLINE = "offline"
NO_BANK = "none"
PRIORITY = {AlarmLevel.ALARM: "high", AlarmLevel.WARNING: "low"}


@dataclass(frozen=True, slots=True)
class LevelState:
    """Where one of the two levels of an alarm stands, for the retained state."""

    state: AlarmState = AlarmState.NORMAL
    active: bool = False
    since: datetime | None = None
    """When it came into this state; None where it never left NORMAL."""
    onset: datetime | None = None
    """When the condition became true; None where it is not true."""
    event_id: str | None = None
    """Of the transition that led here."""


def event(
    event: AlarmEvent,
    *,
    node: str,
    event_id: str,
    seq: int,
    ts: datetime,
    onset_ts: datetime | None,
    score: Score | None,
    bank_id: str,
    bank_sha256: str,
    coverage_10m: float | None,
    delayed: bool = False,
    merged: bool = False,
    clip: str | None = None,
    picture: str | None = None,
    reason: str | None = None,
    path: str | None = None,
    why: str | None = None,
) -> Payload:
    """One transition of one alarm (`.../event`, QoS 1, through the outbox).

    Args:
        event: What happened, in samples.
        node: This PC.
        event_id: From `new_event_id`; what consumers deduplicate on.
        seq: From `Publisher.next_seq`: counts the events of a machine without a hole.
        ts: Wall time of `event.at`.
        onset_ts: Wall time of `event.onset`; None where that is None.
        score: The score that decided it; None where an operator's command came before the first window.
        bank_id: Name of the bank of normal sound.
        bank_sha256: Of the bank's file.
        coverage_10m: Share of the hops of the last ten minutes that were scored, 0 to 1.
        delayed: It was held back by an outage; the publisher sets it.
        merged: It is part of a flood that is announced as one.
        clip: File name of the recorded sound.
        picture: File name of the spectrogram.
        reason: What the cause alone does not say: the sensor's fault, or who commanded it and why.
        path: Which trip condition was met: strong, step or slow.
        why: The same in words.
    """
    payload: Payload = {
        "schema": SCHEMA_VERSION,
        "event_id": event_id,
        "seq": seq,
        "ts": utc_text(ts),
        "delayed": delayed,
        "merged": merged,
        "node": node,
        "machine": event.machine,
        "level": event.level.value,
        "priority": PRIORITY[event.level],
        "from": event.before.value,
        "to": event.after.value,
        "cause": event.cause,
        "reason": reason,
        "active": event.active,
        "score": number(event.score),
        "threshold": number(event.threshold),
        "p_value": number(score.p_value) if score else None,
        "onset_ts": utc_text(onset_ts) if onset_ts else None,
        "evidence": {
            "bands_hz": bands_hz(score.bands) if score else [],
            "level_delta_db": number(score.level_delta_db) if score else None,
            "clip": clip,
            "picture": picture,
        },
        "bank": {"id": bank_id, "sha256": bank_sha256},
        "coverage_10m": number(coverage_10m),
        **(flat_bands(score.bands) if score else {}),
    }
    # Left out where there is none: consumers of the first version know no such field.
    return payload | {key: text for key, text in (("path", path), ("why", why)) if text is not None}


def evidence(
    *,
    node: str,
    machine: str,
    event_id: str,
    ts: datetime,
    clip: str,
    picture: str | None,
    folder: str,
    lines: Sequence[str] = (),
) -> Payload:
    """The recording of an event is complete, post-roll included (`.../evidence`, QoS 1, through the outbox).

    Args:
        node: This PC.
        machine: What is watched.
        event_id: Of the event that the recording belongs to.
        ts: When it was complete.
        clip: File name of the sound.
        picture: File name of the spectrogram; None where none was drawn.
        folder: Where both lie on the node.
        lines: Of shaft, gear and bearing, which stand out, in words.
    """
    return {
        "schema": SCHEMA_VERSION,
        "event_id": event_id,
        "ts": utc_text(ts),
        "node": node,
        "machine": machine,
        "clip": clip,
        "picture": picture,
        "folder": folder,
        "lines": list(lines),
    }


def sensor(
    event: SensorEvent, *, node: str, event_id: str, ts: datetime, onset_ts: datetime | None
) -> Payload:
    """A microphone or its cable went wrong, or is well again (`.../sensor`, QoS 1, through the outbox)."""
    return {
        "schema": SCHEMA_VERSION,
        "event_id": event_id,
        "ts": utc_text(ts),
        "delayed": False,
        "node": node,
        "machine": event.machine,
        "from": event.before and event.before.value,
        "to": event.after and event.after.value,
        "active": event.after is not None,
        "onset_ts": utc_text(onset_ts) if onset_ts else None,
    }


def drift(
    event: DriftEvent, *, node: str, event_id: str, ts: datetime, since: datetime | None = None
) -> Payload:
    """Sound creeps away from what it was, or no longer does (`.../drift`, QoS 1, through the outbox)."""
    return {
        "schema": SCHEMA_VERSION,
        "event_id": event_id,
        "ts": utc_text(ts),
        "delayed": False,
        "node": node,
        "machine": event.machine,
        "active": event.active,
        "median": number(event.median),
        "limit": number(event.limit),
        "since": utc_text(since) if since else None,
    }


def bank(
    *, node: str, machine: str, ts: datetime, installed: str | None, proposed: str | None, effect: str
) -> Payload:
    """Which version of a machine's bank is in use, and which is proposed (`.../bank`, QoS 1, retained).

    Args:
        node: This PC.
        machine: What is watched.
        ts: When.
        installed: Id of the version in use; None without a bank.
        proposed: Id of a newer version that waits to be accepted; None where there is none.
        effect: What accepting it would change.
    """
    now = installed or NO_BANK
    return {
        "schema": SCHEMA_VERSION,
        "ts": utc_text(ts),
        "node": node,
        "machine": machine,
        "installed_version": now,
        "latest_version": proposed or now,
        "title": "Bank of normal sound",
        "release_summary": effect,
    }


def enrolled(
    *, node: str, machine: str, event_id: str, ts: datetime, bank_id: str, accepted: bool
) -> Payload:
    """A version of a machine's bank was made (`.../enrolled`, QoS 1, through the outbox)."""
    return {
        "schema": SCHEMA_VERSION,
        "event_id": event_id,
        "ts": utc_text(ts),
        "delayed": False,
        "node": node,
        "machine": machine,
        "bank": bank_id,
        "accepted": accepted,
    }


def flood(
    *,
    node: str,
    event_id: str,
    ts: datetime,
    since: datetime,
    active: bool,
    announcements: int,
    machines: Sequence[str],
) -> Payload:
    """Many alarms at once, announced as one (`<root>/<node>/flood`, QoS 1, through the outbox).

    Args:
        node: This PC.
        event_id: From `new_event_id`.
        ts: When.
        since: When the flood began.
        active: It has begun; otherwise it is over.
        announcements: At its beginning those of the last ten minutes, at its end all that were merged.
        machines: Where.
    """
    return {
        "schema": SCHEMA_VERSION,
        "event_id": event_id,
        "ts": utc_text(ts),
        "delayed": False,
        "node": node,
        "since": utc_text(since),
        "active": active,
        "announcements": announcements,
        "machines": list(machines),
    }
