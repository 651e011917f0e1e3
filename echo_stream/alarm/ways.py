"""Three ways to an alarm of one machine: strong, step and slow. Pure; pipeline thread only.

An alarm says that the sound changed and stayed changed; the longer it stays, the less it must stand out.

- *strong*: a change whose score is over the bank's strong level, for the on-delay. Without a change that was
  heard (the bank is of another day, or the machine was broken from the start): ten minutes over twice that.
- *step*: a change, see step.py, for 10 s or more.
  Both wait longer, 30 s at most, where changes come and go by themselves.
- *slow*: minutes that are higher than the quiet minutes of the past days, see slow.py.

While one of them stands, a step beyond what it stands at is announced again. What is pending, active,
suppressed or lost is in no past, and the last minutes of each operating state are its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from echo_stream.alarm.condition import Condition, hops_in
from echo_stream.alarm.past import Base, Ceiling, Passed, Recent, numbers
from echo_stream.alarm.slow import MINUTE_S, WARM, Found, SlowWay
from echo_stream.alarm.step import StepWay
from echo_stream.core.text import duration_text
from echo_stream.core.types import AlarmPath

STEP_DELAY_S = 10.0
"""A sound of 5 s touches windows of 2 s whose ends span less than 7 s."""
STEP_AFTER_S = 3.0
"""A step waits at least so much longer than the strong way."""
WITHOUT_CHANGE_S = 600.0
"""So long over `WITHOUT_CHANGE` times the strong level is an alarm without a change that was heard."""
WITHOUT_CHANGE = 2.0
"""Another day, a warm-up, a draught: minutes of normal sound come to lie over a level that rests on a minute
of enrolment, and a warning stands then. Four cars held 7 to 17 in another take, with 5 as strong level."""
WAYS = 3
"""Each way may spend that share of the rate of false alarms that the user accepts."""
LEAST_PAST_S = WARM * MINUTE_S
"""The slow way says nothing before it has heard so much."""
OF_THE_BANK = Base(0.0, 1.0)
"""Median and spread of held-out sound, by which scores are standardised."""
STATE_S = 200.0
"""So long in another operating state, and a shift of the one before is no longer what the machine does.
Longer than the slow way takes to see that a shift is over, when the machine comes back."""
SETTLED_S = 60.0
"""So long after an alarm the sound that it stands at is known, and a change of it is news."""


@dataclass(frozen=True, slots=True)
class Levels:
    """What a bank says to the three ways, and how often they may be wrong."""

    strong: float
    clear: float
    """Of the strong way."""
    floor: float
    """What held-out sound was held at, for the on-delay of a step."""
    per_month: float
    """False alarms that the user accepts, of all three ways together."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How scores follow each other, and how long each way waits."""

    sample_rate_hz: int
    """Of the windows' sample indices."""
    hop_s: float
    """Between two windows."""
    on_delay_s: float
    """Of the strong way."""
    off_delay_s: float
    """Of the strong way and of a step."""
    dead_band: float
    """Share of the way from a step's level back to what it is a change from."""

    @property
    def step_delay_s(self) -> float:
        """On-delay of a step."""
        return max(STEP_DELAY_S, self.on_delay_s + STEP_AFTER_S)

    @property
    def held_hops(self) -> int:
        """Scores in a row that a step takes."""
        return hops_in(self.step_delay_s, self.hop_s) + 1


class Ways:
    """The condition of a machine's alarm.

    Args:
        levels: From the bank and the user's rate.
        timing: Of the scores and the delays.
    """

    def __init__(self, levels: Levels, timing: Timing) -> None:
        self.levels, self.timing = levels, timing
        self._each_per_month = levels.per_month / WAYS
        self.passed = Passed(timing.hop_s)
        """Lengths say nothing of scores: they stay when the bank changes."""
        self.held = 0
        """How often an alarm waited longer than its on-delay for what passes by itself, since the start."""
        self._held_since: int | None = None
        self._begin()

    def _begin(self) -> None:
        """Nothing was heard yet."""
        levels, timing = self.levels, self.timing
        self._strong = self._over(levels.strong, timing.on_delay_s)
        self._without_change = self._over(
            self._without_change_level, max(WITHOUT_CHANGE_S, timing.on_delay_s)
        )
        self._with_change = False
        """The strong way stands: what is over its level came as a change."""
        self._fits = False
        """One window at least sounded as the held-out sound of the bank did."""
        self._reached = Ceiling(
            levels.strong,
            hop_s=timing.hop_s,
            held_hops=hops_in(timing.on_delay_s, timing.hop_s) + 1,
            per_month=self._each_per_month,
        )
        """The strong level, raised to what this machine's own quiet sound would reach too often."""
        self.step_way = self._step_way(levels.floor, self._reached)
        self._again: StepWay | None = None
        self._since_alarm = Recent(timing.hop_s)
        self._news: StepWay | None = None
        self._state = ""
        self._state_since = 0
        self._settled: str | None = None
        """The operating state that the machine was last in for some minutes."""
        self._everything = Recent(timing.hop_s)
        self._recents: dict[str, Recent] = {}
        self._slows: dict[str, SlowWay] = {}
        self._path: AlarmPath | None = None
        self._active_since: int | None = None
        self._end: int | None = None
        self.quiet_s = 0.0
        """How much was listened to without an alarm."""
        self.raised: dict[AlarmPath, int] = dict.fromkeys(AlarmPath, 0)
        """How often each way was the first to make the condition active."""

    # What the alarm reads.

    @property
    def active(self) -> bool:
        """One of the ways stands."""
        return self._path is not None

    @property
    def renewed(self) -> bool:
        """With the newest window the sound has changed again, while the condition was active."""
        return self._news is not None

    @property
    def path(self) -> AlarmPath | None:
        """The way that made it active, or renewed it; None while it is not active."""
        return self._path

    @property
    def onset(self) -> int | None:
        """Absolute sample index at which that began; None while not active."""
        return None if self._path is None else self._onset_of(self._path)

    @property
    def trip(self) -> float:
        """The level of the way that stands; while none does, the strong one."""
        if self._path is AlarmPath.STEP:
            return self._stepping.level
        return self._slow_clear if self._path is AlarmPath.SLOW else self._over_level.trip

    @property
    def clear(self) -> float:
        """What the score must come back to; while nothing stands, of the strong way."""
        if self._path is AlarmPath.STEP:
            return self._stepping.clear
        return self._slow_clear if self._path is AlarmPath.SLOW else self._over_level.clear

    @property
    def _slow_clear(self) -> float:
        return (self._shifted or self._slow).clear

    @property
    def creeping(self) -> SlowWay | None:
        """The slow way that found a creep, an advisory; None where none did."""
        return next((slow for slow in self._slows.values() if slow.found is Found.CREEP), None)

    @property
    def levels_now(self) -> dict[AlarmPath, float | None]:
        """The score over which each way leads to an alarm now; the slow way has one only where it stands."""
        return {
            AlarmPath.STRONG: self._strong.trip,
            AlarmPath.STEP: self._step_level(),
            AlarmPath.SLOW: None if self._shifted is None else self._shifted.clear,
        }

    @property
    def slow_way(self) -> SlowWay:
        """Of the operating state of the newest window."""
        return self._slow

    @property
    def waits_s(self) -> dict[AlarmPath, float]:
        """How long a change must last now, for the ways that wait for one."""
        least_s = {AlarmPath.STRONG: self.timing.on_delay_s, AlarmPath.STEP: self.timing.step_delay_s}
        return {path: max(each_s, self.passed.wait_s) for path, each_s in least_s.items()}

    # What the pipeline does.

    def step(self, value: float, start: int, end: int, state: str = "") -> None:
        """Take one window's score into account.

        Args:
            value: Anomaly score, finite.
            start: Absolute index of the window's first sample.
            end: Absolute index after its last sample.
            state: The operating state that the window is nearest to.

        Raises:
            ValueError: The score is not finite, or the window does not end after the one before.
        """
        if not (self._strong.active or self.step_way.changing):
            self._set_strong(self._reached.level)
        self._strong.step(value, start, end)  # raises before anything is changed
        self._without_change.step(value, start, end)
        follows = self._end is None or start <= self._end
        if state != self._state or not follows:
            self._slow.interrupt()
            self._state, self._state_since = state, start
        if self._settled is None or end - self._state_since >= STATE_S * self.timing.sample_rate_hz:
            self._settled = state
        self._end, self._news = end, None
        self.passed.hear()
        self._fits |= value <= self.levels.floor
        was_active = self.active
        for quiet in self.step_way.step(value, start, end, base=self._base, quiet=not was_active):
            self._everything.add(quiet)
            self._recent.add(quiet)
        self._with_change = self._strong.active and (self._with_change or self._changed(end))
        slow = self._slow
        if slow.found is Found.SHIFT or not (was_active or self.step_way.changing):
            slow.add(value, start)
        else:
            slow.interrupt()
        self._decide(end)
        self._count_held(end)
        if was_active and self.active:
            self._watch_again(value, start, end)
        if not self.active:
            self.quiet_s += self.timing.hop_s

    def skip(self, end: int) -> None:
        """The window that ends there says nothing of the machine: another sound is there. It is in no past.

        What is pending begins anew. The ten minutes of a standing score wait instead: a sound that passes
        more often than that must not hold it back for ever.
        """
        self._strong.skip(end)
        self._without_change.pause(end)
        self.step_way.skip(end)
        if self._again is not None:
            self._again.skip(end)
        self._end, self._news = end, None

    def forget(self) -> None:
        """As if nothing was wrong: not active, nothing pending. The past stays."""
        for way in (self._strong, self._without_change, self.step_way):
            way.forget()
        for slow in self._slows.values():
            if slow.found is not Found.CREEP:
                slow.forget()
            slow.interrupt()
        self._with_change, self._news, self._end = False, None, None
        self._lower()

    def _decide(self, end: int) -> None:
        standing = self._standing()
        if standing is None:
            self._lower()
        elif self._path is None:
            self._path, self._active_since = standing, end
            self.raised[standing] += 1
            if self._without_change.active:  # then what led here was not quiet
                self.step_way.ceiling.forget_above(self.levels.strong)
        elif self._path is not standing and not self._stands(self._path):
            self._path = standing

    def _standing(self) -> AlarmPath | None:
        return next((path for path in AlarmPath if self._stands(path)), None)

    def _count_held(self, end: int) -> None:
        """A change that goes on would be an alarm by now, did none pass by itself here."""
        since, rate = self.step_way.since, self.timing.sample_rate_hz
        if since is None or self.active or since == self._held_since:
            return
        due_s = self.timing.on_delay_s if self._strong.active else self.timing.step_delay_s
        if end - since >= round(due_s * rate):
            self.held, self._held_since = self.held + 1, since

    def _stands(self, path: AlarmPath) -> bool:
        if path is AlarmPath.STRONG:
            return self._with_change or self._without_change.active
        if path is AlarmPath.STEP:
            return self.step_way.active
        return self._shifted is not None

    @property
    def _shifted(self) -> SlowWay | None:
        """The slow way that stands: of the state that the machine runs in, another one is not heard now."""
        settled = self._settled
        slows = list(self._slows.values()) if settled is None else [self._slow_of(settled)]
        return next((slow for slow in slows if slow.found is Found.SHIFT), None)

    def _lower(self) -> None:
        self._path, self._active_since, self._again = None, None, None

    def _watch_again(self, value: float, start: int, end: int) -> None:
        """Does the sound change once more, beyond what the alarm stands at?"""
        assert self._active_since is not None  # noqa: S101 - it is active
        if end - self._active_since < SETTLED_S * self.timing.sample_rate_hz:
            return
        if self._again is None:
            self._again, self._since_alarm = self._step_way(self.levels.floor), Recent(self.timing.hop_s)
        for settled in self._again.step(value, start, end, base=self._since_alarm.base, quiet=True):
            self._since_alarm.add(settled)
        if self._again.active:
            self._news, self._again = self._again, None
            self._path, self._active_since = AlarmPath.STEP, end
            self.raised[AlarmPath.STEP] += 1

    def why(self) -> str:
        """In words, why it is active; empty where it is not."""
        path = self._path
        if path is None:
            return ""
        if path is AlarmPath.SLOW:
            slow = self._shifted or self._slow
            return (
                "minute after minute is higher than this machine's own last "
                f"{duration_text(slow.hours * 3600)} were: the middle score is {slow.now:.1f} "
                f"instead of {slow.before:.1f}, and stays"
            )
        step = self._stepping
        if path is AlarmPath.STRONG and not self._with_change:
            return (
                f"over {self._without_change_level:.1f}, which is {WITHOUT_CHANGE:g} times the strong level, "
                f"for {duration_text(WITHOUT_CHANGE_S)}, without a change that was heard: the machine, the "
                "microphone or the day is not what was learnt"
            )
        again = " again, while the alarm stood," if self.renewed else ""
        level = self._strong.trip if path is AlarmPath.STRONG else step.level
        return (
            f"the score changed{again} from {step.base.median:.1f} in the minutes before to over "
            f"{level:.1f}, and stayed there for {duration_text(self.waits_s[path])}; quiet sound was held at "
            f"{step.ceiling.level:.1f} at most"
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without times and without what is pending."""
        return {
            "path": self._path and self._path.value,
            "strong": [self._with_change, self._strong.active, self._without_change.active],
            "fits": self._fits,
            "settled": self._settled,
            "step": self.step_way.to_json(),
            "ceiling": self.step_way.ceiling.to_json(),
            "recent": {state: recent.to_json() for state, recent in self._recents.items()},
            "slow": {state: slow.to_json() for state, slow in self._slows.items()},
            "quiet_s": self.quiet_s,
            "passed": self.passed.to_json(),
            "raised": {path.value: count for path, count in self.raised.items()},
        }

    def restore(
        self, saved: Mapping[str, Any] | None, *, active: bool, onset: int | None, same_bank: bool = True
    ) -> None:
        """From what `to_json` gave.

        Args:
            saved: None where nothing is known of the past.
            active: It stood.
            onset: Since when, on the present clock.
            same_bank: False: the scores are no longer comparable; what stood goes on until the score comes
                back to the strong way's clear level, and of the past only lengths are kept.

        Raises:
            KeyError, TypeError, ValueError: It is damaged.
        """
        self.passed = Passed(self.timing.hop_s)
        if saved is not None:
            self.passed.restore(saved.get("passed", []))  # an earlier version saved none
        self._begin()
        if saved is None or not same_bank or (active and saved["path"] is None):
            if active:
                self.step_way.hold(self.levels.strong, self.levels.clear, onset)
                self._path = AlarmPath.STEP
        else:
            self._fits = bool(saved["fits"])
            with_change, strong, without_change = (bool(each) for each in saved["strong"])
            self._with_change = with_change and active
            for condition, stood in ((self._strong, strong), (self._without_change, without_change)):
                condition.active, condition.onset = stood and active, onset if stood and active else None
            self.step_way.ceiling.restore(saved["ceiling"])
            self.step_way.restore(saved["step"], onset)
            for state, recent in saved["recent"].items():
                self._state = str(state)
                self._recent.restore(recent)
                self._everything.restore(recent)
            for state, slow in saved["slow"].items():
                self._state = str(state)
                self._slow.restore(slow, onset)
            settled = saved["settled"]
            self._settled = str(settled) if settled in self._slows else None
            (self.quiet_s,) = numbers([saved["quiet_s"]])
            self.raised = {path: int(saved["raised"][path.value]) for path in AlarmPath}
            self._path = self._standing() if active else None
        if self._path is not None:
            self._active_since = 0

    # Parts.

    @property
    def _without_change_level(self) -> float:
        """Never below the strong level; scores are 0 in the middle of normal sound."""
        return max(WITHOUT_CHANGE * self.levels.strong, self.levels.strong)

    def _over(self, level: float, delay_s: float) -> Condition:
        rate = self.timing.sample_rate_hz
        on_delay, off_delay = round(delay_s * rate), round(self.timing.off_delay_s * rate)
        clear = level - (self.levels.strong - self.levels.clear)
        return Condition(level, clear, on_delay=on_delay, off_delay=off_delay)

    def _set_strong(self, level: float) -> None:
        clear = level - (self.levels.strong - self.levels.clear)
        self._strong.trip, self._strong.clear = level, clear

    def _step_way(self, floor: float, quicker: Ceiling | None = None) -> StepWay:
        timing = self.timing
        ceiling = Ceiling(
            floor,
            hop_s=timing.hop_s,
            held_hops=timing.held_hops,
            per_month=self._each_per_month,
            quicker=quicker,
        )
        return StepWay(
            ceiling,
            self.passed,
            sample_rate_hz=timing.sample_rate_hz,
            on_delay=round(timing.step_delay_s * timing.sample_rate_hz),
            off_delay=round(timing.off_delay_s * timing.sample_rate_hz),
            dead_band=timing.dead_band,
        )

    @property
    def _stepping(self) -> StepWay:
        return self._news or self.step_way

    @property
    def _recent(self) -> Recent:
        if self._state not in self._recents:
            self._recents[self._state] = Recent(self.timing.hop_s)
        return self._recents[self._state]

    @property
    def _slow(self) -> SlowWay:
        return self._slow_of(self._state)

    def _slow_of(self, state: str) -> SlowWay:
        if state not in self._slows:
            self._slows[state] = SlowWay(
                hop_s=self.timing.hop_s,
                per_month=self._each_per_month,
                sample_rate_hz=self.timing.sample_rate_hz,
            )
        return self._slows[state]

    @property
    def _over_level(self) -> Condition:
        """Of the strong way: what stands, or would come first."""
        return self._without_change if self._without_change.active and not self._with_change else self._strong

    def _onset_of(self, path: AlarmPath) -> int | None:
        if path is AlarmPath.STRONG:
            return self._over_level.onset
        if path is AlarmPath.STEP:
            return self._stepping.onset
        return (self._shifted or self._slow).onset

    def _changed(self, end: int) -> bool:
        """A change goes on for as long as the strong way waits."""
        since = self.step_way.since
        wait_s = max(self.timing.on_delay_s, self.passed.wait_s)
        return since is not None and end - since >= round(wait_s * self.timing.sample_rate_hz)

    def _base(self) -> Base | None:
        """Of this operating state; one that was not heard yet is compared with the others, or the bank."""
        own = self._recent.base() or self._everything.base()
        return own or (OF_THE_BANK if self._fits else None)

    def _step_level(self) -> float:
        """Of the change that goes on, or of one that would begin now."""
        step = self.step_way
        base = None if step.changing else self._base()
        return step.level if step.changing else step.level_over(base) if base else step.ceiling.level
