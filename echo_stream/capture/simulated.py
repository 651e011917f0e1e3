"""The simulated machine as a source of sound, to try everything without a microphone. Pipeline thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache
from typing import Final, Literal

import numpy as np
import structlog

from echo_stream.capture.simulate import Fault, FaultKind, Scenario, SimulatedMachine
from echo_stream.capture.sources import Anchor
from echo_stream.types import AudioBlock, Float32

log = structlog.get_logger()

_SHORTEST_S: Final = 0.01
_LONGEST_S: Final = 0.5
"""Of a block: a reader that was away gets what it missed in pieces."""
_SEAM_S: Final = 0.05
"""Over which the end of a loop fades into its beginning."""


class Simulated:
    """An AudioSource of one channel; nothing is ever lost, a reader that is late catches up."""

    channels: Final = 1
    lost_samples: Final = 0

    def __init__(
        self,
        seed: int = 1,
        sample_rate_hz: int = 16000,
        faults: Sequence[tuple[float, float, FaultKind]] = (),
        *,
        pace: Literal["realtime", "fast"] = "realtime",
        duration_s: float | None = None,
        start_s: float = 0.0,
        loop_s: float | None = None,
    ) -> None:
        """A stream of a simulated machine that begins now.

        Args:
            seed: which machine.
            sample_rate_hz: 1 000 or more.
            faults: (start_s, end_s, kind) of each; seconds after the start of the stream.
            pace: as time goes by, or as fast as it is read.
            duration_s: the stream's length; for ever if None.
            start_s: where in the machine's life the stream begins; the same time is the same sound.
            loop_s: the machine's life is its first loop_s seconds over and over, computed once for all
                streams of this seed and rate: to measure the rest with many machines. No faults then.

        Raises:
            ValueError: a seed, rate, fault or loop that cannot be.
        """
        if loop_s is not None and (faults or loop_s < 1):
            raise ValueError("a loop lasts a second or longer and has no faults")
        machine = SimulatedMachine(seed, sample_rate_hz)
        in_its_life = [Fault(kind, start_s + begin_s, start_s + end_s) for begin_s, end_s, kind in faults]
        self.sample_rate_hz = sample_rate_hz
        self.description = f"simulated machine {seed}, {machine.shaft_hz:.1f} Hz shaft"
        self._render: Callable[[int, int], Float32] = Scenario(machine, in_its_life).render
        if loop_s is not None:
            self._render = _Loop(seed, sample_rate_hz, round(loop_s * sample_rate_hz)).render
        self._offset = round(start_s * sample_rate_hz)
        self._length = None if duration_s is None else round(duration_s * sample_rate_hz)
        self._realtime = pace == "realtime"
        self._position = 0
        self._anchor = Anchor.now(0, sample_rate_hz)
        self._begun_s = time.monotonic()
        log.info(
            "simulated stream begins",
            seed=seed,
            at=self._anchor.utc.isoformat(),
            faults=[f"{kind} {begin_s:g} to {end_s:g} s" for begin_s, end_s, kind in faults],
        )

    @property
    def ended(self) -> bool:
        """The whole duration was read."""
        return self._length is not None and self._position >= self._length

    def read(self) -> AudioBlock | None:
        """The sound that is due and was not read yet, at most half a second of it; None if there is none."""
        n = round(_LONGEST_S * self.sample_rate_hz)
        if self._realtime:
            due = int((time.monotonic() - self._begun_s) * self.sample_rate_hz) - self._position
            if due < _SHORTEST_S * self.sample_rate_hz:
                return None
            n = min(n, due)
        if self._length is not None:
            n = min(n, self._length - self._position)
            if n <= 0:
                return None
        start = self._position
        self._position += n
        return AudioBlock(self._render(self._offset + start, n)[:, None], start)

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index, at real-time pace counted from the construction."""
        return self._anchor.time_of(index)

    def close(self) -> None:
        """Nothing to give back."""


class _Loop:
    """Some seconds of a machine without faults, over and over."""

    def __init__(self, seed: int, sample_rate_hz: int, length: int) -> None:
        self._sound = _loop_sound(seed, sample_rate_hz, length)

    def render(self, start_sample: int, n: int) -> Float32:
        """Samples start_sample to start_sample + n, (n,), an array of its own."""
        at = start_sample % len(self._sound)
        if at + n <= len(self._sound):
            return self._sound[at : at + n].copy()
        return np.take(self._sound, np.arange(at, at + n), mode="wrap")


@cache
def _loop_sound(seed: int, sample_rate_hz: int, length: int) -> Float32:
    """(length,) samples whose end goes over into their beginning; shared by all who loop them."""
    seam = round(_SEAM_S * sample_rate_hz)
    sound = SimulatedMachine(seed, sample_rate_hz).sound((length + seam) / sample_rate_hz)
    fade = np.linspace(0, np.pi / 2, seam, dtype=np.float32)
    looped = sound[:length]
    looped[:seam] = np.sin(fade) * looped[:seam] + np.cos(fade) * sound[length : length + seam]
    looped.setflags(write=False)
    return looped
