"""The server runs the page on a thread of its own with an event loop of its own; nothing waits for it.

A port that is taken is tried again, and the daemon listens meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final

import structlog

from echo_stream.core.guard import GuardedThread
from echo_stream.web.broadcast import Broadcast
from echo_stream.web.passwords import read_passwords

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from echo_stream.web.access import Sessions

_RETRY_S: Final = (2.0, 30.0)

log = structlog.get_logger()


class PageServer:
    """Serves the page until stopped.

    Args:
        feed: what it sends.
        build: makes the app, on the page's own thread, of who may log in and its names.
        host: address to listen on.
        port: 0 takes a free one; `port` says which.
        password_file: who may log in; None: everybody who reaches it may do everything.
        hosts: further names of this page.

    Raises:
        ConfigError: the password file cannot be used.
    """

    def __init__(
        self,
        feed: Broadcast,
        build: Callable[[Sessions, tuple[str, ...]], ASGIApp],
        *,
        host: str = "127.0.0.1",
        port: int = 8765,
        password_file: Path | None = None,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self._people = read_passwords(password_file) if password_file else None
        self._build = build
        self._address = host, port
        self._hosts = (host, *hosts)
        self.feed = feed
        self.ready = Event()
        """Set while it answers."""
        self.port = port
        self._stop = Event()
        self.thread = GuardedThread("the page", self._serve, self._stop, name="web")

    def start(self) -> None:
        """Begins to serve; returns at once."""
        self.thread.start()

    def stop(self, timeout_s: float = 3.0) -> None:
        """Hangs up."""
        self._stop.set()
        self.thread.join(timeout_s)

    def _serve(self) -> None:
        from echo_stream.web.access import Sessions  # noqa: PLC0415 - half a second of imports, on this thread
        from echo_stream.web.connections import serve  # noqa: PLC0415

        app = self._build(Sessions(self._people), self._hosts)
        listening = self._bind()
        if listening is None:
            return
        with listening:
            host = f"[{self._address[0]}]" if ":" in self._address[0] else self._address[0]
            log.info("the page is served", address=f"http://{host}:{self.port}/")
            self.ready.set()
            try:
                asyncio.run(serve(app, self.feed, listening, self._stop.is_set))
            finally:
                self.ready.clear()

    def _bind(self) -> socket.socket | None:
        """The socket; None where the end came first."""
        wait_s, told = _RETRY_S[0], False
        while not self._stop.is_set():
            try:
                family, *_, address = socket.getaddrinfo(*self._address, type=socket.SOCK_STREAM)[0]
                listening = socket.create_server(
                    (str(address[0]), int(address[1])), family=family, backlog=128
                )
            except OSError as error:
                if not told:
                    log.error(
                        "the page cannot be served, and is tried again",
                        host=self._address[0],
                        port=self._address[1],
                        reason=error.strerror or str(error),
                    )
                told = True
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, _RETRY_S[1])
            else:
                self.port = int(listening.getsockname()[1])
                return listening
        return None
