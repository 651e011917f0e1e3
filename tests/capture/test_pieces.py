"""Pieces: the sound of an enrolment survives restarts and comes back as it was."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from echo_stream.capture.pieces import PieceSource, PieceWriter, SoundOrigin, pieces_in, stretches_in
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32

RATE_HZ = 8000
BEGAN = datetime(2026, 11, 20, tzinfo=UTC)


def sound(seconds: float) -> Float32:
    return np.random.default_rng(1).uniform(-0.5, 0.5, round(seconds * RATE_HZ)).astype(np.float32)


def read(folder: Path, stretch: int = 0) -> tuple[Float32, list[int]]:
    """All samples of a stretch, and where a gap ends."""
    source = PieceSource(stretches_in(folder)[stretch], "microphone", BEGAN)
    blocks = []
    while (block := source.read()) is not None:
        blocks.append(block)
    assert source.ended
    source.close()
    return np.concatenate([block.samples[:, 0] for block in blocks]), [b.start for b in blocks if b.gap]


def test_what_was_written_comes_back_over_several_files(tmp_path: Path) -> None:
    writer, samples = PieceWriter(tmp_path / "sound", RATE_HZ, 1.0), sound(150)
    for chunk in np.array_split(samples, 300):
        writer.write(chunk)
    writer.close()
    assert len(pieces_in(tmp_path / "sound")) == 3
    back, gaps = read(tmp_path / "sound")
    assert np.abs(back - samples).max() < 2**-23
    assert not gaps
    assert writer.samples == len(samples)


def test_lost_sound_is_a_gap_and_a_pause_is_another_stretch(tmp_path: Path) -> None:
    writer, samples = PieceWriter(tmp_path, RATE_HZ, 1.0), sound(3)
    writer.write(samples)
    writer.lose(500)
    writer.write(samples)
    writer.begin(10 * RATE_HZ)
    writer.write(samples)
    writer.close()
    assert read(tmp_path, 0)[1] == [3 * RATE_HZ + 500]
    assert stretches_in(tmp_path)[1][0].start == 10 * RATE_HZ
    assert read(tmp_path, 1)[1] == []


def test_after_a_crash_what_is_complete_goes_on(tmp_path: Path) -> None:
    writer = PieceWriter(tmp_path, RATE_HZ, 1.0)
    writer.write(sound(61))
    writer.write(sound(5))  # never completed: the process is killed
    again = PieceWriter(tmp_path, RATE_HZ, 1.0)
    assert (again.samples, again.end) == (61 * RATE_HZ, 61 * RATE_HZ)
    again.begin(0)  # in time it would overlap
    again.write(sound(5))
    again.close()
    first, second = stretches_in(tmp_path)
    assert second[0].start > first[-1].end
    assert len(read(tmp_path, 1)[0]) == 5 * RATE_HZ


def test_samples_with_a_unit_of_their_own_keep_it(tmp_path: Path) -> None:
    writer = PieceWriter(tmp_path, RATE_HZ, math.inf)
    writer.write(sound(2) * 40)
    writer.close()
    assert np.array_equal(read(tmp_path)[0], sound(2) * 40)


def test_a_full_disk_is_said_and_loses_the_file_at_hand(tmp_path: Path) -> None:
    writer = PieceWriter(tmp_path / "sound", RATE_HZ, 1.0)
    (tmp_path / "sound/part.flac").mkdir()  # nothing can be written there
    with pytest.raises(OSError, match=r"part\.flac"):
        writer.write(sound(2))
    assert pieces_in(tmp_path / "sound") == []
    assert writer.samples == 0


def test_the_note_comes_back_or_says_that_it_is_damaged(tmp_path: Path) -> None:
    note = SoundOrigin("microphone", "Built-in", RATE_HZ, "2026-11-20T00:00:00.000Z", "anna")
    note.save(tmp_path)
    assert SoundOrigin.load(tmp_path) == note
    (tmp_path / "heard.json").write_text("{}")
    with pytest.raises(SourceError, match=r"heard\.json"):
        SoundOrigin.load(tmp_path)
