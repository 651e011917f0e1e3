"""The scorer: finite, ordered, explained, and honest about how much it knows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_stream.core.errors import BankMismatch, EncoderError
from echo_stream.core.types import Enrolled, Features
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from tests.support.sounds import BANDS, DIM, ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, features, normal


def bank_of(enrolled: list[Enrolled]) -> NormalBank:
    return NormalBank.fit(enrolled, encoder=ENCODER, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=HOP_S)


@pytest.fixture(scope="module")
def bank() -> NormalBank:
    return bank_of(enrol(normal(200), recordings=5))


@pytest.fixture(scope="module")
def scorer(bank: NormalBank) -> Scorer:
    return Scorer(bank)


def test_normal_sound_scores_about_zero_with_a_spread_about_one(scorer: Scorer, bank: NormalBank) -> None:
    held_out = np.concatenate(bank.held_out)
    assert np.median(held_out) == pytest.approx(0, abs=0.05)
    assert 0.5 < np.percentile(held_out, 84) < 2
    fresh = np.array([score.value for score in scorer.score(normal(200, seed=3))])
    assert abs(np.median(fresh)) < 0.6
    p_values = [score.p_value for score in scorer.score(normal(200, seed=3))]
    assert 0.3 < float(np.mean(p_values)) < 0.7


def test_the_further_the_higher(scorer: Scorer) -> None:
    values = [scorer.score_one(normal(1, seed=4, offset=shift)[0]).value for shift in (0.0, 1.0, 2.0, 5.0)]
    assert values == sorted(values)
    assert values[-1] > 5


def test_contributions_add_up_and_point_at_the_band(scorer: Scorer) -> None:
    values = normal(1, seed=5)[0].window.copy()
    values[4] += 6
    score = scorer.score_one(features(values))
    assert sum(band.contribution for band in score.bands) == score.value
    worst = max(score.bands, key=lambda band: band.contribution)
    assert (worst.low_hz, worst.high_hz) == pytest.approx((8_000 * 4 / 6, 8_000 * 5 / 6))
    assert worst.contribution > 0.5 * score.value > 0


def test_a_window_of_the_bank_finds_itself(bank: NormalBank) -> None:
    windows = enrol(normal(200), recordings=5)
    nearest = Scorer(bank).score_one(windows[57].features).nearest
    assert (nearest[0].recording, nearest[0].start_s) == (windows[57].recording, windows[57].start_s)
    assert nearest[0].distance == pytest.approx(0, abs=0.02)
    assert [n.distance for n in nearest] == sorted(n.distance for n in nearest)


def test_one_by_one_equals_together(scorer: Scorer) -> None:
    items = normal(20, seed=6)
    together = scorer.score(items)
    for item, score in zip(items, together, strict=True):
        assert scorer.score_one(item).value == pytest.approx(score.value, abs=1e-4)
    assert scorer.score([]) == []


def test_p_value_never_promises_more_than_the_bank_has_seen() -> None:
    for n in (30, 300):
        bank = bank_of(enrol(normal(n)))
        score = Scorer(bank).score_one(normal(1, offset=50.0)[0])
        assert score.p_value == pytest.approx(1 / (n + 1))
        assert bank.n_held_out == n


def test_level_is_told_against_the_median_of_the_normal_sound() -> None:
    items = [features(f.window, level_dbfs=-40.0 + i % 3) for i, f in enumerate(normal(30))]
    score = Scorer(bank_of(enrol(items))).score_one(features(items[0].window, level_dbfs=-33.0))
    assert score.level_dbfs == -33.0
    assert score.level_delta_db == pytest.approx(6.0)


def test_each_condition_is_scored_against_its_own() -> None:
    idle, load = normal(60), normal(60, seed=1, offset=20.0)
    both = Scorer(
        bank_of([*enrol(idle, condition="idle", name="i"), *enrol(load, condition="load", name="l")])
    )
    assert both.score_one(normal(1, seed=7)[0]).condition == "idle"
    assert both.score_one(normal(1, seed=7, offset=20.0)[0]).condition == "load"
    assert both.score_one(normal(1, seed=7, offset=10.0)[0]).value > 5
    assert abs(both.score_one(normal(1, seed=7, offset=20.0)[0]).value) < 3


def test_features_of_another_shape_are_refused(scorer: Scorer) -> None:
    with pytest.raises(BankMismatch, match="bands"):
        scorer.score_one(features(np.zeros((BANDS, DIM + 1), dtype=np.float32)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(scorer: Scorer, bad: float) -> None:
    values = normal(1)[0].window.copy()
    values[2, 1] = bad
    with pytest.raises(EncoderError, match="finite"):
        scorer.score_one(features(values))
    with pytest.raises(EncoderError, match="finite"):
        scorer.score_one(features(normal(1)[0].window, level_dbfs=bad))


def test_an_enrolment_without_any_spread_still_scores() -> None:
    same = [features(np.ones((BANDS, DIM), dtype=np.float32)) for _ in range(40)]
    scorer = Scorer(bank_of(enrol(same)))
    assert scorer.score_one(same[0]).p_value == 1.0
    assert scorer.score_one(features(np.full((BANDS, DIM), 2.0, dtype=np.float32))).value > 10


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6, width=32), st.integers(0, BANDS - 1))
def test_any_finite_feature_gives_a_finite_score(value: float, band: int) -> None:
    values = np.zeros((BANDS, DIM), dtype=np.float32)
    values[band] = value
    item: Features = features(values)
    score = _SHARED.score_one(item)
    assert np.isfinite([score.value, score.p_value, *(b.contribution for b in score.bands)]).all()


_SHARED = Scorer(bank_of(enrol(normal(40))))
