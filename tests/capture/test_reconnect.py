"""Supervision step by step, on a made-up clock: a device of the test's own that can fail in every way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import structlog

from echo_stream.capture.reconnect import SupervisedSource
from echo_stream.capture.source import SourceState
from echo_stream.core.errors import SourceError
from echo_stream.core.types import AudioBlock

RATE = 1000


class World:
    """A clock, a time of day, and one device that is plugged in or not."""

    def __init__(self) -> None:
        self.now_s = 5000.0
        self.utc = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)
        self.plugged = True
        self.tried = 0
        self.live: Device | None = None
        self.opening = threading.Event()  # an attempt waits for it, as for a frozen sound server
        self.opening.set()
        self.closing = threading.Event()
        self.closing.set()
        self.closed = 0

    def open(self) -> Device:
        self.tried += 1
        self.opening.wait()
        if not self.plugged:
            raise SourceError("no such input", "Plug it in.")
        self.live = Device(self)
        return self.live


class Device:
    """A microphone that delivers what pass_time() tells it to."""

    sample_rate_hz = RATE
    channels = 1
    description = "device"
    ended = False
    state: SourceState = "running"
    last_error = None
    losses = 0
    full_scale = 1.0

    def __init__(self, world: World) -> None:
        self._world = world
        self.failure: str | None = None
        self.lost_samples = 0
        self.last_callback = (world.now_s, 0)
        self._blocks: list[AudioBlock] = []
        self._expected = 0

    def deliver(self, n: int, lost: int = 0) -> None:
        start = self.last_callback[1] + lost
        self.lost_samples += lost
        self._blocks.append(AudioBlock(np.zeros((n, 1), np.float32), start, lost > 0))
        self.last_callback = (self._world.now_s, start + n)

    def read(self) -> AudioBlock | None:
        if self._blocks:
            return self._blocks.pop(0)
        if self.failure:
            raise SourceError(self.failure)
        return None

    def time_of(self, index: int) -> datetime:
        raise AssertionError

    def close(self) -> None:
        self._world.closing.wait()
        self._world.closed += 1


class Run:
    """A supervised device, polled every 50 ms of made-up time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.source = SupervisedSource(
            world.open,
            sample_rate_hz=RATE,
            channels=1,
            description="device",
            clock=lambda: world.now_s,
            utc_now=lambda: world.utc,
        )
        self.blocks: list[AudioBlock] = []
        self.wrong: list[str] = []
        self.settle()

    def settle(self) -> None:
        """Let an attempt that can end do so: threads run in real time."""
        opening = self.source._background_open
        deadline = time.monotonic() + 10
        while opening and not opening.done and self.world.opening.is_set() and time.monotonic() < deadline:
            time.sleep(0.0005)

    def poll(self) -> None:
        while (block := self.source.read()) is not None:
            self.blocks.append(block)
        error = self.source.last_error
        if error is not None and error.message not in self.wrong:
            self.wrong.append(error.message)
        self.settle()

    def pass_time(self, seconds: float, *, sound: bool = True, step_s: float = 0.05) -> None:
        for _ in range(round(seconds / step_s)):
            self.world.now_s += step_s
            self.world.utc += timedelta(seconds=step_s)
            live = self.source._device
            if sound and isinstance(live, Device) and live.failure is None:
                live.deliver(round(step_s * RATE))
            self.poll()

    def fail(self, why: str) -> None:
        """The device breaks, and that is noticed."""
        live = self.source._device
        assert isinstance(live, Device)
        live.failure = why
        self.pass_time(0.05)
        assert self.state == "lost"

    def until_open(self) -> None:
        """Until it is open again, and silent."""
        while self.source._device is None:
            self.pass_time(0.05, sound=False)

    def until_back(self) -> float:
        """Seconds until it is heard again."""
        began_s = self.world.now_s
        while self.state != "running":
            assert self.world.now_s - began_s < 200
            self.pass_time(0.05)
        return self.world.now_s - began_s

    @property
    def state(self) -> str:
        return self.source.state

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """(index, samples missing) wherever a block says gap, checked against the indices."""
        found, end = [], 0
        for block in self.blocks:
            assert block.gap == (block.start != end)
            if block.gap:
                found.append((end, block.start - end))
            end = block.start + len(block.samples)
        return found


@pytest.fixture
def run() -> Iterator[Run]:
    run = Run(World())
    yield run
    run.world.opening.set()
    run.world.closing.set()
    run.source.close()


def test_a_device_that_works(run: Run) -> None:
    assert run.state == "waiting"
    run.pass_time(10)
    assert (run.state, run.source.losses, run.source.last_error) == ("running", 0, None)
    assert run.gaps == []
    assert run.blocks[0].start == 0
    assert run.source.lost_samples == 0


def test_lost_and_back(run: Run) -> None:
    run.pass_time(10)
    assert run.world.live is not None
    last = run.source.time_of(run.blocks[-1].start + len(run.blocks[-1].samples))
    run.world.live.failure = "unplugged"
    run.world.plugged = False
    run.pass_time(100)
    assert (run.state, run.source.losses) == ("lost", 1)
    assert run.source.lost_since == last
    assert run.wrong == ["unplugged", "no such input"]
    run.world.plugged = True
    run.pass_time(6)
    assert (run.state, run.source.losses) == ("running", 1)
    assert not run.source.lost_since
    ((index, missing),) = run.gaps
    assert index == pytest.approx(10_000, abs=100)
    assert 100_000 - 100 <= missing <= 106_000
    assert run.source.lost_samples == missing
    elapsed_s = run.world.now_s - 5000
    assert run.blocks[-1].start + 50 == pytest.approx(elapsed_s * RATE, abs=200)


def test_a_missing_device_is_looked_for_every_5_s_for_ever(run: Run) -> None:
    run.world.plugged = False
    run.pass_time(10)  # the first attempt of the fixture succeeded; it stays
    assert run.world.live is not None
    run.world.live.failure = "unplugged"
    run.pass_time(60)
    before = run.world.tried
    run.pass_time(1000)
    assert 180 <= run.world.tried - before <= 200


@pytest.mark.parametrize(("heard", "limit_s"), [(True, 2.0), (False, 3.0)])
def test_silence_is_a_loss(run: Run, heard: bool, limit_s: float) -> None:
    run.pass_time(10 if heard else 0.05, sound=heard)
    run.pass_time(limit_s - 0.15, sound=False)
    assert not run.wrong
    run.pass_time(0.2, sound=False)
    assert run.state == ("lost" if heard else "waiting")
    assert run.wrong == [f"device: no sound came for {limit_s:.0f} s"]


def test_a_late_poll_is_no_silence_and_slow_polls_still_notice_it(run: Run) -> None:
    run.pass_time(10)
    run.pass_time(60, sound=False, step_s=60)
    assert run.state == "running"
    run.pass_time(1)
    assert run.state == "running"
    run.pass_time(12, sound=False, step_s=4)
    assert run.state == "lost"


def test_a_sleep_of_the_pc_is_a_gap_of_its_length(run: Run) -> None:
    """The clock counts suspend; a device that goes on afterwards has lost the samples between."""
    run.pass_time(20)
    run.world.now_s += 3600
    run.world.utc += timedelta(hours=1)
    run.pass_time(20)
    assert run.source.losses == 0
    ((_, missing),) = run.gaps
    assert missing == pytest.approx(3600 * RATE, abs=250)
    assert run.source.lost_samples == missing
    end = run.blocks[-1].start + len(run.blocks[-1].samples)
    assert abs((run.source.time_of(end) - run.world.utc).total_seconds()) < 0.1


@pytest.mark.parametrize("jump_s", [-7200.0, -0.2, 0.2, 86_400.0])
def test_a_jump_of_the_time_of_day_moves_times_and_nothing_else(run: Run, jump_s: float) -> None:
    run.pass_time(20)
    run.world.utc += timedelta(seconds=jump_s)
    run.pass_time(1)
    end = run.blocks[-1].start + len(run.blocks[-1].samples)
    assert abs((run.source.time_of(end) - run.world.utc).total_seconds()) < 0.1
    assert run.gaps == []
    assert run.state == "running"


def test_a_wrong_rate_is_a_loss(run: Run) -> None:
    for _ in range(700):
        run.world.now_s += 0.05
        if isinstance(run.source._device, Device):
            run.source._device.deliver(49)
        run.poll()
    assert run.source.losses == 1
    assert run.wrong == ["device: delivers -2.0% against 1000 Hz"]


def test_losses_that_the_device_reports_go_through(run: Run) -> None:
    run.pass_time(5)
    assert run.world.live is not None
    run.world.live.deliver(50, lost=7)
    run.pass_time(5)
    assert [missing for _, missing in run.gaps] == [7]
    assert run.source.lost_samples == 7
    run.world.live.failure = "unplugged"
    run.pass_time(20)
    assert run.source.lost_samples == sum(missing for _, missing in run.gaps)


def test_what_a_device_lost_before_its_first_block_is_counted_once(run: Run) -> None:
    for _ in range(2):
        run.until_open()
        assert run.world.live is not None
        run.world.now_s += 0.5
        run.world.live.deliver(50, lost=300)
        run.pass_time(5)
        run.fail("unplugged")
    (_, first), (_, second) = run.gaps
    assert first == 300
    assert run.source.lost_samples == first + second


def test_a_device_that_does_not_last_is_opened_ever_less_often(run: Run) -> None:
    pauses_s = []
    for _ in range(9):
        run.pass_time(5)
        run.fail("loose contact")
        pauses_s.append(run.until_back())
    assert pauses_s == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60, 60], abs=0.2)
    run.pass_time(61)  # heard for more than a minute: forgiven
    run.fail("unplugged")
    assert run.until_back() == pytest.approx(1, abs=0.2)


def test_closing_that_hangs_holds_nothing_up_but_is_not_piled_up(run: Run) -> None:
    run.world.closing.clear()
    for _ in range(3):
        run.until_back()
        run.fail("frozen")
    run.pass_time(300)
    assert (run.state, run.world.tried, run.world.closed) == ("lost", 3, 0)
    run.world.closing.set()
    deadline = time.monotonic() + 10
    while run.world.closed < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert run.until_back() < 1


def test_background_open_that_hangs_holds_nothing_up(run: Run) -> None:
    run.pass_time(5)
    assert run.world.live is not None
    run.world.opening.clear()
    run.world.live.failure = "frozen"
    run.pass_time(600)
    assert run.world.tried == 2
    run.world.opening.set()
    run.settle()
    run.pass_time(1)
    assert run.state == "running"


@pytest.mark.parametrize("finished", [True, False])
def test_what_is_opened_after_close_is_closed(finished: bool) -> None:
    world = World()
    if not finished:
        world.opening.clear()
    run = Run(world)
    run.source.close()
    world.opening.set()
    deadline = time.monotonic() + 10
    while world.closed < 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert (world.tried, world.closed) == (1, 1)
    assert run.source.ended


def test_an_unforeseen_exception_of_the_opening_is_said_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    real, failing = world.open, [True]

    def odd() -> Device:
        if failing:
            world.tried += 1
            raise KeyError("nobody thought of this")
        return real()

    monkeypatch.setattr(world, "open", odd)
    with structlog.testing.capture_logs() as logs:
        run = Run(world)
        run.pass_time(20)
        states = [run.source.state]
        assert "nobody thought of this" in str(run.source.last_error)
        assert world.tried > 2
        failing.clear()
        run.pass_time(10)
    states.append(run.source.state)
    assert states == ["waiting", "running"]
    assert {line["log_level"] for line in logs} == {"error"}
    run.source.close()
