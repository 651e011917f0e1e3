"""An exception in the loop of each thread: said, counted, restarted, DEGRADED; and what no guard can hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.broker import MosquittoBroker, free_port
from tests.support.daemon import asked, daemon, run, subscriber, terminate, wait_for
from tests.support.faulty_daemon import LOOPS

CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
metrics_port: {metrics}
web: {{enabled: true, port: {web}}}
machines:
  - {{id: pump1, source: {{kind: simulated, seed: 3, sample_rate_hz: 8000}}, bank: one.safetensors}}
"""
FAULTY = "tests.support.faulty_daemon"


@pytest.fixture
def project(tmp_path: Path, simulated_bank: bytes, broker: MosquittoBroker) -> Path:
    text = CONFIG.format(host=broker.host, port=broker.port, metrics=free_port(), web=free_port())
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "one.safetensors").write_bytes(simulated_bank)
    return tmp_path


def test_an_exception_in_each_loop_is_said_counted_and_survived(
    project: Path, broker: MosquittoBroker
) -> None:
    def restarted() -> dict[str, Any]:
        found = asked(project)
        threads = found.get("threads", [])
        begun = {thread["part"] for thread in threads if thread["restarts"]}
        return found if len(begun) == len(LOOPS) else {}

    with (
        subscriber(broker.host, broker.port) as told,
        daemon(project, FAULTY, FAULTS=",".join(LOOPS)) as process,
    ):
        found = wait_for(restarted, 60, "each part is restarted")
        assert len(found["threads"]) == len(LOOPS)
        errors = {thread["part"]: thread["last_error"] for thread in found["threads"]}
        assert set(errors.values()) == {f"RuntimeError: injected into {part}" for part in LOOPS}
        reasons = " ".join(found["degraded"])
        assert all(f"{part} failed and is restarted (1 times)" in reasons for part in errors)

        wait_for(lambda: asked(project)["machines"][0]["windows_scored"] > 1, 60, "windows are scored")
        shown = run(project, "status")
        assert f"{len(LOOPS)} restarts of a part" in shown
        assert "DEGRADED: the pipeline failed and is restarted (1 times): RuntimeError" in shown
        port = (project / "config.yaml").read_text().partition("metrics_port: ")[2].split()[0]
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as page:
            metrics = page.read().decode()
        assert "echo_stream_degraded 1.0" in metrics
        assert all(f'echo_stream_restarts_total{{part="{part}"}} 1.0' in metrics for part in errors)
        node = wait_for(lambda: told.of("pc7/health")[-1:], 60, "the health of the node")[0]
        assert node["state"] == "degraded"
        assert node["counters"]["restarts"] >= 1
        assert terminate(process)[0] == 0
    lines = [json.loads(line) for line in (project / "log").read_text().splitlines() if line[0] == "{"]
    said = [line for line in lines if line["event"].endswith("failed and is restarted")]
    assert {line["level"] for line in said} == {"error"}
    assert sorted(line["event"].split(" failed")[0] for line in said) == sorted(errors)


@pytest.mark.parametrize("part", ["evidence", "publisher"])
def test_a_thread_that_cannot_go_on_ends_the_process(project: Path, part: str) -> None:
    with daemon(project, FAULTY, FAULTS=f"{part}!") as process:
        assert process.wait(timeout=60) == 1
    assert "has ended and cannot be restarted" in (project / "log").read_text()
