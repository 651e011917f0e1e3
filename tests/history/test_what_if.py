"""What another level would have raised, and what minute rows cannot tell of it."""

from __future__ import annotations

import pytest

from echo_stream.daemon.page_history import episodes
from echo_stream.history.minutes import MinuteRow

QUIET = (0.1, 1.5)


def minutes(*scores: tuple[float, float], state: str = "load", first: int = 0) -> list[MinuteRow]:
    """Rows one after the other, each with its middle and highest score."""
    return [
        MinuteRow("pump3", (first + i) * 60, 60, middle, highest, 0.0, 0.0, -30.0, state, 1.0, None)
        for i, (middle, highest) in enumerate(scores)
    ]


LONG = minutes(*[QUIET] * 5, (9.0, 20.0), (12.0, 25.0), (3.0, 11.0), *[QUIET] * 5, (0.3, 8.0), *[QUIET] * 3)


def test_a_higher_level_raises_less() -> None:
    found = episodes(LONG, 5.0, 7.0)
    assert [(each.from_s, each.to_s, each.sure, each.highest) for each in found] == [
        (300, 480, True, 25.0),
        (780, 840, False, 8.0),
    ]
    assert found[0].operating_state == "load"
    assert [each.sure for each in episodes(LONG, 10.0, 7.0)] == [True]
    assert [each.sure for each in episodes(LONG, 15.0, 7.0)] == [False]
    assert episodes(LONG, 30.0, 7.0) == []
    assert len(episodes(LONG, 1.0, 7.0)) == 1, (
        "every minute reached it once: one that may have stood all the time"
    )


@pytest.mark.parametrize(("on_delay_s", "sure"), [(7, [True]), (120, [True]), (170, [False]), (200, [])])
def test_a_longer_delay_needs_more_minutes(on_delay_s: float, sure: list[bool]) -> None:
    assert [each.sure for each in episodes(LONG[:12], 5.0, on_delay_s)] == sure


def test_a_gap_is_no_minute_over_the_level_and_a_machine_that_is_off_raises_nothing() -> None:
    rows = [*minutes((9.0, 9.0)), *minutes((9.0, 9.0), first=2)]
    (joined,) = episodes(rows, 5.0, 7.0)
    assert (joined.from_s, joined.to_s) == (0, 180)
    assert episodes(rows, 5.0, 90.0) == [], "nobody knows what was in between"
    assert episodes(minutes((9.0, 9.0), state="off"), 5.0, 7.0) == []
    assert episodes([], 5.0, 7.0) == []
