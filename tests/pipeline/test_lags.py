"""How late scores come: quantiles of ten minutes, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest

from echo_stream.pipeline.health import Lags


def test_nothing_is_known_before_the_first() -> None:
    assert set(Lags().snapshot(0.0).values()) == {None}


def test_quantiles_are_those_of_the_lags() -> None:
    lags, drawn = Lags(), np.random.default_rng(1).lognormal(-3, 1, 1000)
    for lag_s in drawn:
        lags.add(float(lag_s), now_s=100.0)
    found = lags.snapshot(100.0)
    for key, expected in (("lag_p50_s", np.quantile(drawn, 0.5)), ("lag_p99_s", np.quantile(drawn, 0.99))):
        value = found[key]
        assert value is not None
        assert 0.97 * expected <= value <= 1.03 * expected
    assert found["lag_max_s"] == pytest.approx(drawn.max(), abs=1e-4)


def test_ten_minutes_forget() -> None:
    lags = Lags()
    lags.add(7.0, now_s=30.0)
    for now_s in range(31, 1000):
        lags.add(0.02, now_s)
        expected = 7.0 if now_s < 630 else 0.02
        assert lags.snapshot(now_s)["lag_max_s"] == expected
    assert set(lags.snapshot(5000.0).values()) == {None}


@pytest.mark.parametrize("lag_s", [-3600.0, 0.0])
def test_a_clock_that_was_set_back_counts_as_no_lag(lag_s: float) -> None:
    lags = Lags()
    lags.add(lag_s, now_s=0.0)
    assert set(lags.snapshot(1.0).values()) == {0.0}


def test_a_very_long_lag_is_shown() -> None:
    lags = Lags()
    lags.add(1e6, now_s=0.0)
    assert lags.snapshot(1.0)["lag_max_s"] == 1e6


def test_memory_is_bounded() -> None:
    lags = Lags()
    for number in range(10_000):
        lags.add(number * 1e-3, now_s=0.0)
    assert lags.snapshot(1.0) == {"lag_p50_s": 9.399, "lag_p99_s": 9.987, "lag_max_s": 9.999}
