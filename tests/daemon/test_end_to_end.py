"""The main job, all of it real: a machine, fit-normal, the daemon, a broker, a subscriber."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from tests.support.broker import MosquittoBroker
from tests.support.daemon import daemon, fitted, run, subscriber, terminate, wait_for

LIVE = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
evidence: {{enabled: false}}
machines:
  - id: pump3
    name: Pump 3
    source:
      kind: simulated
      seed: 5
      sample_rate_hz: 8000
      start_s: 100
      faults: [{{kind: bearing, start_s: 12, end_s: 24}}]
    bank: banks/pump3.safetensors
    alarm: {{on_delay_s: 3, off_delay_s: 4}}
"""


def test_a_fault_comes_and_goes(tmp_path: Path, broker: MosquittoBroker) -> None:
    fitted(tmp_path)
    (tmp_path / "config.yaml").write_text(LIVE.format(host=broker.host, port=broker.port))
    with subscriber(broker.host, broker.port) as told, daemon(tmp_path) as process:
        wait_for(lambda: "online" in told.of("status"), 20, "the daemon is online")
        alarm = wait_for(
            lambda: [e for e in told.of("event") if e["level"] == "alarm" and e["active"]], 40, "an alarm"
        )[0]
        assert alarm["machine"] == "pump3"
        assert (alarm["from"], alarm["to"]) == ("NORMAL", "UNACK")
        assert alarm["score"] > alarm["threshold"]
        assert alarm["evidence"]["bands_hz"]
        wait_for(lambda: told.of("alarm")[-1]["levels"]["alarm"]["state"] == "UNACK", 5, "the retained state")
        cleared = wait_for(
            lambda: [e for e in told.of("event") if e["level"] == "alarm" and not e["active"]], 40, "clear"
        )[0]
        assert cleared["to"] == "RTN_UNACK"
        code, seconds = terminate(process)
        assert code == 0
        assert seconds < 5
        wait_for(lambda: told.of("status")[-1] == "offline", 5, "the daemon is offline")
    seq = [event["seq"] for event in told.of("event")]
    assert seq == list(range(1, len(seq) + 1))
    assert len({event["event_id"] for event in told.of("event")}) == len(seq)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert all("ts" in line for line in lines)
    assert len(lines) < 40  # no line a window


def test_a_replayed_fault_is_announced_within_10_s(
    tmp_path: Path, broker: MosquittoBroker, recordings: Path
) -> None:
    streams = recordings / "streams"
    test = "fan_sensiml_test_normal_fault_normal_210s.flac"
    (tmp_path / "config.yaml").write_text(
        f"""\
node: pc7
state_dir: state
mqtt: {{host: {broker.host}, port: {broker.port}}}
evidence: {{enabled: false}}
machines:
  - id: fan
    source: {{kind: recording, path: {streams / test}, pace: fast}}
    bank: banks/fan.safetensors
"""
    )
    run(
        tmp_path,
        "fit-normal",
        "-m",
        "fan",
        "--recordings",
        str(streams / "fan_sensiml_enroll_normal_120s.flac"),
    )
    with subscriber(broker.host, broker.port) as told, daemon(tmp_path) as process:
        assert process.wait(timeout=120) == 0
        wait_for(lambda: told.of("status")[-1:] == ["offline"], 10, "offline after the end of the recording")
    alarms = [event for event in told.of("event") if event["level"] == "alarm" and event["active"]]
    assert alarms
    with (streams / "labels.csv").open() as labels:
        faults = [row for row in csv.DictReader(labels) if row["file"] == test and row["label"] == "anomaly"]
    assert len(faults) == 2
    at_s = [alarm_s(tmp_path, event["event_id"]) for event in alarms]
    for fault in faults:
        start_s = float(fault["start_s"])
        assert any(start_s <= s <= start_s + 10 for s in at_s), (start_s, at_s)


def alarm_s(folder: Path, event_id: str) -> float:
    """Seconds into the recording at which an event was decided, from the daemon's log."""
    for line in (folder / "log").read_text().splitlines():
        said = json.loads(line)
        if said.get("event_id") == event_id:
            return float(said["at_s"])
    pytest.fail(f"no log line of {event_id}")
