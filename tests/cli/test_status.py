"""What `status` says by its exit code: the health check of a container rests on it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from echo_stream.cli.status import show_status
from echo_stream.core.errors import EchoStreamError
from echo_stream.daemon.status import StatusServer

CONFIG = """\
node: pc7
state_dir: state
machines: [{id: pump3, source: {kind: simulated}, bank: pump3.safetensors}]
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def test_a_pipeline_that_makes_no_progress_is_a_failure(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {"alive": True, "machines": []}
    server = StatusServer(config.parent / "state" / "status.sock", lambda: said)
    try:
        show_status(config, as_json=True)
        said["alive"] = False
        with pytest.raises(EchoStreamError, match="makes no progress") as caught:
            show_status(config, as_json=True)
    finally:
        server.close()
    assert caught.value.exit_code == 1
    assert [json.loads(line)["alive"] for line in capsys.readouterr().out.splitlines()] == [True, False]


def test_no_daemon_is_a_failure(config: Path) -> None:
    with pytest.raises(EchoStreamError):
        show_status(config, as_json=False)


def test_what_the_gate_saved_is_said(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = {"alarms": {}, "score": 0.1, "coverage_10m": 1.0, "level_dbfs": -30.0, "real_time_factor": 0.1}
    machine |= {"capture": "running", "bank": "b1"}
    counts = {"encoded": 30, "left_out": 60}
    said = {
        "version": "1",
        "node": "pc7",
        "uptime_s": 9.0,
        "encoder": "echo",
        "alive": True,
        "broker": {"connected": True, "host": "h", "port": 1},
        "outbox": {"depth": 0},
        "machines": [machine | {"machine": name, "encoder_gate": counts} for name in ("a", "b")],
    }
    server = StatusServer(config.parent / "state" / "status.sock", lambda: said)
    try:
        show_status(config, as_json=False)
    finally:
        server.close()
    assert (
        "ECHO encoded 60 windows and left out 120 that sounded normal: 3.0 times less"
        in capsys.readouterr().out
    )
