"""The status socket: a real server, real clients, and everything that is not there."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog

from echo_stream.core.errors import EchoStreamError
from echo_stream.daemon.status import StatusServer, ask, daemon_socket, find_socket


def test_what_the_daemon_says_is_what_the_client_reads(tmp_path: Path) -> None:
    said = {"node": "pc7", "machines": [{"machine": "pump3", "coverage": None}], "count": 0}
    server = StatusServer(tmp_path / "s", lambda: said)
    try:
        assert ask(server.path) == said
        said["count"] = 1  # asked anew each time
        assert ask(server.path)["count"] == 1
        assert stat.S_IMODE(server.path.stat().st_mode) == 0o660
    finally:
        server.close()
    assert not server.path.exists()


def test_many_ask_at_once(tmp_path: Path) -> None:
    server = StatusServer(tmp_path / "s", lambda: {"text": "x" * 300_000})  # more than a socket's buffer
    sizes: list[int] = []
    askers = [
        threading.Thread(target=lambda: sizes.append(len(ask(server.path, 30)["text"]))) for _ in range(8)
    ]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    server.close()
    assert sizes == [300_000] * 8


def test_a_snapshot_that_fails_is_said_and_does_not_end_the_server(tmp_path: Path) -> None:
    answers = [{"score": float("nan")}, {"score": 1.0}]
    server = StatusServer(tmp_path / "s", lambda: answers.pop(0))
    with pytest.raises(EchoStreamError, match="no JSON object"):
        ask(server.path)
    assert ask(server.path) == {"score": 1.0}
    server.close()


def test_clients_that_hang_up_are_no_trouble(tmp_path: Path) -> None:
    server = StatusServer(tmp_path / "s", lambda: {"text": "x" * 3_000_000})  # more than a socket's buffer
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
                line.connect(str(server.path))
                line.recv(1)
        assert len(ask(server.path, 30)["text"]) == 3_000_000
    server.close()
    assert logs == []


def test_nothing_runs(tmp_path: Path) -> None:
    with pytest.raises(EchoStreamError, match="no daemon runs: there is no") as caught:
        ask(tmp_path / "s")
    assert "systemctl start echo-stream" in caught.value.hint


def test_a_killed_daemon_leaves_a_socket_that_the_next_one_takes_over(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(EchoStreamError, match="it was killed"):
        ask(path)
    server = StatusServer(path, lambda: {"alive": True})
    assert ask(path) == {"alive": True}
    server.close()


def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    server = StatusServer(tmp_path / "s", lambda: {"first": True})
    with pytest.raises(EchoStreamError, match="another echo-stream runs already"):
        StatusServer(tmp_path / "s", dict)
    assert ask(server.path) == {"first": True}
    server.close()


def test_a_daemon_that_hangs_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "s"))
        mute.listen()
        with pytest.raises(EchoStreamError, match=r"does not answer within 0\.2 s"):
            ask(tmp_path / "s", timeout_s=0.2)


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(EchoStreamError, match="at most 107"):
        StatusServer(tmp_path / ("d" * 120) / "s", dict)
    with pytest.raises(EchoStreamError, match="No such file"):
        StatusServer(tmp_path / "absent" / "s", dict)


@pytest.mark.skipif(
    os.geteuid() != 0, reason="ONLY ROOT can become another user: 'permission denied' not tested"
)
def test_a_stranger_may_not_ask(tmp_path: Path) -> None:
    server = StatusServer(tmp_path / "s", dict)
    code = (
        "import os, socket, sys; s = socket.socket(socket.AF_UNIX); os.chdir(sys.argv[1]); os.setgroups([]);"
        "os.setgid(65534); os.setuid(65534)\n"
        "try: s.connect('s')\n"
        "except PermissionError: print('refused')"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    server.close()
    assert done.stdout == "refused\n"


def test_where_the_socket_is(tmp_path: Path) -> None:
    assert daemon_socket(tmp_path, {}) == tmp_path / "status.sock"
    assert daemon_socket(tmp_path, {"RUNTIME_DIRECTORY": "/run/echo-stream"}) == Path(
        "/run/echo-stream/status.sock"
    )
    run = tmp_path / "run"
    assert find_socket(tmp_path, run) == run / "status.sock"
    (tmp_path / "status.sock").touch()
    assert find_socket(tmp_path, run) == tmp_path / "status.sock"


def test_an_answer_of_something_else(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()

        def talk() -> None:
            line, _ = other.accept()
            with line:
                line.sendall(json.dumps([1, 2]).encode())

        talker = threading.Thread(target=talk)
        talker.start()
        with pytest.raises(EchoStreamError, match="no JSON object"):
            ask(tmp_path / "s")
        talker.join()
