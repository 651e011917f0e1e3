"""Trip levels: what they promise, against simulated machines; what they say when data are few."""

from __future__ import annotations

import json
import math
from functools import partial

import numpy as np
import pytest

from benchmarks.false_alarms import KINDS, scores, simulate
from echo_stream.alarm.calibration import GOOD_ENOUGH, REACH, Calibration, TripLevel, poisson_upper
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.errors import BankError

MACHINES = 30


def trip_of(runs: list[np.ndarray], asked: float = 1.0, **changed: float) -> TripLevel:
    delays = {"on_delay_s": 3.0, "off_delay_s": 10.0} | changed
    return Calibration.fit(runs, 1.0).trip_level(asked, **delays)


def normal_runs(minutes: float, kind: str = "normal, overlapping", seed: int = 0) -> list[np.ndarray]:
    return list(scores(kind, np.random.default_rng(seed), 10, round(minutes * 6)))


@pytest.mark.parametrize("on_delay_s", [3.0, 7.0])  # of a warning and of an alarm
@pytest.mark.parametrize(("minutes", "asked"), [(2.0, 1.0), (60.0, 1.0), (10.0, 300.0), (60.0, 300.0)])
def test_observed_events_lie_within_the_bound(minutes: float, asked: float, on_delay_s: float) -> None:
    kinds = list(KINDS)
    seen = [
        simulate(kinds[i % len(kinds)], i, minutes, asked, on_delay_s=on_delay_s) for i in range(MACHINES)
    ]
    assert sum(outcome.within for outcome in seen) >= 28
    assert np.median([outcome.trip.level for outcome in seen]) < 20.0  # and yet faults trip


@pytest.mark.parametrize("kind", ["normal, overlapping", "normal, AR 0.9", "gamma, overlapping"])
def test_with_much_data_the_expected_rate_is_about_the_observed(kind: str) -> None:
    """Not only safe: with ten hours of normal sound, 3,000 a month come as about 3,000 a month."""
    observed = [
        simulate(kind, seed, minutes=600, asked_per_month=3000).observed_per_month for seed in range(6)
    ]
    assert 3000 / 3 < np.mean(observed) < 3000 * 2


def test_more_normal_sound_promises_more() -> None:
    bounds = [trip_of(normal_runs(minutes)).upper95_per_month for minutes in (2, 60, 1200)]
    assert bounds[0] > 1.3 * bounds[1] > 1.3**2 * bounds[2]


def test_a_rarer_event_needs_a_higher_level() -> None:
    levels = [trip_of(normal_runs(10), asked).level for asked in (10_000, 100, 1)]
    assert levels == sorted(levels)
    assert levels[0] < levels[2]


def test_persistence_lowers_the_level() -> None:
    runs = normal_runs(60, "knocks, overlapping")
    at_once, later = trip_of(runs, on_delay_s=0.0).level, trip_of(runs, on_delay_s=5.0).level
    assert later < at_once / 3  # a knock is over before the delay has passed


def test_a_level_that_may_not_be_lower_promises_what_it_then_does() -> None:
    calibration = Calibration.fit(normal_runs(60), 1.0)
    trip_level = partial(calibration.trip_level, 1.0, on_delay_s=7.0, off_delay_s=6.0)
    own = trip_level()
    raised = trip_level(at_least=own.level + 2.0)
    assert raised.level == own.level + 2.0
    assert raised.expected_per_month < own.expected_per_month / 2
    assert raised.upper95_per_month < own.upper95_per_month / 2
    assert trip_level(at_least=own.level - 2.0) == own


def test_a_rate_that_was_heard_is_met() -> None:
    """Ten hours hold enough for some events a day, and then nothing is extrapolated."""
    trip = trip_of(normal_runs(600), 1000.0)
    assert 500 < trip.expected_per_month < 1500
    assert trip.measured_events > 0


def test_a_rate_that_was_not_heard_is_not_claimed() -> None:
    """Of ten minutes nobody extrapolates to once in a month; what is left of the way is said."""
    trip = trip_of(normal_runs(10))
    assert trip.expected_per_month > 30.0
    assert trip.upper95_per_month > 10 * trip.expected_per_month
    assert trip.measured_events == 0


@pytest.mark.parametrize("minutes", [0.5, 2.0, 60.0])
def test_the_way_beyond_what_was_heard_is_bounded(minutes: float) -> None:
    runs = normal_runs(minutes)
    highest = Calibration.fit(runs, 1.0).held(8)
    once_in_a_million_years = trip_of(runs, 1e-7, on_delay_s=7.0).level
    assert highest < once_in_a_million_years < highest + REACH * 2.0  # the scale is under 2 spreads


@pytest.mark.parametrize("asked", [1 / 3, 30 / 7])
@pytest.mark.parametrize("minutes", [0.5, 2.0, 10.0])
@pytest.mark.parametrize("kind", ["normal, AR 0.9", "gamma, AR 0.8", "knocks, overlapping"])
def test_scores_that_move_a_little_move_the_level_a_little(kind: str, minutes: float, asked: float) -> None:
    runs, rng = normal_runs(minutes, kind), np.random.default_rng(1)
    level = trip_of(runs, asked, on_delay_s=7.0).level
    moved = [
        trip_of([run + 0.005 * rng.standard_normal(len(run)) for run in runs], asked, on_delay_s=7.0).level
        for _ in range(100)
    ]
    assert np.abs(np.array(moved) - level).max() < 0.05
    assert np.std(moved) < 0.016


def test_clips_of_one_window_leave_a_step_where_most_of_them_lie() -> None:
    scores = normal_runs(10)[0][:60].copy()
    scores[::17] += 300.0  # odd moments: nothing shows how soon they pass
    clips = Calibration.fit([scores[i : i + 1] for i in range(len(scores))], 1.0)
    joined = Calibration.fit([scores], 1.0)
    assert clips.trip(1.0, on_delay_s=7.0, off_delay_s=6.0).level > 300.0
    assert joined.trip(1.0, on_delay_s=7.0, off_delay_s=6.0).level < 100.0
    assert clips.floor(11) < 5.0
    assert joined.floor(11) < 2.0


def test_what_was_measured_is_kept_apart() -> None:
    trip = trip_of(normal_runs(60))
    assert (trip.measured_hours, trip.measured_events) == (1.0, 0)
    assert trip.measured_upper95_per_month == pytest.approx(3.0 * 720, rel=0.01)  # 3 / T


def test_an_event_in_the_held_out_sound_is_counted() -> None:
    runs = normal_runs(10)
    runs[3][20:40] += 12.0
    often = Calibration.fit(runs, 1.0).trip_level(10_000.0, on_delay_s=3, off_delay_s=10)
    assert often.level < 11.0
    assert often.measured_events >= 1
    assert often.measured_upper95_per_month > 4.7 * 6 * 720


@pytest.mark.parametrize("minutes", [2, 10])
def test_minutes_needed_are_about_enough(minutes: int) -> None:
    """Of seven machines the one in the middle; each for itself may need twice as much, or half."""
    bounds = []
    for seed, kind in enumerate(list(KINDS)[:7]):
        few = trip_of(normal_runs(minutes, kind, seed))
        assert few.upper95_per_month > GOOD_ENOUGH
        many = trip_of(normal_runs(minutes + few.minutes_needed, kind, seed + 100))
        bounds.append(many.upper95_per_month)
    assert 0.3 * GOOD_ENOUGH < np.median(bounds) < 1.5 * GOOD_ENOUGH


def test_enough_normal_sound_needs_no_more() -> None:
    trip = trip_of(normal_runs(1500))
    assert trip.upper95_per_month < GOOD_ENOUGH
    assert trip.minutes_needed == 0


def test_clear_is_below_trip_by_the_dead_band() -> None:
    calibration = Calibration.fit([run + 5.0 for run in normal_runs(10)], 1.0)
    trip = calibration.trip_level(1.0, on_delay_s=3, off_delay_s=10, dead_band=0.2)
    assert trip.clear == pytest.approx(trip.level - 0.2 * (trip.level - calibration.median))


@pytest.mark.parametrize("windows", [10, 30, 118])
def test_a_short_enrolment_still_lets_faults_through(windows: int) -> None:
    runs = np.array_split(normal_runs(60)[0][:windows], 5)
    trip = trip_of(runs)
    assert trip.level < 25.0
    assert trip.upper95_per_month > 100  # and says how little it knows


def test_stretches_shorter_than_the_on_delay_err_on_the_safe_side() -> None:
    runs = normal_runs(60)
    single = [run[i : i + 1] for run in runs for i in range(len(run))]
    assert trip_of(single).persistence_hops == 0
    assert trip_of(single).level > trip_of(runs).level


def test_scores_that_do_not_vary_give_a_level_above_them() -> None:
    trip = trip_of([np.zeros(40), np.zeros(40)])
    assert trip.level > trip.clear >= 0.0
    assert math.isfinite(trip.upper95_per_month)


def test_nothing_is_random() -> None:
    assert trip_of(normal_runs(10)) == trip_of(normal_runs(10))


def test_through_json() -> None:
    calibration = Calibration.fit(normal_runs(10), 1.0)
    saved = BankCalibration(calibration.hop_s, calibration.runs).to_json()
    again = Calibration.of(BankCalibration.from_json(json.loads(json.dumps(saved))))
    first, second = (c.trip_level(1.0, on_delay_s=3, off_delay_s=10) for c in (calibration, again))
    assert second.level == pytest.approx(first.level, abs=0.01)
    assert json.loads(json.dumps(first.to_json()))["level"] == first.level


def test_a_bank_without_a_calibration_is_refused() -> None:
    with pytest.raises(BankError, match="calibration"):
        Calibration.of(None)


def test_too_few_or_not_finite_scores_are_refused() -> None:
    with pytest.raises(BankError, match="9 held-out windows"):
        Calibration.fit([np.zeros(4), np.zeros(5)], 1.0)
    with pytest.raises(BankError, match="not finite"):
        Calibration.fit([np.array([0.0] * 20 + [math.nan])], 1.0)


def test_poisson_upper_bound() -> None:
    """Exact one-sided bounds, as tabulated (Garwood 1936)."""
    for events, bound in {0: 2.996, 1: 4.744, 2: 6.296, 10: 16.962}.items():
        assert poisson_upper(events) == pytest.approx(bound, abs=1e-3)


@pytest.mark.parametrize("minutes", [2, 10])
@pytest.mark.parametrize("per_month", [1.0, 30.0])
def test_the_daemon_takes_the_level_that_the_fit_promised(minutes: int, per_month: float) -> None:
    calibration = Calibration.fit(normal_runs(minutes, seed=3), 1.0)
    promised = calibration.trip_level(per_month, on_delay_s=3.0, off_delay_s=6.0)
    taken = calibration.trip(per_month, on_delay_s=3.0, off_delay_s=6.0)
    assert taken == (promised.level, promised.clear)
    lifted = calibration.trip(per_month, on_delay_s=3.0, off_delay_s=6.0, at_least=taken.level + 1)
    assert lifted.level == taken.level + 1
    assert lifted.clear < lifted.level
