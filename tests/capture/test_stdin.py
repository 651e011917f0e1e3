"""Raw PCM through a real pipe."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from echo_stream.capture.stdin import SAMPLE_BYTES, RawPcm
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32

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
