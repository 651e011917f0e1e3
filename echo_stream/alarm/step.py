"""The step way to an alarm: the score leaves its own recent past and stays away. Pure; pipeline thread only.

A score is a *change* while it stands over what quiet sound was ever held at (`Ceiling`) and over the last
minutes by a robust margin. Both are frozen when it begins: a change must not become its own past. One that
lasts for the on-delay is an alarm; one that does not joins the past. Where changes come and go by themselves
the on-delay is longer than they are. Why: docs/adr/0015-three-ways.md, 0050-what-passes-by-itself.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from echo_stream.alarm.past import Base, Ceiling, Passed, numbers

SMALLEST = 2.0
"""Margin over the last minutes, in spreads of held-out sound."""
DEVIATIONS = 4.0
"""And in spreads of the last minutes themselves."""


class StepWay:
    """Follows changes, window by window.

    Args:
        ceiling: What quiet sound is held at; this adds to it what turned out to be no change.
        passed: How long changes last that end by themselves; this adds to it, too.
        sample_rate_hz: Of the sample indices.
        on_delay: Samples for which a change must last, at least.
        off_delay: Samples after which it is over.
        dead_band: Share of the way from the level back to the base, for the clear level.
    """

    def __init__(
        self,
        ceiling: Ceiling,
        passed: Passed,
        *,
        sample_rate_hz: int,
        on_delay: int,
        off_delay: int,
        dead_band: float,
    ) -> None:
        self.ceiling, self.passed = ceiling, passed
        self._rate = sample_rate_hz
        self._on_delay, self._off_delay, self._dead_band = on_delay, off_delay, dead_band
        self.active = False
        self.onset: int | None = None
        """Where the newest hop of its first window starts (absolute sample index); while pending, too."""
        self.level = ceiling.level
        """What the score must stay over; of the change that is going on, or else of the last one."""
        self.clear = self.level
        self.base = Base(0.0, 0.0)
        """What it is a change from."""
        self._pending: list[float] = []
        self._since: int | None = None
        self._under_since: int | None = None
        self._end: int | None = None

    @property
    def changing(self) -> bool:
        """A change is going on: it lasts for the on-delay already, or may come to do so."""
        return self.active or self._since is not None

    @property
    def since(self) -> int | None:
        """End of the first window of the change that goes on; None where none does."""
        return self._since

    def level_over(self, base: Base) -> float:
        """What a change from there must stay over."""
        return max(self.ceiling.level, base.median + max(SMALLEST, DEVIATIONS * base.spread))

    def step(
        self, value: float, start: int, end: int, *, base: Callable[[], Base | None], quiet: bool
    ) -> Sequence[float]:
        """Take one window's score into account.

        Args:
            value: Anomaly score, finite.
            start: Absolute index of the window's first sample.
            end: Absolute index after its last sample.
            base: Gives what it would be a change from; asked only where it may be one.
            quiet: Nothing else says that something is wrong: what is no change was quiet sound.

        Returns:
            Scores that are now known to be quiet sound: the newest, and those that waited.
        """
        gap = self._end is not None and start > self._end
        newest_hop = start if self._end is None or gap else self._end
        self._end = end
        if gap:
            self.restart()
        if self.active:
            self._follow(value, end)
            return ()
        if self._since is not None:
            settled = self._wait(value, end)
        elif self._begins(value, newest_hop, end, base):
            return ()
        else:
            settled = [value]
        if not quiet:
            self.ceiling.interrupt()
            return ()
        for each in settled:
            self.ceiling.add(each)
        return settled

    def restart(self) -> None:
        """Sound was lost: what is pending is dropped, what is active stays."""
        if not self.active:
            self._pending, self._since, self.onset = [], None, None
        self._under_since = None
        self.ceiling.interrupt()

    def skip(self, end: int) -> None:
        """As if the sound of the window that ends there was lost."""
        self.restart()
        self._end = end

    def forget(self) -> None:
        """Not active, nothing pending; the past stays."""
        self.active = False
        self.restart()
        self._end = None

    def hold(self, level: float, clear: float, onset: int | None) -> None:
        """Stand where another life of this machine stood: active until it clears."""
        self.forget()
        self.active, self.level, self.clear, self.onset = True, level, clear, onset

    def _begins(self, value: float, newest_hop: int, end: int, base: Callable[[], Base | None]) -> bool:
        if value <= self.ceiling.level:  # almost always: the base need not be known
            return False
        found = base()
        if found is None or value <= self.level_over(found):
            return False
        self.base, self.level = found, self.level_over(found)
        self.clear = self.level - self._dead_band * (self.level - found.median)
        self._pending, self._since, self.onset = [value], end, newest_hop
        return True

    def _wait(self, value: float, end: int) -> Sequence[float]:
        assert self._since is not None  # noqa: S101 - of the caller
        self._pending.append(value)
        lasts = end - self._since
        if value <= self.clear:
            settled, self._pending = self._pending, []
            self._since = self.onset = None
            self.passed.add(lasts / self._rate)
            if lasts <= self._on_delay:
                return settled
            self.ceiling.interrupt()  # it passed, and is not what the machine by itself is held at
        elif lasts >= max(self._on_delay, self.passed.wait_s * self._rate):
            self.active, self._under_since = True, None
            self._pending = []
        return ()

    def _follow(self, value: float, end: int) -> None:
        if value > self.clear:
            self._under_since = None
        elif self._under_since is None:
            self._under_since = end
        if self._under_since is not None and end - self._under_since >= self._off_delay:
            if self._since is not None:
                self.passed.add(
                    (self._under_since - self._since) / self._rate, (end - self._under_since) / self._rate
                )
            self.active = False
            self._since = self.onset = self._under_since = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, without what is pending and without times."""
        return {"active": self.active, "level": self.level, "clear": self.clear, "base": list(self.base)}

    def restore(self, saved: Mapping[str, Any], onset: int | None) -> None:
        """From what `to_json` gave; raises what `numbers` raises."""
        self.forget()
        self.active = bool(saved["active"])
        self.level, self.clear = numbers([saved["level"], saved["clear"]])
        self.base = Base(*numbers(saved["base"]))
        self.onset = self._since = onset if self.active else None
