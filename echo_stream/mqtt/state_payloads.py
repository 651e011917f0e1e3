"""The payloads of how things stand are built as plain dicts; the newest replaces the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from echo_stream.core.text import clean_text, utc_text
from echo_stream.core.types import AlarmLevel, AlarmState, Score
from echo_stream.mqtt.payloads import (
    PRIORITY,
    SCHEMA_VERSION,
    LevelState,
    Payload,
    bands_hz,
    flat_bands,
    number,
)

_REASONS_TOLD = 20


def alarm_state(
    *, node: str, machine: str, name: str, ts: datetime, levels: Mapping[AlarmLevel, LevelState]
) -> Payload:
    """Where the alarm of a machine stands, both levels in one (`.../alarm`, QoS 1, retained).

    `state` is that of the level that matters more: the alarm's, or the warning's while the alarm is NORMAL.
    """
    alarm = levels.get(AlarmLevel.ALARM, LevelState())
    warning = levels.get(AlarmLevel.WARNING, LevelState())
    leading = warning if alarm.state is AlarmState.NORMAL else alarm
    active = [level for level, it in ((AlarmLevel.ALARM, alarm), (AlarmLevel.WARNING, warning)) if it.active]
    return {
        "schema": SCHEMA_VERSION,
        "ts": utc_text(ts),
        "node": node,
        "machine": machine,
        "name": name,
        "state": leading.state.value,
        "active": bool(active),
        "level": active[0].value if active else None,
        "priority": PRIORITY[active[0]] if active else None,
        "event_id": leading.event_id,
        "levels": {"alarm": _level(alarm), "warning": _level(warning)},
    }


def _level(it: LevelState) -> Payload:
    return {
        "state": it.state.value,
        "active": it.active,
        "since": utc_text(it.since) if it.since else None,
        "onset_ts": utc_text(it.onset) if it.onset else None,
        "event_id": it.event_id,
    }


def score(
    score: Score,
    *,
    node: str,
    machine: str,
    ts: datetime,
    threshold: float,
    warning_threshold: float | None = None,
) -> Payload:
    """The newest anomaly score (`.../score`, QoS 0, expires; those between two messages are not sent)."""
    return {
        "schema": SCHEMA_VERSION,
        "ts": utc_text(ts),
        "node": node,
        "machine": machine,
        "score": number(score.value),
        "threshold": number(threshold),
        "warning_threshold": number(warning_threshold),
        "p_value": number(score.p_value),
        "level_dbfs": number(score.level_dbfs),
        "level_delta_db": number(score.level_delta_db),
        "condition": score.condition,
        "bands_hz": bands_hz(score.bands),
        **flat_bands(score.bands),
    }


def health(
    *,
    node: str,
    machine: str,
    ts: datetime,
    capture: str,
    coverage_10m: float | None,
    level_dbfs: float | None,
    measured: Mapping[str, float] | None = None,
    zone: str | None = None,
    overruns: int,
    lost_samples: int,
    real_time_factor: float | None,
    versions: Mapping[str, str],
    counters: Mapping[str, int] | None = None,
    outlook: Mapping[str, Any] | None = None,
    enrolling: Mapping[str, Any] | None = None,
) -> Payload:
    """How well a machine is being listened to (`.../health`, QoS 0, retained).

    Args:
        node: This PC.
        machine: What is watched.
        ts: When this was measured.
        capture: State of the source in a word or a line, such as `listening` or `lost: no such device`.
        coverage_10m: Share of the hops of the last ten minutes that were scored, 0 to 1.
        level_dbfs: Level of the newest window.
        measured: What it is in physical units, by name; None where the sensor is not calibrated.
        zone: Of its velocity, by the limits of the user; None where there are none.
        overruns: Times that the ring ran full since the start.
        lost_samples: Samples that the device should have delivered and did not, since the start.
        real_time_factor: Time spent on a window through its hop; from 1 on, the PC is too slow.
        versions: echo-stream, the encoder, and what else helps to tell one installation from another.
        counters: Further counts since the start, by name.
        outlook: What the ways to an alarm know by now; None before the first window.
        enrolling: How far an enrolment is, as `status` says it; None where there is none.
    """
    told = ("stage", "progress", "left_s", "level_dbfs", "clipped", "hum", "said")
    return {
        "schema": SCHEMA_VERSION,
        "ts": utc_text(ts),
        "node": node,
        "machine": machine,
        "capture": capture,
        "coverage_10m": number(coverage_10m),
        "level_dbfs": number(level_dbfs),
        "measured": measured and dict(measured),
        "zone": zone,
        "overruns": overruns,
        "lost_samples": lost_samples,
        "real_time_factor": number(real_time_factor),
        "versions": dict(versions),
        "counters": dict(counters or {}),
        "outlook": None if outlook is None else dict(outlook),
        "enrolling": enrolling
        and {**{key: enrolling[key] for key in told}, "banks": [fit["bank"] for fit in enrolling["fits"]]},
    }


def node_health(
    *,
    node: str,
    ts: datetime,
    reasons: Sequence[str],
    counters: Mapping[str, int],
    worst_coverage_10m: float | None = None,
) -> Payload:
    """Whether all parts of the daemon work (`<root>/<node>/health`, QoS 0, retained).

    Args:
        node: This PC.
        ts: When it was looked at.
        reasons: What is not as it should be, in sentences; none where all is well.
        counters: Since the start, by name.
        worst_coverage_10m: Of all machines; None before the first hops.
    """
    return {
        "schema": SCHEMA_VERSION,
        "ts": utc_text(ts),
        "node": node,
        "state": "degraded" if reasons else "ok",
        "reasons": [clean_text(reason, 500) for reason in reasons[:_REASONS_TOLD]],
        "worst_coverage_10m": number(worst_coverage_10m),
        "counters": dict(counters),
    }


def reply(
    *, node: str, machine: str, ts: datetime, command: str | None, token: str | None, ok: bool, outcome: str
) -> Payload:
    """What became of a command (`.../reply`, or where its sender waits, QoS 1).

    Args:
        node: This PC.
        machine: Whose alarm was meant.
        ts: When it was decided.
        command: Its name; None where it could not be read.
        token: The id that it came with.
        ok: It was carried out.
        outcome: What was done, or why not.
    """
    return {
        "schema": SCHEMA_VERSION,
        "ts": utc_text(ts),
        "node": node,
        "machine": machine,
        "command": command,
        "id": token,
        "ok": ok,
        "outcome": outcome,
    }


def transferred(
    *, node: str, ts: datetime, transfer: str | None, state: str, outcome: str, **more: str | int
) -> Payload:
    """What a node says of a transfer (`.../transferred`, QoS 1).

    Args:
        node: This PC.
        ts: When it is said.
        transfer: The manifest's id; None where it could not be read.
        state: How far it is; see `command_models.Transferred`.
        outcome: In words.
        more: Which chunk is wanted, or which file follows.
    """
    said = {"schema": SCHEMA_VERSION, "ts": utc_text(ts), "node": node, "id": transfer}
    return {**said, "state": state, "outcome": outcome, **more}
