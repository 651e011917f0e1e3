"""Streams made up in samples and seconds, with callbacks as unsteady as real ones."""

from __future__ import annotations

import numpy as np
import pytest

from echo_stream.capture.reconnect import RateCheck

RATE = 48_000


def run(
    check: RateCheck,
    seconds: float,
    *,
    rate: float = RATE,
    lost_at: dict[float, float] | None = None,
    stall: float = 0,
) -> list[tuple[float, int]]:
    """Callbacks of 50 ms that come up to 0.1 s late; (time, samples) of what is found missing."""
    random, found, index = np.random.default_rng(0), [], 0
    lost_at = dict(lost_at or {})
    for number in range(1, round(seconds / 0.05)):
        sounded_s = number * 0.05
        due = [at for at in lost_at if at <= sounded_s]
        index += round(0.05 * rate) - sum(round(lost_at.pop(at) * RATE) for at in due)
        late_s = random.uniform(0, 0.1)
        if stall and 10 <= sounded_s < 10 + stall:  # the backlog bursts in at its end
            late_s = 10 + stall - sounded_s
        if missing := check.note(1000 + sounded_s + late_s, index):
            found.append((sounded_s, missing))
    return found


def test_nothing_is_wrong() -> None:
    check = RateCheck(RATE)
    assert run(check, 300) == []
    assert abs(check.rate_error) < 0.003
    assert check.delay_s == pytest.approx(1000, abs=0.11)


@pytest.mark.parametrize("stall", [0.4, 1.0, 2.9, 3.1, 10.0])
def test_a_stall_whose_backlog_comes_in_is_no_loss(stall: float) -> None:
    check = RateCheck(RATE)
    assert run(check, 100, stall=stall) == []
    assert abs(check.rate_error) < 0.003


@pytest.mark.parametrize("lost_s", [0.4, 3.0, 3600.0])
def test_a_loss_that_nobody_reported_is_found_within_two_spans(lost_s: float) -> None:
    check = RateCheck(RATE)
    found = run(check, 100, lost_at={20.0: lost_s})
    assert len(found) == 1
    assert 20 <= found[0][0] < 27
    assert found[0][1] == pytest.approx(lost_s * RATE, abs=0.1 * RATE)
    assert abs(check.rate_error) < 0.005


@pytest.mark.parametrize("off", [-0.08, -0.05, -0.015, 0.015, 0.05, 0.5])
def test_a_wrong_rate_is_found_after_30_s(off: float) -> None:
    check = RateCheck(RATE)
    run(check, 30, rate=RATE * (1 + off))
    assert check.rate_error == 0.0
    check = RateCheck(RATE)
    run(check, 40, rate=RATE * (1 + off))
    assert check.rate_error == pytest.approx(off, abs=0.005)


@pytest.mark.parametrize("off", [-0.7, -0.1])
def test_a_rate_far_too_low_is_both(off: float) -> None:
    check = RateCheck(RATE)
    assert run(check, 40, rate=RATE * (1 + off))
    assert check.rate_error < -0.01


@pytest.mark.parametrize("off", [-0.0002, 0.0002])
def test_the_drift_of_a_crystal_is_neither(off: float) -> None:
    check = RateCheck(RATE)
    assert run(check, 3000, rate=RATE * (1 + off)) == []
    assert abs(check.rate_error) < 0.005
