"""Floods are merged and end; chattering alarms are named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from echo_stream.alarm.flood import ChatterCounter, FloodGate, FloodReport
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState


def event(
    machine: str = "pump1", after: AlarmState = AlarmState.UNACK, cause: str = "condition"
) -> AlarmEvent:
    return AlarmEvent(
        machine=machine,
        level=AlarmLevel.ALARM,
        before=AlarmState.NORMAL,
        after=after,
        cause=cause,
        at=100,
        onset=90,
        active=True,
        score=9.0,
        threshold=5.0,
    )


def test_the_eleventh_in_ten_minutes_begins_a_flood() -> None:
    gate = FloodGate()
    for i in range(10):
        assert gate.take(event(f"pump{i % 3}"), 10.0 * i) == (True, None)
    alone, report = gate.take(event("fan"), 100.0)
    assert not alone
    assert report == FloodReport(True, 11, ("fan", "pump0", "pump1", "pump2"), since_s=100.0, at_s=100.0)
    assert gate.take(event("pump7"), 101.0) == (False, None)
    assert gate.flooding


def test_a_flood_ends_when_it_is_quiet_and_says_what_it_merged() -> None:
    gate = FloodGate(limit=4, within_s=100.0)
    for i in range(7):
        gate.take(event(f"pump{i}"), float(i))
    assert gate.tick(103.0) is None  # 3 left of the last 100 s
    assert gate.tick(104.0) == FloodReport(False, 3, ("pump4", "pump5", "pump6"), since_s=4.0, at_s=104.0)
    assert gate.take(event(), 105.0) == (True, None)


def test_ten_in_steady_state_are_no_flood() -> None:
    gate = FloodGate()
    assert all(gate.take(event(), 61.0 * i) == (True, None) for i in range(200))


def test_what_calls_for_nobody_always_passes() -> None:
    gate = FloodGate(limit=1)
    for i in range(5):
        gate.take(event(), float(i))
    assert gate.take(event(after=AlarmState.ACKED, cause="ack"), 5.0) == (True, None)


@given(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), max_size=80))
def test_every_announcement_is_alone_or_in_a_report(steps: list[tuple[int, str]]) -> None:
    gate, now, alone = FloodGate(limit=3, within_s=100.0), 0.0, 0
    reports = []
    for seconds, machine in steps:
        now += seconds
        passed, report = gate.take(event(machine), now)
        alone += passed
        reports.append(report)
    reports.append(gate.tick(now + 1000.0))
    ends = [r for r in reports if r is not None and not r.active]
    begins = [r for r in reports if r is not None and r.active]
    merged = sum(r.announcements for r in ends)
    assert alone + merged == len(steps)
    assert len(begins) == len(ends)
    assert not gate.flooding


def test_chatter() -> None:
    counter = ChatterCounter()
    assert [counter.take(event(), at) for at in (0.0, 100.0, 200.0, 300.0)] == [False, False, True, False]
    assert counter.count("pump1", AlarmLevel.ALARM, 300.0) == 4
    assert counter.chattering("pump1", AlarmLevel.ALARM, 300.0)
    assert not counter.chattering("pump1", AlarmLevel.WARNING, 300.0)
    assert not counter.chattering("pump2", AlarmLevel.ALARM, 300.0)
    assert counter.count("pump1", AlarmLevel.ALARM, 801.0) == 1
    assert not counter.chattering("pump1", AlarmLevel.ALARM, 801.0)


def test_steady_chatter_is_said_once() -> None:
    counter = ChatterCounter()
    assert sum(counter.take(event(), 250.0 * i) for i in range(50)) == 1
    assert counter.take(event(), 20_000.0) is False
    assert [counter.take(event(), 20_000.0 + i) for i in (1, 2, 3)] == [False, True, False]


def test_an_alarm_announced_again_or_acknowledged_does_not_chatter() -> None:
    counter = ChatterCounter()
    for i in range(10):
        assert not counter.take(event(cause="realarm"), float(i))
        assert not counter.take(event(after=AlarmState.ACKED, cause="ack"), float(i))
    assert counter.count("pump1", AlarmLevel.ALARM, 10.0) == 0
