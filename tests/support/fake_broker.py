"""What mosquitto does not do on request: a broker of MQTT 5 that answers, or errs, as a test tells it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from tests.support.broker import HOST

ACCEPT = b"\x20\x03\x00\x00\x00"
"""CONNACK: welcome, no properties."""


class FakeBroker:
    """Listens; hands each connection to `serve`, one after the other.

    Args:
        serve: Gets the connection; may raise OSError when it ends.
    """

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self.host = HOST
        self.connections = 0
        self._serve = serve
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            try:
                self._serve(connection)
            except OSError:
                continue

    def close(self) -> None:
        """End it and all its connections."""
        # shutdown wakes accept and recv; close alone does not.
        for opened in (self._listener, *self._open):
            try:
                opened.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        self._thread.join(5)
        for opened in (self._listener, *self._open):
            opened.close()


def packets(connection: socket.socket) -> tuple[int, bytes]:
    """The next packet of a connection: its first byte and what comes after the length.

    Raises:
        ConnectionError: The connection ended.
    """
    kind = _exactly(connection, 1)[0]
    length = shift = 0
    while True:
        byte = _exactly(connection, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return kind, _exactly(connection, length)


def _exactly(connection: socket.socket, length: int) -> bytes:
    read = b""
    while len(read) < length:
        part = connection.recv(length - len(read))
        if not part:
            raise ConnectionError
        read += part
    return read


def publication(kind: int, body: bytes) -> tuple[str, int]:
    """Topic and packet id (0 for QoS 0) of a PUBLISH."""
    length = int.from_bytes(body[:2])
    topic = body[2 : 2 + length].decode()
    return topic, int.from_bytes(body[2 + length : 4 + length]) if kind & 0b110 else 0
