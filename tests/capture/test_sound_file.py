"""Headers that promise too little or too much, other containers, float beyond full scale, foreign files."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.capture.figures import signal_figures
from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32

RATE = 16_000


def hum(seconds: float, seed: int = 0) -> Float32:
    t = np.arange(int(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(t.size)
    return (0.1 * np.sin(2 * np.pi * 120 * t) + 0.03 * noise).astype(np.float32)


def riff(
    data: bytes,
    extra: bytes = b"",
    riff_size: int | None = None,
    data_size: int | None = None,
    after: bytes = b"",
) -> bytes:
    """A WAV file of 16 bits whose sizes may be wrong."""
    fmt = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + fmt + extra + b"data"
    body += struct.pack("<I", len(data) if data_size is None else data_size) + data + after
    return b"RIFF" + struct.pack("<I", len(body) if riff_size is None else riff_size) + body


def pcm(samples: Float32) -> bytes:
    return (samples * 32767).astype("<i2").tobytes()


def play(path: Path) -> Float32:
    source = Recording(path, pace="fast", block_s=0.5)
    parts = []
    while not source.ended:
        if (block := source.read()) is not None:
            parts.append(block.samples[:, 0])
    source.close()
    return np.concatenate(parts)


INFO = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf59.27.100\0"


@pytest.mark.parametrize(
    ("riff_size", "data_size", "extra"),
    [
        (36, 0, b""),
        (0, 0, b""),
        (0, 0, INFO),
        (0xFFFFFFFF, 0xFFFFFFFF, INFO),
        (0x7FFFFFFF, 0x7FFFFFDB, b""),
        (0x80000024, 0x80000000, b""),
    ],
)
def test_sizes_that_were_never_written_lose_nothing(
    tmp_path: Path, riff_size: int, data_size: int, extra: bytes
) -> None:
    sound = hum(3)
    path = tmp_path / "x.wav"
    path.write_bytes(riff(pcm(sound), extra, riff_size, data_size))
    assert Recording(path).duration_s == 3.0
    np.testing.assert_allclose(play(path), sound, atol=1e-4)


@pytest.mark.parametrize("promised_s", [0.5, 2.0])
def test_a_header_that_promises_less_is_refused_with_the_repair(tmp_path: Path, promised_s: float) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(riff(pcm(hum(3)), data_size=int(promised_s * 2 * RATE)))
    with pytest.raises(
        SourceError, match=rf"header promises {promised_s} s of sound, but .* more follow"
    ) as found:
        Recording(path)
    assert "--ignore-length" in found.value.hint


def test_chunks_and_padding_behind_the_sound_are_no_sound(tmp_path: Path) -> None:
    sound = hum(1)
    for n, after in enumerate(
        [INFO, b"id3 " + struct.pack("<I", 40_000) + b"x" * 40_000, bytes(50_000), b"xy"]
    ):
        path = tmp_path / f"{n}.wav"
        path.write_bytes(riff(pcm(sound), after=after))
        assert len(play(path)) == len(sound)


def test_an_empty_wav_stays_empty(tmp_path: Path) -> None:
    for n, data in enumerate([riff(b""), riff(b"", after=INFO)]):
        path = tmp_path / f"{n}.wav"
        path.write_bytes(data)
        with pytest.raises(SourceError, match="without a single sample"):
            Recording(path)


def test_a_flac_file_from_a_pipe_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "x.flac"
    soundfile.write(path, hum(4), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of total samples in STREAMINFO: unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    assert Recording(path).duration_s == 4.0
    assert len(play(path)) == 4 * RATE


@pytest.mark.parametrize(
    ("kind", "container", "subtype"),
    [
        ("rf64", "RF64", "PCM_24"),
        ("w64", "W64", "PCM_16"),
        ("caf", "CAF", "PCM_24"),
        ("aiff", "AIFF", "PCM_24"),
        ("au", "AU", "PCM_16"),
        ("wav", "WAVEX", "PCM_24"),
        ("wav", "WAVEX", "PCM_32"),
        ("wav", "WAV", "FLOAT"),
        ("wav", "WAV", "DOUBLE"),
    ],
)
def test_other_containers_are_whole(tmp_path: Path, kind: str, container: str, subtype: str) -> None:
    sound = hum(2)
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, sound, RATE, format=container, subtype=subtype)
    np.testing.assert_allclose(play(path), sound, atol=1e-4 if subtype == "PCM_16" else 1e-6)


@pytest.mark.parametrize(
    ("kind", "container", "size"),
    [
        ("w64", "W64", bytes(8)),
        ("w64", "W64", struct.pack("<Q", 24)),
        ("caf", "CAF", bytes(8)),
        ("caf", "CAF", b"\xff" * 8),
    ],
)
def test_other_containers_that_were_never_closed_are_whole(
    tmp_path: Path, kind: str, container: str, size: bytes
) -> None:
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, hum(2), RATE, format=container, subtype="PCM_16")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"data", 0, 5000) + (16 if kind == "w64" else 4)
    data[at : at + 8] = size
    path.write_bytes(data)
    assert len(play(path)) == 2 * RATE


def test_valid_bits_in_a_wider_sample_are_as_loud(tmp_path: Path) -> None:
    """WAVE_FORMAT_EXTENSIBLE, 24 valid bits at the top of 32."""
    sound = hum(1)
    data = ((sound * (1 << 23)).astype("<i4") << 8).tobytes()
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 1, RATE, 4 * RATE, 4, 32, 22, 24, 4)
    fmt += struct.pack("<HHH", 1, 0, 0) + b"\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", len(data)) + data
    path = tmp_path / "x.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    np.testing.assert_allclose(play(path), sound, atol=1e-6)


@pytest.mark.parametrize("peak_chunk", [True, False])
def test_float_samples_beyond_full_scale_are_not_clipped(tmp_path: Path, peak_chunk: bool) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, 40 * hum(2), RATE, subtype="FLOAT")
    if not peak_chunk:
        path.write_bytes(path.read_bytes().replace(b"PEAK", b"JUNK"))
    source = Recording(path, pace="fast")
    assert source.full_scale == np.inf
    assert signal_figures(play(path), source.full_scale).clipped_share == 0.0


def test_float_samples_within_full_scale_can_be_clipped(tmp_path: Path) -> None:
    path = tmp_path / "x.wav"
    soundfile.write(path, np.clip(40 * hum(2), -1, 1), RATE, subtype="FLOAT")
    source = Recording(path, pace="fast")
    assert source.full_scale == 1.0
    assert signal_figures(play(path), source.full_scale).clipped_share > 0.5


def test_hidden_and_foreign_files_are_passed_over(tmp_path: Path) -> None:
    double = b"\0\x05\x16\x07\0\x02\0\0Mac OS X        \0\x02" + bytes(4060)
    good = tmp_path / "sub.wav" / "a.wav"
    for name in ("sub.wav", "__MACOSX", ".Trash-0", "$RECYCLE.BIN", "@eaDir"):
        (tmp_path / name).mkdir()
    soundfile.write(good, hum(1), RATE)
    for name in ("sub.wav/._a.wav", ".b.wav", "__MACOSX/a.wav", ".Trash-0/a.wav", "@eaDir/a.wav"):
        (tmp_path / name).write_bytes(double)
    (tmp_path / "notes.txt").write_text("no sound")
    (tmp_path / "loop").symlink_to(".")
    (tmp_path / "dead.wav").symlink_to("gone.wav")
    (tmp_path / "zz.wav").symlink_to(good)
    os.mkfifo(tmp_path / "pipe.wav")
    assert find_recordings([tmp_path]) == [good]
    with pytest.raises(SourceError, match="not a recording"):  # named itself, it is not passed over
        Recording(find_recordings([tmp_path / ".b.wav"])[0])


def test_a_pipe_or_device_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe.wav"
    os.mkfifo(path)
    with pytest.raises(SourceError, match="is a named pipe, expected a file"):
        Recording(path)
    with pytest.raises(SourceError, match="is a device, expected a file"):
        Recording(Path("/dev/zero"))


@pytest.mark.parametrize("name", [b"\xff\xfe.wav", b"a\nb\x1b[31m.wav", "Lüfter 3.wav".encode(), b"-x.wav"])
def test_names_in_any_bytes(tmp_path: Path, name: bytes) -> None:
    plain = tmp_path / "plain.wav"
    soundfile.write(plain, hum(1), RATE)
    os.rename(plain, os.fsencode(tmp_path) + b"/" + name)  # noqa: PTH104 - bytes
    (path,) = find_recordings([tmp_path])
    source = Recording(path, pace="fast")
    assert len(play(path)) == RATE
    source.description.encode()  # no surrogate
    path.write_bytes(b"nothing")
    with pytest.raises(SourceError) as found:
        Recording(path)
    found.value.message.encode()
