"""The gate decides whether a window counts towards an alarm: it does, unless its sound is known as no fault.

Runs on the pipeline thread, before the alarms are stepped. What does not count is no evidence in either
direction: it raises nothing, clears nothing, and is in no past. The score itself is not changed: status, MQTT
and history show it as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import structlog

from echo_stream.core.types import Score, Window
from echo_stream.detect.known_sounds import Occurrences
from echo_stream.detect.scorer import Scorer

log = structlog.get_logger()


@dataclass(slots=True)
class Gate:
    """Of one machine."""

    _occurrences: Occurrences = field(default_factory=Occurrences)

    def passes(self, window: Window, score: Score, scorer: Scorer, clear: float) -> bool:
        """Whether the next window is a known sound, and so says nothing of the machine.

        Args:
            window: what was scored.
            score: what came out.
            scorer: what scored it.
            clear: the clear level of the machine's warning.
        """
        passes, begins = self._occurrences.step(
            score.known_sound,
            scorer.known_sounds,
            normal=score.value <= clear and not score.known_sound,
            start=window.start,
            end=window.end,
            rate=window.sample_rate_hz,
        )
        if begins:
            log.info(f"known sound: {score.known_sound}", machine=window.machine, score=round(score.value, 2))
        return passes

    def known_sounds(self, scorer: Scorer) -> dict[str, int]:
        """How often each taught sound came since the start."""
        return {name: self._occurrences.counts[name] for name in sorted(scorer.known_sounds)}
