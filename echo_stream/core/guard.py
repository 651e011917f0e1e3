"""Guard restarts the work of one thread after an unforeseen exception, which is logged and counted.

Without it an exception ends a thread for ever while the process lives on: the daemon listens and publishes
nothing, or is `online` without listening. Each thread that the product starts runs its loop in a Guard; a
thread that ends nevertheless ends the process (daemon/daemon.py), and systemd starts it again.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from time import monotonic

from echo_stream.core.log import get_logger

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0
STEADY_S = 60.0
"""A part that worked for so long after a restart counts as mended: the next wait is the first again."""

log = get_logger()


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
        self._first_wait_s = self._wait_s = first_wait_s
        self._failed_at_s: float | None = None
        self._due_s = 0.0

    @property
    def degraded(self) -> bool:
        """Whether the part failed within the last minute, or waits for its restart; any thread."""
        failed_at_s = self._failed_at_s
        return failed_at_s is not None and monotonic() - failed_at_s < STEADY_S

    def run(self, work: Callable[[], None]) -> None:
        """Calls `work` until it returns or `stop` is set. Errors that `work` raises never leave here."""
        while not self._attempt(work):
            if self._stop.wait(self._due_s - monotonic()):
                return
            self._note_restart()

    def step(self, work: Callable[[], None]) -> None:
        """Calls `work` once, unless it failed and its wait is not over: for a loop that must not wait."""
        if monotonic() < self._due_s:
            return
        if self._due_s:
            self._due_s = 0.0
            self._note_restart()
        self._attempt(work)

    def _attempt(self, work: Callable[[], None]) -> bool:
        """Whether `work` returned."""
        try:
            work()
            return True
        except Exception as error:
            now_s = monotonic()
            if self._failed_at_s is None or now_s - self._failed_at_s > STEADY_S:
                self._wait_s = self._first_wait_s
            self._failed_at_s = now_s
            self._due_s = now_s + self._wait_s
            self.last_error = f"{type(error).__name__}: {error}"
            log.exception(f"{self.part} failed and is restarted", restarts=self.restarts, wait_s=self._wait_s)
            self._wait_s = min(2 * self._wait_s, LONGEST_WAIT_S)
            return False

    def _note_restart(self) -> None:
        self.restarts += 1
        self._failed_at_s = monotonic()


class GuardedThread:
    """A thread whose work runs in a Guard.

    Args:
        part: what it does, as the subject of a log line.
        work: its loop; returns when `stop` is set.
        stop: set when the thread is to end.
        name: of the thread; None takes the last word of `part`.
        first_wait_s: seconds before the first restart.
    """

    def __init__(
        self,
        part: str,
        work: Callable[[], None],
        stop: Event,
        *,
        name: str | None = None,
        first_wait_s: float = FIRST_WAIT_S,
    ) -> None:
        self.guard = Guard(part, stop, first_wait_s=first_wait_s)
        self._stop = stop
        name = name or part.rsplit(" ", 1)[-1]
        self._work = work
        self._thread = Thread(target=self._run, name=name, daemon=True)

    @property
    def started(self) -> bool:
        """`start` was called."""
        return self._thread.ident is not None

    @property
    def alive(self) -> bool:
        """It runs, or waits for its restart."""
        return self._thread.is_alive()

    @property
    def ended(self) -> bool:
        """It was started and has ended, although nobody stopped it: nothing restarts it."""
        return self.started and not self.alive and not self._stop.is_set()

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        """Waits for its end, where it was started."""
        if self.started:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self.guard.run(self._work)
        except BaseException as error:
            self.guard.last_error = f"{type(error).__name__}: {error}"
            log.critical(f"{self.guard.part} has ended and cannot be restarted", exc_info=error)
