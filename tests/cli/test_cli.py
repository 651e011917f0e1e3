"""The command line as a user meets it: what is printed, on which stream, with which exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import SimulatedMachine
from tests.support.command import command, program

RATE = 8000
CONFIG = """\
node: pc7
state_dir: state
encoder: {kind: spectral, window_s: 2.0, hop_s: 1.0}
machines:
  - id: pump3
    source: {kind: simulated, seed: 3, sample_rate_hz: 8000, pace: fast, duration_s: 60}
    bank: banks/pump3.safetensors
"""


def refused(result: subprocess.CompletedProcess[str], code: int, *said: str) -> None:
    assert result.returncode == code, result.stderr
    last = [line for line in result.stderr.splitlines() if not line.startswith("{")]  # the rest is the log
    assert last[0].startswith("echo-stream: ")
    assert "Traceback" not in result.stderr
    for words in said:
        assert words in result.stderr


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return tmp_path


class Fitted(NamedTuple):
    """A project whose bank is fitted, recordings of the machine, and what the fit said."""

    folder: Path
    said: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def fit(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    """Three quarters of a minute from the machine's own source, by a program of its own."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "config.yaml").write_text(CONFIG)
    machine = SimulatedMachine(3, RATE)
    soundfile.write(folder / "normal.wav", machine.sound(60.0), RATE)
    soundfile.write(folder / "faulty.wav", machine.sound(10.0, fault="bearing"), RATE)
    said = program("fit-normal", "--machine", "pump3", "--minutes", "0.75", "--json", cwd=folder)
    return Fitted(folder, said)


@pytest.fixture
def fitted(fit: Fitted) -> Path:
    """The folder of that project."""
    return fit.folder


def test_help_names_every_command(tmp_path: Path) -> None:
    result = program("--help", cwd=tmp_path)
    assert result.returncode == 0
    for name in ("run", "fit-normal", "score", "devices", "check-config", "fetch-model", "demo"):
        assert name in result.stdout
        assert command(name, "--help", cwd=tmp_path).returncode == 0


def test_version(tmp_path: Path) -> None:
    result = command("--version", cwd=tmp_path)
    assert result.stdout.startswith("echo-stream 0.")


def test_wrong_usage_is_2(tmp_path: Path) -> None:
    assert program("listen", cwd=tmp_path).returncode == 2
    assert command("score", "--no-such-option", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("words", [["--help"], ["check-config"]])
def test_quick_paths_import_nothing_heavy(project: Path, words: list[str]) -> None:
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['echo-stream', *{words!r}]\n"
        "try: runpy.run_module('echo_stream', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code, e.code\n"
        "heavy = {'torch', 'numpy', 'scipy', 'matplotlib', 'sounddevice'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", code], cwd=project, env=environment, check=True, timeout=60)


def test_check_config(project: Path) -> None:
    result = program("check-config", cwd=project)
    assert result.returncode == 0
    assert "config.yaml: ok" in result.stdout
    assert json.loads(command("check-config", "--json", cwd=project).stdout)["machines"] == ["pump3"]


def test_no_configuration_at_all(tmp_path: Path) -> None:
    refused(command("check-config", cwd=tmp_path), 78, "no configuration", "--config PATH")


def test_a_typo_in_the_configuration(project: Path) -> None:
    (project / "config.yaml").write_text(CONFIG.replace("hop_s", "hops"))
    refused(
        program("run", cwd=project), 78, "config.yaml:3", "encoder.hops: unknown key; did you mean hop_s?"
    )


def test_no_such_machine(project: Path) -> None:
    result = command("fit-normal", "--machine", "pump4", cwd=project)
    refused(result, 78, "--machine pump4: no such machine", "pump3")


def test_fit_from_the_machines_own_source(fit: Fitted) -> None:
    assert fit.said.returncode == 0, fit.said.stderr
    told = json.loads(fit.said.stdout)
    assert told["bank"]["id"] == "b1"
    assert told["windows"] == 44
    assert told["levels"]["alarm"]["trip"] > told["levels"]["warning"]["trip"]
    assert (fit.folder / "banks/pump3.safetensors").exists()


def test_score_prints_one_object_a_window(fitted: Path) -> None:
    result = program("score", "--machine", "pump3", "normal.wav", "faulty.wav", cwd=fitted)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    normal = [line for line in lines if line["file"] == "normal.wav"]
    faulty = [line for line in lines if line["file"] == "faulty.wav"]
    assert (len(normal), len(faulty)) == (59, 9)
    assert {"file", "start_s", "end_s", "score", "p_value", "active", "bands"} <= set(lines[0])
    assert [line["start_s"] for line in faulty] == list(range(9))
    assert not any(line["active"] for line in normal)
    assert all(line["active"] for line in faulty)
    for line in lines:
        assert sum(band[2] for band in line["bands"]) == pytest.approx(line["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.wav", None, "none.wav: no such file or folder"),
        ("empty.wav", b"", "empty.wav"),
        ("text.wav", b"this is not sound", "text.wav"),
        ("folder", "folder", "no recording in this folder"),
    ],
)
def test_recordings_that_cannot_be_read(
    fitted: Path, name: str, content: bytes | str | None, said: str
) -> None:
    if content == "folder":
        (fitted / name).mkdir(exist_ok=True)
    elif isinstance(content, bytes):
        (fitted / name).write_bytes(content)
    refused(command("score", "--machine", "pump3", name, cwd=fitted), 1, said)


@pytest.mark.parametrize(
    ("name", "rate", "seconds", "code", "said"),
    [
        ("short", RATE, 1.0, 1, "shorter than one window of 2 s"),
        ("rate", 44_100, 3.0, 78, "sample_rate_hz"),
    ],
)
def test_recordings_that_do_not_fit(
    fitted: Path, name: str, rate: int, seconds: float, code: int, said: str
) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, round(rate * seconds))
    soundfile.write(fitted / f"{name}.wav", noise, rate)
    refused(command("score", "--machine", "pump3", f"{name}.wav", cwd=fitted), code, said)


def test_a_silent_recording_is_no_normal_sound(project: Path) -> None:
    soundfile.write(project / "silent.wav", np.zeros(30 * RATE), RATE)
    result = command("fit-normal", "--machine", "pump3", "--recordings", "silent.wav", cwd=project)
    refused(result, 1, "silent.wav", "silent", "check the cable")


def test_samples_that_are_not_numbers(fitted: Path) -> None:
    samples = np.random.default_rng(0).normal(0, 0.01, 3 * RATE)
    samples[RATE] = np.nan
    soundfile.write(fitted / "nan.wav", samples, RATE, subtype="FLOAT")
    refused(command("score", "--machine", "pump3", "nan.wav", cwd=fitted), 1, "nan at 1.000 s")


def test_a_recording_of_another_rate_is_not_enrolled(project: Path) -> None:
    soundfile.write(project / "a.wav", np.random.default_rng(0).normal(0, 0.01, 44_100 * 20), 44_100)
    result = command("fit-normal", "--machine", "pump3", "--recordings", "a.wav", cwd=project)
    refused(result, 1, "a.wav: has 44100 Hz, machine pump3 listens at 8000 Hz")


@pytest.mark.parametrize("damage", ["truncated", "text", "window"])
def test_a_bank_that_cannot_be_used(fitted: Path, tmp_path: Path, damage: str) -> None:
    bank = (fitted / "banks/pump3.safetensors").read_bytes()
    (tmp_path / "banks").mkdir()
    text = CONFIG
    code, said = 1, "pump3.safetensors"
    if damage == "truncated":
        bank = bank[: len(bank) // 2]
    elif damage == "text":
        bank = b"not a bank"
    else:
        text, code, said = text.replace("window_s: 2.0", "window_s: 1.0"), 78, "window_s"
    (tmp_path / "banks/pump3.safetensors").write_bytes(bank)
    (tmp_path / "config.yaml").write_text(text)
    refused(command("score", "--machine", "pump3", fitted / "normal.wav", cwd=tmp_path), code, said)
    if code == 78:  # a damaged bank can be replaced while the daemon waits: tests/daemon/test_stations.py
        refused(program("run", cwd=tmp_path), code, said)


def test_an_unwritable_state_directory(fitted: Path, tmp_path: Path) -> None:
    (tmp_path / "a-file").write_text("")
    text = CONFIG.replace("state_dir: state", f"state_dir: {tmp_path}/a-file/state")
    (tmp_path / "config.yaml").write_text(text.replace("banks/", f"{fitted}/banks/"))
    refused(program("run", cwd=tmp_path), 78, "state_dir", "cannot be written")


def test_a_missing_device_names_what_there_is(project: Path) -> None:
    source = '{kind: microphone, device: "No Such Thing", sample_rate_hz: 8000}'
    text = CONFIG.replace(
        "{kind: simulated, seed: 3, sample_rate_hz: 8000, pace: fast, duration_s: 60}", source
    )
    (project / "config.yaml").write_text(text)
    refused(command("fit-normal", "--machine", "pump3", cwd=project), 1, "No Such Thing")
