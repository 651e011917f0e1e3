"""evaluate: the layout that it reads, the figures that it gives, and what it refuses."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import Fault, Scenario, SimulatedMachine
from echo_stream.capture.table import Columns
from echo_stream.cli.evaluate import auc, evaluate, partial_auc
from echo_stream.core.errors import EchoStreamError, Failures, SourceError
from echo_stream.core.types import Float32
from echo_stream.encode.encoder import make_encoder
from echo_stream.fit import archive

RATE = 8_000
CLIP_S = 3


def write_machine(folder: Path, seed: int, *, clips: int = 12) -> None:
    """Normal clips of one simulated machine, and clips of two of its faults."""
    for path, sound in clips_of(seed, clips).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / path, sound, RATE)


@cache
def clips_of(seed: int, clips: int) -> dict[str, Float32]:
    machine, found = SimulatedMachine(seed, RATE), {}
    for split, kind, start_s, count in (
        ("train", None, 0, clips),
        ("test", None, 1000, 5),
        ("test", "bearing", 2000, 3),
        ("test", "rattle", 3000, 3),
    ):
        faults = [Fault(kind, 0.0)] if kind else []  # type: ignore[arg-type]
        scenario = Scenario(machine, faults)
        for n in range(count):
            name = f"anomaly_{kind}_x_{n}" if kind else f"normal_day{n // 2}_{n}"
            found[f"{split}/{name}.wav"] = scenario.render((start_s + 5 * n) * RATE, CLIP_S * RATE)
    return found


def test_machines_at_any_depth_with_their_kinds(tmp_path: Path) -> None:
    write_machine(tmp_path / "a", 5)
    write_machine(tmp_path / "plant/b", 7)
    told: list[tuple[float, float, str]] = []
    found = evaluate(
        tmp_path,
        make_encoder("spectral", window_s=2.0),
        window_s=2.0,
        hop_s=1.0,
        progress=lambda *at: told.append(at),
    )
    assert [machine["machine"] for machine in found["machines"]] == ["a", "plant/b"]
    for machine in found["machines"]:
        assert machine["train"] == {"clips": 12, "recordings": 6}
        assert machine["test_normal"] == {"clips": 5, "recordings": 3}
        assert set(machine["kinds"]) == {"bearing", "rattle"}
        assert machine["kinds"]["rattle"]["auc"] == 1.0
        assert machine["auc"] > 0.9
        announced = machine["announced"]
        assert announced["of"] == machine["test_anomaly"]["clips"]
        assert announced["of"] == sum(kind["announced"]["of"] for kind in machine["kinds"].values())
        assert announced["strong"] + announced["step"] + announced["slow"] > announced["of"] / 2
        rattles = machine["kinds"]["rattle"]["announced"]
        assert rattles["strong"] + rattles["step"] == rattles["of"], "what is so loud is found in seconds"
        assert machine["announced_normal"]["of"] == machine["test_normal"]["clips"]
        files = machine["files"]
        assert sorted({file["label"] for file in files}) == ["anomaly", "normal"]
        assert len(files) == 11
        assert all(np.isfinite(file["score"]) for file in files)
    assert found["mean_auc"] == pytest.approx(np.mean([machine["auc"] for machine in found["machines"]]))
    assert told[-1] == (46 * 2 * 1.0, 46 * 2 * 1.0, "45 of 46 recordings, 0.0 of 0.0 h")


def test_a_folder_that_is_a_machine(tmp_path: Path) -> None:
    write_machine(tmp_path / "fan", 5)
    encoder = make_encoder("spectral", window_s=10.0)
    found = evaluate(tmp_path / "fan", encoder, window_s=10.0, hop_s=5.0)  # all clips are shorter
    assert [machine["machine"] for machine in found["machines"]] == ["fan"]
    for clip in sorted((tmp_path / "fan").rglob("*.wav"))[::3]:
        np.savetxt(clip.with_suffix(".csv"), soundfile.read(clip)[0], fmt="%.9g", header="g", comments="")
        clip.unlink()
    tables = evaluate(tmp_path / "fan", encoder, window_s=10.0, hop_s=5.0, columns=Columns(RATE, "g"))
    for one in (found, tables):
        one["machines"][0].pop("files")  # of which names end in .csv now
    assert tables == found


def test_processes_and_a_resumed_run_give_the_same_scores(tmp_path: Path) -> None:
    write_machine(tmp_path / "a", 5)
    encoder = make_encoder("spectral", window_s=1.0)
    cut: dict[str, Any] = {"window_s": 1.0, "hop_s": 0.5}
    alone = evaluate(tmp_path, encoder, workers=1, **cut)
    assert evaluate(tmp_path, encoder, workers=2, **cut) == alone
    kept = tmp_path / "kept"

    def stop(done_s: float, total_s: float, at: str) -> None:
        if done_s > total_s / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(tmp_path, encoder, resume=kept, workers=1, progress=stop, **cut)
    done = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert 0 < len(done) < 23
    assert evaluate(tmp_path, encoder, resume=kept, workers=1, **cut) == alone
    assert {path: path.stat().st_mtime_ns for path in done} == done


def test_of_too_many_training_windows_pieces_are_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_machine(tmp_path / "a", 5)
    monkeypatch.setattr(archive, "MOST_WINDOWS", 30)
    (machine,) = evaluate(tmp_path, make_encoder("spectral", window_s=1.0), window_s=1.0, hop_s=0.5)[
        "machines"
    ]
    assert machine["train_windows"] == {"learnt": 30, "of": 60}
    assert machine["train"]["clips"] == 12
    assert machine["auc"] > 0.9


@pytest.mark.parametrize("what", ["nothing", "name", "short"])
def test_what_it_refuses(tmp_path: Path, what: str) -> None:
    write_machine(tmp_path / "a", 5)
    said = "no machine in it"
    folder = tmp_path
    if what == "nothing":
        folder = tmp_path / "a/test"
    elif what == "name":
        (tmp_path / "a/test/normal_day0_0.wav").rename(tmp_path / "a/test/ok_0.wav")
        said = "ok_0.wav: the name does not say what it is"
    else:
        soundfile.write(tmp_path / "a/test/normal_short_0.wav", np.ones(RATE // 2), RATE)
        said = "normal_short_0.wav: shorter than a window of 2 s"
    with pytest.raises(SourceError, match=said):
        evaluate(folder, make_encoder("spectral", window_s=2.0), window_s=2.0, hop_s=1.0)


def test_auc_counts_ties_half() -> None:
    assert auc(np.array([0.0, 1.0]), np.array([1.0, 2.0])) == 0.875
    assert auc(np.array([1.0]), np.array([1.0])) == 0.5


def test_partial_auc_is_that_of_dcase() -> None:
    generator = np.random.default_rng(0)
    normal, anomalous = generator.normal(0, 1, 300), generator.normal(1, 1, 300)
    fpr = np.linspace(0, 0.1, 10_001)
    levels = np.quantile(normal, 1 - fpr, method="inverted_cdf")
    area = np.trapezoid([(anomalous > level).mean() for level in levels], fpr)
    standardised = 0.5 * (1 + (area - 0.005) / (0.1 - 0.005))
    assert partial_auc(normal, anomalous) == pytest.approx(standardised, abs=0.01)
    assert partial_auc(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == 1.0
    assert partial_auc(normal, generator.normal(0, 1, 300)) == pytest.approx(0.5, abs=0.05)


def test_bad_clips_are_left_out_and_named_together(tmp_path: Path) -> None:
    """One that is truncated, one whose name does not say what it is, one of another system."""
    folder = tmp_path / "a"
    write_machine(folder, 5)
    one = folder / "test" / "normal_day0_0.wav"
    (one.parent / "anomaly_cut_9.wav").write_bytes(one.read_bytes()[:5000])
    (one.parent / "holiday.wav").write_bytes(one.read_bytes())
    (one.parent / "._normal_1.wav").write_bytes(b"\0\x05\x16\x07" + bytes(4000))
    failures = Failures()
    encoder = make_encoder("spectral", window_s=1.0)
    found = evaluate(tmp_path, encoder, window_s=1.0, hop_s=0.5, failures=failures)
    assert len(found["machines"][0]["files"]) == 11
    with pytest.raises(EchoStreamError) as error:
        failures.raise_any("clips")
    assert error.value.message.startswith("2 clips were left out:\n")
    assert "anomaly_cut_9.wav: truncated" in error.value.message
    assert "holiday.wav: the name does not say" in error.value.message
