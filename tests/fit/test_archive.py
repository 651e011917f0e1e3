"""Archives in parts: the same features whatever computes them, resumable, in bounded number."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.core.errors import SourceError
from echo_stream.detect.bank_file import read
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit import archive
from echo_stream.fit.archive import Part, keep, kept, most_windows, parts_of, place, spread
from echo_stream.fit.archive_jobs import Encoded, encode_parts
from tests.support.command import command

RATE = 4_000
ENCODER = SpectralEncoder(2.0)
cut = partial(parts_of, window_s=2.0, hop_s=1.0)


def write(path: Path, seconds: float, seed: int = 1, rate: int = RATE) -> Path:
    """Noise: no two windows of it are alike, and it is soon made."""
    noise = np.random.default_rng(seed).standard_normal(round(seconds * rate), np.float32)
    soundfile.write(path, np.float32(0.05) * noise, rate)
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One of three parts, one of one."""
    folder = tmp_path_factory.mktemp("sound")
    return [write(folder / "long.flac", 640.0), write(folder / "short.wav", 20.0, seed=2)]


@pytest.fixture(scope="module")
def parts(recordings: list[Path]) -> list[Part]:
    return [part for path in recordings for part in cut(path, details=True)]


@pytest.fixture(scope="module")
def alone(parts: list[Part]) -> list[Encoded]:
    return list(encode_parts(parts, ENCODER, workers=1))


def same(some: list[Encoded], others: list[Encoded]) -> None:
    """Bit for bit."""
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        assert one.figures == other.figures
        assert [start_s for start_s, _ in one.windows] == [start_s for start_s, _ in other.windows]
        for (_, a), (_, b) in zip(one.windows, other.windows, strict=True):
            assert a.level_dbfs == b.level_dbfs
            for name in ("window", "segments", "bands_hz"):
                assert getattr(a, name).dtype == getattr(b, name).dtype == np.float32
                assert np.array_equal(getattr(a, name), getattr(b, name))
        for seen, also in zip(one.slices, other.slices, strict=True):
            assert (seen.start_s, seen.end_s) == (also.start_s, also.end_s)
            assert np.array_equal(seen.columns_db, also.columns_db)
            assert np.array_equal(seen.mean_db, also.mean_db)


def test_parts_cover_a_recording_window_by_window(parts: list[Part], alone: list[Encoded]) -> None:
    assert [(part.path.name, part.first, part.windows, part.last) for part in parts] == [
        ("long.flac", 0, 300, False),
        ("long.flac", 300, 300, False),
        ("long.flac", 600, 39, True),
        ("short.wav", 0, 19, True),
    ]
    starts_s = [start_s for encoded in alone[:3] for start_s, _ in encoded.windows]
    assert starts_s == list(range(639))
    assert [len(encoded.figures) for encoded in alone] == [300, 300, 39, 19]
    (at_once,) = encode_parts([replace(parts[0], windows=605)], ENCODER, workers=1)
    heard = [features for encoded in alone[:3] for _, features in encoded.windows][:605]
    for (_, a), b in zip(at_once.windows, heard, strict=True):
        assert a.level_dbfs == b.level_dbfs
        assert np.allclose(a.window, b.window, atol=1e-4)


def test_processes_give_what_one_gives(parts: list[Part], alone: list[Encoded]) -> None:
    told: list[tuple[float, float, str]] = []
    several = list(encode_parts(parts, ENCODER, workers=2, progress=lambda *at: told.append(at)))
    same(several, alone)
    assert told[-1][:2] == (658.0, 658.0)
    assert told[-1][2] == "1 of 2 recordings, 0.2 of 0.2 h"  # told before the last one is handed over
    assert [done_s for done_s, _, _ in told] == sorted(done_s for done_s, _, _ in told)


def test_an_mp3_is_one_part(tmp_path: Path) -> None:
    (part,) = cut(write(tmp_path / "a.mp3", 310.0, rate=8_000))
    (encoded,) = encode_parts([part], ENCODER)
    assert part.windows == pytest.approx(309, abs=2)
    assert len(encoded.windows) == pytest.approx(309, abs=2)


def test_a_recording_shorter_than_a_window(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a\.wav: shorter than one window of 2 s"):
        cut(write(tmp_path / "a.wav", 1.5))


def test_what_is_damaged_is_said_by_a_worker(recordings: list[Path], tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", 400.0)
    parts = [part for each in (recordings[0], path) for part in cut(each)]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"a\.flac: ") as raised:
        list(encode_parts(parts, ENCODER, workers=2))
    assert "damaged" in raised.value.hint


@pytest.mark.parametrize(
    ("count", "size", "most"), [(100, 300, 3000), (1000, 10, 777), (7, 300, 10), (3, 5, 15)]
)
def test_of_too_much_pieces_are_taken_evenly(
    recordings: list[Path], count: int, size: int, most: int
) -> None:
    (part,) = cut(recordings[1])
    parts = [replace(part, first=i * size, windows=size) for i in range(count)]
    taken = spread(parts, most)
    windows = sum(each.windows for each in taken)
    assert windows <= max(most, size)
    assert windows > min(most, count * size) - size
    steps = np.diff([parts.index(each) for each in taken])
    assert len(taken) == 1 or steps.max() - steps.min() <= 1


def test_large_features_are_fewer_windows(recordings: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (part,) = cut(recordings[1])
    assert most_windows(ENCODER, [part]) == archive.MOST_WINDOWS
    monkeypatch.setattr(archive, "MOST_BYTES", 1e6)
    (encoded,) = encode_parts([part], ENCODER)
    features = encoded.windows[0][1]
    assert most_windows(ENCODER, [part]) == 1e6 // (features.window.nbytes + features.segments.nbytes)


def test_what_is_finished_is_not_computed_again(
    parts: list[Part], alone: list[Encoded], tmp_path: Path
) -> None:
    first = encode_parts(parts, ENCODER, workers=1, resume=tmp_path / "kept")
    same([next(first), next(first)], alone[:2])
    first.close()
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert len(done) == 2
    same(list(encode_parts(parts, ENCODER, workers=1, resume=tmp_path / "kept")), alone)
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(list((tmp_path / "kept").iterdir())) == len(parts)


@pytest.mark.parametrize("what", ["truncated", "a flipped bit", "empty", "text"])
def test_what_is_damaged_is_computed_again(
    parts: list[Part], alone: list[Encoded], tmp_path: Path, what: str
) -> None:
    some = parts[2:]
    list(encode_parts(some, ENCODER, resume=tmp_path))
    for path in tmp_path.iterdir():
        data = bytearray(path.read_bytes())
        data[-100] ^= 4
        damaged = {
            "truncated": bytes(data[:-10]),
            "a flipped bit": bytes(data),
            "empty": b"",
            "text": b"hello",
        }
        path.write_bytes(damaged[what])
        assert kept(path) is None
    same(list(encode_parts(some, ENCODER, resume=tmp_path)), alone[2:])
    assert all(kept(path) for path in tmp_path.iterdir())


def test_a_recording_that_changed_is_computed_again(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 20.0)
    (before,) = encode_parts(cut(path), ENCODER, resume=tmp_path / "kept")
    write(path, 20.0, seed=7)
    (after,) = encode_parts(cut(path), ENCODER, resume=tmp_path / "kept")
    assert not np.array_equal(before.windows[0][1].window, after.windows[0][1].window)
    same([after], list(encode_parts(cut(path), ENCODER)))


def test_another_encoder_or_window_is_another_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", 20.0)
    for encoder, hop_s in ((ENCODER, 1.0), (ENCODER, 0.5), (SpectralEncoder(1.0), 1.0)):
        list(encode_parts(parts_of(path, window_s=2.0, hop_s=hop_s), encoder, resume=tmp_path / "kept"))
    assert len(list((tmp_path / "kept").iterdir())) == 3


def test_a_folder_that_cannot_be_written(recordings: list[Path], tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("a file")
    with pytest.raises(SourceError, match=r"--resume .*/kept: cannot be written: is a file") as raised:
        list(encode_parts(cut(recordings[1]), ENCODER, resume=tmp_path / "kept"))
    assert "name another folder" in raised.value.hint


def test_keeping_keeps(tmp_path: Path) -> None:
    path = place(tmp_path, {"a": 1})
    assert kept(path) is None
    tensors = {"x": np.arange(3.0), "none": np.zeros((0, 2), np.float32)}
    keep(path, tensors)
    again = kept(path)
    assert again is not None
    assert all(np.array_equal(again[name], tensor) for name, tensor in tensors.items())


CONFIG = """\
node: pc7
state_dir: state
machines:
  - id: pump3
    source: {kind: simulated, seed: 3, sample_rate_hz: 4000}
    bank: banks/pump3.safetensors
"""


def test_a_folder_to_resume_from_is_checked_before_the_work(tmp_path: Path, recordings: list[Path]) -> None:
    (tmp_path / "file").write_text("")
    told: list[float] = []
    parts = [part for path in recordings for part in cut(path)]
    with pytest.raises(SourceError, match=r"--resume .*file/kept: cannot"):
        list(encode_parts(parts, ENCODER, resume=tmp_path / "file/kept", progress=lambda *_: told.append(1)))
    assert told == []


FIT = ("fit-normal", "-m", "pump3", "--json", "--resume", "kept", "sound")


def run(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    before = signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # where the tests run in the background it is ignored
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "echo_stream", *arguments],
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def wait_until(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until_s
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sound, and a bank that was fitted in one go."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "sound").mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    shutil.copy(write(folder / "sound" / "0.wav", 640.0, seed=3), folder / "sound" / "1.wav")
    fit_to_the_end(folder)
    return folder


def fit_to_the_end(folder: Path) -> None:
    fitted = command(*FIT, cwd=folder)
    assert fitted.returncode == 0, fitted.stderr


def tensors_of_the_bank(folder: Path) -> dict[str, bytes]:
    _, tensors = read(folder / "banks" / "pump3.safetensors")
    return {name: tensor.tobytes() for name, tensor in tensors.items()}


def test_a_fit_that_was_stopped_goes_on_to_the_same_bank(whole: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches the whole group of processes; a kill, in the second try, the first of them alone."""
    shutil.copytree(whole / "sound", tmp_path / "sound")
    shutil.copy(whole / "config.yaml", tmp_path)

    def kept_now() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in tmp_path.glob("kept/*.safetensors")}

    def further(before: dict[Path, int]) -> bool:
        return len(kept_now()) > len(before)

    before: dict[Path, int] = {}
    for how in (signal.SIGINT, signal.SIGKILL):
        stopped = run(tmp_path, *FIT)
        wait_until(partial(further, before))
        (os.killpg if how is signal.SIGINT else os.kill)(stopped.pid, how)
        _, said = stopped.communicate(timeout=60)
        assert stopped.returncode != 0
        assert "Traceback" not in said
        wait_until(partial(_all_ended, stopped.pid))
        assert not (tmp_path / "banks").exists()
        done = kept_now()
        assert len(before) < len(done) < 6
        assert before.items() <= done.items(), "what is finished is not computed again"
        before = done
    fit_to_the_end(tmp_path)
    assert before.items() <= kept_now().items()
    assert tensors_of_the_bank(tmp_path) == tensors_of_the_bank(whole)


def _all_ended(group: int) -> bool:
    """Whether no process of a group is there any more."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # gone meanwhile
            continue
        if int(its_group) == group and state != "Z":
            return False
    return True
