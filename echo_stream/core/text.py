"""Text for people: times and lengths, names, and the callback that reports progress. Any thread."""

from __future__ import annotations

import getpass
import os
import re
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

DAYS_A_MONTH = 30.0
MONTH_H = DAYS_A_MONTH * 24
"""Rates by the month are of so many hours of listening."""
DEVICE_NUMBER = re.compile(r"^\d+$|hw:\d", re.IGNORECASE)
"""A microphone by its number, which changes when devices come and go: never a name of it."""

Progress = Callable[[float, float, str], None]
"""How far it is: done and total in one unit, and a short text."""


def clock(seconds: float) -> str:
    """Minutes and seconds, as on a tape: 75 is 1:15."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def duration_text(seconds: float) -> str:
    """A length of time for people: 45 s, 2 min, 1 min 52 s, 3.2 h."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 2 * 3600:
        return f"{whole // 60} min" + (f" {whole % 60} s" if whole % 60 and whole < 600 else "")
    return f"{seconds / 3600:.1f} h" if seconds < 36_000 else f"{seconds / 3600:.0f} h"


def path_text(path: Path) -> str:
    """A path as text that can be printed and stored; bytes of it that are no UTF-8 are shown in hex."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text.replace(":/", "://", 1) if is_object(path) else text


def is_object(path: Path) -> bool:
    """Whether it names an object of a store (`s3://bucket/key`, of which a Path keeps one slash)."""
    return path.parts[:1] == ("s3:",)


def utc_text(at: datetime) -> str:
    """RFC 3339 in UTC with milliseconds: `2026-11-20T08:14:03.120Z`.

    Raises:
        ValueError: `at` carries no time zone.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at!r} has no time zone")
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def person() -> str:
    """Who runs this: behind sudo, the one who called it."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in containers
        return str(os.getuid())


def clean_text(text: str, most: int = 200) -> str:
    """Text from outside, safe for logs, terminals and JSON: every control and unpaired character becomes `?`.

    Args:
        text: Of anybody: a command, a topic, an answer of the broker.
        most: Longer text ends with `...` after so many characters.
    """
    shown = text if len(text) <= most else f"{text[:most]}..."
    # Cc: escape sequences; Cs: half a character, which UTF-8 cannot write; Cf, Zl, Zp: turn or break lines.
    return "".join("?" if unicodedata.category(c) in ("Cc", "Cs", "Cf", "Zl", "Zp") else c for c in shown)


def clean_lines(text: str, most: int = 60) -> str:
    """The same for a text of several lines, of which so many are kept."""
    return "\n".join(clean_text(line, 1000) for line in text.splitlines()[:most])
