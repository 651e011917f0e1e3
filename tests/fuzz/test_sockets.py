"""Whatever is sent to the daemon's own sockets: the next one who asks properly is answered."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.daemon.metrics import MetricsServer
from echo_stream.daemon.status import StatusServer, ask
from tests.support.damage import damaged, fuzz

STATUS = {"version": "1", "node": "pc7", "alive": True, "machines": []}
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n"
PIECES = [
    *"\r\n :/?%",
    "GET ",
    "POST ",
    "/metrics",
    " HTTP/1.1",
    " HTTP/9",
    "Host: x\r\n",
    "Content-Length: -1",
]


@pytest.fixture(scope="module")
def metrics() -> Iterator[MetricsServer]:
    server = MetricsServer(0, lambda: STATUS)
    yield server
    server.close()


@pytest.fixture(scope="module")
def status(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("s") / "status.sock"
    server = StatusServer(path, lambda: STATUS)
    yield path
    server.close()


def send(line: socket.socket, data: bytes, *, hang_up: bool) -> None:
    line.settimeout(10)
    try:
        line.sendall(data)
        if hang_up:
            return
        line.shutdown(socket.SHUT_WR)
        while line.recv(65_536):
            pass
    except (BrokenPipeError, ConnectionResetError):
        pass  # it need not hear all of it
    finally:
        line.close()


@fuzz(100)
@given(
    st.binary(max_size=300)
    | damaged(REQUEST)
    | st.lists(st.sampled_from(PIECES)).map(lambda p: "".join(p).encode()),
    st.booleans(),
)
def test_metrics(metrics: MetricsServer, data: bytes, hang_up: bool) -> None:
    with structlog.testing.capture_logs() as logs:
        send(socket.create_connection(("127.0.0.1", metrics.port)), data, hang_up=hang_up)
        with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/healthz", timeout=60) as answer:
            assert answer.read() == b'{"alive": true}\n'
    assert [line for line in logs if not hung_up(line)] == []


def hung_up(line: MutableMapping[str, Any]) -> bool:
    """Told in the log that a client did not wait for its answer, or how many more did not: allowed."""
    return line["event"] in ("metrics request failed", "further failed metrics requests were not logged")


@fuzz(30)
@given(st.binary(max_size=300), st.booleans())
def test_status(status: Path, data: bytes, hang_up: bool) -> None:
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.connect(str(status))
    send(line, data, hang_up=hang_up)
    assert ask(status, 10) == STATUS
