"""Quality checks of an enrolment: what is refused, what is only said, and in which words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.core.checks import Check, Verdict, worst
from echo_stream.core.text import clock, duration_text
from echo_stream.fit.checks import Signal, check_enrolment, check_steadiness, level_step
from echo_stream.fit.trimming import Outlier, Trimming

N = 600


def signal(
    levels_dbfs: np.ndarray | float = -30.0, clipped: np.ndarray | float = 0.0, n: int = N, seed: int = 0
) -> Signal:
    """A recording of n windows, one a second, whose level wanders by half a decibel."""
    noise = np.random.default_rng(seed).normal(0, 0.5, n)
    return Signal("fan.wav", np.arange(n, dtype=float), noise + levels_dbfs, np.broadcast_to(clipped, n))


def checked(
    *signals: Signal, condition: str = "normal", trimming: Trimming | None = None
) -> dict[str, Check]:
    everything = Trimming(np.arange(sum(map(len, signals))))
    checks = check_enrolment(signals, trimming or everything, condition=condition, window_s=2.0, hop_s=1.0)
    for check in checks:
        assert (check.verdict == Verdict.OK) or check.advice  # who is told of a trouble is told what to do
    return {check.name: check for check in checks}


def test_good_sound_is_good_all_over() -> None:
    checks = checked(signal())
    assert list(checks) == ["Length", "Sound", "Clipping", "Steadiness", "Gaps", "Disturbances"]
    assert worst(list(checks.values())) == Verdict.OK
    assert checks["Length"].finding == "10 min of sound, 600 windows"


@pytest.mark.parametrize(
    ("n", "verdict"), [(5, Verdict.FAIL), (9, Verdict.FAIL), (10, Verdict.WARN), (200, Verdict.WARN)]
)
def test_length(n: int, verdict: Verdict) -> None:
    assert checked(signal(n=n))["Length"].verdict == verdict


def test_recordings_count_together() -> None:
    assert checked(*[signal(n=6, seed=i) for i in range(60)])["Length"].verdict == Verdict.OK


def test_silence_is_refused_unless_the_machine_is_off() -> None:
    levels_dbfs = np.where(np.arange(N) < 30, -170.0, -30.0)
    found = checked(signal(levels_dbfs))["Sound"]
    assert found.verdict == Verdict.FAIL
    assert "silent: 5% of the windows" in found.finding
    assert "--condition off" in found.advice
    assert checked(signal(-170.0), condition="off")["Sound"].verdict == Verdict.OK


@pytest.mark.parametrize(
    ("share", "windows", "verdict"),
    [
        (0.0, 600, Verdict.OK),
        (3e-5, 600, Verdict.OK),
        (1e-3, 5, Verdict.WARN),
        (1.5e-3, 600, Verdict.WARN),
        (0.02, 600, Verdict.FAIL),
    ],
)
def test_clipping(share: float, windows: int, verdict: Verdict) -> None:
    clipped = np.where(np.arange(N) < windows, share, 0.0)
    assert checked(signal(clipped=clipped))["Clipping"].verdict == verdict


def test_a_knock_that_is_left_out_does_not_count_as_clipped() -> None:
    clipped = np.where(np.arange(N) < 5, 0.1, 0.0)
    left_out = Trimming(np.arange(5, N), (Outlier("fan.wav", 0.0, 6.0, np.arange(5), 20.0),))
    checks = checked(signal(clipped=clipped), trimming=left_out)
    assert checks["Clipping"].verdict == Verdict.OK
    assert checks["Disturbances"].finding == "1 short sound left out, 6 s in all"


@pytest.mark.parametrize("by_db", [-20.0, -8.0, 8.0, 20.0])
@pytest.mark.parametrize("at", [15, 300, 585])
def test_a_level_that_jumps_and_stays_is_refused(by_db: float, at: int) -> None:
    found = checked(signal(np.where(np.arange(N) < at, -40.0, -40.0 + by_db)))["Steadiness"]
    if at in {15, 585}:  # ten seconds are not enough to say that it stays: a tenth of the sound is asked for
        assert found.verdict != Verdict.FAIL
    else:
        assert found.verdict == Verdict.FAIL
        assert f"jumped by {by_db:+.0f} dB at 5:00 of fan.wav" in found.finding
        assert "--condition idle" in found.advice


@given(at=st.integers(60, 540), by_db=st.floats(7.5, 40), sign=st.sampled_from([-1, 1]))
def test_a_step_is_found_where_it_is(at: int, by_db: float, sign: int) -> None:
    step = level_step(signal(np.where(np.arange(N) < at, -60.0, -60.0 + sign * by_db)), hop_s=1.0)
    assert step is not None
    assert abs(step[0] - at) <= 6
    assert step[1] == pytest.approx(sign * by_db, abs=0.5)


def test_a_machine_that_cycles_is_no_step() -> None:
    cycles = np.where(np.arange(N) // 60 % 2, -40.0, -25.0)
    assert checked(signal(cycles))["Steadiness"].verdict == Verdict.OK


def test_recordings_of_different_levels_are_no_step() -> None:
    """Who names the files has decided that they belong together."""
    assert check_steadiness([signal(-30.0), signal(-50.0)], hop_s=1.0).verdict == Verdict.OK


def test_a_machine_that_warms_up_is_said() -> None:
    found = checked(signal(np.linspace(-36.0, -30.0, N)))["Steadiness"]
    assert found.verdict == Verdict.WARN
    assert "warming up" in found.advice


def test_lost_sound_is_said() -> None:
    whole = signal()
    holed = Signal(
        "fan.wav",
        *(np.delete(a, range(100, 130)) for a in (whole.start_s, whole.level_dbfs, whole.clipped_share)),
    )
    found = checked(holed)["Gaps"]
    assert found.verdict == Verdict.WARN
    assert found.finding == "5 % of the sound was lost on its way (30 s)"


def test_what_stands_out_and_stays_is_said() -> None:
    kept_outliers = Trimming(np.arange(N), (), (Outlier("fan.wav", 60.0, 90.0, np.arange(60, 89), 20.0),))
    found = checked(signal(), trimming=kept_outliers)["Disturbances"]
    assert found.verdict == Verdict.WARN
    assert "1:00 to 1:30 of fan.wav" in found.finding


def test_worst() -> None:
    good, fair = Check("a", Verdict.OK, ""), Check("b", Verdict.WARN, "", "do")
    assert worst([good, fair]) == Verdict.WARN
    assert worst([fair, Check("c", Verdict.FAIL, "", "do"), good]) == Verdict.FAIL


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 s"),
        (99.6, "1 min 40 s"),
        (120, "2 min"),
        (599, "9 min 59 s"),
        (3000, "50 min"),
        (11_520, "3.2 h"),
        (40_000, "11 h"),
    ],
)
def test_lengths_of_time_for_people(seconds: float, words: str) -> None:
    assert duration_text(seconds) == words


def test_clock() -> None:
    assert [clock(s) for s in (0, 59.9, 75, 3600)] == ["0:00", "0:59", "1:15", "60:00"]
