"""The metric, the views and the coreset: what the scorer stands on."""

from __future__ import annotations

import numpy as np
import pytest

from echo_stream.core.types import EncoderIdentity, Features, Float32
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.metric import Metric
from echo_stream.detect.reference import View, k_centres
from echo_stream.detect.scorer import Scorer
from tests.support.sounds import BANDS, DIM, ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, features, normal


def correlated(n: int, seed: int = 0, apart: float = 0.1) -> Float32:
    """Normal sound in which two features of different bands always move together."""
    generator = np.random.default_rng(seed)
    values = generator.normal(0, 1, (n, BANDS, DIM))
    values[:, 3, 0] = values[:, 0, 0] + apart * generator.normal(0, 1, n)
    return values.astype(np.float32)


def test_whitened_normal_sound_is_white() -> None:
    sound = correlated(5_000, apart=0.7)  # nearer ones are shrunk a little
    flat = Metric.whitening(sound).apply(sound).reshape(len(sound), -1)
    np.testing.assert_allclose(np.cov(flat.T), np.eye(BANDS * DIM), atol=0.2)


def test_what_breaks_a_habit_is_further_than_what_follows_it() -> None:
    metric = Metric.whitening(correlated(2_000))
    follows, breaks = np.zeros((2, 1, BANDS, DIM), dtype=np.float32)
    follows[0, [0, 3], 0] = 2, 2
    breaks[0, [0, 3], 0] = 2, -2
    middle = metric.apply(metric.centre[None])
    near, far = (float(np.linalg.norm(metric.apply(x) - middle)) for x in (follows, breaks))
    assert far > 3 * near


def test_fewer_windows_than_features_are_enough() -> None:
    metric = Metric.whitening(correlated(10))
    fresh = metric.apply(correlated(100, seed=1))
    assert np.isfinite(fresh).all()
    assert 0.2 < float(np.square(fresh).mean()) < 20


def test_the_units_of_a_feature_do_not_matter() -> None:
    sound, fresh = correlated(300), correlated(5, seed=2)
    units = np.ones((BANDS, DIM), dtype=np.float32)
    units[2] = 10
    plain, scaled = Metric.whitening(sound).apply(fresh), Metric.whitening(sound * units).apply(fresh * units)
    np.testing.assert_allclose(
        np.square(plain).sum(axis=(1, 2)), np.square(scaled).sum(axis=(1, 2)), rtol=0.02
    )


def test_parts_of_the_bands_add_up_to_the_distance_and_none_is_negative() -> None:
    sound = correlated(50)[:, None]
    view = View.of_windows(sound, np.arange(50), whiten=True)
    parts, distances = view.look(correlated(8, seed=3)[:, None])
    np.testing.assert_allclose(parts.sum(axis=1), distances[:, 0].min(axis=1), rtol=1e-3)
    assert (parts >= 0).all()


def test_a_knock_in_one_segment_is_seen_though_the_window_is_normal() -> None:
    generator = np.random.default_rng(0)

    def window(knock: float = 0.0) -> Features:
        segments = generator.normal(0, 1, (12, BANDS, DIM)).astype(np.float32)
        segments[4, 2] += knock
        whole = features(generator.normal(0, 1, (BANDS, DIM)).astype(np.float32))
        return Features(whole.window, segments, whole.bands_hz, -30.0)

    bank = NormalBank.fit(
        enrol([window() for _ in range(100)], recordings=5),
        encoder=ENCODER,
        sample_rate_hz=RATE_HZ,
        window_s=WINDOW_S,
        hop_s=HOP_S,
    )
    scorer = Scorer(bank)
    usual = np.median([scorer.score_one(window()).value for _ in range(20)])
    knocked = [scorer.score_one(window(knock=15.0)) for _ in range(20)]
    assert np.median([score.value for score in knocked]) > usual + 3
    worst = [int(np.argmax([band.contribution for band in score.bands])) for score in knocked]
    assert worst.count(2) >= 18


def test_features_of_a_layer_norm_are_compared_as_they_are() -> None:
    echo = EncoderIdentity("echo", 1, "ab" * 32)
    bank = NormalBank.fit(
        enrol(normal(40)), encoder=echo, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=HOP_S
    )
    fresh = normal(1, seed=8)[0]
    enrolled = np.stack([item.window for item in normal(40)])
    nearest = Scorer(bank).score_one(fresh).nearest[0].distance
    assert nearest == pytest.approx(np.linalg.norm(enrolled - fresh.window, axis=(1, 2)).min(), rel=1e-3)


def test_centres_keep_what_is_rare() -> None:
    generator = np.random.default_rng(0)
    points = generator.normal(0, 0.01, (500, 3)).astype(np.float32)
    points[137] = 5
    kept = k_centres(points, 10)
    assert 137 in kept
    assert len(set(kept.tolist())) == 10
    assert kept.tolist() == sorted(kept.tolist())


def test_no_point_is_far_from_a_centre() -> None:
    points = np.random.default_rng(1).uniform(0, 1, (2_000, 2)).astype(np.float32)
    kept = points[k_centres(points, 100)]
    furthest = np.linalg.norm(points[:, None] - kept[None], axis=2).min(axis=1).max()
    assert furthest < 0.15  # a square of 100 cells: 0.07 is the best there can be


def test_many_dimensions_are_projected_and_few_points_are_all_kept() -> None:
    points = np.random.default_rng(2).normal(0, 1, (60, 2_000)).astype(np.float32)
    points[:30] = points[0]
    assert len(set(k_centres(points, 31).tolist()) - set(range(1, 30))) >= 30
    assert k_centres(points, 60).tolist() == list(range(60))


def test_a_bank_keeps_its_bound_and_still_judges_by_all() -> None:
    bank = NormalBank.fit(
        enrol(normal(200), recordings=4),
        encoder=ENCODER,
        sample_rate_hz=RATE_HZ,
        window_s=WINDOW_S,
        hop_s=HOP_S,
        max_windows=50,
    )
    reference = bank.references[0]
    assert len(reference.recordings) == len(reference.start_s) == len(reference.window.normals) == 50
    assert bank.n_held_out == 200
    assert Scorer(bank).score_one(normal(1, seed=3, offset=3.0)[0]).value > 5


def test_a_large_covariance_is_as_good_as_the_exact_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """ECHO's segments have thousands of dimensions: only the largest directions are computed then."""
    rng = np.random.default_rng(4)
    mixing = rng.standard_normal((400, 330)) * np.geomspace(4, 0.02, 330)
    rows = (rng.standard_normal((900, 330)) @ mixing.T + 0.2 * rng.standard_normal((900, 400))).astype(
        np.float32
    )
    rows = rows.reshape(900, 4, 100)
    exact = Metric.whitening(rows)
    monkeypatch.setattr("echo_stream.detect.metric.EXACT_UP_TO", 300)
    quick = Metric.whitening(rows)
    lengths = np.linalg.norm(quick.apply(rows).reshape(900, -1), axis=1)
    assert lengths == pytest.approx(np.linalg.norm(exact.apply(rows).reshape(900, -1), axis=1), rel=5e-3)


def test_lengths_are_those_of_the_coordinates() -> None:
    rng = np.random.default_rng(5)
    rows = (rng.standard_normal((200, 3, 5)) * [1, 2, 3, 4, 9]).astype(np.float32)
    fitted = Metric.whitening(rows)
    expected = np.linalg.norm(fitted.apply(rows).reshape(200, -1), axis=1)
    assert fitted.lengths(*fitted.project(rows)) == pytest.approx(expected, rel=1e-4)
