"""The encoder gate decides which windows a costly encoder may leave out. Pure; pipeline thread and fit.

The rule (docs/adr/0060): a window is left out where its spectral score is in the middle, that is within what
nine in ten windows of held-out normal sound, or of the machine's own last minutes, stayed below; in the same
operating state; no alarm stands or begins; the last score of the costly encoder is below every level of an
alarm; and it is not the turn of the machine, each `every`-th window. It then has the last score once more.

Trip levels are those of the costly encoder for every window, and hold: a score that is repeated is below them
all, so that what is over a level is a part of what would be without the gate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, isfinite
from typing import Any, Self
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Features, Float32, Float64, Score, Window
from echo_stream.detect.reference import Reference, Sound

MIDDLE = 0.9
"""Share of normal windows whose scores are called the middle."""
RECENT, FEWEST, LAG = 120, 20, 12
"""Windows of the machine's own last minutes, how many of them say something, and how many of the newest do
not count: they may belong to a change, which is encoded for longer than any alarm waits."""


@dataclass(frozen=True, slots=True)
class EncoderGate:
    """What a bank knows for it: normal sound in spectral features, and where the middle ends."""

    references: tuple[Reference, ...]
    bands_hz: Float32
    every: int
    limit: float
    """Highest spectral score in the middle of held-out normal sound."""

    def look(self, features: Features) -> tuple[float, int]:
        """Spectral score of a window, and the operating state that it is nearest to (an index)."""
        sound = Sound.of([features])
        values = [float(own.compare(sound)[0].sum()) for own in self.references]
        state = int(np.argmin(values))
        return values[state], state

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays, for a file."""
        found: dict[str, NDArray[Any]] = {"gate.bands_hz": self.bands_hz}
        for i, reference in enumerate(self.references):
            found |= reference.tensors(f"gate.{i}.")
        return found

    def plain(self) -> dict[str, Any]:
        """All but its arrays, as JSON."""
        return {
            "references": [each.plain() for each in self.references],
            "every": self.every,
            "limit": self.limit,
        }

    @classmethod
    def restore(cls, plain: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> Self:
        """From what `plain` and `tensors` gave.

        Raises:
            KeyError, TypeError, ValueError: A part is missing, misshapen or not finite.
        """
        every, limit = int(plain["every"]), float(plain["limit"])
        if every < 1 or not isfinite(limit):
            raise ValueError(f"gate: every {every}, limit {limit}")
        references = tuple(
            Reference.restore(own, tensors, f"gate.{i}.") for i, own in enumerate(plain["references"])
        )
        return cls(references, tensors["gate.bands_hz"], every, limit)


@dataclass(slots=True)
class GateWatch:
    """Of one machine: what was encoded last, and how many windows were left out since."""

    gate: EncoderGate
    encoded: int = 0
    """Windows since the start that the costly encoder encoded."""
    left_out: int = 0
    """And those that it did not."""
    _last: tuple[Features, Score] | None = None
    _state: int = -1
    _end: int = 0
    _count: int = 0
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT + LAG))
    """Spectral scores."""

    def counts(self) -> dict[str, int]:
        """Windows since the start, by whether they were encoded; any thread."""
        return {"encoded": self.encoded, "left_out": self.left_out}

    def needs(
        self,
        window: Window,
        spectral: Features,
        *,
        alarmed: bool,
        lowest: float = inf,
        asked: bool = False,
        unbroken_from: int | None = None,
    ) -> bool:
        """Whether the next window is to be encoded at once.

        Args:
            window: The window.
            spectral: Its spectral features.
            alarmed: A warning or an alarm of the machine is active, or a change is waited for.
            lowest: The lowest level of its alarms; a score over it is never repeated.
            asked: It is to be encoded in any case.
            unbroken_from: Where the sound begins that goes on to this window without a loss; None: with it.
                Hops that were skipped because the PC was late are no loss: to encode what follows at once
                would make it later still.
        """
        value, state = self.gate.look(spectral)
        middle = (
            self._last is not None
            and not alarmed
            and (window.start if unbroken_from is None else unbroken_from) <= self._end
            and state == self._state
            and value <= self._limit()
            and self._last[1].value <= lowest
        )
        if not alarmed:
            self._recent.append(value)
        # Each machine has a hop of its own: what all of them hear at once leaves the load as even as it was.
        self._count += 1
        due = (self._count + crc32(window.machine.encode())) % self.gate.every == 0
        needed = asked or due or not middle
        if needed:
            self._state = state
        self._end = window.end
        return needed

    def _limit(self) -> float:
        """A day that sounds a little otherwise than the enrolment did is normal, too; ECHO judges it."""
        recent = sorted(list(self._recent)[:-LAG])
        own = recent[int(MIDDLE * len(recent))] if len(recent) >= FEWEST else -inf
        return max(self.gate.limit, own)

    def take(self, features: Features, score: Score) -> tuple[Features, Score]:
        """Features and score of a window that was encoded."""
        self._last = features, score
        self.encoded += 1
        return features, score

    def hold(self, spectral: Features) -> tuple[Features, Score]:
        """Those of a window that was left out: the last ones, at this window's level."""
        assert self._last is not None  # noqa: S101 - else it would have been needed
        self.left_out += 1
        features, score = self._last
        level_dbfs = spectral.level_dbfs
        delta_db = score.level_delta_db + level_dbfs - score.level_dbfs
        return (
            replace(features, level_dbfs=level_dbfs, gate=spectral),
            replace(score, level_dbfs=level_dbfs, level_delta_db=delta_db, known_sound=""),
        )


def middle_of(held_out: Sequence[Float64]) -> float:
    """Where the middle of held-out scores ends; runs of them."""
    return float(np.quantile(np.concatenate(held_out), MIDDLE))
