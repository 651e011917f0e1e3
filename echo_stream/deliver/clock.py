"""Unix time for what waits in the outbox: how old it is must not change when the clock is set. Any thread."""

from __future__ import annotations

import time

_AHEAD_S = time.time() - time.monotonic()


def steady_time() -> float:
    """Unix time as this process found it at its start, and what passed since; it never jumps."""
    return _AHEAD_S + time.monotonic()
