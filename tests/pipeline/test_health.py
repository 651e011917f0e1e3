"""Coverage accounts for every second; nothing here waits, time is an argument."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.core.types import Score, Window
from echo_stream.pipeline.health import GRACE_S, Health

RATE = 1000
SCORE = Score(
    value=1.25, p_value=0.2, bands=(), nearest=(), level_dbfs=-31.2345, level_delta_db=0.5, condition="normal"
)


def window(end_s: float, length_s: float = 2.0) -> Window:
    end, n = round(end_s * RATE), round(length_s * RATE)
    return Window("pump3", np.zeros(n, np.float32), end - n, end, RATE, datetime(2026, 11, 20, tzinfo=UTC))


def listen(health: Health, first_end_s: float, last_end_s: float, late_s: float = 0.1) -> None:
    """Scores a window a second, each `late_s` after its last sample; index and monotonic time agree."""
    for end_s in np.arange(first_end_s, last_end_s + 1e-9, health.hop_s):
        health.scored(window(float(end_s)), SCORE, spent_s=0.02, lag_s=late_s, now_s=float(end_s) + late_s)


def accounted(snapshot: dict[str, float]) -> float:
    return snapshot["scored_s"] + snapshot["lost_s"] + snapshot["skipped_s"] + snapshot["unheard_s"]


def test_nothing_is_known_before_the_first_window_is_due() -> None:
    snapshot = Health("pump3", 1.0, now_s=50.0).snapshot(now_s=51.0)
    assert snapshot["coverage"] is None
    assert snapshot["coverage_10m"] is None
    assert snapshot["last_window_at"] is None
    assert snapshot["real_time_factor"] is None
    assert snapshot["windows_scored"] == 0


def test_a_perfect_stream_is_covered_whole() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    listen(health, 2, 1000)
    snapshot = health.snapshot(now_s=1000.4)
    assert snapshot["coverage"] == pytest.approx(1.0, abs=2e-4)  # 0.1 s passed before the first sample
    assert snapshot["coverage_10m"] == 1.0
    assert snapshot["windows_scored"] == 999
    assert snapshot["real_time_factor"] == pytest.approx(0.02)
    assert snapshot["level_dbfs"] == -31.23
    assert snapshot["last_window_at"] == "2026-11-20T00:00:00.000Z"
    assert snapshot["last_window_age_s"] == pytest.approx(0.3)
    json.dumps(snapshot, allow_nan=False)


def test_what_was_read_before_there_was_a_bank_was_not_missed() -> None:
    health = Health("pump3", 1.0, now_s=600.0)
    health.origin_s = 600.0
    listen(health, 602, 1000)
    snapshot = health.snapshot(now_s=1000.2)
    assert snapshot["coverage"] == pytest.approx(1.0, abs=1e-3)
    assert snapshot["unheard_s"] < 0.5


def test_a_microphone_that_never_came_is_not_covered() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    snapshot = health.snapshot(now_s=100.0)
    assert snapshot["coverage"] == 0.0
    assert snapshot["coverage_10m"] == 0.0
    assert snapshot["unheard_s"] == pytest.approx(100 - 1 - GRACE_S)


def test_a_microphone_that_came_late_starts_its_index_late() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    for end_s in range(2, 42):
        health.scored(window(end_s), SCORE, spent_s=0.02, lag_s=0.1, now_s=60.0 + end_s)
    snapshot = health.snapshot(now_s=101.2)
    assert snapshot["coverage"] == pytest.approx(40 / 100, abs=1e-5)
    assert snapshot["unheard_s"] == pytest.approx(60)


def test_while_the_microphone_is_away_coverage_falls_and_its_return_changes_nothing() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    listen(health, 2, 100)
    away = [health.snapshot(now_s=t)["coverage"] for t in (101, 110, 150, 199)]
    assert away == sorted(away, reverse=True)
    assert away[-1] == pytest.approx(99 / (99 + 99 - 3), abs=0.01)
    health.lost(100 * RATE, RATE)  # the index counts on through the outage
    listen(health, 202, 300)
    snapshot = health.snapshot(now_s=300.5)
    assert snapshot["lost_s"] == 100
    assert snapshot["gaps"] == 1
    assert snapshot["samples_lost"] == 100 * RATE
    assert snapshot["unheard_s"] == pytest.approx(1.1)  # the window filling anew, and 0.1 s at the start
    assert snapshot["coverage"] == pytest.approx(198 / 299.1, abs=1e-5)
    assert accounted(snapshot) == pytest.approx(snapshot["elapsed_s"])


def test_skipped_hops_are_not_covered() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    listen(health, 2, 10, late_s=0.0)
    health.skipped(5)
    listen(health, 16, 20, late_s=0.0)
    snapshot = health.snapshot(now_s=20.5)
    assert snapshot["hops_skipped"] == 5
    assert snapshot["unheard_s"] == 0
    assert snapshot["coverage"] == pytest.approx(14 / 19, abs=1e-5)


def test_ten_minutes_forget_and_the_total_remembers() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    listen(health, 2, 100)
    listen(health, 202, 1000)
    snapshot = health.snapshot(now_s=1000.2)
    assert snapshot["coverage_10m"] == 1.0
    assert snapshot["coverage"] < 0.91
    assert health.coverage(now_s=1000.2, over_s=60) == 1.0


def test_a_recording_replayed_a_hundred_times_as_fast_is_covered_whole() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    for end_s in range(2, 3602):
        health.scored(window(end_s), SCORE, spent_s=0.01, lag_s=0.1, now_s=end_s / 100)
    snapshot = health.snapshot(now_s=36.5)
    assert snapshot["coverage"] == 1.0
    assert snapshot["elapsed_s"] == 3600


def test_a_slow_crystal_is_not_a_loss() -> None:
    health = Health("pump3", 1.0, now_s=0.0)
    for end_s in range(2, 20_000):
        health.scored(window(end_s), SCORE, spent_s=0.01, lag_s=0.1, now_s=end_s * 1.005)
    assert health.snapshot(now_s=20_000 * 1.005)["coverage"] > 0.9999


@given(
    hop_s=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    fates=st.lists(st.sampled_from(["scored", "skipped", "lost"]), min_size=1, max_size=300),
)
def test_every_second_is_one_thing(hop_s: float, fates: list[str]) -> None:
    """Each hop of a stream of windows as long as a hop is scored, skipped or lost; nothing else is left."""
    health = Health("pump3", hop_s, now_s=0.0)
    for k, fate in enumerate(fates):
        end_s = (k + 1) * hop_s
        if fate == "scored":
            health.scored(window(end_s, hop_s), SCORE, spent_s=0.0, lag_s=0.1, now_s=end_s)
        elif fate == "skipped":
            health.skipped(1)
        else:
            health.lost(round(hop_s * RATE), RATE)
    last = max((k + 1 for k, fate in enumerate(fates) if fate == "scored"), default=0)
    snapshot = health.snapshot(now_s=last * hop_s)
    if last:
        due = last * hop_s
        assert snapshot["elapsed_s"] == pytest.approx(due)
        assert snapshot["scored_s"] == pytest.approx(fates.count("scored") * hop_s)
        assert snapshot["coverage"] == pytest.approx(fates.count("scored") / last, abs=1e-5)
        assert snapshot["coverage_10m"] == pytest.approx(
            sum(f == "scored" for f in fates[max(0, last - round(600 / hop_s)) : last])
            / min(last, round(600 / hop_s)),
            abs=1e-5,
        )
    else:
        assert snapshot["coverage"] is None
