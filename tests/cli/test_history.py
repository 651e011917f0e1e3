"""history: minutes of the real daemon, as a person and as a program read them."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from pathlib import Path

import pytest

from tests.support.daemon import asked, daemon, fitted, run, terminate, wait_for

CONFIG = """\
node: pc7
state_dir: state
mqtt: {host: 127.0.0.1, port: 1}
evidence: {enabled: false}
machines:
  - id: pump3
    source: {kind: simulated, seed: 5, sample_rate_hz: 8000, SOURCE}
    bank: banks/pump3.safetensors
    limits: {velocity_mm_s: [0.0001, 9000]}
"""
CALIBRATED = "sensor: vibration, calibration: {unit: g, full_scale: 50}"


def test_what_the_daemon_scored_is_read_back(tmp_path: Path) -> None:
    fitted(tmp_path, CONFIG.replace("SOURCE", f"pace: fast, duration_s: 60, {CALIBRATED}"))
    (tmp_path / "config.yaml").write_text(CONFIG.replace("SOURCE", CALIBRATED))
    assert "no minute of pump3" in run(tmp_path, "history", "-m", "pump3")
    began_s = time.time()
    with daemon(tmp_path) as process:

        def scored() -> bool:
            found = asked(tmp_path)
            return bool(found) and found["machines"][0]["score"] is not None

        wait_for(scored, 60, "a window is scored")
        assert re.search(
            r"pump3: Velocity, RMS 10 to 1000 Hz [0-9.]+ mm/s; .*; zone C", run(tmp_path, "status")
        )
        assert terminate(process)[0] == 0
    rows = json.loads(run(tmp_path, "history", "-m", "pump3", "--days", "0.1", "--json"))
    assert 1 <= len(rows) <= 3
    assert rows[0]["machine"] == "pump3"
    assert rows[0]["operating_state"] == "normal"
    assert rows[0]["minute_s"] % 60 == 0
    assert began_s - 60 < rows[0]["minute_s"] <= time.time()
    assert -60 < rows[0]["level_dbfs"] < 0
    middle, highest = rows[0]["measured"]["acceleration_m_s2"]
    assert 0 < middle <= highest
    assert middle == pytest.approx(50 * 9.80665 * 10 ** (rows[0]["level_dbfs"] / 20), rel=0.02)
    table = list(csv.DictReader(io.StringIO(run(tmp_path, "history", "-m", "pump3", "--csv"))))
    assert [float(line["score_max"]) for line in table] == [row["score_max"] for row in rows]
    assert [float(line["acceleration_m_s2_median"]) for line in table] == [
        row["measured"]["acceleration_m_s2"][0] for row in rows
    ]
    assert "dBFS" in run(tmp_path, "history", "-m", "pump3", apart=True)
