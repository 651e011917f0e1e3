"""Floods are merged and end; chattering alarms are named."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from echo_stream.alarm.flood import ChatterCounter, FloodGate, FloodReport
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmState


def event(
    machine: str = "pump1",
    after: AlarmState = AlarmState.UNACK,
    cause: str = "condition",
    level: AlarmLevel = AlarmLevel.WARNING,
) -> AlarmEvent:
    return AlarmEvent(
        machine=machine,
        level=level,
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
    assert gate.take(event("pump7"), 101.0) == (False, None), "said with the next update"
    assert gate.flooding


def test_a_flood_ends_when_it_is_quiet_and_says_what_it_merged() -> None:
    gate = FloodGate(limit=4, within_s=100.0, update_s=1000.0)
    for i in range(7):
        gate.take(event(f"pump{i}"), float(i))
    assert gate.tick(103.0) is None  # 3 left of the last 100 s
    machines = tuple(f"pump{i}" for i in range(7))
    assert gate.tick(104.0) == FloodReport(False, 7, machines, since_s=4.0, at_s=104.0)
    assert gate.take(event(), 105.0) == (True, None)


def test_ten_in_steady_state_are_no_flood() -> None:
    gate = FloodGate()
    assert all(gate.take(event(), 61.0 * i) == (True, None) for i in range(200))


def test_what_calls_for_nobody_always_passes() -> None:
    gate = FloodGate(limit=1)
    for i in range(5):
        gate.take(event(), float(i))
    assert gate.take(event(after=AlarmState.ACKED, cause="ack"), 5.0) == (True, None)


def test_an_alarm_is_never_merged_behind_warnings() -> None:
    gate = FloodGate()
    for i in range(30):
        gate.take(event(f"pump{i}"), float(i))
    assert gate.flooding
    assert gate.take(event("press", level=AlarmLevel.ALARM), 40.0)[0]
    assert not gate.take(event("press", level=AlarmLevel.WARNING), 41.0)[0]


def test_two_hundred_machines_are_all_alone_and_all_named() -> None:
    gate, reports = FloodGate(), []
    machines = [f"m{i:03d}" for i in range(200)]
    for i, machine in enumerate(machines):
        alone, report = gate.take(event(machine, level=AlarmLevel.ALARM), 0.2 * i)
        assert alone
        reports += [report] if report else []
    for second in range(40, 60):
        report = gate.tick(float(second))
        reports += [report] if report else []
    assert reports[-1].machines == tuple(machines)
    assert reports[-1].announcements == 200
    assert 3 <= len(reports) <= 7, "updated while it lasts, not at every alarm"


@given(
    st.lists(
        st.tuples(st.integers(0, 60), st.sampled_from("abcdefgh"), st.sampled_from(AlarmLevel)), max_size=80
    )
)
def test_every_announcement_is_alone_or_its_machine_is_in_a_report(
    steps: list[tuple[int, str, AlarmLevel]],
) -> None:
    gate, now = FloodGate(limit=3, within_s=100.0), 0.0
    merged: set[str] = set()
    for seconds, machine, level in [*steps, (1000, "z", AlarmLevel.ALARM)]:
        now += seconds
        was_flooding = gate.flooding
        passed, report = gate.take(event(machine, level=level), now)
        assert passed or level is AlarmLevel.WARNING
        if report is not None:
            assert report.active or was_flooding
            if not report.active:
                assert merged <= set(report.machines)
                merged = set()
        if not passed:
            merged.add(machine)
    assert not merged
    assert not gate.flooding


def test_chatter() -> None:
    counter = ChatterCounter()
    assert [counter.take(event(), at) for at in (0.0, 100.0, 200.0, 300.0)] == [False, False, True, False]
    assert counter.count("pump1", AlarmLevel.WARNING, 300.0) == 4
    assert counter.count("pump1", AlarmLevel.ALARM, 300.0) == 0
    assert counter.count("pump2", AlarmLevel.WARNING, 300.0) == 0
    assert counter.count("pump1", AlarmLevel.WARNING, 801.0) == 1


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
    assert counter.count("pump1", AlarmLevel.WARNING, 10.0) == 0
