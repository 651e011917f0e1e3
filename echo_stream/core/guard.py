"""Guard restarts the work of one thread after an unforeseen exception, which is logged and counted.

Without it an exception ends a thread for ever while the process lives on: the daemon listens and publishes
nothing, or is `online` without listening. Each thread that the product starts runs its loop in a Guard.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from time import monotonic

import structlog

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
STEADY_S = 60.0
"""A part that worked for so long after a restart counts as mended: the next wait is the first again."""

log = structlog.get_logger()


class Guard:
    """Runs the loop of one thread again after each unforeseen exception, with a wait that doubles.

    Args:
        part: what the thread does, as the subject of a log line, such as `pipeline`.
        stop: set when the thread is to end; ends a wait at once.
        first_wait_s: seconds before the first restart.
    """

    def __init__(self, part: str, stop: Event, *, first_wait_s: float = FIRST_WAIT_S) -> None:
        self.part = part
        self.restarts = 0
        """Times that the part was restarted since the start."""
        self.last_error = ""
        """The exception that stopped the part; empty where none did."""
        self._stop = stop
        self._first_wait_s = first_wait_s
        self._failed_at_s: float | None = None

    @property
    def degraded(self) -> bool:
        """Whether the part failed within the last minute, or waits for its restart; any thread."""
        failed_at_s = self._failed_at_s
        return failed_at_s is not None and monotonic() - failed_at_s < STEADY_S

    def run(self, work: Callable[[], None]) -> None:
        """Calls `work` until it returns or `stop` is set. Errors that `work` raises never leave here."""
        wait_s = self._first_wait_s
        while True:
            began_s = monotonic()
            try:
                work()
                return
            except Exception as error:
                now_s = monotonic()
                if now_s - began_s > STEADY_S:
                    wait_s = self._first_wait_s
                self._failed_at_s = now_s
                self.last_error = f"{type(error).__name__}: {error}"
                log.exception(f"{self.part} failed and is restarted", restarts=self.restarts, wait_s=wait_s)
            if self._stop.wait(wait_s):
                return
            self.restarts += 1
            self._failed_at_s = monotonic()
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
