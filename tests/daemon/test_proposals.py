"""Sound that operators mark as normal: written aside, and within limits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import soundfile

from echo_stream.core.errors import CommandRefused
from echo_stream.daemon.proposals import WAITING, ProposalWriter
from tests.support.daemon import wait_for

SOUND = np.random.default_rng(0).uniform(-0.1, 0.1, 80_000).astype(np.float32)


@contextmanager
def writer(folder: Path, **limits: float) -> Iterator[ProposalWriter]:
    made = ProposalWriter(folder, **{"max_mb": 10, "min_free_mb": 0, "every_s": 0.0, **limits})
    made.start()
    try:
        yield made
    finally:
        made.stop()


def outcome_of(proposals: ProposalWriter, machine: str = "pump1") -> tuple[bool, str]:
    got: list[tuple[bool, str]] = []
    proposals.add(machine, SOUND, 8000, lambda ok, text: got.append((ok, text)))
    found: tuple[bool, str] = wait_for(lambda: got and got[0], 20, "an outcome")
    return found


def test_the_sound_is_kept(tmp_path: Path) -> None:
    with writer(tmp_path) as proposals:
        ok, text = outcome_of(proposals)
    (file,) = tmp_path.glob("pump1/*.flac")
    assert ok
    assert str(file) in text
    samples, rate_hz = soundfile.read(file, dtype="float32")
    assert rate_hz == 8000
    np.testing.assert_allclose(samples, SOUND, atol=2**-22)


def test_sound_beyond_full_scale_keeps_its_unit(tmp_path: Path) -> None:
    with writer(tmp_path) as proposals:
        got: list[bool] = []
        proposals.add("pump1", SOUND * 1000, 8000, lambda ok, _text: got.append(ok))
        wait_for(lambda: got, 20, "an outcome")
    (file,) = tmp_path.glob("pump1/*.wav")
    samples, _ = soundfile.read(file, dtype="float32")
    assert np.abs(SOUND * 1000).max() > 8
    np.testing.assert_array_equal(samples, SOUND * 1000)


def test_a_machine_is_marked_at_most_once_in_a_while(tmp_path: Path) -> None:
    with writer(tmp_path, every_s=100) as proposals:
        assert outcome_of(proposals)[0]
        with pytest.raises(CommandRefused, match="less than 100 s ago"):
            outcome_of(proposals)
        assert outcome_of(proposals, "pump2")[0]


def test_the_folder_has_a_size(tmp_path: Path) -> None:
    with writer(tmp_path, max_mb=0.4) as proposals:
        assert outcome_of(proposals, "pump1")[0]
        ok, text = outcome_of(proposals, "pump2")
    assert not ok
    assert "at most 0.4 MB are kept" in text
    assert len(list(tmp_path.glob("*/*.flac"))) == 1


def test_the_disk_keeps_free_space(tmp_path: Path) -> None:
    with writer(tmp_path, min_free_mb=1e9) as proposals:
        ok, text = outcome_of(proposals)
    assert not ok
    assert "MB are free" in text
    assert not list(tmp_path.glob("*/*.flac"))


def test_a_slow_disk_holds_nobody_up(tmp_path: Path) -> None:
    proposals = ProposalWriter(tmp_path, max_mb=10, min_free_mb=0, every_s=0.0)  # its worker never begins
    began_s = monotonic()
    for number in range(WAITING):
        proposals.add(f"pump{number}", SOUND, 8000, lambda *_: None)
    with pytest.raises(CommandRefused, match="too many"):
        proposals.add("fan1", SOUND, 8000, lambda *_: None)
    assert monotonic() - began_s < 5


def test_the_worker_outlives_an_unforeseen_exception(tmp_path: Path) -> None:
    def bad(_ok: bool, _text: str) -> None:
        raise ZeroDivisionError

    with writer(tmp_path) as proposals:
        proposals.add("pump1", SOUND, 8000, bad)
        assert outcome_of(proposals, "pump2")[0]
        assert proposals.thread.guard.restarts == 1
    assert list((tmp_path / "pump2").iterdir())
