"""The smallest fault that is announced, found on a real encoder and a real bank."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pytest

from echo_stream.core.types import Enrolled, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.smallest_fault import (
    GAINS_DB,
    SmallestFault,
    announced_within_db,
    smallest_faults,
    thirds_of_octaves,
)

RATE, WINDOW_S = 16_000, 2.0


def noise_windows(n: int, seed: int) -> list[Window]:
    generator = np.random.default_rng(seed)
    samples = generator.normal(0, 0.05, (n, round(RATE * WINDOW_S))).astype(np.float32)
    return [
        Window("m", x, i * len(x), (i + 1) * len(x), RATE, datetime.now(UTC)) for i, x in enumerate(samples)
    ]


@pytest.fixture(scope="module")
def found() -> list[SmallestFault]:
    encoder = SpectralEncoder(WINDOW_S)
    normal = noise_windows(60, 1)
    enrolled = [Enrolled(features, "a", i * WINDOW_S) for i, features in enumerate(encoder.encode(normal))]
    bank = NormalBank.fit(
        enrolled, encoder=encoder.identity, sample_rate_hz=RATE, window_s=WINDOW_S, hop_s=WINDOW_S
    )
    scorer = Scorer(bank)

    def score(windows: Sequence[Window]) -> list[float]:
        return [one.value for one in scorer.score(encoder.encode(windows))]

    highest = max(float(run.max()) for run in bank.held_out)
    return smallest_faults(
        noise_windows(4, 2), score, {"low": highest, "high": 4 * highest + 10, "never": 1e9}
    )


def test_every_third_up_to_the_top_is_looked_at(found: list[SmallestFault]) -> None:
    thirds = thirds_of_octaves(RATE)
    assert [(each.low_hz, each.high_hz) for each in found] == thirds
    assert thirds[0][0] == pytest.approx(28.06, abs=0.01)
    assert all(high == pytest.approx(low * 2 ** (1 / 3)) for low, high in thirds)
    assert 6000 < thirds[-1][1] < 0.45 * RATE


def test_a_higher_level_takes_a_louder_fault_and_none_reaches_the_sky(found: list[SmallestFault]) -> None:
    for each in found:
        for gains in (each.steady_db, each.impacts_db):
            low, high = gains["low"], gains["high"]
            assert gains["never"] is None
            assert low is None or low in GAINS_DB
            assert high is None or (low is not None and high >= low)
    steady = [each.steady_db["low"] for each in found if each.low_hz > 200]
    assert all(gain is not None and gain <= 6.0 for gain in steady), "steady noise shows 6 dB in any third"


def test_half_of_the_thirds_say_what_a_bank_announces(found: list[SmallestFault]) -> None:
    steady, impacts = announced_within_db(found, "low")
    assert steady is not None
    assert impacts is not None
    assert steady <= min(6.0, impacts)
    assert announced_within_db(found, "never") == (None, None)


def test_without_windows_nothing_is_said() -> None:
    assert smallest_faults([], lambda windows: [], {"strong": 1.0}) == []
