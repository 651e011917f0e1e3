"""The server runs the page on a thread of its own with an event loop of its own; nothing waits for it.

A port that is taken is tried again, and the daemon listens meanwhile.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final, Protocol

from echo_stream.core.errors import MissingExtra
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.web import installed
from echo_stream.web.broadcast import Broadcast
from echo_stream.web.passwords import read_passwords

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from echo_stream.web.access import Sessions

_RETRY_S: Final = (2.0, 30.0)

log = get_logger()


class PageSettings(Protocol):
    """Where a page is served and to whom; `web` of the configuration has these."""

    @property
    def host(self) -> str:
        """Address to listen on."""

    @property
    def port(self) -> int:
        """0 takes a free one; the server's `port` says which."""

    @property
    def password_file(self) -> Path | None:
        """Who may log in; None: everybody who reaches it may do everything."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """Further names of this page."""


def require_page(settings: PageSettings) -> None:
    """Refuses a page that could not be served, before the daemon begins.

    Raises:
        MissingExtra: its libraries are not installed.
        ConfigError: the password file cannot be used.
    """
    if not installed():
        raise MissingExtra("the page (web.enabled)", "web")
    if settings.password_file is not None:
        read_passwords(settings.password_file)


class PageServer:
    """Serves the page until stopped.

    Args:
        feed: what it sends.
        build: makes the app, on the page's own thread, of who may log in and its names.
        settings: where it is served, and to whom.

    Raises:
        ConfigError: the password file cannot be used.
    """

    def __init__(
        self, feed: Broadcast, build: Callable[[Sessions, tuple[str, ...]], ASGIApp], settings: PageSettings
    ) -> None:
        self._people = read_passwords(settings.password_file) if settings.password_file else None
        self._build = build
        self._address = settings.host, settings.port
        self._hosts = (settings.host, *settings.hosts)
        self.feed = feed
        self.ready = Event()
        """Set while it answers."""
        self.port = settings.port
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
