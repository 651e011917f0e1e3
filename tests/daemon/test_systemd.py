"""sd_notify over real sockets, and the unit file judged by systemd's own tools."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from echo_stream.daemon.monitor import Notifier

UNIT = Path(__file__).parents[2] / "systemd" / "echo-stream.service"


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound datagram socket and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@echo-stream-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(name.replace("@", "\0") if name.startswith("@") else name)
        line.settimeout(5)
        yield line, name


def test_messages_arrive_as_the_protocol_wants_them(supervisor: tuple[socket.socket, str]) -> None:
    line, name = supervisor
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("pump3 normal\nREADY=1")
    notifier.watchdog()
    notifier.stopping()
    got = [line.recv(4096) for _ in range(4)]
    assert got == [b"READY=1", b"STATUS=pump3 normal READY=1", b"WATCHDOG=1", b"STOPPING=1"]
    notifier.reloading()
    assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", line.recv(4096))


def test_nothing_happens_without_systemd() -> None:
    notifier = Notifier({})
    notifier.ready()
    notifier.watchdog()
    assert notifier.watchdog_interval_s is None


def test_a_supervisor_that_is_gone_does_not_stop_the_service(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),  # meant for our parent
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_watchdog_interval_is_half_of_the_timeout(environ: dict[str, str], expected: float | None) -> None:
    assert Notifier(environ).watchdog_interval_s == expected


@pytest.fixture
def analyze() -> str:
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("SYSTEMD-ANALYZE MISSING: the unit file was not checked (apt-get install systemd)")
    return tool


def test_unit_verifies_without_a_word(analyze: str, tmp_path: Path) -> None:
    unit = tmp_path / "echo-stream.service"
    unit.write_text(UNIT.read_text().replace("/opt/echo-stream/bin/echo-stream", "/bin/true"))
    done = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unit_exposure_is_low(analyze: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", "--no-pager", UNIT.resolve()],
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    assert float(found[1]) <= 1.5, done.stdout


def test_unit_ships_in_the_package() -> None:
    inside = Path(__file__).parents[2] / "echo_stream" / "cli" / "echo-stream.service"
    assert UNIT.resolve() == inside
