"""The state of an alarm: how condition and commands move it, and what a restart needs of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import AlarmLevel, AlarmState

S = AlarmState
ACKNOWLEDGED = {S.UNACK: S.ACKED, S.RTN_UNACK: S.NORMAL, S.LATCHED_UNACK: S.LATCHED_ACKED}
CLEARED = {S.UNACK: S.RTN_UNACK, S.ACKED: S.NORMAL}
LATCHED = {S.UNACK: S.LATCHED_UNACK, S.ACKED: S.LATCHED_ACKED}


@dataclass(slots=True)
class Standing:
    """Where an alarm stands."""

    latching: bool
    below: AlarmState = S.NORMAL
    """The state that SHELVED, SUPPRESSED and OUT_OF_SERVICE lie over."""
    shelved_until: int | None = None
    """Absolute sample index."""
    suppressed_by: set[str] = field(default_factory=set)
    """For which reasons."""
    out_of_service: bool = False

    @property
    def state(self) -> AlarmState:
        """What an operator sees."""
        if self.out_of_service:
            return S.OUT_OF_SERVICE
        if self.suppressed_by:
            return S.SUPPRESSED
        return self.below if self.shelved_until is None else S.SHELVED

    @property
    def raised(self) -> bool:
        """It has been announced, and has not cleared."""
        return self.below in (S.UNACK, S.ACKED)

    def follow(self, active: bool) -> str:
        """Move by the condition alone; returns the cause, should it have moved."""
        if active and not self.raised:
            self.below = S.UNACK
            return "condition"
        if self.raised and not active:
            self.below = (LATCHED if self.latching else CLEARED)[self.below]
        return "clear"

    def decide_anew(self, active: bool) -> None:
        """One of the three that lie over the others has ended; while another holds, nothing moves."""
        if self.state is not self.below:
            return
        latched = LATCHED.get(self.below, self.below)
        keeps = self.latching and latched in LATCHED.values()
        self.below = S.UNACK if active else latched if keeps else S.NORMAL


VERSION = 1
MOST_SECONDS = 100 * 366 * 86_400.0
OVERLAID = (AlarmState.SHELVED, AlarmState.SUPPRESSED, AlarmState.OUT_OF_SERVICE)


def _finite(saved: object) -> float:
    """A number that was saved; a damaged one may be of another type, or not finite."""
    if isinstance(saved, bool) or not isinstance(saved, int | float) or not math.isfinite(saved):
        raise ValueError(f"{str(saved)[:40]} is no finite number")
    return float(saved)


def _seconds(saved: object) -> float:
    """A time that was saved, in seconds; more than a hundred years is damage, and would overflow later."""
    found = _finite(saved)
    if abs(found) > MOST_SECONDS:
        raise ValueError(f"{found:g} s is longer than a hundred years")
    return found


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
    condition: Mapping[str, Any] | None
    """What its condition keeps; None where that is of another bank."""

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
            "condition": self.condition,
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
        except (KeyError, TypeError, ValueError, OverflowError) as error:
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
        for key in ("active", "out_of_service"):
            if not isinstance(saved[key], bool):
                raise TypeError(f"{key} is {saved[key]!r}, expected true or false")
        reasons = saved["suppressed_by"]
        if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
            raise TypeError(f"suppressed_by is {reasons!r}, expected a list of texts")
        onset, until = saved["onset_ago_s"], saved["shelved_for_s"]
        return cls(
            state=state,
            active=saved["active"],
            onset=None if onset is None else then - round(_seconds(onset) * sample_rate_hz),
            announced_at=then - round(_seconds(saved["announced_ago_s"]) * sample_rate_hz),
            shelved_until=None if until is None else then + round(_seconds(until) * sample_rate_hz),
            suppressed_by=tuple(reasons),
            out_of_service=saved["out_of_service"],
            score=_finite(saved["score"]),
            condition=saved.get("condition"),
        )
