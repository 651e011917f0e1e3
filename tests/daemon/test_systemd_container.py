"""Installing, and the unit's protections, on a real systemd in a container."""

from __future__ import annotations

import json

from tests.support.container import PROGRAM, Container


def modes(computer: Container) -> list[str]:
    paths = ["/etc/echo-stream", "/etc/echo-stream/config.yaml", "/etc/echo-stream/mqtt-password"]
    paths += ["/var/lib/echo-stream", "/var/lib/echo-stream/banks", "/etc/systemd/system/echo-stream.service"]
    return computer.run("stat", "--format=%n %a %U", *paths).splitlines()


def test_install_twice(computer: Container) -> None:
    first = computer.install()
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
    again = computer.install()
    assert "made" not in again
    assert "written" not in again
    computer.run(PROGRAM, "check-config", "--config", "/etc/echo-stream/config.yaml")


def test_the_unit_allows_what_is_needed_and_nothing_else(computer: Container) -> None:
    computer.install()
    probe = "[Service]\nExecStart=\nExecStart=/opt/echo-stream/bin/python3 /opt/echo-stream/probe.py\n"
    (computer.root / "etc/echo-stream/mqtt-password").write_text("hunter2\n")
    with computer.overruled(probe):
        computer.run("systemctl", "start", "echo-stream")  # returns when the probe is READY
        assert computer.property("StatusText") == "probed"
        found = json.loads((computer.root / "var/lib/echo-stream/found.json").read_text())
        computer.run("systemctl", "stop", "echo-stream")
    assert found == {
        "credential": "hunter2\n",
        "tensors": True,
        "callback": 42,
        "program of a source": True,
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
    computer.install()
    (computer.root / "etc/echo-stream/mqtt-password").unlink()
    show = "[Service]\nType=oneshot\nRestart=no\nExecStart=\n"
    show += "ExecStart=/bin/cp ${CREDENTIALS_DIRECTORY}/mqtt-password /var/lib/echo-stream/seen\n"
    with computer.overruled(show):
        computer.run("systemctl", "start", "echo-stream")
    assert (computer.root / "var/lib/echo-stream/seen").read_text() == "\n"


def test_uninstall_keeps_the_data(computer: Container) -> None:
    computer.install()
    bank = computer.root / "var/lib/echo-stream/banks/pump3.safetensors"
    bank.write_text("normal")
    configuration = computer.root / "etc/echo-stream/config.yaml"
    configuration.write_text(configuration.read_text() + "# mine\n")
    said = computer.python("uninstall_service()")
    assert "user echo-stream: removed" in said
    assert bank.read_text() == "normal"
    assert (bank.stat().st_uid, bank.parent.stat().st_uid) == (0, 0)  # not of whoever gets the number next
    assert configuration.exists()
    assert not (computer.root / "etc/systemd/system/echo-stream.service").exists()
    assert "echo-stream" not in (computer.root / "etc/passwd").read_text()
    assert computer.python("uninstall_service()").startswith("kept:")
    computer.install()
    assert (
        computer.run("stat", "--format=%U", "/var/lib/echo-stream/banks/pump3.safetensors") == "echo-stream\n"
    )
    assert configuration.read_text().endswith("# mine\n")
