"""Text for people: times and lengths, and the callback that reports progress. Pure; any thread."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
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
    return os.fsencode(path).decode("utf-8", "backslashreplace")
