"""Hypothesis plays an alarm against a model written apart from it: a table, and the condition from its
definition.

The model keeps every window since the last gap and works the condition out anew each time; the alarm keeps
two timers. Afterwards every row of the table must have been reached.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from echo_stream.detect.alarm import Alarm
from echo_stream.errors import CommandRefused
from echo_stream.types import AlarmEvent, AlarmLevel, AlarmState

S = AlarmState
RATE, HOP, WINDOW = 10, 10, 20
TRIP, CLEAR = 5.0, 4.0

PLAIN = {
    (S.NORMAL, "true"): S.UNACK,
    (S.UNACK, "ack"): S.ACKED,
    (S.UNACK, "false"): S.RTN_UNACK,
    (S.ACKED, "false"): S.NORMAL,
    (S.RTN_UNACK, "ack"): S.NORMAL,
    (S.RTN_UNACK, "true"): S.UNACK,
}
LATCHING = {
    (S.NORMAL, "true"): S.UNACK,
    (S.UNACK, "ack"): S.ACKED,
    (S.UNACK, "false"): S.LATCHED_UNACK,
    (S.ACKED, "false"): S.LATCHED_ACKED,
    (S.LATCHED_UNACK, "ack"): S.LATCHED_ACKED,
    (S.LATCHED_UNACK, "true"): S.UNACK,
    (S.LATCHED_ACKED, "reset"): S.NORMAL,
    (S.LATCHED_ACKED, "true"): S.UNACK,
}
KEPT_BY_A_LATCH = {
    S.UNACK: S.LATCHED_UNACK,
    S.LATCHED_UNACK: S.LATCHED_UNACK,
    S.ACKED: S.LATCHED_ACKED,
    S.LATCHED_ACKED: S.LATCHED_ACKED,
}
STRONGEST_FIRST = (S.OUT_OF_SERVICE, S.SUPPRESSED, S.SHELVED)
REACHED: Counter[tuple[bool, AlarmState, AlarmState, str]] = Counter()


@dataclass
class Model:
    """What the conventions say, for an alarm of these settings."""

    on: int
    off: int
    k: int
    n: int
    latching: bool
    realarm: int | None
    windows: list[tuple[float, int, int]] = field(default_factory=list)  # without a gap between them
    active_before: bool = False  # the first of them
    onset: int | None = None
    active: bool = False
    below: AlarmState = S.NORMAL
    over: dict[AlarmState, Any] = field(default_factory=dict)  # state that lies over the others -> its why
    told_at: int = 0

    @property
    def state(self) -> AlarmState:
        return next((s for s in STRONGEST_FIRST if s in self.over), self.below)

    def break_off(self) -> None:
        self.windows, self.active_before = [], self.active

    def work_out(self) -> None:
        """Whether the condition is active after the last window, by definition."""
        truths: list[bool] = []
        active = self.active_before
        for i, (_, _, end) in enumerate(self.windows):
            last_n = [w[0] for w in self.windows[max(0, i - self.n + 1) : i + 1]]
            assert rows - set(REACHED) == set(), "rows that were not reached"
