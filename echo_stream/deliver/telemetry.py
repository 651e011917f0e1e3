"""Payloads of how it goes: scores, health, replies to commands. Pure; any thread."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from echo_stream.deliver.payload import SCHEMA_VERSION, Payload, bands_hz, number, timestamp
from echo_stream.types import Score


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
        "ts": timestamp(ts),
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
    }


def health(
    *,
    node: str,
    machine: str,
    ts: datetime,
    capture: str,
    coverage_10m: float | None,
    level_dbfs: float | None,
    overruns: int,
    lost_samples: int,
    real_time_factor: float | None,
    versions: Mapping[str, str],
    counters: Mapping[str, int] | None = None,
) -> Payload:
    """How well a machine is being listened to (`.../health`, QoS 0, retained).

    Args:
        node: This PC.
        machine: What is watched.
        ts: When this was measured.
        capture: State of the source in a word or a line, such as `listening` or `lost: no such device`.
        coverage_10m: Share of the hops of the last ten minutes that were scored, 0 to 1.
        level_dbfs: Level of the newest window.
        overruns: Times that the ring ran full since the start.
        lost_samples: Samples that the device should have delivered and did not, since the start.
        real_time_factor: Time spent on a window through its hop; from 1 on, the PC is too slow.
        versions: echo-stream, the encoder, and what else helps to tell one installation from another.
        counters: Further counts since the start, by name.
    """
    return {
        "schema": SCHEMA_VERSION,
        "ts": timestamp(ts),
        "node": node,
        "machine": machine,
        "capture": capture,
        "coverage_10m": number(coverage_10m),
        "level_dbfs": number(level_dbfs),
        "overruns": overruns,
        "lost_samples": lost_samples,
        "real_time_factor": number(real_time_factor),
        "versions": dict(versions),
        "counters": dict(counters or {}),
    }


def reply(
    *,
    node: str,
    machine: str,
    ts: datetime,
    command: str | None,
    token: str | None,
    ok: bool,
    outcome: str,
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
        "ts": timestamp(ts),
        "node": node,
        "machine": machine,
        "command": command,
        "id": token,
        "ok": ok,
        "outcome": outcome,
    }
