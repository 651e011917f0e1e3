"""Guard: work that raises is logged, counted and begun again."""

from __future__ import annotations

from threading import Event, Thread
from time import monotonic

import pytest
import structlog

from echo_stream.core.guard import Guard, GuardedThread


@pytest.mark.parametrize(
    "error", [ValueError("odd"), MemoryError(), AssertionError("never"), OSError(5, "io")]
)
def test_work_that_raises_is_begun_again(error: Exception) -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        if len(calls) < 4:
            raise error

    guard = Guard("the pump", Event(), first_wait_s=0.001)
    with structlog.testing.capture_logs() as logs:
        guard.run(work)
    assert len(calls) == 4
    assert guard.restarts == 3
    assert guard.degraded
    assert type(error).__name__ in guard.last_error
    assert [line["event"] for line in logs] == ["the pump failed and is restarted"] * 3
    assert [line["wait_s"] for line in logs] == [0.001, 0.002, 0.004]


def test_the_end_is_not_delayed_by_a_wait() -> None:
    stop, failed = Event(), Event()

    def work() -> None:
        failed.set()
        raise ValueError("odd")

    thread = Thread(target=Guard("the pump", stop, first_wait_s=100).run, args=(work,))
    thread.start()
    assert failed.wait(60)
    began_s = monotonic()
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
    assert monotonic() - began_s < 20


def test_what_ends_the_process_is_not_held_up() -> None:
    def work() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard("the pump", Event()).run(work)


def test_a_loop_that_must_not_wait_passes_over_the_step_until_its_time() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ValueError("odd")

    guard = Guard("the pump", Event(), first_wait_s=0.2)
    began_s = monotonic()
    while len(calls) < 2:
        guard.step(work)
    assert monotonic() - began_s >= 0.2
    guard.step(work)
    assert (len(calls), guard.restarts, guard.degraded) == (3, 1, True)


@pytest.mark.parametrize("end", [SystemExit(3), None])
def test_a_thread_that_cannot_be_restarted_says_so(end: BaseException | None) -> None:
    def work() -> None:
        if end is not None:
            raise end

    stop = Event()
    thread = GuardedThread("the pump", work, stop)
    found = [thread.ended]
    thread.start()
    thread.join(20)
    found.append(thread.ended)
    stop.set()
    found.append(thread.ended)
    assert found == [False, True, False], "not begun, ended by itself, was to end"
