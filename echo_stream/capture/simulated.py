"""The simulated machine as a source of sound, to try everything without a microphone. Pipeline thread."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import structlog

from echo_stream.capture.simulate import Fault, FaultKind, Scenario, SimulatedMachine
from echo_stream.capture.sources import Anchor
from echo_stream.types import AudioBlock

log = structlog.get_logger()

_SHORTEST_S: Final = 0.01
_LONGEST_S: Final = 0.5
"""Of a block: a reader that was away gets what it missed in pieces."""


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
    ) -> None:
        """A stream of a simulated machine that begins now.

        Args:
            seed: which machine.
            sample_rate_hz: 1 000 or more.
            faults: (start_s, end_s, kind) of each; seconds after the start of the stream.
            pace: as time goes by, or as fast as it is read.
            duration_s: the stream's length; for ever if None.
            start_s: where in the machine's life the stream begins; the same time is the same sound.

        Raises:
            ValueError: a seed, rate or fault that cannot be.
        """
        machine = SimulatedMachine(seed, sample_rate_hz)
        in_its_life = [Fault(kind, start_s + begin_s, start_s + end_s) for begin_s, end_s, kind in faults]
        self.sample_rate_hz = sample_rate_hz
        self.description = f"simulated machine {seed}, {machine.shaft_hz:.1f} Hz shaft"
        self._scenario = Scenario(machine, in_its_life)
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
        return AudioBlock(self._scenario.render(self._offset + start, n)[:, None], start)

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index, at real-time pace counted from the construction."""
        return self._anchor.time_of(index)

    def close(self) -> None:
        """Nothing to give back."""
