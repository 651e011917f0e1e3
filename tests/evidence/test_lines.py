"""Lines of shaft, gear and bearing: where they lie, that faults are named, and that nothing else is."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

from benchmarks.lines import BEARING_6205, RATE_HZ, Defect, bearing_sound
from echo_stream.capture.simulator import SimulatedMachine
from echo_stream.core.types import Float32
from echo_stream.evidence.lines import lines_hz, name_lines
from echo_stream.evidence.picture import TELEPHONE_BYTES, draw
from echo_stream.evidence.store import list_events, telephone_path

RPM = 1480.0
EXPECTED = lines_hz(RPM, 23, BEARING_6205)
BAND_HZ = (3_200.0, 4_000.0)


@pytest.fixture(scope="module")
def normals() -> list[Float32]:
    return [bearing_sound(np.random.default_rng(n), 10.0, RPM, "") for n in range(6)]


def test_a_6205_has_the_lines_of_its_catalogue() -> None:
    """The multiples that Case Western Reserve University gives for the bearing of its data set."""
    turns = {name: hz * 60 / RPM for name, hz in EXPECTED.items()}
    given = {
        "1x": 1.0,
        "2x": 2.0,
        "gear mesh": 23.0,
        "BPFO": 3.5848,
        "BPFI": 5.4152,
        "2xBSF": 4.7135,
        "FTF": 0.39828,
    }
    assert turns == pytest.approx(given, rel=1e-3)
    assert lines_hz(600, None, (10, 10.0, 50.0, 60.0))["BPFO"] == pytest.approx(50 * (1 - 0.2 * 0.5))
    assert set(lines_hz(600)) == {"1x", "2x"}


@pytest.mark.parametrize("defect", ["BPFO", "BPFI", "2xBSF"])
def test_a_defect_is_named_by_its_line(normals: list[Float32], defect: Defect) -> None:
    present = bearing_sound(np.random.default_rng(99), 15.0, RPM, defect, -6.0)
    found = {each.name: each for each in name_lines(present, normals, RATE_HZ, EXPECTED, BAND_HZ)}
    mine = found[defect]
    assert mine.modulates
    assert mine.found_hz == pytest.approx(EXPECTED[defect], rel=0.015)
    assert mine.to_text() == f"modulated with {mine.found_hz:.1f} Hz = {defect} ({EXPECTED[defect]:.1f})"
    # An inner race turns through the load zone with the shaft, a ball with the cage: they are there too.
    assert set(found) <= {defect, "1x", "2x", *(("FTF",) if defect == "2xBSF" else ())}


def test_unbalance_is_named_by_the_shaft(normals: list[Float32]) -> None:
    at_s = np.arange(15 * RATE_HZ) / RATE_HZ
    sound = bearing_sound(np.random.default_rng(98), 15.0, RPM, "")
    shaft = (0.03 * np.sin(2 * np.pi * 0.995 * RPM / 60 * at_s)).astype(np.float32)
    named = name_lines(sound + shaft, normals, RATE_HZ, EXPECTED)
    assert [(each.name, each.modulates) for each in named] == [("1x", False)]
    assert named[0].found_hz == pytest.approx(24.54, abs=0.1)
    assert " dB at 24.6 Hz = 1x (24.7)" in named[0].to_text() or " dB at 24.5 Hz = 1x" in named[0].to_text()


@pytest.mark.parametrize("change", ["nothing", "louder", "hiss", "knocks at 60 Hz", "wrong speed"])
def test_nothing_is_named_where_no_line_stands_out(normals: list[Float32], change: str) -> None:
    draw_ = np.random.default_rng(97)
    present, expected = bearing_sound(draw_, 15.0, RPM, ""), EXPECTED
    if change == "louder":
        present = present * np.float32(1.5)
    elif change == "hiss":
        present = present + draw_.normal(0, 0.03, len(present)).astype(np.float32)
    elif change == "knocks at 60 Hz":
        hits = np.zeros(len(present))
        hits[:: round(RATE_HZ / 60)] = 0.3
        present = present + np.convolve(hits, np.hanning(8))[: len(present)].astype(np.float32)
    elif change == "wrong speed":
        present = bearing_sound(draw_, 15.0, RPM, "BPFO", -6.0)
        expected = {name: 1.06 * hz for name, hz in EXPECTED.items()}
    assert name_lines(present, normals, RATE_HZ, expected, BAND_HZ) == []


def test_without_normal_sound_or_in_too_little_sound_nothing_is_named(normals: list[Float32]) -> None:
    present = bearing_sound(np.random.default_rng(96), 15.0, RPM, "BPFO")
    assert name_lines(present, [], RATE_HZ, EXPECTED, BAND_HZ) == []
    assert name_lines(present[: RATE_HZ // 2], normals, RATE_HZ, EXPECTED, BAND_HZ) == []
    silence = np.zeros(10 * RATE_HZ, np.float32)
    assert name_lines(silence, [silence], RATE_HZ, EXPECTED) == []


def test_the_bearing_of_the_simulated_machine_is_named_in_its_evidence(tmp_path: Path) -> None:
    """From the files alone, as the process that draws has them; a clip that is gone is done without."""
    machine = SimulatedMachine(3, 16_000)
    balls = round(machine.defects_per_turn / 0.4)
    expected = lines_hz(
        60 * machine.shaft_hz, None, (balls, 40 * (1 - 2 * machine.defects_per_turn / balls), 40.0, 0.0)
    )
    assert expected["BPFO"] == pytest.approx(machine.defect_hz)
    kept = []
    for n in range(3):
        soundfile.write(tmp_path / f"{n}.flac", machine.sound(10, start_s=20.0 * n), 16_000, subtype="PCM_24")
        kept.append({"path": str(tmp_path / f"{n}.flac"), "full_scale": 1.0})
    sound = np.concatenate([machine.sound(5, start_s=195), machine.sound(12, "bearing", start_s=200)])
    folder = tmp_path / "pump3"
    folder.mkdir()
    document = folder / "20261126T090000Z_pump3_A.json"
    soundfile.write(document.with_suffix(".flac"), sound, 16_000, subtype="PCM_24")
    event: dict[str, Any] = {
        "event_id": "A",
        "machine": "pump3",
        "ts": "2026-11-26T09:00:00+00:00",
        "level": "alarm",
    }
    event |= {"score": 3.5, "threshold": 2.1}
    written = {
        "schema": 1,
        "event": event,
        "complete": True,
        "clip": {
            **{"file": document.with_suffix(".flac").name, "sample_rate_hz": 16_000, "full_scale": 1.0},
            **{"duration_s": 17.0, "alarm_s": 8.0, "onset_s": 5.0},
        },
        "bands_hz": [[1000.0, 2000.0, 2.4]],
        "normal": None,
        "lines_hz": expected,
        "normal_sound": [*kept, {"path": str(tmp_path / "gone.flac"), "full_scale": 1.0}],
    }
    small = telephone_path(document)
    document.write_text(json.dumps({**written, "lines_hz": {}}))
    draw(document, telephone_only=True)
    unnamed = small.read_bytes()
    document.write_text(json.dumps(written))
    draw(document)
    assert small.read_bytes() != unnamed, "the small picture names the line"
    assert len(small.read_bytes()) < TELEPHONE_BYTES
    long = {**event, "machine": "W" + "m" * 63, "level": "warning"}
    document.write_text(json.dumps({**written, "event": long}))
    draw(document, telephone_only=True)
    head = np.asarray(Image.open(small).convert("L"))[:40]
    assert head[:, :700].min() < 100 < head[:, 790:].min(), "a long name is written small, and whole"
    document.write_text(json.dumps(written))
    draw(document)
    lines = list_events(tmp_path)[0].lines
    assert any(f"= BPFO ({machine.defect_hz:.1f})" in line for line in lines)
    assert math.isclose(
        json.loads(document.read_text())["lines"][0]["found_hz"], machine.defect_hz, rel_tol=0.02
    )
