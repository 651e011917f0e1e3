"""A log limit keeps what an outsider causes from filling the log: some lines a minute, then their number."""

from __future__ import annotations

from threading import Lock
from time import monotonic

from echo_stream.core.log import get_logger

log = get_logger()


class LogLimit:
    """Admits so many lines within a time; any thread.

    Args:
        of: what the lines are about, as it stands in a log line: `refused commands`.
        most: lines.
        within_s: seconds; those left out are counted in a line when the next one comes after them.
    """

    def __init__(self, of: str, most: int = 10, within_s: float = 60.0) -> None:
        self._of = of
        self._most = most
        self._within_s = within_s
        self._lock = Lock()
        self._count = 0
        self._until_s = 0.0

    def admits(self) -> bool:
        """Whether one more line may be written; counted."""
        with self._lock:
            now_s = monotonic()
            unsaid = 0
            if now_s >= self._until_s:
                unsaid = max(0, self._count - self._most)
                self._count, self._until_s = 0, now_s + self._within_s
            self._count += 1
            admitted = self._count <= self._most
        if unsaid:
            log.warning(f"further {self._of} were not logged", count=unsaid, within_s=self._within_s)
        return admitted
