"""The notifier reports to systemd: ready, alive, reloading, stopping. Called by the main thread.

Speaks the protocol of sd_notify(3) over its datagram socket; does nothing where there is no systemd.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class Notifier:
    """The line to systemd. Every method is harmless without it.

    A message that cannot be sent is dropped: it is advice to the supervisor, and a supervisor that does not
    get its WATCHDOG=1 restarts the service anyway.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # the abstract name space, which has no path in the file system
            self._address = "\0" + self._address[1:]
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_interval_s: float | None = int(usec) / 2e6 if usec.isdigit() and ours else None
        """Seconds between two calls of `watchdog`: half of WatchdogSec. None where no watchdog is set."""

    def ready(self) -> None:
        """Start-up, or a reload, is finished."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + text.replace("\n", " "))

    def watchdog(self) -> None:
        """The pipeline makes progress, or waits for a source by design."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow, also where the new one is refused."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service drains and goes."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(1.0)  # a supervisor that does not read must not hold the main thread
            line.sendto(message.encode(), self._address)
