"""Raw PCM through a real pipe."""

from __future__ import annotations

import os
import struct
import threading
from datetime import UTC, datetime

import numpy as np
import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from echo_stream.capture.source import SharedSource
from echo_stream.capture.stdin import SAMPLE_BYTES, RawPcm
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32
from echo_stream.pipeline.loop import read_windows

Pipe = tuple[int, int]
SCALE = {"s16le": 2**15, "s24le": 2**23, "s32le": 2**31}


def encode(samples: NDArray[np.floating], sample_format: str) -> bytes:
    if sample_format == "f32le":
        return samples.astype("<f4").tobytes()
    whole = np.round(samples.astype(np.float64) * SCALE[sample_format]).astype("<i8")
    wide = whole.reshape(-1, 1).view(np.uint8).reshape(-1, 8)
    return wide[:, : SAMPLE_BYTES[sample_format]].tobytes()


@pytest.mark.parametrize("sample_format", list(SAMPLE_BYTES))
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_formats(pipe: Pipe, sample_format: str, channels: int) -> None:
    source = RawPcm(8000, sample_format, channels, fd=pipe[0])
    samples = np.linspace(-1, 0.999, 300 * channels, dtype=np.float32).reshape(-1, channels)
    os.write(pipe[1], encode(samples, sample_format))
    block = source.read()
    assert block is not None
    assert block.samples.dtype == np.float32
    assert np.abs(block.samples - samples).max() <= 0.5 / SCALE.get(sample_format, 2**31) + 1e-7


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 3))
def test_any_cutting_of_the_bytes_loses_nothing(cuts: list[int], channels: int) -> None:
    reading, writing = os.pipe()
    source = RawPcm(8000, "s24le", channels, fd=reading)
    samples = (np.arange(400 * channels, dtype=np.float32) / 2000).reshape(-1, channels)
    data = encode(samples, "s24le")
    parts: list[Float32] = []
    try:
        for cut in [*cuts, len(data)]:
            os.write(writing, data[:cut])
            data = data[cut:]
            while (block := source.read()) is not None:
                assert (block.start, block.gap) == (sum(map(len, parts)), False)
                parts.append(block.samples)
            assert not source.ended
        os.write(writing, b"\x01")  # half a frame that never ends
        os.close(writing)
        assert source.read() is None
        assert source.ended
    finally:
        os.close(reading)
    assert np.allclose(np.concatenate(parts), samples, atol=1e-6)


def test_nothing_to_read_does_not_block_and_is_not_the_end(pipe: Pipe) -> None:
    source = RawPcm(8000, fd=pipe[0])
    assert source.read() is None
    assert not source.ended
    assert os.get_blocking(pipe[0])  # the mode is shared with whoever else holds the descriptor


def test_what_waits_in_the_pipe_is_read_after_the_writer_went(pipe: Pipe) -> None:
    source = RawPcm(8000, fd=pipe[0])
    os.write(pipe[1], bytes(60_000))
    os.close(pipe[1])
    total = 0
    while not source.ended:
        block = source.read()
        total += len(block.samples) if block is not None else 0
    assert total == 30_000
    assert source.read() is None


def test_nan_names_its_time(pipe: Pipe) -> None:
    source = RawPcm(8000, "f32le", fd=pipe[0])
    os.write(pipe[1], bytes(4 * 4000))
    source.read()
    os.write(pipe[1], np.array([0, np.nan], "<f4").tobytes())
    with pytest.raises(SourceError, match=r"nan at 0\.500 s in channel 0"):
        source.read()


def test_unknown_format() -> None:
    with pytest.raises(SourceError, match="'u8'") as error:
        RawPcm(8000, "u8")
    assert "s16le" in error.value.hint


def test_a_descriptor_that_is_closed(pipe: Pipe) -> None:
    source = RawPcm(8000, fd=pipe[0])
    os.close(pipe[0])
    with pytest.raises(SourceError, match="Bad file descriptor"):
        source.read()
    assert source.ended


def wav(
    data: bytes, sample_format: str, channels: int = 1, size: int = 0x80000000, extra: bytes = b""
) -> bytes:
    """As arecord and ffmpeg write it into a pipe."""
    width = SAMPLE_BYTES[sample_format]
    tag = 3 if sample_format == "f32le" else 1
    fmt = struct.pack("<HHIIHH", tag, channels, 8000, 8000 * width * channels, width * channels, 8 * width)
    head = b"RIFF" + struct.pack("<I", 0x80000024) + b"WAVEfmt " + struct.pack("<I", 16) + fmt + extra
    return head + b"data" + struct.pack("<I", size) + data


def drain(source: RawPcm) -> Float32:
    parts = []
    while not source.ended:
        if (block := source.read()) is not None:
            parts.append(block.samples)
    return np.concatenate(parts) if parts else np.zeros((0, source.channels), np.float32)


def feed(writing: int, data: bytes, cut: int) -> threading.Thread:
    def write() -> None:
        for at in range(0, len(data), cut):
            os.write(writing, data[at : at + cut])
        os.close(writing)

    thread = threading.Thread(target=write)
    thread.start()
    return thread


@pytest.mark.parametrize("configured", ["s16le", "s24le"])
@pytest.mark.parametrize("cut", [1, 7, 100_000])
@pytest.mark.parametrize("sample_format", list(SAMPLE_BYTES))
def test_a_wav_header_is_believed(configured: str, cut: int, sample_format: str) -> None:
    reading, writing = os.pipe()
    samples = np.linspace(-0.9, 0.9, 3000, dtype=np.float32).reshape(-1, 2)
    info = b"LIST" + struct.pack("<I", 60_000) + bytes(60_000) if cut > 10 else b""
    source = RawPcm(8000, configured, 2, fd=reading)
    writer = feed(writing, wav(encode(samples, sample_format), sample_format, 2, extra=info), cut)
    try:
        found = drain(source)
    finally:
        writer.join()
        os.close(reading)
    assert found.shape == samples.shape
    assert np.abs(found - samples).max() <= 0.5 / SCALE.get(sample_format, 2**31) + 1e-7


def test_what_follows_the_sound_of_a_wav_is_no_sound() -> None:
    reading, writing = os.pipe()
    samples = np.zeros((100, 1), np.float32)
    data = encode(samples, "s16le")
    writer = feed(writing, wav(data, "s16le", size=len(data)) + b"LIST" + bytes(500), 1000)
    try:
        assert len(drain(RawPcm(8000, "s16le", fd=reading))) == 100
    finally:
        writer.join()
        os.close(reading)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"fLaC" + bytes(100), "the stream is FLAC, expected raw PCM or WAV"),
        (b"OggS" + bytes(100), "the stream is Ogg"),
        (b"FORM" + bytes(100), "the stream is AIFF"),
        (b"ID3\x04" + bytes(100), "the stream is MP3"),
        (wav(bytes(100), "s16le", channels=2), "announces 2 channels, configured are 1"),
        (wav(bytes(100), "s16le").replace(struct.pack("<I", 8000), struct.pack("<I", 44_100)), "44100 Hz"),
        (wav(bytes(100), "s16le").replace(struct.pack("<HH", 1, 1), struct.pack("<HH", 17, 1)), "format 17"),
        (b"RIFF" + bytes(4) + b"WAVE" + b"junk" + bytes(40), "without samples"),
    ],
)
def test_another_format_that_announces_itself_is_refused(data: bytes, said: str) -> None:
    reading, writing = os.pipe()
    writer = feed(writing, data, 1000)
    try:
        with pytest.raises(SourceError, match=said):
            drain(RawPcm(8000, "s16le", fd=reading))
    finally:
        writer.join()
        os.close(reading)


def test_sound_that_comes_faster_than_life_is_all_cut_into_windows() -> None:
    """A decoder delivers 10 minutes in a moment: nothing is overwritten, nothing has a time in the future."""
    reading, writing = os.pipe()
    minutes = 10
    samples = np.tile(np.linspace(-0.5, 0.5, 8000, dtype=np.float32), 60 * minutes)
    writer = feed(writing, encode(samples, "s16le"), 1 << 20)
    source = RawPcm(8000, fd=reading)
    try:
        count = 0
        for window in read_windows(SharedSource(source).view(0), window_s=2.0, hop_s=1.0):
            assert window.start == count * 8000
            assert window.captured_at <= datetime.now(UTC)
            count += 1
    finally:
        writer.join()
        os.close(reading)
    assert count == 60 * minutes - 1
    assert source.lost_samples == 0


def test_float_samples_beyond_full_scale_have_another_unit() -> None:
    reading, writing = os.pipe()
    source = RawPcm(8000, "f32le", fd=reading)
    os.write(writing, encode(np.full(10, 0.9, np.float32), "f32le"))
    source.read()
    assert source.full_scale == 1.0
    os.write(writing, encode(np.full(10, 8.0, np.float32), "f32le"))
    source.read()
    assert source.full_scale == np.inf
    os.close(writing)
    os.close(reading)


def test_unused_bits_are_said_once() -> None:
    """`arecord -f S24_LE`: 24 bits at the bottom of 32."""
    reading, writing = os.pipe()
    quiet = (np.sin(np.arange(8000 * 12) / 9) * (1 << 22)).astype("<i4").tobytes()
    writer = feed(writing, quiet, 1 << 20)
    try:
        with structlog.testing.capture_logs() as logs:
            drain(RawPcm(8000, "s32le", fd=reading))
    finally:
        writer.join()
        os.close(reading)
    assert [line["event"] for line in logs if "48 dB" in line["event"]] == [
        "standard input uses the lower 24 of 32 bits only: all levels are 48 dB too low"
    ]
