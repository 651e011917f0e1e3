"""The daemon as a service of a real systemd: a simulated machine, a real broker, and what can go wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

from echo_stream.daemon.status import ask
from tests.support.container import Container, wait_until
from tests.support.daemon import fitted

CONFIG = "etc/echo-stream/config.yaml"
MACHINES = """node: pc7
state_dir: /var/lib/echo-stream
mqtt: {host: 127.0.0.1, username: listener, password_file: "${CREDENTIALS_DIRECTORY}/mqtt-password"}
machines:
  - id: pump3
    source: {kind: simulated, seed: 5, sample_rate_hz: 8000, start_s: START, faults: [FAULT]}
    bank: /var/lib/echo-stream/banks/pump3.safetensors
    alarm: {on_delay_s: 1, off_delay_s: 1}
"""
FAULT = "{kind: rattle, start_s: 6, end_s: 100000}"
BROKER = """per_listener_settings true
listener 1883 127.0.0.1
password_file /etc/broker-users
"""


def configuration(fault: str = "", start_s: int = 1000) -> str:
    return MACHINES.replace("FAULT", fault).replace("START", str(start_s))


@pytest.fixture(scope="module")
def installed(computer: Container, tmp_path_factory: pytest.TempPathFactory) -> Container:
    """The service with a bank, and a broker that wants a password. Nothing is started but the broker."""
    computer.install()
    (computer.root / "etc/broker.conf").write_text(BROKER)
    (computer.root / "etc/broker-users").touch()
    computer.run("mosquitto_passwd", "-b", "/etc/broker-users", "listener", "hunter2")
    computer.run("chown", "mosquitto", "/etc/broker-users")
    computer.run("systemd-run", "--unit=broker", "mosquitto", "-c", "/etc/broker.conf")
    (computer.root / "etc/echo-stream/mqtt-password").write_text("hunter2\n")
    folder = tmp_path_factory.mktemp("fitted")
    fitted(folder)
    shutil.copytree(
        folder / "banks", computer.root / "var/lib/echo-stream/banks", symlinks=True, dirs_exist_ok=True
    )
    computer.run("chown", "--recursive", "--no-dereference", "echo-stream", "/var/lib/echo-stream/banks")
    return computer


@pytest.fixture
def service(installed: Container) -> Iterator[Container]:
    """The same, without a state of its own and not running."""
    installed.run("sh", "-c", "rm -f /var/lib/echo-stream/outbox.sqlite*")
    installed.run("journalctl", "--rotate", "--vacuum-time=1s")
    (installed.root / CONFIG).write_text(configuration())
    yield installed
    installed.run("systemctl", "stop", "echo-stream")
    print(*(entry["MESSAGE"] for entry in installed.journal()), sep="\n")  # shown where a test failed
    installed.run("systemctl", "reset-failed", "echo-stream", check=False)


def said(computer: Container) -> list[dict[str, Any]]:
    """What the daemon logged in its present and former lives, with the journal's priority."""
    return [
        {**json.loads(entry["MESSAGE"]), "priority": entry["PRIORITY"]}
        for entry in computer.journal()
        if entry.get("SYSLOG_IDENTIFIER") == "echo-stream" and str(entry["MESSAGE"]).startswith("{")
    ]


def events(computer: Container) -> list[str]:
    return [line["event"] for line in said(computer)]


def retained(computer: Container, topic: str, *wanted: str) -> str:
    """The message that the broker keeps on a topic, once it is the wanted one: asked by one program."""
    code = "import sys, time; from paho.mqtt import subscribe\n"
    code += "auth = {'username': 'listener', 'password': 'hunter2'}\n"
    code += "ask = lambda: subscribe.simple(sys.argv[1], hostname='127.0.0.1', auth=auth).payload.decode()\n"
    code += "while (kept := ask()) not in sys.argv[2:] and sys.argv[2:]: time.sleep(0.1)\n"
    code += "print(kept)"
    return computer.run(
        "/opt/echo-stream/bin/python3", "-c", code, f"echo-stream/pc7/{topic}", *wanted
    ).strip()


def status(computer: Container) -> dict[str, dict[str, Any]]:
    """What the running daemon says of each machine."""
    machines = ask(computer.inside("/run/echo-stream/status.sock"))["machines"]
    return {machine["machine"]: machine for machine in machines}


def reload(computer: Container, text: str) -> None:
    (computer.root / CONFIG).write_text(text)
    computer.run("systemctl", "reload", "echo-stream")


def test_it_is_active_when_it_is_ready_its_journal_is_readable_and_its_stop_says_offline(
    service: Container,
) -> None:
    service.run("systemctl", "start", "echo-stream")  # returns at READY
    assert service.property("SubState") == "running"
    assert service.property("User") == "echo-stream"
    wait_until(lambda: "pump3: NORMAL" in service.property("StatusText"), 20, "no STATUS")
    wait_until(lambda: "connected to the broker" in events(service), 20, "no broker")
    lines = said(service)
    assert {"simulated stream begins", "listening"} <= {line["event"] for line in lines}
    assert {(line["level"], line["priority"]) for line in lines} <= {("info", "6"), ("warning", "4")}
    retained(service, "status", "online")
    assert "hunter2" not in json.dumps(service.journal())
    assert "hunter2" not in service.python("print(ask(Path('/run/echo-stream/status.sock')))")

    began = time.monotonic()
    service.run("systemctl", "stop", "echo-stream")
    assert time.monotonic() - began < 5
    assert service.property("Result") == "success"
    assert service.property("ExecMainStatus") == "0"
    assert events(service)[-1] == "stopped"
    assert retained(service, "status") == "offline"


def test_killed_it_comes_back_with_its_alarm(service: Container) -> None:
    """The simulated machine begins anew with it: six seconds without a fault, in which the alarm clears."""
    (service.root / CONFIG).write_text(configuration(FAULT))
    service.run("systemctl", "start", "echo-stream")
    wait_until(lambda: "alarm NORMAL -> UNACK" in events(service), 60, "no alarm")
    service.run("systemctl", "kill", "--signal=KILL", "echo-stream")
    wait_until(lambda: service.property("NRestarts") == "1", 20, "not restarted")
    wait_until(lambda: service.property("ActiveState") == "active", 20, "not active")
    wait_until(lambda: "alarm UNACK -> RTN_UNACK" in events(service), 30, "the alarm was forgotten")
    assert events(service).count("alarm NORMAL -> UNACK") == 1


def test_a_pipeline_that_hangs_is_ended_by_the_watchdog(service: Container) -> None:
    with service.overruled("[Service]\nWatchdogSec=4\n"):
        service.run("systemctl", "start", "echo-stream")
        time.sleep(6)  # longer than the watchdog's patience: while it works, it is let live
        assert service.property("NRestarts") == "0"
        hang = service.spawn("/usr/bin/python3", "/opt/echo-stream/hang.py", service.property("MainPID"))
        assert hang.stdout is not None
        assert int(hang.stdout.readline()) >= 2  # pipeline, publisher
        wait_until(lambda: service.property("NRestarts") == "1", 60, "not restarted")
        hang.communicate(timeout=60)
        wait_until(lambda: service.property("ActiveState") == "active", 20, "not active")
    text = "\n".join(str(entry["MESSAGE"]) for entry in service.journal())
    assert "Watchdog timeout (limit 4s)!" in text
    assert "echo_stream/pipeline/" in text  # where it hung, by PYTHONFAULTHANDLER


def test_a_wrong_configuration_is_not_tried_again(service: Container) -> None:
    (service.root / CONFIG).write_text(configuration().replace("on_delay_s", "on_dealy_s"))
    assert service.attempt("systemctl", "start", "echo-stream").returncode != 0
    time.sleep(3)  # RestartSec is 2
    assert service.property("ActiveState") == "failed"
    assert service.property("ExecMainStatus") == "78"
    assert service.property("NRestarts") == "0"
    assert "did you mean" in "\n".join(str(entry["MESSAGE"]) for entry in service.journal())


def test_what_is_away_is_no_reason_to_restart(service: Container) -> None:
    text = configuration().replace("mqtt: {", "mqtt: {port: 1, ")
    deaf = "source: {kind: microphone, device: USB Audio, sample_rate_hz: 8000}"
    source = next(line.strip() for line in text.splitlines() if "source:" in line)
    (service.root / CONFIG).write_text(text.replace(source, deaf))
    with service.overruled("[Service]\nWatchdogSec=4\n"):
        service.run("systemctl", "start", "echo-stream")
        time.sleep(6)
        assert service.property("ActiveState") == "active"
        assert service.property("NRestarts") == "0"
        assert "DEGRADED" in service.property("StatusText")
    assert status(service)["pump3"]["listening"] is False


def test_a_reload_refuses_what_is_wrong_and_leaves_the_other_machines_without_a_gap(
    service: Container,
) -> None:
    service.run("systemctl", "start", "echo-stream")
    wait_until(lambda: status(service)["pump3"]["windows_scored"] > 1, 20, "no windows")
    pid, before = service.property("MainPID"), status(service)["pump3"]
    reload(service, configuration().replace("on_delay_s", "on_dealy_s"))
    wait_until(lambda: "error" in [line["level"] for line in said(service)], 20, "nothing said")
    refused = next(line for line in said(service) if line["level"] == "error")
    assert "config.yaml:" in refused["reason"]
    assert "on_dealy_s" in refused["reason"]
    scored = status(service)["pump3"]["windows_scored"]
    wait_until(lambda: status(service)["pump3"]["windows_scored"] > scored + 1, 20, "it no longer listens")

    machine = configuration(start_s=2000).partition("machines:\n")[2]
    reload(service, configuration() + machine.replace("id: pump3", "id: pump4"))
    wait_until(lambda: status(service).get("pump4", {}).get("windows_scored", 0) > 2, 30, "no pump4")
    after = status(service)["pump3"]
    assert after["windows_scored"] > before["windows_scored"]
    assert (after["gaps"], after["hops_skipped"]) == (0, 0)
    assert after["unheard_s"] == pytest.approx(before["unheard_s"], abs=0.01)
    reload(service, configuration())
    wait_until(lambda: "pump4" not in status(service), 20, "pump4 is still there")
    retained(service, "pump4/availability", "offline")
    assert status(service)["pump3"]["gaps"] == 0
    assert service.property("MainPID") == pid
    assert service.property("SubState") == "running"
