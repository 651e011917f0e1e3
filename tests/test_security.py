"""What nobody is told, and what nobody else can read: the broker's password, and what was heard."""

from __future__ import annotations

import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from echo_stream.config.load import load
from echo_stream.core.errors import ConfigError
from tests.support.broker import free_port, mosquitto
from tests.support.command import command
from tests.support.daemon import daemon, fitted, run, terminate, wait_for

PASSWORD = "correct-horse-battery"
CONFIG = """\
node: pc7
state_dir: state
metrics_port: {metrics_port}
mqtt: {{host: 127.0.0.1, port: {port}, username: pump, password_file: password}}
evidence: {{pre_roll_s: 1, post_roll_s: 1, min_free_mb: 1}}
machines:
  - id: pump3
    source: {{kind: simulated, seed: 5, sample_rate_hz: 8000, {source}}}
    bank: banks/pump3.safetensors
    alarm: {{on_delay_s: 1, off_delay_s: 2}}
"""
FAULTY = "start_s: 1000, faults: [{kind: rattle, start_s: 3, end_s: 100000}]"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A fitted machine that is faulty from now on; nobody yet knows the password."""
    fitted(tmp_path)
    (tmp_path / "password").write_text(PASSWORD + "\n")
    return tmp_path


def configure(folder: Path, port: int, source: str = FAULTY, metrics_port: int | None = None) -> None:
    text = CONFIG.format(port=port, source=source, metrics_port=metrics_port or "null")
    (folder / "config.yaml").write_text(text)


def page(port: int, path: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        return bytes(error.read())


class Everything:
    """Topics and payloads of all that is published, as bytes."""

    def __init__(self, host: str, port: int) -> None:
        self.heard = b""
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.username_pw_set("pump", PASSWORD)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(host, port)
        self._client.loop_start()

    def _on_message(self, _client: Client, _user: object, message: object) -> None:
        self.heard += message.topic.encode() + b" " + message.payload + b"\n"  # type: ignore[attr-defined]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@contextmanager
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    try:
        yield
    finally:
        os.umask(before)


def test_the_password_is_told_nowhere_and_what_was_heard_to_nobody_else(project: Path) -> None:
    """Sound of a room may hold voices; without systemd no unit sets a umask."""
    with mosquitto(project, users={"pump": PASSWORD}) as broker, usual_umask():
        port, state = free_port(), project / "state"
        configure(project, broker.port, metrics_port=port)
        everything = Everything(broker.host, broker.port)
        with daemon(project) as process:
            wait_for(lambda: b"/evidence " in everything.heard, 60, "an alarm with its evidence")
            wait_for(lambda: b"/health " in everything.heard, 20, "health")
            wait_for(lambda: list(state.rglob("*.png")), 60, "sound and picture of the alarm")
            places = {
                "status": run(project, "status").encode() + run(project, "status", "--json").encode(),
                "metrics": b"".join(page(port, path) for path in ("/metrics", "/healthz", "/readyz")),
                "arguments": " ".join(psutil.Process(process.pid).cmdline()).encode(),
                "environment": "\n".join(psutil.Process(process.pid).environ().values()).encode(),
                "check-config": run(project, "check-config").encode(),
            }
            open_to_others = {
                str(path.relative_to(project)): stat.filemode(path.stat().st_mode)
                for path in [state, *state.rglob("*")]
                if path.stat().st_mode & 0o077 and not path.is_socket()
            }
            kinds = {path.suffix for path in state.rglob("*") if path.is_file()}
            socket_mode = (state / "status.sock").stat().st_mode & 0o777
            assert terminate(process)[0] == 0
        everything.close()
    places["messages"] = everything.heard
    places["log"] = (project / "log").read_bytes()
    for path in state.rglob("*"):
        places[str(path)] = path.read_bytes() if path.is_file() else b""
    assert len(places) > 10
    assert [place for place, said in places.items() if PASSWORD.encode() in said] == []
    assert b"pump3" in places["status"]  # each of them was really looked at
    assert b"echo_stream_alarm_active" in places["metrics"]
    assert b"UNACK" in places["log"]
    assert kinds >= {".sqlite", ".flac", ".json", ".png"}
    assert open_to_others == {}
    assert socket_mode == 0o660


def test_a_password_that_the_broker_refuses_is_not_told_either(project: Path) -> None:
    with mosquitto(project, users={"pump": "another"}) as broker:
        configure(project, broker.port)
        with daemon(project) as process:
            log = project / "log"
            wait_for(lambda: "refuse" in log.read_text() or "authori" in log.read_text(), 30, "a refusal")
            said = run(project, "status", "--json") + log.read_text()
            assert terminate(process)[0] == 0
    assert PASSWORD not in said + log.read_text()


@pytest.mark.parametrize("key", ["password_flie", "pasword"])
def test_a_password_under_an_unknown_key_is_in_no_error(tmp_path: Path, key: str) -> None:
    configure(tmp_path, 1883)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("password_file: password", f"{key}: {PASSWORD}"))
    with pytest.raises(ConfigError, match=f"mqtt.{key}: unknown key") as refused:
        load(config)
    assert PASSWORD not in refused.value.message


def test_a_password_written_into_the_configuration_is_not_echoed(tmp_path: Path) -> None:
    configure(tmp_path, 1883)
    config = tmp_path / "config.yaml"
    config.write_text(config.read_text().replace("password_file: password", f"password: {PASSWORD}"))
    for name in ("check-config", "run", "doctor"):
        done = command(name, cwd=tmp_path)
        assert done.returncode != 0
        assert "mqtt.password: unknown key" in done.stderr + done.stdout
        assert PASSWORD not in done.stderr + done.stdout
