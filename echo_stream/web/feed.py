"""The feed of the daemon's page: its machines, the live spectrogram and sound of those that somebody watches.

Nothing of it runs on the pipeline thread.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Final

import numpy as np

from echo_stream.web import models
from echo_stream.web.backend import Backend, Live
from echo_stream.web.broadcast import Broadcast, Viewer, frame
from echo_stream.web.columns import A_SECOND, LOWEST_HZ, ROWS, audible, live_columns

MOST_LISTENERS: Final = 10


class Feed(Broadcast):
    """All viewers, and those who listen live."""

    def __init__(self, backend: Backend) -> None:
        super().__init__()
        self._backend = backend
        self._listeners: set[Viewer] = set()
        self._known: dict[str, models.Machine] = {}

    @property
    def wanted(self) -> bool:
        """Whether what is new has to be computed."""
        return super().wanted or bool(self._listeners)

    def round(self) -> None:
        """Hands every viewer what is new, of a machine that it watches also its sound."""
        super().round()
        for live in self._backend.take_live():
            watching = [v for v in self._viewers if v.machine == live.window.machine]
            columns = frame("columns", to_columns(live)) if watching else b""
            for viewer in watching:
                viewer.put(columns)
            for listener in self._listeners:
                if listener.machine == live.window.machine:
                    listener.put(newest_pcm(live))

    def everything(self) -> bytes:
        """All machines."""
        return frame("machines", [m.model_dump() for m in self._backend.machines()])

    def news(self) -> list[bytes]:
        """Machines that changed, and figures of those that did not."""
        now = {machine.id: machine for machine in self._backend.machines()}
        before, self._known = self._known, now
        if before.keys() != now.keys():
            return [frame("machines", [m.model_dump() for m in now.values()])]
        changed = [m for name, m in now.items() if _still(m) != _still(before[name])]
        figures = {
            name: (_short(m.score), _short(m.level_dbfs), _short(m.coverage_10m))
            for name, m in now.items()
            if m.score != before[name].score or m.coverage_10m != before[name].coverage_10m
        }
        frames = [frame("changed", [m.model_dump() for m in changed])] if changed else []
        if figures:
            frames.append(frame("figures", models.LiveFigures(machines=figures)))
        return frames

    def forget(self) -> None:
        """Nobody looks."""
        self._known.clear()

    def watch(self) -> None:
        """Windows of machines that somebody watches or listens to are wanted, and of no others."""
        looking = (*self._viewers, *self._listeners)
        self._backend.watch({v.machine for v in looking if v.machine is not None})

    @property
    def listeners(self) -> int:
        """How many listen live."""
        return len(self._listeners)

    async def listen(self, machine: str, sample_rate_hz: int) -> AsyncIterator[bytes]:
        """The live sound of a machine as a WAV file without an end, from now on; some seconds late."""
        listener = Viewer(machine)
        self._listeners.add(listener)
        self.watch()
        try:
            yield wav_header(sample_rate_hz)
            while True:
                yield await listener.take()
        finally:
            self._listeners.discard(listener)
            self.watch()


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
