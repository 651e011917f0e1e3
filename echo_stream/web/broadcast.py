"""A broadcast sends what is new to every viewer: computed once, each viewer has a bounded queue.

A viewer that does not read loses frames, never more: its queue holds the newest few, then it gets all anew.
Nothing here ever waits for a viewer. While nobody looks, nothing is computed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final

from pydantic import BaseModel

EVERY_S: Final = 1.0
WAITING: Final = 8
"""Frames that wait for a viewer."""
ALIVE_S: Final = 15.0
"""Without news a comment goes out, so that proxies keep the connection and a dead one is noticed."""
MOST_VIEWERS: Final = 150


class Viewer:
    """One who looks, and the frames that wait for it."""

    def __init__(self, machine: str | None) -> None:
        self.machine = machine
        self.frames: deque[bytes] = deque(maxlen=WAITING)
        self.news = asyncio.Event()
        self.lost = False

    def put(self, frame: bytes) -> None:
        """One more frame; the oldest goes where the queue is full."""
        self.lost = self.lost or len(self.frames) == WAITING
        self.frames.append(frame)
        self.news.set()

    async def take(self) -> bytes:
        """What has come since the last time, as soon as there is anything."""
        await self.news.wait()
        self.news.clear()
        waiting = b"".join(self.frames)
        self.frames.clear()
        return waiting


class Broadcast(ABC):
    """All viewers. Everything but `touch` runs on the page's event loop."""

    def __init__(self) -> None:
        self._viewers: set[Viewer] = set()
        self._all = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._touched: asyncio.Event | None = None

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    @property
    def wanted(self) -> bool:
        """Whether what is new has to be computed."""
        return bool(self._viewers)

    def touch(self) -> None:
        """Something changed: do not wait for the next round. Any thread; returns at once."""
        loop, touched = self._loop, self._touched
        if loop is not None and touched is not None and self._viewers:
            try:
                loop.call_soon_threadsafe(touched.set)
            except RuntimeError:  # the loop is closed
                self._loop = None

    async def run(self) -> None:
        """Sends what is new, for ever."""
        self._loop, self._touched = asyncio.get_running_loop(), asyncio.Event()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._touched.wait(), EVERY_S)
            self._touched.clear()
            self._all = b""  # or who comes now would miss what this round tells
            if self.wanted:
                self.round()
            else:
                self.forget()

    def round(self) -> None:
        """Hands every viewer what is new."""
        frames = self.news()
        for viewer in self._viewers:
            if viewer.lost:  # it needs everything anew
                viewer.lost = False
                viewer.put(self._everything())
            for frame in frames:
                viewer.put(frame)

    async def follow(self, machine: str | None = None) -> AsyncIterator[bytes]:
        """Frames for one viewer, for ever; who looks at one machine may be sent more of it."""
        viewer = Viewer(machine)
        self._viewers.add(viewer)
        self.watch()
        try:
            yield b"retry: 2000\n\n" + self._everything()
            while True:
                try:
                    waiting = await asyncio.wait_for(viewer.take(), ALIVE_S)
                except TimeoutError:
                    waiting = b": nothing new\n\n"
                yield waiting
        finally:
            self._viewers.discard(viewer)
            self.watch()

    def _everything(self) -> bytes:
        """One text for everybody who comes between two rounds."""
        if not self._all:
            self._all = self.everything()
        return self._all

    @abstractmethod
    def everything(self) -> bytes:
        """Frames that tell a new viewer all."""

    @abstractmethod
    def news(self) -> list[bytes]:
        """Frames of what changed since the last time."""

    @abstractmethod
    def forget(self) -> None:
        """Nobody looks: who comes is told everything."""

    @abstractmethod
    def watch(self) -> None:
        """Who looks at what has changed."""


def frame(kind: str, data: BaseModel | list[dict[str, Any]] | Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()
