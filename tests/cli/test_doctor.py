"""The doctor's checks, on real folders, disks and clocks; what comes in as a callable is given here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from echo_stream.cli import doctor
from echo_stream.cli.doctor import ProbeResult
from echo_stream.core.checks import Check, Verdict, worst
from echo_stream.core.errors import DeliveryError, SourceError
from echo_stream.core.types import Float32

RNG = np.random.default_rng(7)
NOISE: Float32 = (0.01 * RNG.standard_normal(16_000)).astype(np.float32)


@pytest.mark.parametrize(("factor", "verdict"), [(0.1, "ok"), (0.2, "warn"), (0.4, "fail")])
def test_cpu_speed_counts_all_machines(factor: float, verdict: str) -> None:
    check = doctor.cpu_speed(lambda: factor, machines=3)
    assert check.verdict == verdict
    assert f"{3 * factor:.2f} s" in check.finding
    assert bool(check.advice) == (verdict != "ok")


def test_disk_space_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    assert doctor.disk_space(tmp_path / "a" / "b", 0.001).verdict is Verdict.OK
    check = doctor.disk_space(tmp_path / "a" / "b", 1e12)
    assert check.verdict is Verdict.FAIL
    assert str(tmp_path) in check.finding


def test_broker_says_why(tmp_path: Path) -> None:
    assert doctor.broker(lambda: "mosquitto 2.0.11, MQTT 5") == Check(
        "broker", Verdict.OK, "mosquitto 2.0.11, MQTT 5"
    )

    def refused() -> str:
        raise DeliveryError("localhost:1883: connection refused", "start the broker")

    assert doctor.broker(refused) == Check(
        "broker", Verdict.FAIL, "localhost:1883: connection refused", "start the broker"
    )


def test_time_sync() -> None:
    assert doctor.time_sync(lambda: 0).verdict is Verdict.OK
    assert doctor.time_sync(lambda: 5).verdict is Verdict.WARN
    assert doctor.time_sync().name == "time"  # this PC's own clock, whatever its state


def test_state_directory(tmp_path: Path) -> None:
    assert doctor.state_directory(tmp_path).verdict is Verdict.OK
    assert doctor.state_directory(tmp_path / "absent").verdict is Verdict.WARN
    (tmp_path / "file").touch()
    assert doctor.state_directory(tmp_path / "file").verdict is Verdict.FAIL
    tmp_path.chmod(0o777)
    assert "everybody" in doctor.state_directory(tmp_path).finding


@pytest.mark.skipif(os.geteuid() != 0, reason="ONLY ROOT can become another user: not tested")
def test_what_a_stranger_may_not_open(tmp_path: Path) -> None:
    (tmp_path / "pcmC1D0c").touch(0o600)
    code = (
        "import os, sys; from pathlib import Path; from echo_stream.cli import doctor\n"
        "os.chdir(sys.argv[1]); os.chmod('.', 0o755); os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "print(doctor.state_directory(Path('.')).finding)\nprint(doctor.audio_access(Path('.')).advice)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == ". cannot be written by this user"
    assert "usermod -aG audio" in second
    assert doctor.audio_access(tmp_path).verdict is Verdict.OK
    assert doctor.audio_access(tmp_path / "absent").verdict is Verdict.WARN


def test_inputs_are_found_by_a_part_of_their_name() -> None:
    names = ["USB Audio: #0 (hw:1,0)", "HDA Intel"]
    assert doctor.inputs(lambda: names, ["usb audio"]).verdict is Verdict.OK
    check = doctor.inputs(lambda: names, ["USB Audio", "Scarlett"])
    assert check.verdict is Verdict.FAIL
    assert "not there: Scarlett" in check.finding
    assert "HDA Intel" in check.finding


@pytest.mark.parametrize(
    ("samples", "rate_hz", "expected"),
    [
        (NOISE, 16_010.0, {"rate": "ok", "level": "ok", "clipping": "ok"}),
        (NOISE, 15_500.0, {"rate": "fail", "level": "ok", "clipping": "ok"}),
        (NOISE, None, {"level": "ok", "clipping": "ok"}),
        (NOISE * 0, None, {"level": "fail", "clipping": "ok"}),
        (NOISE * 0 + np.float32(0.1), None, {"level": "fail", "clipping": "ok"}),  # a constant is no sound
        (NOISE * np.float32(0.001), None, {"level": "warn", "clipping": "ok"}),
        (np.clip(NOISE * 100, -1, 1), None, {"level": "ok", "clipping": "fail"}),
        (NOISE[:0], None, {"level": "fail", "clipping": "ok"}),
        (NOISE * np.float32(np.nan), None, {"level": "fail", "clipping": "ok"}),
    ],
)
def test_sound(samples: Float32, rate_hz: float | None, expected: dict[str, str]) -> None:
    checks = doctor.sound("pump3", lambda: ProbeResult(samples, 16_000, rate_hz))
    assert {check.name.removesuffix(" of pump3"): check.verdict for check in checks} == expected
    assert all(check.advice for check in checks if check.verdict is not Verdict.OK)


def test_a_source_that_fails_is_a_finding() -> None:
    def absent() -> ProbeResult:
        raise SourceError("no such device: USB Audio", "echo-stream devices lists them")

    assert doctor.sound("pump3", absent) == [
        Check("sound of pump3", Verdict.FAIL, "no such device: USB Audio", "echo-stream devices lists them")
    ]


def test_worst() -> None:
    ok, warn, fail = (Check("x", verdict, "") for verdict in Verdict)
    assert worst([]) is Verdict.OK
    assert worst([ok, warn, ok]) is Verdict.WARN
    assert worst([warn, fail, ok]) is Verdict.FAIL
