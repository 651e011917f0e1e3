"""What a real daemon hears becomes a proposal, and a bank when a person accepts it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from echo_stream.config.load import load
from echo_stream.core.errors import BankError
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.fit.propose import propose
from echo_stream.history.sample import FOLDER, path_of
from tests.support.broker import MosquittoBroker
from tests.support.daemon import daemon, fitted, run, wait_for
from tests.support.stations import build_stations, fit_bank, write_config

CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
evidence: {{enabled: false}}
machines:
  - id: pump3
    source:
      kind: simulated
      seed: 5
      sample_rate_hz: 8000
      pace: fast
      duration_s: {duration_s}
      start_s: {start_s}
      faults: {faults}
    bank: banks/pump3.safetensors
"""


def test_what_a_daemon_heard_is_proposed_and_accepted(
    tmp_path: Path, broker: MosquittoBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = {"host": broker.host, "port": broker.port}
    config = tmp_path / "config.yaml"
    fitted(tmp_path)
    fault = "[{kind: rattle, start_s: 420, end_s: 450}]"
    config.write_text(CONFIG.format(**where, duration_s=570, start_s=200, faults=fault))
    with daemon(tmp_path) as process:
        assert process.wait(200) == 0
    assert (tmp_path / "state" / FOLDER / "pump3.safetensors").stat().st_size < 16e6

    found = json.loads(run(tmp_path, "bank", "propose", "--machine", "pump3", "--json"))
    assert found["bank"] == {
        "id": "b2",
        "base": "b1",
        "path": "banks/pump3.versions/b2.safetensors",
        "accepted": False,
    }
    assert found["windows"]["normal"] >= 5 * 16
    assert found["heard_h"] == pytest.approx(569 / 3600, abs=0.01)
    alarms = [each for each in found["events"] if each["level"] == "alarm"]
    assert alarms
    assert all(each["found_before"] and each["found_after"] for each in alarms), "a rattle is found by both"
    assert Path(tmp_path / "banks" / "pump3.safetensors").resolve().name == "b1.safetensors"

    named = run(tmp_path, "bank", "propose", "--machine", "pump3", "--fault", alarms[0]["event_id"])
    assert f"({alarms[0]['event_id']}): still found" in named
    run(tmp_path, "bank", "accept", "--machine", "pump3", "b3")
    shown = json.loads(run(tmp_path, "bank", "show", "--machine", "pump3", "--json"))
    assert shown["id"] == "b3"
    assert [session["source"] for session in shown["sessions"]] == ["simulated", "sample"]
    assert shown["minutes"] > 2
    at = datetime.fromisoformat(alarms[0]["at"])
    span = [(at + timedelta(seconds=s)).isoformat() for s in (-60, 60)]
    words = ["--from", span[0], "--to", span[1], "--condition", "rattling", "--json"]
    of_a_span = json.loads(run(tmp_path, "bank", "propose", "--machine", "pump3", *words))
    assert (of_a_span["bank"]["id"], of_a_span["bank"]["accepted"]) == ("b4", False)
    shown = json.loads(run(tmp_path, "bank", "show", "b4", "--machine", "pump3", "--json"))
    assert shown["conditions"] == ["normal", "rattling"]
    settings = load(config)
    with monkeypatch.context() as there:
        there.chdir(tmp_path)
        with pytest.raises(BankError, match="0 stretches of normal sound were heard that the bank does not"):
            propose(
                settings,
                settings.machines[0],
                alarms_were_normal=False,
                faults=[],
                progress=lambda *_: None,
            )
        with pytest.raises(BankError, match="no such event is kept"):
            propose(
                settings,
                settings.machines[0],
                alarms_were_normal=False,
                faults=["E1"],
                progress=lambda *_: None,
            )


def test_a_sample_survives_a_restart_and_a_damaged_one_is_set_aside(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    stations, encoder = build_stations(tmp_path, fit_bank(tmp_path), config)
    (station,) = stations.values()
    folder = tmp_path / "heard-state"

    def listen(windows: int) -> float:
        recorder = FeatureSampler(folder)
        recorder.start()
        recorder.add_station(station)
        for _ in range(windows):
            window = wait_for(station.reader.window, 20, "a window")
            (features,) = encoder.encode([window])
            recorder.add(station, window, features, station.scorer.score_one(features))
        recorder.stop()
        return recorder.probation(station.reader.machine).hours * 3600 / station.reader.hop_s

    assert listen(20) == pytest.approx(20)
    assert listen(2) == pytest.approx(22)
    path = path_of(folder, station.reader.machine)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    assert listen(1) == pytest.approx(1)
    assert path.with_suffix(".damaged").read_bytes() == data
