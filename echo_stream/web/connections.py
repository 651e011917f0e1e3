"""Connections of browsers have bounds: a number at once, a time for a request, a time to stall.

uvicorn and Starlette are imported here and in `app`, and these two are imported by the page's own thread: a
daemon without a page never loads them, and one with a page is READY no later.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Final

from echo_stream.core.errors import of_extra
from echo_stream.web.broadcast import Broadcast

with of_extra("the page (web.enabled)", "web"):
    from anyio.to_thread import current_default_thread_limiter
    from starlette.types import ASGIApp
    from uvicorn import Config, Server
    from uvicorn.protocols.http.h11_impl import H11Protocol

MOST_CONNECTIONS: Final = 200
REQUEST_S: Final = 10.0
"""A request that is not complete by then is dropped."""
STALLED_S: Final = 20.0
"""A client that takes nothing for so long is dropped."""
BUFFER_BYTES: Final = 65_536
THREADS: Final = 4
"""That read disks for requests."""
_LOOK_S: Final = 0.2


async def serve(
    app: ASGIApp, feed: Broadcast, listening: socket.socket, stopping: Callable[[], bool]
) -> None:
    """Answers on a socket that listens until `stopping` says so; raises what the feed raised."""
    current_default_thread_limiter().total_tokens = THREADS
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # not what strangers send
    server = Server(
        Config(
            app,
            http=BoundedProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            h11_max_incomplete_event_size=16_384,
        )
    )
    tasks = asyncio.create_task(feed.run()), asyncio.create_task(server.serve([listening]))
    try:
        while not stopping() and not any(task.done() for task in tasks):
            await asyncio.sleep(_LOOK_S)
    finally:
        server.should_exit = True
        await tasks[1]
    if tasks[0].done():
        tasks[0].result()
    tasks[0].cancel()


class BoundedProtocol(H11Protocol):
    """One connection, with a time for each request and for each byte that is not taken."""

    _waiting: dict[BoundedProtocol, None] = {}  # noqa: RUF012 - of all of them: those whose request is not complete
    _request_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client comes: one too many takes the place of the one that has kept us waiting longest."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        if len(self.connections) > MOST_CONNECTIONS:
            next(iter(self._waiting), self).drop()
        if not transport.is_closing():
            self._await_request()

    def data_received(self, data: bytes) -> None:
        """A part of a request."""
        if self._request_timer is None:
            self._await_request()
        super().data_received(data)
        if self.cycle is not None and not self.cycle.more_body:
            self._request_is_complete()

    def pause_writing(self) -> None:
        """The client takes nothing."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALLED_S, self.drop)

    def resume_writing(self) -> None:
        """It does again."""
        super().resume_writing()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """The end."""
        self._request_is_complete()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Hangs up without waiting for what was not taken."""
        self._waiting.pop(self, None)
        self.transport.abort()

    def _await_request(self) -> None:
        self._waiting[self] = None
        self._request_timer = self.loop.call_later(REQUEST_S, self.drop)

    def _request_is_complete(self) -> None:
        self._waiting.pop(self, None)
        if self._request_timer is not None:
            self._request_timer.cancel()
            self._request_timer = None
