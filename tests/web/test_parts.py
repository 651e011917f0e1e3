"""What the page is made of: the status of a machine, columns of the spectrogram, its configuration."""

from __future__ import annotations

import io
import subprocess
import sys
import wave
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from echo_stream.config.load import load
from echo_stream.core.errors import ConfigError
from echo_stream.core.types import Score, Window
from echo_stream.daemon.page_models import URGENCY, status_of
from echo_stream.web import models
from echo_stream.web.backend import Live
from echo_stream.web.feed import (
    HIGH_DB,
    LOW_DB,
    LOWEST_HZ,
    ROWS,
    SHIFT_HZ,
    audible,
    live_columns,
    newest_pcm,
    wav_header,
)
from tests.support.daemon import ENVIRONMENT

T1, T2 = "2026-11-20T08:00:00.000Z", "2026-11-20T09:00:00.000Z"


@pytest.mark.parametrize(
    ("alarm", "warning", "listening", "fault", "rest", "status"),
    [
        ("NORMAL", "NORMAL", True, None, False, "normal"),
        ("NORMAL", "NORMAL", True, None, True, "off"),
        ("NORMAL", "UNACK", True, None, False, "warning"),
        ("NORMAL", "ACKED", True, None, False, "warning-acknowledged"),
        ("UNACK", "ACKED", True, None, False, "alarm"),
        ("ACKED", "ACKED", True, None, False, "acknowledged"),
        ("LATCHED_UNACK", "NORMAL", True, None, False, "alarm"),
        ("RTN_UNACK", "UNACK", True, None, False, "alarm-over"),
        ("ACKED", "NORMAL", False, None, False, "not-heard"),
        ("UNACK", "NORMAL", False, None, False, "alarm"),
        ("SUPPRESSED", "SUPPRESSED", True, "dead", False, "sensor-fault"),
        ("SUPPRESSED", "SUPPRESSED", True, None, True, "off"),
        ("SHELVED", "SHELVED", True, None, False, "shelved"),
        ("SHELVED", "SHELVED", False, "dead", False, "shelved"),
        ("SHELVED", "UNACK", True, None, False, "warning"),
        ("OUT_OF_SERVICE", "OUT_OF_SERVICE", False, None, False, "out-of-service"),
    ],
)
def test_the_status_is_what_matters_most(
    alarm: str, warning: str, listening: bool, fault: str | None, rest: bool, status: str
) -> None:
    found, since = status_of(
        models.Level(state=alarm, active=False, since=T1, event_id=None, trip=1.0),
        models.Level(state=warning, active=False, since=T2, event_id=None, trip=1.0),
        listening=listening,
        sensor_fault=fault,
        at_rest=rest,
    )
    assert found == status
    assert found in URGENCY
    if status.startswith("alarm") or status == "shelved":
        assert since == T1
    if status == "warning":
        assert since == T2


@pytest.mark.parametrize("rate_hz", [1000, 8000, 48_000, 192_000])
def test_a_tone_lies_in_its_row_at_its_level(rate_hz: int) -> None:
    hz, n = rate_hz / 8, 2 * rate_hz
    samples = (0.1 * np.sin(2 * np.pi * hz * np.arange(n) / rate_hz)).astype(np.float32)
    columns = live_columns(Window("m", samples, 0, n, rate_hz, datetime.now(UTC)), hop_s=1.0)
    assert columns.shape == (10, ROWS)
    row = ROWS * np.log(hz / LOWEST_HZ) / np.log(rate_hz / 2 / LOWEST_HZ)
    loudest = columns.argmax(axis=1)
    assert np.abs(loudest - row).max() <= ROWS / 50
    level_db = LOW_DB + columns.max() / 255 * (HIGH_DB - LOW_DB)
    assert abs(level_db - (-20)) < 2  # amplitude of full scale is 0 dB


def test_live_sound_is_a_wav_file_without_an_end() -> None:
    rate_hz = 8000
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate_hz) / rate_hz)).astype(np.float32)
    score = Score(0.0, 1.0, (), (), -20.0, 0.0, "normal")
    for scale in (1.0, float("inf")):  # a microphone; vibration in m/s2
        samples = tone if scale == 1.0 else 40 * tone
        window = Window("m", samples, 0, len(samples), rate_hz, datetime.now(UTC), scale)
        pcm = newest_pcm(Live(window, score, hop_s=1.0))
        with wave.open(io.BytesIO(wav_header(rate_hz) + pcm)) as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (rate_hz, 1, 2)
            heard = np.frombuffer(file.readframes(rate_hz), "<i2")
        assert len(heard) == rate_hz
        assert 0.45 < np.abs(heard).max() / 32767 < 0.75


def test_silence_and_units_of_their_own_are_columns_too() -> None:
    window = Window("m", np.zeros(100, np.float32), 0, 100, 1000, datetime.now(UTC), float("inf"))
    assert live_columns(window, hop_s=0.05).shape == (1, ROWS)
    assert not live_columns(window, hop_s=0.05).any()


WEB = """\
node: pc7
machines: [{{id: pump3, source: {{kind: simulated}}, bank: b.safetensors}}]
web: {web}
"""


def check(folder: Path, web: str, code: str = "") -> tuple[int, str]:
    """Exit code of check-config, and what it says; `code` runs first."""
    (folder / "config.yaml").write_text(WEB.format(web=web))
    program = f"{code}\nfrom echo_stream.cli import main\nmain()"
    done = subprocess.run(
        [sys.executable, "-c", program, "check-config"],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_another_address_needs_passwords(tmp_path: Path) -> None:
    code, said = check(tmp_path, "{enabled: true, host: 0.0.0.0}")
    assert (code, "config.yaml:3" in said, "web password" in said) == (78, True, True)
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        (tmp_path / "config.yaml").write_text(WEB.format(web=f"{{enabled: true, host: '{host}'}}"))
        assert load(tmp_path / "config.yaml").web.host == host
    for host in ("10.0.0.7", "pc7.example", "::"):
        (tmp_path / "config.yaml").write_text(WEB.format(web=f"{{enabled: true, host: '{host}'}}"))
        with pytest.raises(ConfigError, match="password_file is needed"):
            load(tmp_path / "config.yaml")


def test_a_wrong_password_file_and_a_missing_extra_are_told_by_check_config(tmp_path: Path) -> None:
    (tmp_path / "passwords").write_text("anna:operator:clear text\n")
    code, said = check(tmp_path, "{enabled: true, password_file: passwords}")
    assert code == 78
    assert "config.yaml:3" in said
    assert "passwords:1" in said
    hidden = "import sys, importlib.abc\nsys.modules['uvicorn'] = None"
    code, said = check(tmp_path, "{enabled: true}", hidden)
    assert code == 78
    assert "pip install 'echo-stream[web]'" in said


def test_the_command_writes_a_file_that_the_page_takes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "echo_stream", "web", "password", "--file", "passwords", "--name"]
    for name, password, code in (
        ("anna", "correct horse\n", 0),
        ("bo", "short\n", 78),
        ("bo", "long enough\n", 0),
    ):
        done = subprocess.run(
            [*command, name],
            input=password,
            cwd=tmp_path,
            env=ENVIRONMENT,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
    assert (tmp_path / "passwords").stat().st_mode & 0o777 == 0o600
    assert check(tmp_path, "{enabled: true, password_file: passwords}")[0] == 0


@pytest.mark.parametrize(("rate", "line_hz", "heard_rate"), [(2000, 10.0, 8000), (25_600, 430.0, 25_600)])
def test_vibration_is_moved_into_the_audible_without_clicks(
    rate: int, line_hz: float, heard_rate: int
) -> None:
    sound = (0.5 * np.sin(2 * np.pi * line_hz * np.arange(6 * rate) / rate)).astype(np.float32)
    at = datetime.now(UTC)
    pieces = []
    for start in range(0, 4 * rate + 1, rate):
        window = Window("gearbox", sound[start : start + 2 * rate], start, start + 2 * rate, rate, at)
        piece, found_rate = audible(window, hop_s=1.0)
        assert (found_rate, len(piece)) == (heard_rate, heard_rate)
        pieces.append(piece)
    heard = np.concatenate(pieces)
    spectrum = np.abs(np.fft.rfft(heard * np.hanning(len(heard))))
    assert np.argmax(spectrum) * heard_rate / len(heard) == pytest.approx(line_hz + SHIFT_HZ, abs=0.3)
    assert np.abs(heard).max() == pytest.approx(0.5, rel=0.05)
    largest_step = 0.5 * 2 * np.pi * (line_hz + SHIFT_HZ) / heard_rate
    assert np.abs(np.diff(heard)).max() < 1.1 * largest_step, "pieces join"
