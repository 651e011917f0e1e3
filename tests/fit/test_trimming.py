"""Trimming: what is short, rare and far goes; what the machine does by itself stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_stream.core.types import Enrolled
from echo_stream.fit.trimming import MOMENT_S, MOST, keep_all, trim
from tests.support.sounds import BANDS, DIM, HOP_S, WINDOW_S, enrol, features, normal

KNOCK = 15.0


def trimmed(enrolled: list[Enrolled]) -> list[tuple[str, float, float]]:
    found = trim(enrolled, window_s=WINDOW_S, hop_s=HOP_S)
    return [(s.recording, s.start_s, s.end_s) for s in found.trimmed]


def knocked(n: int, *places: int, seed: int = 0, recordings: int = 1, length: int = 2) -> list[Enrolled]:
    """Normal windows, of which `length` from each place on hold a knock, never quite the same."""
    generator = np.random.default_rng(seed + 100)
    items = normal(n, seed)
    for place in places:
        for i in range(place, place + length):
            sound = items[i].window + KNOCK * generator.uniform(0.8, 1.2)
            items[i] = features(sound.astype(np.float32))
    return enrol(items, recordings=recordings)


def voice(generator: np.random.Generator) -> np.ndarray:
    """Features far from normal, and each time elsewhere."""
    return generator.normal(0, KNOCK, (BANDS, DIM))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n", [30, 120, 600])
def test_normal_sound_is_kept_whole(n: int, seed: int) -> None:
    found = trim(enrol(normal(n, seed)), window_s=WINDOW_S, hop_s=HOP_S)
    assert len(found.kept) == n
    assert found.trimmed == found.kept_outliers == ()


@pytest.mark.parametrize("n", [40, 120, 600])
def test_a_knock_goes_and_it_is_said_where(n: int) -> None:
    assert trimmed(knocked(n, n // 2)) == [("rec0.wav", n // 2, n // 2 + 1 + WINDOW_S)]


def test_of_several_recordings_it_is_said_which() -> None:
    assert trimmed(knocked(120, 63, recordings=4)) == [("rec2.wav", 3.0, 6.0)]


def test_a_recording_that_is_like_no_other_goes() -> None:
    assert trimmed(knocked(150, 66, recordings=50, length=3)) == [("rec22.wav", 0.0, 2.0 + WINDOW_S)]


@pytest.mark.parametrize("every", [7, 20, 35])
def test_a_machine_that_knocks_by_itself_is_not_trimmed(every: int) -> None:
    found = trim(knocked(120, *range(3, 117, every)), window_s=WINDOW_S, hop_s=HOP_S)
    assert found.trimmed == found.kept_outliers == ()


def test_two_disturbances_are_no_habit_three_are() -> None:
    assert len(trimmed(knocked(120, 20, 80))) == 2
    assert trimmed(knocked(120, 20, 50, 80)) == []


def test_a_knock_does_not_excuse_a_voice() -> None:
    """Both are far from the rest; that makes neither of them normal to the other."""
    generator = np.random.default_rng(3)
    items = normal(120)
    for i in (45, 46):
        items[i] = features((items[i].window + KNOCK).astype(np.float32))
    for i in range(78, 84):  # from one piece of time into the next
        items[i] = features((items[i].window + 2 * KNOCK + voice(generator)).astype(np.float32))
    assert [start_s for _, start_s, _ in trimmed(enrol(items))] == [45, 78]


def test_what_lasts_is_no_disturbance() -> None:
    long = round(2 * MOMENT_S / HOP_S)
    generator = np.random.default_rng(5)
    items = normal(600)
    for i in range(100, 100 + long):
        items[i] = features((items[i].window + voice(generator)).astype(np.float32))
    found = trim(enrol(items), window_s=WINDOW_S, hop_s=HOP_S)
    assert found.trimmed == ()
    assert [(s.start_s, len(s.members)) for s in found.kept_outliers] == [(100, long)]


def test_too_little_to_tell_is_kept() -> None:
    assert trimmed(knocked(18, 9)) == []
    assert len(keep_all(knocked(18, 9)).kept) == 18


def test_sound_without_any_variation() -> None:
    still = [features(np.ones((BANDS, DIM), np.float32)) for _ in range(60)]
    assert trimmed(enrol(still)) == []


def test_many_windows_are_compared_with_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo_stream.fit.trimming.REFERENCES", 100)
    assert trimmed(knocked(600, 300)) == [("rec0.wav", 300, 303)]


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(20, 200),
    recordings=st.integers(1, 6),
    disturbances=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 40)), max_size=8),
    seed=st.integers(0, 1000),
)
def test_never_more_than_a_small_share(
    n: int, recordings: int, disturbances: list[tuple[float, int]], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    items = normal(n, seed)
    for at, length in disturbances:
        for i in range(int(at * n), min(n, int(at * n) + length)):
            items[i] = features((items[i].window + voice(generator)).astype(np.float32))
    enrolled = enrol(items, recordings=recordings)
    found = trim(enrolled, window_s=WINDOW_S, hop_s=HOP_S)
    gone = [i for stretch in found.trimmed for i in stretch.members.tolist()]
    assert sorted([*gone, *found.kept.tolist()]) == list(range(n))
    assert len(gone) <= max(MOST * n, 3)
    for stretch in (*found.trimmed, *found.kept_outliers):
        mine = [enrolled[i] for i in stretch.members]
        assert {item.recording for item in mine} == {stretch.recording}
        assert (mine[0].start_s, mine[-1].start_s + WINDOW_S) == (stretch.start_s, stretch.end_s)
