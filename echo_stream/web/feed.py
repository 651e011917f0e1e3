"""The feed sends what is new to every viewer: one loop computes it once, each viewer has a bounded queue.

A viewer that does not read loses frames, never more: its queue holds the newest few. Nothing here ever waits
for a viewer, and nothing of it runs on the pipeline thread. While nobody looks, nothing is computed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

import numpy as np
from pydantic import BaseModel

from echo_stream.web import models
from echo_stream.web.backend import Backend, Live
from echo_stream.web.columns import A_SECOND, LOWEST_HZ, ROWS, audible, live_columns

EVERY_S: Final = 1.0
WAITING: Final = 8
"""Frames that wait for a viewer."""
ALIVE_S: Final = 15.0
"""Without news a comment goes out, so that proxies keep the connection and a dead one is noticed."""
MOST_VIEWERS: Final = 150
MOST_LISTENERS: Final = 10


class _Viewer:
    def __init__(self, machine: str | None) -> None:
        self.machine = machine
        self.frames: deque[bytes] = deque(maxlen=WAITING)
        self.news = asyncio.Event()
        self.lost = False

    def put(self, frame: bytes) -> None:
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


class Feed:
    """All viewers. Everything but `touch` runs on the page's event loop."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._viewers: set[_Viewer] = set()
        self._listeners: set[_Viewer] = set()
        self._known: dict[str, models.Machine] = {}
        self._all = b""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._touched: asyncio.Event | None = None

    @property
    def viewers(self) -> int:
        """How many look."""
        return len(self._viewers)

    def touch(self) -> None:
        """An alarm changed: do not wait for the next round. Any thread; returns at once."""
        loop, touched = self._loop, self._touched
        if loop is not None and touched is not None and self._viewers:
            try:
                loop.call_soon_threadsafe(touched.set)
            except RuntimeError:  # the loop is closed
                self._loop = None

    @property
    def _wanted(self) -> set[str]:
        """Machines whose windows somebody watches or listens to."""
        return {v.machine for v in (*self._viewers, *self._listeners) if v.machine is not None}

    async def run(self) -> None:
        """Sends what is new, for ever."""
        self._loop, self._touched = asyncio.get_running_loop(), asyncio.Event()
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._touched.wait(), EVERY_S)
            self._touched.clear()
            self._all = b""  # or who comes now would miss what this round tells
            if self._viewers or self._listeners:
                self._round()
            else:
                self._known.clear()

    def _round(self) -> None:
        frames = self._machine_frames()
        for viewer in self._viewers:
            if viewer.lost:  # it needs all machines anew
                viewer.lost = False
                viewer.put(_frame("machines", [m.model_dump() for m in self._known.values()]))
            for frame in frames:
                viewer.put(frame)
        for live in self._backend.take_live():
            watching = [v for v in self._viewers if v.machine == live.window.machine]
            frame = _frame("columns", to_columns(live)) if watching else b""
            for viewer in watching:
                viewer.put(frame)
            for listener in self._listeners:
                if listener.machine == live.window.machine:
                    listener.put(newest_pcm(live))

    def _machine_frames(self) -> list[bytes]:
        now = {machine.id: machine for machine in self._backend.machines()}
        before, self._known = self._known, now
        if before.keys() != now.keys():
            return [_frame("machines", [m.model_dump() for m in now.values()])]
        changed = [m for name, m in now.items() if _still(m) != _still(before[name])]
        figures = {
            name: (_short(m.score), _short(m.level_dbfs), _short(m.coverage_10m))
            for name, m in now.items()
            if m.score != before[name].score or m.coverage_10m != before[name].coverage_10m
        }
        frames = [_frame("changed", [m.model_dump() for m in changed])] if changed else []
        if figures:
            frames.append(_frame("figures", models.LiveFigures(machines=figures)))
        return frames

    async def follow(self, machine: str | None) -> AsyncIterator[bytes]:
        """Frames for one viewer, for ever; with a machine also its spectrogram."""
        viewer = _Viewer(machine)
        self._viewers.add(viewer)
        self._watch()
        try:
            yield b"retry: 2000\n\n" + self._all_machines()
            while True:
                try:
                    waiting = await asyncio.wait_for(viewer.take(), ALIVE_S)
                except TimeoutError:
                    waiting = b": nothing new\n\n"
                yield waiting
        finally:
            self._viewers.discard(viewer)
            self._watch()

    @property
    def listeners(self) -> int:
        """How many listen live."""
        return len(self._listeners)

    async def listen(self, machine: str, sample_rate_hz: int) -> AsyncIterator[bytes]:
        """The live sound of a machine as a WAV file without an end, from now on; some seconds late."""
        listener = _Viewer(machine)
        self._listeners.add(listener)
        self._watch()
        try:
            yield wav_header(sample_rate_hz)
            while True:
                yield await listener.take()
        finally:
            self._listeners.discard(listener)
            self._watch()

    def _all_machines(self) -> bytes:
        """All machines, one text for everybody who comes between two rounds."""
        if not self._all:
            self._all = _frame("machines", [m.model_dump() for m in self._backend.machines()])
        return self._all

    def _watch(self) -> None:
        self._backend.watch(self._wanted)


def to_columns(live: Live) -> models.LiveColumns:
    """The spectrogram of a window's last hop, with what the page writes beside it."""
    window, score = live.window, live.score
    columns = live_columns(window, live.hop_s)
    return models.LiveColumns(
        at_s=round(window.captured_at.timestamp(), 3),
        step_s=1 / A_SECOND,
        low_hz=LOWEST_HZ,
        high_hz=window.sample_rate_hz / 2,
        rows=ROWS,
        data=base64.b64encode(columns.tobytes()).decode(),
        score=round(score.value, 4),
        level_dbfs=round(score.level_dbfs, 2),
        operating_state=score.condition,
        band_hz=score.deciding_band_hz,
    )


def newest_pcm(live: Live) -> bytes:
    """The last hop of a window as 16-bit samples; sound in a unit of its own is brought to full scale."""
    window = live.window
    if live.vibration:
        new, _ = audible(window, live.hop_s)
    else:
        new = window.samples[-round(live.hop_s * window.sample_rate_hz) :]
    scale = window.full_scale
    if np.isinf(scale):
        scale = 1.4 * float(np.abs(window.samples).max()) or 1.0
    return bytes((np.clip(new / scale, -1, 1) * 32767).astype("<i2").tobytes())


def wav_header(sample_rate_hz: int) -> bytes:
    """Of one channel of 16-bit samples without an end."""
    endless = 2**32 - 1
    form = struct.pack("<IHHIIHH", 16, 1, 1, sample_rate_hz, 2 * sample_rate_hz, 2, 16)
    parts = b"RIFF", struct.pack("<I", endless), b"WAVEfmt ", form, b"data", struct.pack("<I", endless - 36)
    return b"".join(parts)


def _still(machine: models.Machine) -> models.Machine:
    """Without what changes with every window."""
    return machine.model_copy(
        update={"score": None, "level_dbfs": None, "coverage_10m": None, "band_hz": None}
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _frame(kind: str, data: BaseModel | list[dict[str, Any]]) -> bytes:
    text = data.model_dump_json() if isinstance(data, BaseModel) else json.dumps(data, separators=(",", ":"))
    return f"event: {kind}\ndata: {text}\n\n".encode()
