"""Kept normal sound: spread over an enrolment, whole on disk, without what was left out."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.core.types import Window
from echo_stream.evidence.normal_sound import (
    CLIP_S,
    INDEX,
    ClipCollector,
    NormalClip,
    evenly,
    file_of,
    folder_of,
    read_clips,
    write_clips,
)

RATE_HZ = 1000
SOUND = np.random.default_rng(0).uniform(-0.5, 0.5, 3000 * RATE_HZ).astype(np.float32)


def listen(keep_s: float, seconds: float, gap_at_s: float | None = None) -> ClipCollector:
    """A collector that heard windows of 2 s, every second one second later."""
    collector = ClipCollector("mic", "load", keep_s)
    for start in range(0, round((seconds - 2) * RATE_HZ) + 1, RATE_HZ):
        if gap_at_s is not None and gap_at_s <= start / RATE_HZ < gap_at_s + 5:
            continue
        samples, end = SOUND[start : start + 2 * RATE_HZ], start + 2 * RATE_HZ
        collector.add(Window("pump3", samples, start, end, RATE_HZ, datetime.now(UTC)))
    collector.finish(RATE_HZ)
    return collector


@pytest.mark.parametrize(("seconds", "least_s"), [(8, 8), (95, 90), (3000, 60)])
def test_clips_are_spread_over_what_was_heard_and_are_its_sound(seconds: int, least_s: float) -> None:
    clips = listen(120, seconds).clips([])
    total_s = sum(len(each.samples) for each in clips) / RATE_HZ
    assert least_s <= total_s <= 130
    assert clips[-1].end_s > 0.8 * seconds
    for clip in clips:
        first = round(clip.start_s * RATE_HZ)
        assert np.array_equal(clip.samples, SOUND[first : first + len(clip.samples)])


def test_no_clip_holds_a_gap_or_what_was_left_out() -> None:
    clips = listen(120, 100, gap_at_s=42).clips([("mic", 71.0, 73.0), ("another", 0.0, 100.0)])
    assert clips
    for clip in clips:
        assert not (clip.start_s < 43 and clip.end_s > 47), "over the gap"
        assert clip.end_s <= 71 or clip.start_s >= 73
    assert listen(0, 100).clips([]) == []


def test_what_is_written_is_read_back_and_nothing_is_left_of_what_fails(tmp_path: Path) -> None:
    bank = tmp_path / "pump3.safetensors"
    folder = folder_of(bank, "b7")
    folder.parent.mkdir()
    loud = NormalClip("a.wav", 30.0, "idle", RATE_HZ, 3.0 * SOUND[: 4 * RATE_HZ])
    write_clips(folder, [*listen(20, 20).clips([]), loud])
    first, second, third = read_clips(folder)
    assert (first.recording, first.start_s, first.duration_s, first.condition) == ("mic", 0, CLIP_S, "load")
    assert (second.start_s, third.condition, third.full_scale) == (10, "idle", 2)
    path = file_of(bank, "b7", first.file)
    assert path is not None
    samples, rate = soundfile.read(path, dtype="float32")
    assert rate == RATE_HZ
    assert np.abs(samples - SOUND[: len(samples)]).max() < 1e-6
    with pytest.raises(OSError, match="not empty"):
        write_clips(folder, [loud])
    assert [each.name for each in folder.parent.iterdir()] == ["b7.normal"]

    for version, name in (
        ("b7", "../b7.normal/01.flac"),
        ("../x", "01.flac"),
        ("b7", INDEX),
        ("b8", "01.flac"),
    ):
        assert file_of(bank, version, name) is None
    (folder / "04.flac").symlink_to("/etc/passwd")
    assert file_of(bank, "b7", "04.flac") is None
    (folder / INDEX).write_text('{"clips": [{"file": 1}]}')
    assert read_clips(folder) == []
    assert read_clips(folder_of(bank, "b9")) == []


def test_evenly_spread() -> None:
    assert evenly(range(10), 2) == [2, 7]
    assert list(evenly(range(3), 5)) == [0, 1, 2]
