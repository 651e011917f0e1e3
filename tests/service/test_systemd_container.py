"""The service on a real systemd, in a container that boots once for this file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.container import Container, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=f"SYSTEMD NOT TESTED FOR REAL: {missing()}")

PROGRAM = "/opt/echo-stream/bin/echo-stream"


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A PC with echo-stream's files and nothing installed."""
    container = Container(tmp_path_factory.mktemp("nspawn") / "root")
    shutil.copy(Path(__file__).with_name("probe.py"), container.root / "opt" / "echo-stream")
    try:
        container.boot()
        yield container
    finally:
        container.shut_down()


def service(computer: Container, call: str) -> str:
    """What a function of `service.install` reports, called as root inside."""
    code = "import sys; sys.path.insert(0, '/opt/echo-stream/src')\nfrom pathlib import Path\n"
    code += f"from echo_stream.service.install import *\n{call}"
    return computer.run("/opt/echo-stream/bin/python3", "-c", code)


def install(computer: Container) -> str:
    return service(computer, f"install_service(Path({PROGRAM!r}))")


def modes(computer: Container) -> list[str]:
    paths = ["/etc/echo-stream", "/etc/echo-stream/config.yaml", "/etc/echo-stream/mqtt-password"]
    paths += ["/var/lib/echo-stream", "/var/lib/echo-stream/banks", "/etc/systemd/system/echo-stream.service"]
    return computer.run("stat", "--format=%n %a %U", *paths).splitlines()


def test_install_twice(computer: Container) -> None:
    first = install(computer)
    assert "user echo-stream: made" in first
    assert modes(computer) == [
        "/etc/echo-stream 755 root",
        "/etc/echo-stream/config.yaml 644 root",
        "/etc/echo-stream/mqtt-password 600 root",
        "/var/lib/echo-stream 750 echo-stream",
        "/var/lib/echo-stream/banks 750 echo-stream",
        "/etc/systemd/system/echo-stream.service 644 root",
    ]
    assert "audio" in computer.run("id", "--groups", "--name", "echo-stream")
    again = install(computer)
    assert "made" not in again
    assert "written" not in again
    computer.run(PROGRAM, "check-config", "--config", "/etc/echo-stream/config.yaml")


def test_the_unit_allows_what_is_needed_and_nothing_else(computer: Container) -> None:
    install(computer)
    probe = "[Service]\nExecStart=\nExecStart=/opt/echo-stream/bin/python3 /opt/echo-stream/probe.py\n"
    (computer.root / "etc/echo-stream/mqtt-password").write_text("hunter2\n")
    with overruled(computer, probe):
        computer.run("systemctl", "start", "echo-stream")  # returns when the probe is READY
        assert computer.property("StatusText") == "probed"
        found = json.loads((computer.root / "var/lib/echo-stream/found.json").read_text())
        computer.run("systemctl", "stop", "echo-stream")
    assert found == {
        "credential": "hunter2\n",
        "tensors": True,
        "callback": 42,
        "audio group": True,
        "state": "",
        "runtime": "",
        "tcp": "",
        "own package": "PermissionError",
        "own program": "PermissionError",
        "own configuration": "PermissionError",
        "own unit": "PermissionError",
        "password file": "PermissionError",
        "homes": "PermissionError",
        "raw network": "OSError",
        "real time": "PermissionError",
        "names of sound cards": "",
    }


def test_no_password_is_an_empty_line(computer: Container) -> None:
    install(computer)
    (computer.root / "etc/echo-stream/mqtt-password").unlink()
    show = "[Service]\nType=oneshot\nRestart=no\nExecStart=\n"
    show += "ExecStart=/bin/cp ${CREDENTIALS_DIRECTORY}/mqtt-password /var/lib/echo-stream/seen\n"
    with overruled(computer, show):
        computer.run("systemctl", "start", "echo-stream")
    assert (computer.root / "var/lib/echo-stream/seen").read_text() == "\n"


def test_uninstall_keeps_the_data(computer: Container) -> None:
    install(computer)
    bank = computer.root / "var/lib/echo-stream/banks/pump3.safetensors"
    bank.write_text("normal")
    configuration = computer.root / "etc/echo-stream/config.yaml"
    configuration.write_text(configuration.read_text() + "# mine\n")
    said = service(computer, "uninstall_service()")
    assert "user echo-stream: removed" in said
    assert bank.read_text() == "normal"
    assert (bank.stat().st_uid, bank.parent.stat().st_uid) == (0, 0)  # not of whoever gets the number next
    assert configuration.exists()
    assert not (computer.root / "etc/systemd/system/echo-stream.service").exists()
    assert "echo-stream" not in (computer.root / "etc/passwd").read_text()
    assert service(computer, "uninstall_service()").startswith("kept:")
    install(computer)
    assert (
        computer.run("stat", "--format=%U", "/var/lib/echo-stream/banks/pump3.safetensors") == "echo-stream\n"
    )
    assert configuration.read_text().endswith("# mine\n")


@contextmanager
def overruled(computer: Container, text: str) -> Iterator[None]:
    """A drop-in of the service, as `systemctl edit` writes it, for as long as this lasts."""
    override = computer.root / "etc/systemd/system/echo-stream.service.d/override.conf"
    override.parent.mkdir(exist_ok=True)
    override.write_text(text)
    computer.run("systemctl", "daemon-reload")
    yield
    override.unlink()
    computer.run("systemctl", "daemon-reload")
