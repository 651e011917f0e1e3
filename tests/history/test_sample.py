"""The sample of what was heard: spread, bounded, kept through a file, and damage that is noticed."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from echo_stream.core.types import EncoderIdentity, Features
from echo_stream.history import sample
from echo_stream.history.sample import MOST_EVENTS, MOST_STRETCHES, STRETCH, About, FeatureSample, Probation

ABOUT = About(EncoderIdentity("spectral", 3, dimensions={"window_s": 2.0}), 100, 2.0, 1.0)
BEGAN = datetime(2026, 1, 5, 6, tzinfo=UTC)
BANDS = np.array([[30, 40]], np.float32)


def window(number: int) -> Features:
    return Features(
        np.full((1, 6), number, np.float32), np.full((12, 1, 6), number, np.float32), BANDS, -30.0
    )


def listened(hours: float, alarmed: range = range(0)) -> FeatureSample:
    sample = FeatureSample(ABOUT)
    for i in range(round(hours * 3600)):
        at = BEGAN + timedelta(seconds=i)
        sample.add(
            window(i), "load" if i % 7200 < 3600 else "idle", at, 100 * i, 100 * i + 200, alarmed=i in alarmed
        )
    return sample


def test_it_stays_bounded_and_spread() -> None:
    sample = listened(30)
    assert MOST_STRETCHES / 2 <= len(sample.stretches) <= MOST_STRETCHES
    begins = [float(each.features[0].window[0, 0]) for each in sample.stretches]
    apart = np.diff(begins)
    assert apart.min() > 0.4 * apart.max(), "no part of the 30 h is sampled much more often than another"
    assert begins[0] < 600
    assert begins[-1] > 29 * 3600
    for stretch in sample.stretches:
        numbers = [int(each.window[0, 0]) for each in stretch.features]
        assert numbers == list(range(numbers[0], numbers[0] + STRETCH))
    assert {each.condition for each in sample.stretches} == {"load", "idle"}


def test_probation_counts_hours_and_days() -> None:
    found = listened(30).probation
    assert found == Probation(30.0, 2)
    assert found.provisional
    assert (found.missing_h, found.missing_days) == (0.0, 1)
    assert not Probation(24.0, 3).provisional


def test_what_was_heard_under_alarm_is_marked() -> None:
    sample = listened(0.2, range(0, 10))
    assert [each.alarmed for each in sample.stretches][:2] == [True, False]


def test_a_stretch_has_no_hole() -> None:
    sample = FeatureSample(ABOUT)
    for i in range(40):
        start = 100 * i + (10_000 if i >= 10 else 0)
        sample.add(window(i), "load", BEGAN, start, start + 200, alarmed=False)
    sample.event("E", "alarm", "load", BEGAN)
    assert sample.stretches == []
    assert int(sample.events[0].features[0].window[0, 0]) == 40 - STRETCH


def test_of_events_the_newest_are_kept_with_what_led_to_them() -> None:
    sample = listened(0.1)
    for number in range(MOST_EVENTS + 5):
        sample.event(f"E{number}", "alarm", "load", BEGAN)
    assert [each.event_id for each in sample.events] == [f"E{n}" for n in range(5, MOST_EVENTS + 5)]
    assert len(sample.events[0].features) == STRETCH


def test_a_file_gives_it_back_and_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = listened(0.5, range(300))
    sample.event("E1", "warning", "load", BEGAN)
    found = FeatureSample.from_bytes(sample.copy().to_bytes(), ABOUT)
    assert found is not None
    assert found.probation == sample.probation
    for mine, theirs in zip(
        [*found.stretches, *found.events], [*sample.stretches, *sample.events], strict=True
    ):
        assert replace(mine, features=()) == replace(theirs, features=())
        for a, b in zip(mine.features, theirs.features, strict=True):
            np.testing.assert_array_equal(a.window, b.window)
            np.testing.assert_allclose(a.segments, b.segments, rtol=1e-3)
    before = len(found.stretches)
    for i in range(STRETCH):
        found.add(window(i), "load", BEGAN, 100 * i, 100 * i + 200, alarmed=False)
    assert len(found.stretches) == before + 1


def test_of_other_features_nothing_is_taken() -> None:
    data = listened(0.1).to_bytes()
    assert FeatureSample.from_bytes(data, replace(ABOUT, hop_s=0.5)) is None


@pytest.mark.parametrize("at", [0, 5, 200, -5])
def test_damage_is_noticed(at: int) -> None:
    data = bytearray(listened(0.1).to_bytes())
    data[at] ^= 0xFF
    with pytest.raises(ValueError):  # noqa: PT011 - the reasons are as many as the places
        FeatureSample.from_bytes(bytes(data), ABOUT)
    with pytest.raises(ValueError):  # noqa: PT011
        FeatureSample.from_bytes(b"", ABOUT)


def test_large_features_keep_fewer_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample, "MOST_BYTES", 10 * STRETCH * (6 + 72) * 4)
    assert len(listened(2).stretches) <= 10
