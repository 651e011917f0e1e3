"""Opens a device on a thread of its own, because that may hang with the sound server; nobody waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from echo_stream.capture.sources import AudioSource
from echo_stream.errors import SourceError


class Live(AudioSource, Protocol):
    """What can be supervised: a source that tells when it last heard something."""

    @property
    def heard(self) -> tuple[float, int]:
        """When the last samples came, on the supervisor's clock, and the index after them."""
        ...

    @property
    def failure(self) -> str | None:
        """Why nothing will come any more."""
        ...


class Opening:
    """One attempt. It ends when the sound server answers, goes on, or dies."""

    def __init__(self, open_source: Callable[[], Live]) -> None:
        self.done = False
        self.source: Live | None = None
        """What was opened, once done; None where that failed."""
        self.error = SourceError("opening failed", "See the traceback.")
        """Why it failed, where it did."""
        self._open_source = open_source
        self._cancelled = False
        self._lock = threading.Lock()
        in_background(self._attempt)

    def cancel(self) -> None:
        """Nobody wants the source any more: it is closed, now or when it is open."""
        with self._lock:
            self._cancelled = True
            unwanted = self.source if self.done else None
        if unwanted is not None:
            in_background(unwanted.close)

    def _attempt(self) -> None:
        try:
            self.source = self._open_source()
        except SourceError as error:
            self.error = error.with_traceback(None)  # whose frames would hold the device and its ring
        finally:
            with self._lock:
                self.done = True
                unwanted = self.source if self._cancelled else None
            if unwanted is not None:
                unwanted.close()


def in_background(work: Callable[[], None]) -> threading.Thread:
    """Run `work` on a thread that does not keep the process alive."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
