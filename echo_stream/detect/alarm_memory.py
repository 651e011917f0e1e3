"""What an alarm remembers through a restart, as plain JSON. No thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from echo_stream.errors import EchoStreamError
from echo_stream.types import AlarmLevel, AlarmState

VERSION = 1
OVERLAID = (AlarmState.SHELVED, AlarmState.SUPPRESSED, AlarmState.OUT_OF_SERVICE)


@dataclass(frozen=True, slots=True)
class AlarmMemory:
    """The state of an alarm; times are absolute sample indices of the source's present clock."""

    state: AlarmState
    """The one that SHELVED, SUPPRESSED and OUT_OF_SERVICE lie over."""
    active: bool
    onset: int | None
    announced_at: int
    shelved_until: int | None
    suppressed_by: tuple[str, ...]
    out_of_service: bool
    score: float

    def to_json(self, machine: str, level: AlarmLevel, sample_rate_hz: int, now: int) -> dict[str, Any]:
        """As a JSON object: the clock ends with the process, so times become seconds before or after now."""
        until, onset = self.shelved_until, self.onset
        return {
            "version": VERSION,
            "machine": machine,
            "level": level.value,
            "state": self.state.value,
            "active": self.active,
            "score": self.score,
            "onset_ago_s": None if onset is None else (now - onset) / sample_rate_hz,
            "announced_ago_s": (now - self.announced_at) / sample_rate_hz,
            "shelved_for_s": None if until is None else (until - now) / sample_rate_hz,
            "suppressed_by": list(self.suppressed_by),
            "out_of_service": self.out_of_service,
        }

    @classmethod
    def from_json(
        cls, saved: Mapping[str, Any], machine: str, level: AlarmLevel, sample_rate_hz: int, then: int
    ) -> AlarmMemory:
        """Read what `to_json` wrote.

        Args:
            saved: The JSON object.
            machine: Whose it must be.
            level: Whose it must be.
            sample_rate_hz: Of the present clock; may differ from the one before.
            then: When it was saved, on the present clock (perhaps negative).

        Raises:
            EchoStreamError: It is of another machine or level, or damaged.
        """
        try:
            return cls._read(saved, machine, level, sample_rate_hz, then)
        except (KeyError, TypeError, ValueError) as error:
            raise EchoStreamError(
                f"saved state of the {level} of {machine} cannot be used: {error!r}",
                "remove it, and the alarm starts as NORMAL",
            ) from error

    @classmethod
    def _read(
        cls, saved: Mapping[str, Any], machine: str, level: AlarmLevel, sample_rate_hz: int, then: int
    ) -> AlarmMemory:
        for key, expected in {"version": VERSION, "machine": machine, "level": level.value}.items():
            if saved[key] != expected:
                raise ValueError(f"{key} is {saved[key]!r}, expected {expected!r}")
        state = AlarmState(saved["state"])
        if state in OVERLAID:
            raise ValueError(f"state {state} lies over another and is not saved as one")
        onset, until = saved["onset_ago_s"], saved["shelved_for_s"]
        return cls(
            state=state,
            active=bool(saved["active"]),
            onset=None if onset is None else then - round(onset * sample_rate_hz),
            announced_at=then - round(saved["announced_ago_s"] * sample_rate_hz),
            shelved_until=None if until is None else then + round(until * sample_rate_hz),
            suppressed_by=tuple(str(reason) for reason in saved["suppressed_by"]),
            out_of_service=bool(saved["out_of_service"]),
            score=float(saved["score"]),
        )
