"""What all payloads share: times, ids, numbers that JSON can say, and the schemas. Pure; any thread."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

from echo_stream.types import BandScore

Payload = dict[str, Any]

SCHEMA_VERSION = 1
SCHEMAS = (
    *("event", "alarm", "score", "health", "evidence", "sensor", "drift", "flood"),
    *("availability", "command", "reply"),
)
"""Names of the JSON Schemas that ship with the package."""


_BANDS_TOLD = 5
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-11-20T08:14:03.120Z`.

    Raises:
        ValueError: `at` carries no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def new_event_id(at: datetime) -> str:
    """A new ULID: 48 bits of milliseconds since 1970, 80 random bits, 26 letters that sort by time.

    Source: github.com/ulid/spec.
    """
    milliseconds = int(at.timestamp() * 1000) & (2**48 - 1)
    number = milliseconds << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def schema(name: str) -> Payload:
    """The JSON Schema (2020-12) of a payload; `name` is one of `SCHEMAS`."""
    text = resources.files(__package__).joinpath("schemas", f"{name}.json").read_text(encoding="utf-8")
    loaded: Payload = json.loads(text)
    return loaded


def bands_hz(bands: Sequence[BandScore]) -> list[list[float | None]]:
    """The bands that carry the score, largest first: [lower Hz, upper Hz, share of all that raise it]."""
    raising = [band for band in bands if band.contribution > 0]
    total = sum(band.contribution for band in raising)
    raising.sort(key=lambda band: band.contribution, reverse=True)
    return [
        [number(band.low_hz), number(band.high_hz), number(band.contribution / total)]
        for band in raising[:_BANDS_TOLD]
    ]


def number(value: float | None) -> float | None:
    """Six significant digits; None for what JSON cannot say."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.6g}")
