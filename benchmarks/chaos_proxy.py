"""A TCP proxy on 127.0.0.1 that misbehaves on request: the network between daemon and broker in chaos.py."""

from __future__ import annotations

import asyncio
import random
import threading
from enum import StrEnum

HOST = "127.0.0.1"
NOT_AUTHORISED = b"\x20\x03\x00\x87\x00"
"""CONNACK of MQTT 5."""


class Mode(StrEnum):
    """How the network is."""

    PASS = "pass"
    """As it should be."""
    CUT = "cut"
    """Connections break and cannot be made."""
    SILENT = "silent"
    """Connections stay open and nothing gets through."""
    SLOW = "slow"
    """Few bytes at a time, late."""
    DROPPING = "dropping"
    """Connections break after a few packets, also in the middle of one."""
    REFUSING = "refusing"
    """Whoever connects is told that he is not authorised."""


class Proxy:
    """Listens on `port` and passes on to a broker."""

    def __init__(self, broker_port: int, seed: int) -> None:
        self._broker_port = broker_port
        self._random = random.Random(seed)
        self._mode = Mode.PASS
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def set(self, mode: Mode) -> None:
        """Change how the network is, from any thread; whoever is connected notices at once."""

        def change() -> None:
            self._mode = mode
            if mode in (Mode.CUT, Mode.REFUSING):
                for writer in self._writers:
                    writer.transport.abort()

        self._loop.call_soon_threadsafe(change)

    def close(self) -> None:
        """End it and all connections."""

        async def end() -> None:
            self._server.close()
            self._mode = Mode.CUT
            while self._writers:
                for writer in list(self._writers):
                    writer.transport.abort()
                await asyncio.sleep(0.01)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if self._mode is Mode.REFUSING:
                await reader.read(1024)
                writer.write(NOT_AUTHORISED)
                await writer.drain()
            elif self._mode is not Mode.CUT:
                await self._join(reader, writer)
        except OSError:
            pass  # the other side went first
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        broker_reader, broker_writer = await asyncio.open_connection(HOST, self._broker_port)
        self._writers.add(broker_writer)
        ends = {
            asyncio.create_task(self._pump(reader, broker_writer)),
            asyncio.create_task(self._pump(broker_reader, writer)),
        }
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            self._writers.discard(broker_writer)
            broker_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64 if self._mode is Mode.SLOW else 4096):
            while self._mode is Mode.SILENT:
                await asyncio.sleep(0.02)
            if self._mode is Mode.SLOW:
                await asyncio.sleep(self._random.uniform(0.0, 0.04))
            if self._mode is Mode.DROPPING and self._random.random() < 0.2:
                writer.write(data[: self._random.randrange(len(data) + 1)])
                await writer.drain()
                return
            writer.write(data)
            await writer.drain()
