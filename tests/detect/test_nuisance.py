"""Gain and a little speed count for less than other changes, and still count."""

from __future__ import annotations

import numpy as np
import pytest

from echo_stream.core.types import EncoderIdentity, Enrolled, Features, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.metric import Metric
from echo_stream.detect.nuisance import GAIN_DB, none, of_views
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import make_encoder

RATE_HZ, WINDOW_S = 16_000, 2.0
ENCODER = make_encoder("spectral", window_s=WINDOW_S)


def sound(seed: int, *, gain_db: float = 0.0, bump_db: float = 0.0) -> Features:
    """A window of coloured noise; `bump_db` more in the octave from 1 to 2 kHz."""
    spectrum = np.fft.rfft(np.random.default_rng(seed).standard_normal(round(RATE_HZ * WINDOW_S)))
    hz = np.fft.rfftfreq(round(RATE_HZ * WINDOW_S), 1 / RATE_HZ)
    spectrum *= 10 ** (bump_db / 20 * ((hz > 1000) & (hz < 2000))) / np.maximum(hz, 100)
    samples = 30 * np.fft.irfft(spectrum) * 10 ** (gain_db / 20)
    window = Window("", samples.astype(np.float32), 0, len(samples), RATE_HZ, None)  # type: ignore[arg-type]
    return ENCODER.encode([window])[0]


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    enrolled = [Enrolled(sound(i), f"take{i // 10}", float(i % 10)) for i in range(60)]
    bank = NormalBank.fit(
        enrolled, encoder=ENCODER.identity, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=1.0
    )
    return Scorer(bank)


def test_more_of_everything_is_nearer_than_more_in_one_octave(scorer: Scorer) -> None:
    def median(**change: float) -> float:
        return float(np.median([scorer.score_one(sound(i, **change)).value for i in range(100, 120)]))

    assert median() < 1.0
    assert median(gain_db=1.0) < median(bump_db=1.0) / 2
    assert median() + 2.0 < median(gain_db=6.0) < median(bump_db=6.0) / 3  # a louder machine is news


def test_covariance_of_the_metric_is_the_fitted_one_and_the_nuisances() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], (40, 2, 3)).astype(np.float32)
    nuisances = rng.normal(0, 3.0, (2, 2, 3))

    def covariance(metric: Metric) -> np.ndarray:
        """Of the features, as the metric sees it: the inverse of its own squared whitening."""
        whiten = metric.apply(np.eye(6, dtype=np.float32).reshape(6, 2, 3) + metric.centre).reshape(6, 6)
        return np.linalg.inv(whiten.astype(np.float64) @ whiten.T)

    plain, widened = Metric.whitening(features), Metric.whitening(features, nuisances)
    flat = nuisances.reshape(2, 6)
    np.testing.assert_allclose(covariance(widened), covariance(plain) + flat.T @ flat, rtol=0.01, atol=0.01)


def test_other_encoders_have_none() -> None:
    mean, bands_hz = np.zeros((16, 6), np.float32), np.ones((16, 2), np.float32)
    of_window, of_segments = of_views("echo", bands_hz)
    assert of_window is of_segments is none
    assert of_window(mean).shape == (0, 16, 6)


def test_directions_of_the_spectral_encoder_follow_its_features() -> None:
    """What gain does to real features is the direction that is called gain, window and segments."""
    quiet, loud = sound(0), sound(0, gain_db=GAIN_DB)
    identity: EncoderIdentity = ENCODER.identity
    of_window, of_segments = of_views(identity.kind, quiet.bands_hz)
    np.testing.assert_allclose(loud.window - quiet.window, of_window(quiet.window)[0], atol=5e-3)
    mean = quiet.segments.mean(axis=0)
    for before, after in zip(quiet.segments, loud.segments, strict=True):
        np.testing.assert_allclose(after - before, of_segments(mean)[0], atol=5e-3)


@pytest.mark.parametrize("change_db", [6.0, -6.0, 20.0])
def test_a_knob_that_was_turned_is_said_by_how_much(scorer: Scorer, change_db: float) -> None:
    said = scorer.score_one(sound(200, gain_db=change_db)).gain_db
    assert said == pytest.approx(change_db, abs=0.5)


def test_what_is_no_common_change_is_not_called_a_gain(scorer: Scorer) -> None:
    for seed in range(200, 220):
        assert scorer.score_one(sound(seed)).gain_db is None
        assert scorer.score_one(sound(seed, bump_db=10.0)).gain_db is None
    other = scorer.score_one(sound(220, gain_db=3.0, bump_db=20.0))
    assert other.gain_db is None or other.gain_db < 6.0
