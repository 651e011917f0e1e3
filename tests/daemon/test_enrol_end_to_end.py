"""A newcomer's day: no bank, fit-normal that asks the daemon, a bank in use, a fault that is found."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path

from tests.support.broker import MosquittoBroker, free_port
from tests.support.command import command
from tests.support.daemon import asked, daemon, run, subscriber, terminate, wait_for

CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
metrics_port: {metrics}
evidence: {{enabled: false}}
machines:
  - id: pump3
    source: {{kind: simulated, seed: 5, sample_rate_hz: 8000, pace: fast, duration_s: 3000, faults: [
      {{kind: rattle, start_s: 150, end_s: 5000}}]}}
    bank: banks/pump3.safetensors
    alarm: {{on_delay_s: 2, warning_on_delay_s: 1, off_delay_s: 2}}
"""


def fit_normal(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return command("fit-normal", "--machine", "pump3", *words, cwd=folder)


def scraped(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            return str(answer.read().decode())
    except OSError:  # it is served a moment after the status
        return ""


def test_the_daemon_listens_for_fit_normal(tmp_path: Path, broker: MosquittoBroker) -> None:
    (tmp_path / "config.yaml").write_text(
        CONFIG.format(host=broker.host, port=broker.port, metrics=(metrics := free_port()))
    )
    with subscriber(broker.host, broker.port) as told, daemon(tmp_path) as process:
        found = wait_for(lambda: asked(tmp_path), 60, "the daemon answers")
        assert found["machines"][0]["enrolling"] is None
        assert "there is no bank" in found["degraded"][0]

        refused = fit_normal(tmp_path, "--fresh")
        assert (refused.returncode, "while the daemon listens" in refused.stderr) == (1, True)

        # A day's enrolment is begun, watched, paused, and survives the end of the daemon.
        told.publish("echo-stream/pc7/pump3/cmd", {"command": "enrol", "minutes": 1440, "by": "anna"})
        wait_for(lambda: told.of("reply", "pump3"), 30, "the reply over MQTT")
        assert told.of("reply", "pump3")[0]["ok"], told.of("reply", "pump3")
        again = fit_normal(tmp_path, "--minutes", "1")
        assert (again.returncode, "an enrolment is listening already" in again.stderr) == (1, True)
        paused = fit_normal(tmp_path, "--daemon", "pause")
        assert (paused.returncode, paused.stdout) == (0, "pump3: paused\n"), paused.stderr
        assert terminate(process)[0] == 0

    with subscriber(broker.host, broker.port) as told, daemon(tmp_path):
        found = wait_for(lambda: asked(tmp_path), 60, "the daemon answers again")
        enrolling = found["machines"][0]["enrolling"]
        assert (enrolling["stage"], enrolling["by"]) == ("paused", "anna")
        line = 'echo_stream_enrolment_progress{machine="pump3",stage="paused"}'
        wait_for(lambda: line in scraped(metrics), 30, "the metric")
        wait_for(
            lambda: [h for h in told.of("health", "pump3") if h["enrolling"]["stage"] == "paused"],
            30,
            "health",
        )
        assert "pump3: enrolment of normal: paused" in run(tmp_path, "status")
        assert fit_normal(tmp_path, "--daemon", "cancel").returncode == 0

        fitted = fit_normal(tmp_path, "--minutes", "1.5", "--json")
        assert fitted.returncode == 0, fitted.stderr
        said = json.loads(fitted.stdout)
        assert (said["bank"]["id"], said["bank"]["accepted"], said["verdict"]) == ("b1", True, "warn")
        assert os.path.lexists(tmp_path / "banks/pump3.safetensors")
        assert "<html" in Path(tmp_path, said["report"]).read_text()
        wait_for(
            lambda: [e for e in told.events if e["level"] == "alarm" and e["active"]], 60, "the fault's alarm"
        )
        (alarm,) = [e for e in told.events if e["level"] == "alarm" and e["cause"] == "condition"][:1]
        assert alarm["bank"]["id"] == "b1"
    assert not list((tmp_path / "state/enrolments/pump3").glob("sound-*"))
