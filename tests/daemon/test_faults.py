"""What goes wrong in one part of the running daemon, and what the others do then."""

from __future__ import annotations

import json
import os
import signal
import socket
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog

from echo_stream.core.errors import EchoStreamError
from echo_stream.daemon.metrics import _CONNECTIONS, MetricsServer
from echo_stream.daemon.status import StatusServer, ask
from tests.support.daemon import daemon, run, terminate, wait_for

CONFIG = """\
node: pc7
state_dir: state
mqtt: {host: 127.0.0.1, port: 1}
evidence: {enabled: false}
machines:
  - {id: pump1, source: {kind: simulated, seed: 3, sample_rate_hz: 8000}, bank: one.safetensors}
  - {id: pump2, source: {kind: simulated, seed: 3, sample_rate_hz: 8000}, bank: two.safetensors}
"""


@pytest.fixture
def project(tmp_path: Path, simulated_bank: bytes) -> Path:
    (tmp_path / "config.yaml").write_text(CONFIG)
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes(simulated_bank)
    return tmp_path


def logged(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if event in line["event"]]


def listens(folder: Path) -> bool:
    return any(line["event"] == "listening" for line in logged(folder, "listening"))


def status(folder: Path) -> dict[str, dict[str, Any]]:
    return {m["machine"]: m for m in ask(folder / "state/status.sock")["machines"]}


def test_many_signals_at_once_end_it(project: Path) -> None:
    with daemon(project) as process:
        wait_for(lambda: listens(project), 60, "it listens")
        for _ in range(200):
            process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def test_a_machine_with_a_damaged_bank_is_degraded_and_comes_back(
    project: Path, simulated_bank: bytes
) -> None:
    (project / "two.safetensors").write_bytes(simulated_bank[:1000])
    with daemon(project) as process:
        wait_for(lambda: listens(project), 60, "it listens")
        wait_for(lambda: status(project)["pump1"]["windows_scored"] > 1, 60, "the other is scored")
        found = status(project)["pump2"]
        assert (found["capture"], found["listening"]) == ("failed", False)
        assert "two.safetensors" in found["reason"]
        assert "DEGRADED: pump2: bank" in run(project, "status")
        (project / "two.safetensors").write_bytes(simulated_bank)
        wait_for(lambda: status(project)["pump2"]["windows_scored"] > 1, 60, "it is listened to again")
        assert terminate(process)[0] == 0


def test_a_reload_that_fails_keeps_the_old_configuration(project: Path) -> None:
    bad = {
        "a home of nobody": CONFIG.replace("bank: two", "bank: ~nobody-here/two"),
        "a recording that is not there": CONFIG.replace("simulated, seed: 3,", "recording, path: x.wav, #"),
        "not YAML": "machines: [",
        "no text": "\udcff",
    }

    def refused(times: int) -> bool:
        return len(logged(project, "the old one stays")) == times

    with daemon(project) as process:
        wait_for(lambda: listens(project), 60, "it listens")
        for count, text in enumerate(bad.values(), 1):
            (project / "config.yaml").write_bytes(text.encode(errors="surrogateescape"))
            process.send_signal(signal.SIGHUP)
            wait_for(partial(refused, count), 60, "it is refused")
        assert process.poll() is None
        (project / "config.yaml").write_text(CONFIG)
        assert set(status(project)) == {"pump1", "pump2"}
        assert terminate(process)[0] == 0


def test_events_that_are_lost_at_the_stop_are_said(project: Path) -> None:
    faults = "faults: [{kind: rattle, start_s: 3, end_s: 1000}]"
    text = CONFIG.replace("8000}", f"8000, {faults}}}").replace(
        "one.safetensors}", "one.safetensors, alarm: {on_delay_s: 1, warning_on_delay_s: 1}}"
    )
    (project / "config.yaml").write_text(text)
    (project / "state/outbox.sqlite").mkdir(parents=True)
    with daemon(project) as process:
        wait_for(lambda: logged(project, "NORMAL -> UNACK"), 90, "an alarm")
        assert terminate(process)[0] == 0
    assert logged(project, "events are lost")[0]["lost"] >= 1


def test_a_state_directory_that_cannot_be_written(project: Path) -> None:
    text = CONFIG.replace("state_dir: state", "state_dir: /proc/echo-stream-state")
    (project / "config.yaml").write_text(text)
    with daemon(project, RUNTIME_DIRECTORY=str(project)) as process:
        wait_for(lambda: listens(project), 60, "it listens")
        assert logged(project, "the state directory cannot be written")
        wait_for(lambda: ask(project / "status.sock")["machines"][0]["windows_scored"] > 1, 60, "scores")
        assert terminate(process)[0] == 0


@pytest.mark.parametrize("kind", ["folder", "file", "pipe", "link"])
def test_what_stands_for_the_socket_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "status.sock"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("precious")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "elsewhere")
    before = path.lstat()
    with pytest.raises(EchoStreamError, match="something else stands there"):
        StatusServer(path, dict)
    assert path.lstat() == before


def broken() -> dict[str, Any]:
    raise ZeroDivisionError


def test_the_status_socket_outlives_an_unforeseen_exception(tmp_path: Path) -> None:
    answers: list[Any] = [broken, lambda: {"alive": True}]

    def snapshot() -> dict[str, Any]:
        found: dict[str, Any] = answers.pop(0)()
        return found

    server = StatusServer(tmp_path / "s", snapshot)
    with structlog.testing.capture_logs() as logs:
        with pytest.raises(EchoStreamError):
            ask(tmp_path / "s")
        assert ask(tmp_path / "s") == {"alive": True}
    assert [line["event"] for line in logs] == ["status not answered"]
    server.close()


def test_metrics_admit_a_few_connections_at_once(tmp_path: Path) -> None:
    server = MetricsServer(0, lambda: {"alive": True, "machines": []})
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(_CONNECTIONS)]
    for line in held:
        line.sendall(b"GET /healthz HTTP/1.0\r\nX-Slow: ")
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as refused:
        refused.settimeout(20)
        assert refused.recv(100) == b""
    held[0].sendall(b"x\r\n\r\n")
    assert b"200 OK" in held[0].recv(1000)
    for line in held:
        line.close()  # in the middle of a request: the server logs each of them

    def answered() -> bool:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
            try:
                line.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                return b"200 OK" in line.recv(1000)
            except OSError:
                return False

    with structlog.testing.capture_logs():  # a traceback on a console costs half a second of computing
        wait_for(answered, 30, "there is room again")
        server.close()
