"""What would have happened: which alarms another trip level would have raised, by the minutes that were kept.

A minute row holds the middle and the highest score, not the order of its windows. So it says of a level that
at least half of the minute was over it (the middle is), that some of it was (the highest is), or none. So it
tells alarms that would have come, unless the score jumped to and fro all the time, and alarms that may have
come: for how long a score was held within a minute no row can tell. Pure; any thread.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from echo_stream.history.minutes import MINUTE_S, MinuteRow

OFF: Final = "off"
JOIN_S: Final = 3 * MINUTE_S
"""Minutes over a level that are no further apart are one alarm."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Minutes in a row over a level."""

    from_s: float
    """Unix time at which the first minute begins."""
    to_s: float
    """At which the last one ends."""
    sure: bool
    """Its middle scores lay over the level for as long as an alarm waits; otherwise it may have come."""
    highest: float
    operating_state: str


def episodes(rows: Sequence[MinuteRow], level: float, on_delay_s: float) -> list[Episode]:
    """Alarms that a level would have raised, oldest first.

    Sure is what was over the level for as many whole minutes as the on-delay touches, by the middle score.
    Of other minutes over the level the highest score alone is known: those may have raised one, where the
    on-delay is shorter than the minutes in a row.

    Args:
        rows: Minutes of one machine in order of time.
        level: Trips above this score.
        on_delay_s: How long the score must stay there.
    """
    whole = max(1, math.ceil(on_delay_s / MINUTE_S))
    runs: list[list[MinuteRow]] = []
    for row in rows:
        if row.score_max <= level or row.operating_state == OFF:
            continue
        if runs and row.minute_s - runs[-1][-1].minute_s <= JOIN_S:
            runs[-1].append(row)
        else:
            runs.append([row])
    return [_episode(run, level, whole) for run in runs if _touches(run) >= on_delay_s]


def _touches(run: Sequence[MinuteRow]) -> float:
    """So long the score may have been over the level at most, in seconds."""
    return max(MINUTE_S * length for length in _in_a_row(run, [True] * len(run)))


def _in_a_row(run: Sequence[MinuteRow], counts: Sequence[bool]) -> list[int]:
    lengths, length, before = [0], 0, None
    for row, counted in zip(run, counts, strict=True):
        follows = before is not None and row.minute_s - before == MINUTE_S
        length = (length + 1 if follows else 1) if counted else 0
        lengths.append(length)
        before = row.minute_s
    return lengths


def _episode(run: Sequence[MinuteRow], level: float, whole: int) -> Episode:
    highest = max(run, key=lambda row: row.score_max)
    held = _in_a_row(run, [row.score_median > level for row in run])
    return Episode(
        from_s=float(run[0].minute_s),
        to_s=float(run[-1].minute_s + MINUTE_S),
        sure=max(held) >= whole,
        highest=highest.score_max,
        operating_state=highest.operating_state,
    )
