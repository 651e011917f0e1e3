"""The running daemon: restarts, reloads, new banks, and what it says of itself."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.support.broker import MosquittoBroker
from tests.support.daemon import daemon, fitted, run, subscriber, terminate, wait_for

CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
evidence: {{enabled: false}}
machines:
  - id: pump3
    source: {{kind: simulated, seed: 5, sample_rate_hz: 8000, start_s: 100, {source}}}
    bank: banks/pump3.safetensors
    alarm: {{on_delay_s: 1, off_delay_s: 2}}
"""
HEALTHY = ""
FAULTY = "faults: [{kind: rattle, start_s: 3, end_s: 100000}]"


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fitted bank of the simulated machine."""
    folder = tmp_path_factory.mktemp("fitted")
    fitted(folder)
    return (folder / "banks/pump3.safetensors").resolve()


@pytest.fixture
def project(tmp_path: Path, bank: Path, broker: MosquittoBroker) -> Path:
    (tmp_path / "banks").mkdir()
    (tmp_path / "banks/pump3.safetensors").write_bytes(bank.read_bytes())
    configure(tmp_path, broker, HEALTHY)
    return tmp_path


def configure(folder: Path, broker: MosquittoBroker, source: str) -> None:
    text = CONFIG.format(host=broker.host, port=broker.port, source=source)
    (folder / "config.yaml").write_text(text)


def logged(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if event in line["event"]]


def test_a_restart_during_an_alarm_announces_nothing_twice_and_a_kill_the_will(
    project: Path, broker: MosquittoBroker
) -> None:
    configure(project, broker, FAULTY)
    with subscriber(broker.host, broker.port) as told:
        with daemon(project) as first:
            wait_for(lambda: len([e for e in told.events if e["active"]]) == 2, 30, "warning and alarm")
            first.send_signal(signal.SIGKILL)
            first.wait()
        with daemon(project) as second:
            wait_for(lambda: len(logged(project, "listening")) == 2, 20, "it listens again")
            wait_for(lambda: told.of("score")[-1:] and len(told.of("score")) > 8, 30, "some more scores")
            assert len([e for e in told.events if e["active"]]) == 2
            states = told.of("alarm")[-1]["levels"]
            assert {level: it["state"] for level, it in states.items()} == {
                "alarm": "UNACK",
                "warning": "UNACK",
            }
            terminate(second)
        configure(project, broker, HEALTHY)
        with daemon(project) as third:
            wait_for(lambda: len(told.events) == 4, 30, "warning and alarm have cleared")
            assert told.of("status")[-1] == "online"
            third.send_signal(signal.SIGKILL)
        wait_for(lambda: told.of("status")[-1] == "offline", 25, "the will, 15 s delayed")
    assert [e["to"] for e in told.events[2:]] == ["RTN_UNACK", "RTN_UNACK"]
    assert [e["seq"] for e in told.events] == [1, 2, 3, 4]


def test_reload_and_another_bank(project: Path, broker: MosquittoBroker, simulated_bank: bytes) -> None:
    with subscriber(broker.host, broker.port) as told, daemon(project) as process:
        wait_for(lambda: told.of("score"), 20, "a first score")
        good = (project / "config.yaml").read_text()
        (project / "config.yaml").write_text(good.replace("on_delay_s", "on_dealy_s"))
        process.send_signal(signal.SIGHUP)
        refused = wait_for(
            lambda: logged(project, "new configuration is refused"), 10, "a bad file is refused"
        )
        assert "did you mean on_delay_s?" in refused[0]["reason"]

        second = good[good.index("  - id: pump3") :].replace("pump3\n", "fan1\n")
        (project / "config.yaml").write_text(good + second)
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: told.of("score", "fan1"), 20, "the new machine is scored")
        heard = len(told.of("score", "pump3"))

        placed = "  - id: pump3\n    name: Feed pump\n    asset: {line: '3'}\n"
        (project / "config.yaml").write_text(good.replace("  - id: pump3\n", placed))
        process.send_signal(signal.SIGHUP)
        wait_for(lambda: told.of("alarm", "pump3")[-1]["name"] == "Feed pump", 20, "the new name")
        wait_for(lambda: told.of("score", "pump3")[-1].get("asset") == {"line": "3"}, 20, "where it stands")
        wait_for(lambda: told.of("availability", "fan1")[-1] == "offline", 10, "the machine is gone")
        wait_for(lambda: len(told.of("score", "pump3")) > heard + 2, 20, "the other goes on")
        status = json.loads(run(project, "status", "--json", apart=True))
        assert [machine["machine"] for machine in status["machines"]] == ["pump3"]
        assert status["machines"][0]["samples_lost"] == 0

        before = told.of("score")[-1]["threshold"]
        (project / "new").write_bytes(simulated_bank)
        (project / "new").replace(project / "banks/pump3.safetensors")
        in_use = wait_for(lambda: logged(project, "a new bank is in use"), 30, "the new bank is in use")
        assert in_use[0]["bank"] == "pump3"
        wait_for(lambda: told.of("score")[-1]["threshold"] != before, 20, "the threshold of the new bank")
        assert terminate(process)[0] == 0


def test_a_broker_away_at_start_is_no_reason_to_stop(project: Path, broker: MosquittoBroker) -> None:
    broker.stop()
    configure(project, broker, FAULTY)
    with daemon(project) as process:
        wait_for(lambda: len(logged(project, "NORMAL -> UNACK")) == 2, 30, "the alarm is in the log")
        assert json.loads(run(project, "status", "--json"))["outbox"]["depth"] == 2
        broker.start()
        with subscriber(broker.host, broker.port) as told:
            wait_for(lambda: len(told.events) == 2, 30, "both events arrive")
            assert all(event["delayed"] for event in told.events)
        assert terminate(process)[0] == 0


def test_status_says_what_runs_and_a_second_daemon_is_refused(project: Path) -> None:
    with daemon(project) as process:
        wait_for(lambda: logged(project, "listening"), 20, "it listens")
        text = wait_for(lambda: "pump3" in (found := run(project, "status")) and found, 10, "status")
        assert "NORMAL" in text
        assert "broker" in text
        assert json.loads(run(project, "status", "--json"))["encoder_computed_by"] == "numpy float32"

        with daemon(project) as second:
            assert second.wait(timeout=60) == 1
        assert process.poll() is None
        assert "another echo-stream runs already" in (project / "log").read_text()
        assert terminate(process)[0] == 0


def test_status_without_a_daemon(project: Path) -> None:
    with pytest.raises(AssertionError, match="no daemon runs"):
        run(project, "status")


def test_commands_of_operators_are_executed_and_answered(project: Path, broker: MosquittoBroker) -> None:
    configure(project, broker, FAULTY)
    with subscriber(broker.host, broker.port) as told, daemon(project) as process:
        wait_for(lambda: len(told.events) == 2, 30, "warning and alarm")

        told.publish("echo-stream/pc7/pump3/cmd", {"command": "ack", "by": "Jo", "id": "1"})
        reply = wait_for(lambda: told.of("reply"), 10, "a reply")[0]
        assert (reply["id"], reply["ok"]) == ("1", True)
        acked = wait_for(lambda: [e for e in told.events if e["to"] == "ACKED"], 10, "acknowledged")
        assert {event["level"] for event in acked} == {"alarm", "warning"}
        assert all("Jo" in event["reason"] for event in acked)

        told.publish("echo-stream/pc7/pump3/cmd", {"command": "reset", "id": "2"})
        refused = wait_for(lambda: told.of("reply")[1:], 10, "a refusal")[0]
        assert (refused["id"], refused["ok"]) == ("2", False)

        told.publish("echo-stream/pc7/pump3/cmd", {"command": "mark_normal", "id": "3"})
        wait_for(lambda: told.of("reply")[2:], 10, "the sound is kept")
        assert list((project / "state/proposals/pump3").glob("*.flac"))

        said = run(project, "plant", "shelve", "pc7/pump3", "--hours", "0.001", "--by", "Jo", apart=True)
        assert said.startswith("pc7/pump3: ")
        wait_for(lambda: [e for e in told.events if e["to"] == "SHELVED"], 10, "shelved")
        wait_for(lambda: [e for e in told.events if e["cause"] == "shelve_expired"], 15, "the shelving ends")
        with pytest.raises(AssertionError, match="echo-stream: pc7/pump3: "):
            run(project, "plant", "unshelve", "pc7/pump3", "--config", "config.yaml", "--reason", "too late")
        commands = logged(project, "command")
        assert commands[0]["by"] == "Jo"
        assert terminate(process)[0] == 0


def test_a_dead_sensor_is_no_machine_fault(project: Path, broker: MosquittoBroker) -> None:
    silence = project / "dead.wav"
    soundfile.write(silence, np.zeros(8000 * 12), 8000)
    text = (project / "config.yaml").read_text()
    source = "{kind: simulated, seed: 5, sample_rate_hz: 8000, start_s: 100, }"
    assert source in text
    text = text.replace(source, f"{{kind: recording, path: {silence}}}").replace(
        "on_delay_s: 1", "on_delay_s: 4"
    )
    (project / "config.yaml").write_text(text)
    with subscriber(broker.host, broker.port) as told, daemon(project):
        fault = wait_for(lambda: told.of("sensor"), 20, "a sensor fault")[0]
        assert fault["to"] == "dead"
        suppressed = wait_for(lambda: told.events, 10, "suppressed")
        assert {event["to"] for event in suppressed} == {"SUPPRESSED"}
        assert {event["reason"] for event in suppressed} == {"dead"}
