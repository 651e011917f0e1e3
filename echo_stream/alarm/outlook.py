"""Outlook says what the three ways to an alarm know of a machine by now, in figures and in words. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from echo_stream.alarm.calibration import poisson_upper
from echo_stream.alarm.past import LONGER
from echo_stream.alarm.ways import LEAST_PAST_S, WAYS, Ways
from echo_stream.core.text import MONTH_H, duration_text
from echo_stream.core.types import AlarmPath

LEAST_QUIET_S = 600.0
"""Over less nothing is said of a rate."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known now; made by the pipeline thread, read by any."""

    per_month: float
    """False alarms that the user accepts; each way may spend a third."""
    quiet_s: float
    """Listened to without an alarm, with this bank."""
    raised: Mapping[AlarmPath, int]
    """Alarms of each way meanwhile, faults among them."""
    levels: Mapping[AlarmPath, float | None]
    """Scores over which each way leads to an alarm now."""
    delays_s: Mapping[AlarmPath, float]
    """For how long."""
    past_s: float
    """What the slow way compares with."""
    slow_minute: float | None = None
    """Median score of the newest minute that the slow way looks at."""
    slow_usual: float | None = None
    """The middle of those before."""
    slow_evidence: float = 0.0
    """That they are higher than they were; at 1 it trips."""
    passed_s: float = 0.0
    """So long lasts what comes and goes by itself here, and alarms wait for it; 0: they wait for nothing."""
    passed: int = 0
    """How often it came within a week."""
    held: int = 0
    """How often an alarm waited for it since the start."""

    @classmethod
    def of(cls, ways: Ways) -> Self:
        """Of a machine's ways, as they are now."""
        return cls(
            per_month=ways.levels.per_month,
            quiet_s=ways.quiet_s,
            raised=dict(ways.raised),
            levels=ways.levels_now,
            delays_s=ways.waits_s,
            past_s=3600 * ways.slow_way.hours,
            slow_minute=ways.slow_way.newest,
            slow_usual=ways.slow_way.usual,
            slow_evidence=ways.slow_way.evidence,
            passed_s=ways.passed.longest_s if ways.passed.wait_s > ways.timing.on_delay_s else 0.0,
            passed=ways.passed.count,
            held=ways.held,
        )

    @property
    def at_most_per_month(self) -> float | None:
        """With 95 %, had all alarms been false; None where too little was heard."""
        if self.quiet_s < LEAST_QUIET_S:
            return None
        return poisson_upper(sum(self.raised.values())) / (self.quiet_s / 3600) * MONTH_H

    def to_json(self) -> dict[str, Any]:
        """Plain JSON."""
        most = self.at_most_per_month
        return {
            "false_alarms_per_month": self.per_month,
            "quiet_h": round(self.quiet_s / 3600, 2),
            "at_most_per_month": None if most is None else float(f"{most:.3g}"),
            "past_h": round(self.past_s / 3600, 2),
            "paths": {
                path.value: {
                    "share_per_month": round(self.per_month / WAYS, 4),
                    "raised": self.raised[path],
                    "level": None if (level := self.levels[path]) is None else round(level, 3),
                }
                for path in AlarmPath
            },
            "known": self.known(),
        }

    def known(self) -> list[str]:
        """In words: what was measured, and what each way does now."""
        return [
            self._measured(),
            *(self._of_level(path) for path in self.delays_s),
            self._slow(),
            *self._passing(),
        ]

    def _measured(self) -> str:
        most, count = self.at_most_per_month, sum(self.raised.values())
        if most is None:
            return (
                "nothing is measured yet: how often this machine raises false alarms is known after some "
                "hours, "
                "and well after a day"
            )
        measured = f"in {duration_text(self.quiet_s)} {count} alarm{'' if count == 1 else 's'}"
        if not count:
            return f"{measured}, so with 95 % at most {_rate(most)} false alarms a month"
        return f"{measured}; had all been false, with 95 % at most {_rate(most)} a month"

    def _of_level(self, path: AlarmPath) -> str:
        level = self.levels[path]
        over = "" if level is None else f"a change to a score over {level:.1f} "
        return f"{path.value} ({_share(self.per_month)}): {over}for {duration_text(self.delays_s[path])}"

    def _slow(self) -> str:
        of = f"{AlarmPath.SLOW.value} ({_share(self.per_month)})"
        if self.past_s < LEAST_PAST_S:
            left = duration_text(LEAST_PAST_S - self.past_s)
            return f"{of}: nothing yet, it must listen for {left} more"
        if (level := self.levels[AlarmPath.SLOW]) is not None:
            return f"{of}: stands until minutes are back under {level:.1f}"
        better = "" if self.past_s > 86_400 else "; better after a day"
        return f"{of}: minutes that stay higher than its last {duration_text(self.past_s)}{better}"

    def _passing(self) -> list[str]:
        if not self.passed_s:
            return []
        wait = duration_text(LONGER * self.passed_s)
        return [
            f"changes of up to {duration_text(self.passed_s)} came and went by themselves {self.passed} "
            f"times within a week: they are warnings, an alarm must last {wait} ({self.held} waited since "
            "the start); less again, once such sounds are known (ignore add) or heard by a reference "
            "microphone"
        ]


def _share(per_month: float) -> str:
    return f"{_rate(per_month / WAYS)} a month"


def _rate(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
