"""Times of a source follow the wall clock: set by NTP, slow crystals, recordings replayed fast."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from echo_stream.capture.simulator import Simulated
from echo_stream.capture.source import Anchor, ClockFollower, SharedSource, UnsupervisedSource
from echo_stream.core.types import AudioBlock

RATE_HZ = 1000


class CountingSource(UnsupervisedSource):
    """Times by the count of samples from one anchor, as every source without a clock of its own has them."""

    sample_rate_hz = RATE_HZ
    channels = 1
    description = "counting"
    lost_samples = 0

    def __init__(self, begin: datetime) -> None:
        self._anchor = Anchor(0, begin, RATE_HZ)

    def read(self) -> AudioBlock | None:
        return None

    def time_of(self, index: int) -> datetime:
        return self._anchor.time_of(index)

    def close(self) -> None:
        pass


class Clock:
    """A wall clock that is set at will."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.mark.parametrize("step_s", [-3600.0, -2.0, -0.3, 2.0, 600.0, 56 * 365 * 86_400.0])
def test_times_follow_a_clock_that_was_set(step_s: float) -> None:
    clock = Clock(datetime(1971, 1, 1, tzinfo=UTC))
    follower = ClockFollower(CountingSource(clock.now), clock)
    for second in range(1, 60):
        clock.now += timedelta(seconds=1)
        if second == 30:
            clock.now += timedelta(seconds=step_s)
        follower.on_read(second * RATE_HZ)
        late_s = (clock.now - follower.time_of(second * RATE_HZ)).total_seconds()
        assert 0 <= late_s <= 0.5


@pytest.mark.parametrize("ppm", [-50, 50])
def test_a_month_with_an_inaccurate_crystal_stays_within_a_second(ppm: int) -> None:
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    follower = ClockFollower(CountingSource(clock.now), clock)
    index = 0
    for _ in range(30 * 24 * 60):
        clock.now += timedelta(minutes=1)
        index += round(60 * RATE_HZ * (1 + ppm * 1e-6))
        follower.on_read(index)
        assert 0 <= (clock.now - follower.time_of(index)).total_seconds() <= 0.5


def test_a_replay_faster_than_life_stamps_nothing_in_the_future() -> None:
    shared = SharedSource(Simulated(1, 8000, pace="fast", duration_s=120))
    view = shared.view(0)
    while not view.ended:
        if (block := view.read()) is not None:
            end = block.start + len(block.samples)
            assert view.time_of(end) <= datetime.now(UTC)
            lasted = view.time_of(end) - view.time_of(block.start)
            assert lasted == timedelta(seconds=len(block.samples) / 8000)


def test_jitter_of_the_delivery_shifts_nothing() -> None:
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    follower = ClockFollower(CountingSource(clock.now), clock)
    clock.now += timedelta(seconds=1.4)
    follower.on_read(RATE_HZ)
    clock.now += timedelta(seconds=0.6)
    follower.on_read(2 * RATE_HZ)
    assert follower.time_of(0) == datetime(2026, 1, 1, tzinfo=UTC)
