"""One bad recording among many: the others are done, all bad ones are named, exit code 1."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import SimulatedMachine
from echo_stream.core.errors import EchoStreamError, Failures, SourceError
from tests.support.command import command

RATE = 8_000
CONFIG = """\
node: pc7
state_dir: state
machines:
  - id: pump3
    source: {kind: recording, path: normal.wav}
    bank: pump3.safetensors
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good recordings, and one each that is truncated, no sound, of another rate, damaged inside."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "config.yaml").write_text(CONFIG)
    machine = SimulatedMachine(3, RATE)
    many = folder / "many"
    many.mkdir()
    soundfile.write(folder / "normal.wav", machine.sound(20.0), RATE)
    for n in range(5):
        soundfile.write(many / f"good{n}.wav", machine.sound(12.0, start_s=20.0 + 12 * n), RATE)
    whole = (many / "good0.wav").read_bytes()
    (many / "bad-truncated.wav").write_bytes(whole[:50_000])
    (many / "bad-text.wav").write_text("no sound\n")
    soundfile.write(many / "bad-rate.wav", machine.sound(5.0), 2 * RATE)
    samples = machine.sound(12.0)
    samples[1000] = np.nan
    soundfile.write(many / "AAA-bad-inside.wav", samples, RATE, subtype="FLOAT")
    (many / "._good0.wav").write_bytes(b"\0\x05\x16\x07" + bytes(4000))
    (folder / os.fsdecode(b"many/good\xff.wav")).write_bytes(whole)
    return folder


BAD = ("bad-truncated.wav: ", "bad-text.wav: ", "bad-rate.wav: ", "AAA-bad-inside.wav: ")


def test_fit_and_score_leave_bad_recordings_out_and_name_them(project: Path) -> None:
    fitted = command("fit-normal", "-m", "pump3", "--recordings", "many", cwd=project)
    error = fitted.stderr
    assert fitted.returncode == 1
    assert "fitted on " in fitted.stdout
    assert "4 of 10 were left out" in fitted.stdout
    assert [name for name in BAD if error.count(name) != 1] == []
    assert "Traceback" not in error
    assert (project / "pump3.safetensors").exists()

    scored = command("score", "-m", "pump3", "many", cwd=project)
    error = scored.stderr
    rows = [json.loads(line) for line in scored.stdout.splitlines()]
    names = {Path(row["file"]).name for row in rows}
    assert scored.returncode == 1
    assert {f"good{n}.wav" for n in range(5)} | {"good\\xff.wav"} <= names
    assert [name for name in BAD if error.count(name) != 1] == []
    assert not {"bad-truncated.wav", "bad-text.wav", "bad-rate.wav"} & names


def test_strict_ends_at_the_first(project: Path) -> None:
    strict = command("fit-normal", "-m", "pump3", "--strict", "--recordings", "many", cwd=project)
    assert strict.returncode == 1
    assert sum(strict.stderr.count(name) for name in BAD) == 1
    assert strict.stdout == ""


def test_a_single_failure_is_raised_as_it_is() -> None:
    failures = Failures()
    failures.raise_any()
    error = SourceError("a.wav: truncated", "copy it again")
    failures.add(error)
    with pytest.raises(SourceError) as found:
        failures.raise_any()
    assert found.value is error
    failures.add(SourceError("b.wav: empty", "leave it out"))
    with pytest.raises(EchoStreamError) as all_of_them:
        failures.raise_any()
    assert str(all_of_them.value) == (
        "2 recordings were left out:\na.wav: truncated\nb.wav: empty\n  copy it again\n  leave it out"
    )
    with pytest.raises(SourceError):
        Failures(strict=True).add(error)
