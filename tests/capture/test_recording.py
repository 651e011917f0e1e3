"""Recordings: every bad file has its own clear error, pace is that of the clock, disk is streamed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.capture.source import SharedSource
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32

Write = Callable[..., Path]


def play(source: Recording) -> Float32:
    parts, index = [], 0
    while not source.ended:
        block = source.read()
        if block is not None:
            assert (block.start, block.gap) == (index, False)
            index += len(block.samples)
            parts.append(block.samples)
    return np.concatenate(parts)


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff", "w64"])
@pytest.mark.parametrize("block_s", [0.001, 0.05, 1.0, 100.0])
def test_a_lossless_file_is_delivered_sample_by_sample(
    write_recording: Write, noise: Float32, kind: str, block_s: float
) -> None:
    path = write_recording(noise, f"sound.{kind}", subtype="PCM_24")
    source = Recording(path, pace="fast", block_s=block_s)
    assert (source.sample_rate_hz, source.channels, source.duration_s) == (8000, 2, 2.5)
    assert np.abs(play(source) - noise).max() < 2**-22
    assert source.lost_samples == 0
    source.close()


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff", "w64", "caf", "rf64"])
def test_an_exact_file_is_entered_at_any_sample(write_recording: Write, noise: Float32, kind: str) -> None:
    source = Recording(write_recording(noise, f"sound.{kind}", subtype="PCM_24"), pace="fast")
    assert source.exact
    source.skip(7777)
    block = source.read()
    assert block is not None
    assert block.start == 7777
    assert np.abs(block.samples - noise[7777:][: len(block.samples)]).max() < 2**-22
    while not source.ended:
        source.read()  # to its end, which is where its header says
    source.close()


@pytest.mark.parametrize(("kind", "subtype"), [("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS")])
def test_what_is_compressed_with_loss_is_read_from_its_beginning(
    write_recording: Write, noise: Float32, kind: str, subtype: str
) -> None:
    path = write_recording(noise, f"sound.{kind}", rate=16000, subtype=subtype)
    assert not Recording(path, pace="fast").exact


@pytest.mark.parametrize(("kind", "subtype"), [("mp3", "MPEG_LAYER_III"), ("ogg", "VORBIS")])
def test_compressed_files_play(write_recording: Write, kind: str, subtype: str) -> None:
    seconds = np.arange(32000) / 16000
    tone = (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    path = write_recording(tone, f"tone.{kind}", rate=16000, subtype=subtype)
    heard = play(Recording(path, pace="fast"))[:, 0]
    assert len(heard) == pytest.approx(32000, abs=2500)
    assert np.argmax(np.abs(np.fft.rfft(heard[4000:20000]))) == 440
    assert np.std(heard) == pytest.approx(0.5 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("loop", [False, True])
def test_an_mp3_read_in_blocks_is_the_mp3_read_at_once(write_recording: Write, loop: bool) -> None:
    """A machine that starts and stops: a bit reservoir lost between two blocks would silence one of them."""
    seconds = np.arange(16000 * 6) / 16000
    hum = 0.5 * np.sin(2 * np.pi * 440 * seconds) * (seconds % 1 < 0.3)
    hum += 1e-4 * np.random.default_rng(0).standard_normal(len(seconds))
    path = write_recording(hum.astype(np.float32), "hum.mp3", rate=16000, subtype="MPEG_LAYER_III")
    whole = soundfile.read(path, dtype="float32")[0]
    source = Recording(path, pace="fast", loop=loop)
    heard = np.zeros(0, np.float32)
    while not source.ended and len(heard) < (len(whole) * 2 if loop else len(whole)):
        block = source.read()
        assert block is not None
        heard = np.concatenate([heard, block.samples[:, 0]])
    assert np.abs(heard[: len(whole)] - whole).max() < 1e-6
    if loop:
        assert np.abs(heard[len(whole) :][: len(whole)] - whole).max() < 1e-6


def test_a_loop_goes_on_without_a_gap(write_recording: Write, noise: Float32) -> None:
    source = Recording(write_recording(noise[:1000]), pace="fast", loop=True, block_s=0.1)
    heard = np.zeros((0, 2), np.float32)
    while len(heard) < 4000:
        block = source.read()
        assert block is not None
        assert (block.start, block.gap) == (len(heard), False)
        heard = np.concatenate([heard, block.samples])
    assert np.array_equal(heard[:4000], np.tile(noise[:1000], (4, 1)))
    assert not source.ended


def test_real_time_pace_is_that_of_the_clock(write_recording: Write, noise: Float32) -> None:
    source = Recording(write_recording(noise[:6000]), pace="realtime", block_s=0.02)
    began_s = time.monotonic()
    index = 0
    while not source.ended:
        block = source.read()
        if block is not None:
            index += len(block.samples)
            assert time.monotonic() - began_s >= index / 8000  # never before its time
        else:
            time.sleep(0.005)
    assert index == 6000
    # What a slow reader left behind comes at once: nothing is skipped, and it does not fall behind.
    slow = Recording(write_recording(noise[:6000]), pace="realtime")
    assert slow.read() is None
    time.sleep(0.5)
    block = slow.read()
    assert block is not None
    assert block.start == 0
    assert len(block.samples) >= 4000


def test_wall_time_is_never_in_the_future(write_recording: Write, noise: Float32) -> None:
    source = SharedSource(Recording(write_recording(noise), pace="fast", block_s=0.5)).view(0)
    while (block := source.read()) is not None:
        age_s = (datetime.now(UTC) - source.time_of(block.start + len(block.samples))).total_seconds()
        assert 0 <= age_s < 2
    assert (source.time_of(8000) - source.time_of(0)).total_seconds() == pytest.approx(1.0)
    assert source.time_of(0).utcoffset() is not None


def message(path: Path, pace: Literal["fast"] = "fast") -> str:
    with pytest.raises(SourceError) as error:
        play(Recording(path, pace=pace))
    assert str(path) in error.value.message
    assert error.value.hint
    return error.value.message


def test_no_such_file(tmp_path: Path) -> None:
    assert "no such file" in message(tmp_path / "pump.wav")


def test_a_folder_is_no_recording(tmp_path: Path) -> None:
    assert "a folder" in message(tmp_path)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    path.touch()
    assert "empty (0 bytes)" in message(path)


@pytest.mark.parametrize("content", [b"this is a text\n" * 99, bytes(4000), b"\x80\x02}q\x00."])
def test_what_is_no_audio(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.wav"
    path.write_bytes(content)
    assert "not a recording" in message(path)


def test_raw_samples_without_a_header(tmp_path: Path) -> None:
    path = tmp_path / "sound.raw"
    path.write_bytes(bytes(4000))
    assert "do not say their rate" in message(path)


@pytest.mark.parametrize("rate", [999, 192_001])
def test_a_rate_that_no_microphone_has(write_recording: Write, noise: Float32, rate: int) -> None:
    assert f"a rate of {rate} Hz; expected 1000 to 192000 Hz" in message(write_recording(noise, rate=rate))


@pytest.mark.parametrize("rate", [1000, 192_000])
def test_the_lowest_and_the_highest_rate(write_recording: Write, noise: Float32, rate: int) -> None:
    assert len(play(Recording(write_recording(noise, rate=rate), pace="fast"))) == len(noise)


@pytest.mark.parametrize("kind", ["wav", "flac", "mp3", "ogg", "aiff"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8),
    st.none() | st.integers(0, 4000),
)
def test_a_damaged_file_plays_or_says_why_not(
    write_recording: Write, noise: Float32, kind: str, damage: list[tuple[int, int]], cut: int | None
) -> None:
    subtype = {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}.get(kind, "PCM_16")
    path = write_recording(noise[:3000], f"damaged.{kind}", subtype=subtype)
    data = bytearray(path.read_bytes())
    for at, value in damage:
        data[at % min(len(data), 200)] = value  # in and near the header, where it hurts
    path.write_bytes(data[:cut])
    with suppress(SourceError):  # and nothing else
        assert np.isfinite(play(Recording(path, pace="fast", block_s=0.5))).all()


def test_a_recording_without_samples(write_recording: Write) -> None:
    assert "without a single sample" in message(write_recording(np.zeros((0, 1), np.float32)))


@pytest.mark.parametrize("kind", ["wav", "flac", "aiff", "w64", "mp3", "au"])
def test_a_truncated_recording(write_recording: Write, noise: Float32, kind: str) -> None:
    subtype = "MPEG_LAYER_III" if kind == "mp3" else "PCM_16"
    path = write_recording(np.tile(noise, (4, 1)), f"cut.{kind}", subtype=subtype)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "truncated" in message(path) or "cannot be decoded beyond" in message(path)


def test_a_recording_that_was_streamed_into_a_pipe_is_whole(write_recording: Write, noise: Float32) -> None:
    """What writes WAV to a pipe cannot know its length and promises 4 GB (ffmpeg) or 2 GB (sox, arecord)."""
    path = write_recording(noise, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    for size in (0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000):
        data[at : at + 4] = size.to_bytes(4, "little")
        path.write_bytes(data)
        assert len(play(Recording(path, pace="fast"))) == len(noise)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(write_recording: Write, noise: Float32, bad: float) -> None:
    noise[12_000, 1] = bad
    text = message(write_recording(noise))
    assert "1.500 s in channel 1" in text
    assert str(np.float32(bad)) in text


def test_files_and_folders_are_found(write_recording: Write, noise: Float32, tmp_path: Path) -> None:
    b = write_recording(noise, "x/b.wav")
    a = write_recording(noise, "x/y/a.FLAC", subtype="PCM_16")
    (tmp_path / "x" / "notes.txt").write_text("no sound")
    assert find_recordings([tmp_path / "x"]) == [b, a]
    assert find_recordings([a, tmp_path / "x", b]) == [b, a]


def test_what_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or folder"):
        find_recordings([tmp_path / "nowhere"])
    with pytest.raises(SourceError, match="no recording in this folder"):
        find_recordings([tmp_path])
