"""Hypothesis plays an alarm against a model written apart: a table, and the condition by its definition.

The model keeps every window since the last gap and works the condition out anew each time; the alarm keeps
two timers. Afterwards every row of the table must have been reached.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from echo_stream.alarm.alarm import Alarm
from echo_stream.core.errors import CommandRefused
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmPath, AlarmState

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
        for i, (score, _, end) in enumerate(self.windows):
            before = truths[-1] if truths else self.active_before
            truths.append(score > TRIP or (before and score > CLEAR))
            first = i
            while first > 0 and truths[first - 1] == truths[i]:
                first -= 1
            lasted = end - self.windows[first][2]
            if truths[i] != active and lasted >= (self.on if truths[i] else self.off):
                active = truths[i]
                if i == len(self.windows) - 1:
                    self.onset = self.first_exceeding(first) if active else None
        self.active = active

    def first_exceeding(self, at: int) -> int:
        score, start, _ = self.windows[at]
        assert score > TRIP
        return self.windows[at - 1][2] if at else start

    def window(self, score: float, start: int, end: int) -> str:
        """Take it into account; returns the cause of a transition, should there be one."""
        if S.SUPPRESSED not in self.over:
            if self.windows and start > self.windows[-1][2]:
                self.break_off()
            self.windows.append((score, start, end))
            self.work_out()
        if S.SHELVED in self.over and end >= self.over[S.SHELVED]:
            self.lift(S.SHELVED)
            return "shelve_expired"
        if self.over:
            return ""
        if self.active and self.below in (S.UNACK, S.ACKED):
            if self.realarm is not None and end - self.told_at >= self.realarm:
                self.below = S.UNACK
                return "realarm"
            return ""
        return self.by_table("true" if self.active else "false")

    def by_table(self, given: str) -> str:
        after = (LATCHING if self.latching else PLAIN).get((self.state, given))
        if after is None:
            return ""
        self.below = after
        return {"true": "condition", "false": "clear"}.get(given, given)

    def lift(self, state: AlarmState) -> None:
        del self.over[state]
        if not self.over:
            kept = KEPT_BY_A_LATCH.get(self.below, S.NORMAL) if self.latching else S.NORMAL
            self.below = S.UNACK if self.active else kept


class AlarmMachine(RuleBasedStateMachine):
    @initialize(
        latching=st.booleans(),
        realarm_s=st.sampled_from([None, None, 4.0]),
        on_s=st.sampled_from([0.0, 1.0, 2.0]),
        off_s=st.sampled_from([0.0, 1.0, 3.0]),
    )
    def begin(self, latching: bool, realarm_s: float | None, on_s: float, off_s: float) -> None:
        self.settings = {
            "sample_rate_hz": RATE,
            "trip": TRIP,
            "clear": CLEAR,
            "on_delay_s": on_s,
            "off_delay_s": off_s,
            "latching": latching,
            "realarm_s": realarm_s,
        }
        realarm = None if realarm_s is None else round(realarm_s * RATE)
        self.model = Model(round(on_s * RATE), round(off_s * RATE), latching, realarm)
        self.alarm = Alarm.at_level("pump3", AlarmLevel.ALARM, **self.settings)  # type: ignore[arg-type]
        self.end, self.score = WINDOW - HOP, 0.0

    def expect(self, before: AlarmState, cause: str, happened: list[AlarmEvent]) -> None:
        model = self.model
        if before is model.state and cause != "realarm":
            assert happened == []
            return
        model.told_at = self.end
        (event,) = happened
        assert event == AlarmEvent(
            machine="pump3",
            level=AlarmLevel.ALARM,
            before=before,
            after=model.state,
            cause=cause,
            at=self.end,
            onset=model.onset,
            active=model.active,
            score=self.score,
            threshold=TRIP,
            path=AlarmPath.STRONG if model.active else None,
        )
        REACHED[model.latching, event.before, event.after, event.cause] += 1

    @rule(
        value=st.sampled_from([0.0, 4.5, 9.0]),
        times=st.integers(1, 7),
        lost=st.sampled_from([0, 0, 0, 1, 25]),
    )
    def hear(self, value: float, times: int, lost: int) -> None:
        if lost:
            self.end += lost + WINDOW - HOP
        self.hear_windows(value, times)

    def hear_windows(self, value: float, times: int) -> None:
        for _ in range(times):
            self.end += HOP
            self.score = value
            before = self.model.state
            cause = self.model.window(value, self.end - WINDOW, self.end)
            self.expect(before, cause, self.alarm.step(value, self.end - WINDOW, self.end))

    @rule(value=st.sampled_from([0.0, 9.0]))
    def hear_until_it_settles(self, value: float) -> None:
        self.hear_windows(value, 7)

    def command(self, name: str, *args: Any, refused: bool) -> list[AlarmEvent]:
        if refused:
            with pytest.raises(CommandRefused):
                getattr(self.alarm, name)(self.end, *args)
            return []
        happened: list[AlarmEvent] = getattr(self.alarm, name)(self.end, *args)
        return happened

    @rule(name=st.sampled_from(["ack", "reset"]))
    def acknowledge_or_reset(self, name: str) -> None:
        before = self.model.state
        cause = self.model.by_table(name)
        self.expect(before, cause, self.command(name, refused=not cause))

    @rule(acknowledged=st.booleans(), quiet=st.booleans())
    def raise_an_alarm(self, acknowledged: bool, quiet: bool) -> None:
        """States that take three steps in the right order are rare otherwise."""
        self.hear_windows(9.0, 5)
        if acknowledged:
            self.acknowledge_or_reset("ack")
        if quiet:
            self.hear_windows(0.0, 6)

    @rule(seconds=st.sampled_from([0.0, 0.01, 3.0, 9.0]))
    def shelve(self, seconds: float) -> None:
        before = self.model.state
        if seconds > 0:
            self.model.over[S.SHELVED] = self.end + max(1, round(seconds * RATE))
        self.expect(before, "shelve", self.command("shelve", seconds, refused=seconds == 0))

    @rule()
    def unshelve(self) -> None:
        before, holds = self.model.state, S.SHELVED in self.model.over
        if holds:
            self.model.lift(S.SHELVED)
        self.expect(before, "unshelve", self.command("unshelve", refused=not holds))

    @rule()
    def out_of_service(self) -> None:
        before, holds = self.model.state, S.OUT_OF_SERVICE in self.model.over
        self.model.over[S.OUT_OF_SERVICE] = True
        self.expect(before, "out_of_service", self.command("out_of_service", refused=holds))

    @rule()
    def in_service(self) -> None:
        before, holds = self.model.state, S.OUT_OF_SERVICE in self.model.over
        if holds:
            self.model.lift(S.OUT_OF_SERVICE)
        self.expect(before, "in_service", self.command("in_service", refused=not holds))

    @rule(reason=st.sampled_from(["off", "sensor dead"]))
    def suppress(self, reason: str) -> None:
        model, before = self.model, self.model.state
        model.over[S.SUPPRESSED] = model.over.get(S.SUPPRESSED, set()) | {reason}
        model.active, model.onset = False, None
        model.break_off()
        self.expect(before, "suppress", self.alarm.suppress(self.end, reason))

    @rule(reason=st.sampled_from([None, "off", "sensor dead"]))
    def unsuppress(self, reason: str | None) -> None:
        before = self.model.state
        left = self.model.over.get(S.SUPPRESSED, set()) - {reason} if reason else set()
        if left:
            self.model.over[S.SUPPRESSED] = left
        elif S.SUPPRESSED in self.model.over:
            self.model.lift(S.SUPPRESSED)
        self.expect(before, "unsuppress", self.alarm.unsuppress(self.end, reason))

    @precondition(lambda self: bool(self.model.over))
    @rule()
    def lift_all(self) -> None:
        """Otherwise most of the time is spent below SHELVED, SUPPRESSED or OUT_OF_SERVICE."""
        for state, lift in ((S.SHELVED, self.unshelve), (S.OUT_OF_SERVICE, self.in_service)):
            if state in self.model.over:
                lift()
        self.unsuppress(None)

    @rule(away_s=st.sampled_from([0.0, 2.0, 60.0]))
    def restart(self, away_s: float) -> None:
        saved = json.loads(json.dumps(self.alarm.snapshot()))
        self.alarm = Alarm.at_level("pump3", AlarmLevel.ALARM, **self.settings)  # type: ignore[arg-type]
        self.alarm.restore(saved, away_s=away_s)
        model, moved = self.model, -self.end - round(away_s * RATE)
        model.break_off()
        model.told_at += moved
        if model.onset is not None:
            model.onset += moved
        if S.SHELVED in model.over:
            model.over[S.SHELVED] += moved
        self.end = 0

    @invariant()
    def agree(self) -> None:
        if hasattr(self, "model"):
            assert self.alarm.state is self.model.state
            assert self.alarm.active == self.model.active
            assert self.alarm.onset == self.model.onset


def rows_of_the_table() -> set[tuple[bool, AlarmState, AlarmState, str]]:
    causes = {"true": "condition", "false": "clear", "ack": "ack", "reset": "reset"}
    rows = {
        (latching, before, after, causes[given])
        for latching, table in ((False, PLAIN), (True, LATCHING))
        for (before, given), after in table.items()
    }
    for latching, table in ((False, PLAIN), (True, LATCHING)):
        rows |= {(latching, S.UNACK, S.UNACK, "realarm"), (latching, S.ACKED, S.UNACK, "realarm")}
        for state in {before for before, _ in table}:
            rows |= {
                (latching, state, S.SHELVED, "shelve"),
                (latching, state, S.SUPPRESSED, "suppress"),
                (latching, state, S.OUT_OF_SERVICE, "out_of_service"),
            }
        decided = {S.NORMAL, S.UNACK} | ({S.LATCHED_UNACK, S.LATCHED_ACKED} if latching else set())
        for state in decided:
            rows |= {(latching, S.SHELVED, state, cause) for cause in ("unshelve", "shelve_expired")}
            rows.add((latching, S.OUT_OF_SERVICE, state, "in_service"))
            if state is not S.UNACK:  # suppressed sound is no evidence: never active at its end
                rows.add((latching, S.SUPPRESSED, state, "unsuppress"))
        rows |= {
            (latching, S.SHELVED, S.SUPPRESSED, "suppress"),
            (latching, S.SHELVED, S.OUT_OF_SERVICE, "out_of_service"),
            (latching, S.SUPPRESSED, S.OUT_OF_SERVICE, "out_of_service"),
            (latching, S.SUPPRESSED, S.SHELVED, "unsuppress"),
            (latching, S.OUT_OF_SERVICE, S.SHELVED, "in_service"),
            (latching, S.OUT_OF_SERVICE, S.SUPPRESSED, "in_service"),
        }
    return rows


def test_alarm_against_the_model_reaches_the_whole_table() -> None:
    REACHED.clear()
    rows = rows_of_the_table()
    play = settings(
        max_examples=60,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    for number in (5, 6, 7, *range(20)):  # seeded: the same play each time; the first three are enough
        run_state_machine_as_test(seed(number)(AlarmMachine), settings=play)
        if rows <= set(REACHED):
            break
    assert set(REACHED) - rows == set(), "transitions that no table knows"
    assert rows - set(REACHED) == set(), "rows that were not reached"
