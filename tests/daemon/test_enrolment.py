"""An enrolment's states: what it keeps, what it survives, and how it ends."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from echo_stream.capture.pieces import SoundOrigin, pieces_in, stretches_in
from echo_stream.core.types import Float32
from echo_stream.daemon.enrolment import Enrolment, Limits, Record, Sound, Stage

RATE_HZ = 8000
LIMITS = Limits(max_mb=100, min_free_mb=0, window_s=2.0)


def record(minutes: float = 1.0, conditions: tuple[str, ...] = ("normal",)) -> Record:
    return Record(
        machine="pump3",
        minutes=minutes,
        conditions=list(conditions),
        told_apart=len(conditions) > 1,
        accept=True,
        by="anna",
        source="microphone",
        began_at=datetime.now(UTC).isoformat(),
    )


def noise(seconds: float, peak: float = 0.1) -> Float32:
    return np.random.default_rng(1).uniform(-peak, peak, round(seconds * RATE_HZ)).astype(np.float32)


def sound(
    seconds: float = 1.0,
    *,
    samples: Float32 | None = None,
    lost: int = 0,
    begins: bool = False,
    rate_hz: int = RATE_HZ,
    device: str = "Built-in",
    condition: str = "normal",
) -> Sound:
    heard = noise(seconds) if samples is None else samples
    return Sound("pump3", heard, lost, begins, rate_hz, 1.0, device, condition)


def listen(enrolment: Enrolment, seconds: int, condition: str = "normal") -> None:
    for _ in range(seconds):
        enrolment.take(sound(condition=condition))


def test_it_listens_for_as_long_as_asked_and_then_wants_to_be_fitted(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(), LIMITS)
    listen(enrolment, 59)
    said = enrolment.snapshot()
    assert (said["stage"], said["heard_s"], said["kept_s"], said["left_s"]) == ("listening", 59, 59, 1)
    assert said["level_dbfs"] == pytest.approx(20 * math.log10(0.1 / 3**0.5), abs=0.2)
    listen(enrolment, 2)
    assert enrolment.record.stage is Stage.FITTING
    assert enrolment.snapshot()["heard_s"] == 60
    assert enrolment.to_fit() == [0]
    assert sum(piece.samples for piece in pieces_in(enrolment.sound_of(0))) == 60 * RATE_HZ
    assert SoundOrigin.load(enrolment.sound_of(0)).by == "anna"
    enrolment.done()
    assert not enrolment.sound_of(0).exists()


def test_a_pause_is_passed_over_and_counts_as_no_time(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(), LIMITS)
    listen(enrolment, 5)
    enrolment.pause()
    listen(enrolment, 100)
    enrolment.resume()
    listen(enrolment, 5)
    enrolment.finish()
    assert enrolment.snapshot()["heard_s"] == 10
    assert [len(each) for each in stretches_in(enrolment.sound_of(0))] == [1, 1]


def test_it_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    first = Enrolment(tmp_path, record(minutes=3), LIMITS)
    listen(first, 70)
    first.suspend()
    second = Enrolment(tmp_path, Record.load(tmp_path), LIMITS)
    assert (second.record.stage, second.snapshot()["kept_s"]) == (Stage.LISTENING, 70)
    second.take(sound(begins=True))
    listen(second, 64)  # killed: the minute at hand is gone, and what is known of it
    third = Enrolment(tmp_path, Record.load(tmp_path), LIMITS)
    assert 120 <= third.snapshot()["kept_s"] <= 135
    assert third.record.passed_s >= 120
    third.take(sound(begins=True))
    third.finish()
    assert len(stretches_in(third.sound_of(0))) == 3
    assert third.to_fit() == [0]


def test_a_damaged_note_of_it_is_said(tmp_path: Path) -> None:
    record().save(tmp_path)
    (tmp_path / "enrolment.json").write_text('{"fits": [], "stage": "listening"}')
    with pytest.raises(ValueError, match="damaged"):
        Record.load(tmp_path)


def test_of_days_parts_are_kept_that_lie_evenly(tmp_path: Path) -> None:
    limits = Limits(max_mb=3 * RATE_HZ * 1200 / 1e6, min_free_mb=0, window_s=2.0)  # 20 min
    enrolment = Enrolment(tmp_path, record(minutes=200), limits)
    chunk = sound(60)
    for _ in range(200):
        enrolment.take(chunk)
    assert enrolment.record.stage is Stage.FITTING
    kept = stretches_in(enrolment.sound_of(0))
    assert len(kept) == 4
    assert sum(piece.samples for each in kept for piece in each) == 20 * 60 * RATE_HZ


def test_the_state_that_the_daemon_tells_decides_where_sound_goes(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(conditions=("idle", "load")), LIMITS)
    for _ in range(2):
        listen(enrolment, 5, "idle")
        listen(enrolment, 4, "load")
        listen(enrolment, 3, "off")
    enrolment.finish()
    samples = [sum(piece.samples for piece in pieces_in(enrolment.sound_of(i))) for i in (0, 1)]
    assert samples == [10 * RATE_HZ, 8 * RATE_HZ]
    assert [len(stretches_in(enrolment.sound_of(i))) for i in (0, 1)] == [2, 2]
    assert enrolment.to_fit() == [0, 1]


def test_lost_sound_is_counted_and_is_a_gap(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(), LIMITS)
    listen(enrolment, 3)
    enrolment.take(sound(lost=RATE_HZ // 2))
    enrolment.finish()
    assert enrolment.snapshot()["lost_s"] == 0.5
    (pieces,) = stretches_in(enrolment.sound_of(0))
    assert pieces[1].start - pieces[0].end == RATE_HZ // 2


def test_another_device_ends_it(tmp_path: Path) -> None:
    for other in (sound(device="USB"), sound(rate_hz=16_000)):
        enrolment = Enrolment(tmp_path, record(), LIMITS)
        listen(enrolment, 2)
        enrolment.take(other)
        assert enrolment.record.stage is Stage.FAILED
        assert "the device changed" in enrolment.record.said


def test_a_full_disk_costs_sound_and_is_said_until_it_is_over(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(), Limits(max_mb=100, min_free_mb=1e12, window_s=2.0))
    listen(enrolment, 3)
    assert "MB stay free" in enrolment.snapshot()["said"]
    assert enrolment.snapshot()["lost_s"] == 3
    assert enrolment.record.stage is Stage.LISTENING
    enrolment._limits = LIMITS
    listen(enrolment, 3)
    assert enrolment.snapshot()["said"] == ""
    assert enrolment.snapshot()["kept_s"] == 3


def test_clipping_and_hum_are_seen(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(), LIMITS)
    time_s = np.arange(2 * RATE_HZ) / RATE_HZ
    hum = (0.5 * np.sin(2 * np.pi * 50 * time_s)).astype(np.float32)
    enrolment.take(sound(samples=hum))
    assert enrolment.snapshot()["hum"] > 0.9
    assert not enrolment.snapshot()["ever_clipped"]
    enrolment.take(sound(samples=np.clip(30 * hum, -1, 1)))
    assert enrolment.snapshot()["clipped"] > 0.5
    listen(enrolment, 3)
    assert (enrolment.snapshot()["clipped"], enrolment.snapshot()["ever_clipped"]) == (0.0, True)


def test_too_little_to_fit(tmp_path: Path) -> None:
    enrolment = Enrolment(tmp_path, record(), LIMITS)
    enrolment.take(sound(0.5))
    enrolment.finish()
    assert enrolment.to_fit() == []
