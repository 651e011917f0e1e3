"""Any bytes are finite sound, or a SourceError: recordings of every kind, raw PCM in any pieces."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import assume, example, given
from hypothesis import strategies as st

from echo_stream.capture.recording import Recording
from echo_stream.capture.stdin import ANNOUNCED, SAMPLE_BYTES, RawPcm
from echo_stream.core.errors import SourceError
from tests.support.damage import damaged, fuzz

RATE_HZ, LENGTH = 16_000, 4000
LONGEST = 50_000_000
"""Samples that a file of some kilobytes may claim before a test reads on no more."""
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "float": ("WAV", "FLOAT"),
    "extensible": ("WAVEX", "PCM_24"),
    "adpcm": ("WAV", "IMA_ADPCM"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "aiff": ("AIFF", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "au": ("AU", "PCM_16"),
}


def _whole(kind: str) -> bytes:
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, (LENGTH, 2)).astype(np.float32)
    out = io.BytesIO()
    soundfile.write(out, samples, RATE_HZ, format=KINDS[kind][0], subtype=KINDS[kind][1])
    return out.getvalue()


WHOLE = {kind: _whole(kind) for kind in KINDS}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "sound"


def play(path: Path) -> int:
    """Samples that were delivered; each finite, at the index after the one before."""
    source = Recording(path, pace="fast", block_s=0.5)
    try:
        index = 0
        while not source.ended and index < LONGEST:
            block = source.read()
            if block is not None:
                assert block.start == index
                assert block.samples.shape == (len(block.samples), source.channels)
                assert np.isfinite(block.samples).all()
                index += len(block.samples)
        return index
    finally:
        source.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_recording_is_right(path: Path, kind: str) -> None:
    path.write_bytes(WHOLE[kind])
    assert play(path) >= LENGTH


@pytest.mark.parametrize("kind", KINDS)
@fuzz(40)
@given(st.data())
def test_damaged_recordings(path: Path, kind: str, data: st.DataObject) -> None:
    within = data.draw(st.sampled_from((64, 300, None)))
    path.write_bytes(data.draw(damaged(WHOLE[kind], within=within)))
    try:
        play(path)
    except SourceError as error:
        said = error.message
    else:
        return
    assert str(path) in said


@fuzz(150)
@given(st.sampled_from((b"RIFF", b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b"")), st.binary(max_size=400))
def test_any_bytes(path: Path, start: bytes, rest: bytes) -> None:
    path.write_bytes(start + rest)
    try:
        play(path)
    except SourceError as error:
        said = error.message
    else:
        return
    assert str(path) in said


@fuzz(200)
@given(
    st.sampled_from(sorted(SAMPLE_BYTES)), st.integers(1, 8), st.lists(st.binary(max_size=200), max_size=12)
)
@example("s16le", 1, [b"RIFX"])
def test_raw_pcm(sample_format: str, channels: int, pieces: list[bytes]) -> None:
    announced = b"".join(pieces).startswith(tuple(ANNOUNCED))
    assume(not b"".join(pieces).startswith((b"RIFF", b"RF64")))  # a header may say another format
    out, into = os.pipe()
    source = RawPcm(RATE_HZ, sample_format, channels, fd=out)

    def write() -> None:
        for piece in pieces:
            os.write(into, piece)
        os.close(into)

    writer = threading.Thread(target=write)
    writer.start()
    heard = 0
    try:
        while not source.ended:
            block = source.read()
            if block is not None:
                assert block.start == heard
                assert np.isfinite(block.samples).all()
                heard += len(block.samples)
    except SourceError:
        assert announced or sample_format == "f32le"  # only floats can be no number
    else:
        assert not announced
        assert heard == sum(map(len, pieces)) // (SAMPLE_BYTES[sample_format] * channels)
    finally:
        writer.join()
        os.close(out)
