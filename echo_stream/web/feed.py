"""The feed of the daemon's page: its machines, the live spectrogram and sound of those that somebody watches.

Columns are computed here from the newest window, 256 bytes each, ten a second, on an axis of octaves: so it
works for every sample rate and for vibration, and no sound of the room leaves the daemon for them. Nothing of
it runs on the pipeline thread.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Window
from echo_stream.web import models
from echo_stream.web.backend import Backend, Live
from echo_stream.web.broadcast import Broadcast, Viewer, frame

ROWS: Final = 256
A_SECOND: Final = 10
LOWEST_HZ: Final = 20.0
LOW_DB: Final = -130.0
HIGH_DB: Final = -10.0
SHIFT_HZ: Final = 150
"""Vibration is moved up by so much where it is listened to."""
LEAST_RATE_HZ: Final = 8000
"""What browsers play."""
"""Level of a row that is byte 0 and byte 255, in dB relative to full scale."""


def live_columns(window: Window, hop_s: float) -> NDArray[np.uint8]:
    """Columns of the last hop of a window: (columns, 256), lowest frequency first.

    Args:
        window: what was scored; its earlier part is the context of the first columns.
        hop_s: what is new in it, in seconds.
    """
    rate, samples = window.sample_rate_hz, window.samples
    step = max(1, round(rate / A_SECOND))
    n = min(len(samples), 1 << max(6, step.bit_length()))
    count = max(1, round(hop_s * rate / step))
    ends = [len(samples) - step * back for back in range(count - 1, -1, -1)]
    frames = np.stack([samples[max(0, end - n) : max(0, end - n) + n] for end in ends])
    scale = 1.0 if np.isinf(window.full_scale) else window.full_scale
    shape = np.hanning(n)
    power = np.abs(np.fft.rfft((frames - frames.mean(axis=1, keepdims=True)) * (shape / scale), axis=1)) ** 2
    levels_db = 10 * np.log10(power * (4 / shape.sum() ** 2) + 1e-15)
    low, high = _rows(n, rate)
    rows = np.maximum.reduceat(np.pad(levels_db, ((0, 0), (0, 1)), constant_values=-200.0), low, axis=1)
    narrow = high <= low  # rows narrower than a bin take the bin that they lie in
    rows[:, narrow] = levels_db[:, low[narrow]]
    return np.asarray(np.clip((rows - LOW_DB) * (255 / (HIGH_DB - LOW_DB)), 0, 255), np.uint8)


def audible_rate_hz(sample_rate_hz: int) -> int:
    """The rate at which vibration of a rate is sent: a multiple of it that browsers play."""
    return sample_rate_hz * max(1, -(-LEAST_RATE_HZ // sample_rate_hz))


def audible(window: Window, hop_s: float) -> tuple[NDArray[np.float32], int]:
    """The newest hop of vibration that can be heard, and its sample rate.

    Every frequency is moved up by `SHIFT_HZ` (one sideband of a modulation): a line at 10 Hz is heard at
    160 Hz, knocks stay knocks at their pace, ratios between lines are lost. A rate that browsers do not play
    is raised. The hop is taken out of the middle of the window, so that pieces join without a click; their
    phase goes on by the absolute index.

    Args:
        window: what was scored.
        hop_s: what is new in it, in seconds.
    """
    rate, n = window.sample_rate_hz, len(window.samples)
    factor = audible_rate_hz(rate) // rate
    low = round(SHIFT_HZ * n / rate)
    spectrum = np.fft.rfft(window.samples - window.samples.mean(dtype=np.float64))
    out_n = n * factor
    shifted = np.zeros(out_n // 2 + 1, np.complex128)
    count = min(len(spectrum), len(shifted) - low)
    turn = np.exp(2j * np.pi * (low * window.start % n) / n)
    shifted[low : low + count] = spectrum[:count] * turn
    hop = min(n, max(1, round(hop_s * rate)))
    first = (n - hop) // 2
    moved = np.fft.irfft(shifted, out_n)[first * factor : (first + hop) * factor] * factor
    return moved.astype(np.float32), rate * factor


@lru_cache(maxsize=16)
def _rows(n: int, rate: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First bin of each row, and the first of the next."""
    edges_hz = np.geomspace(LOWEST_HZ, rate / 2, ROWS + 1)
    bins = np.clip(np.round(edges_hz * n / rate).astype(np.intp), 0, n // 2)
    return bins[:-1], bins[1:]


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
