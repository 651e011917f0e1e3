"""`echo-stream bench`: what it measures is there, adds up, and is of the configured encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from echo_stream.cli import bench
from echo_stream.cli.app import app
from echo_stream.cli.bench import LOAD, of_size
from echo_stream.config.schema import Config, EchoEncoder, SpectralEncoder
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.echo import EchoDimensions, EchoWeights
from echo_stream.encode.encoder import make_encoder
from echo_stream.pipeline.loop import encode_windows, read_windows
from tests.cli.test_cli import refused
from tests.support.command import command

SMALLEST = {"embed_dim": 12, "depth": 1, "heads": 2}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Of the smallest net there is."""
    drawn = EchoWeights.random(EchoDimensions(embed_dim=12, encoder_depth=1, num_heads=2))
    save_file(dict(drawn.tensors), tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "MEASURE_S", 0.05)


def config_with(encoder: SpectralEncoder | EchoEncoder) -> Config:
    return Config.model_construct(node="pc", machines=(), encoder=encoder)


def adds_up(capacities: list[dict[str, Any]], hop_s: float) -> None:
    assert [at["rate_hz"] for at in capacities] == list(bench.RATES_HZ)
    for at in capacities:
        assert at["encode_ms"] > 0
        assert at["rest_ms"] > 0
        carried = LOAD * hop_s * 1e3 / (at["encode_ms"] + at["rest_ms"])
        assert at["machines"] == pytest.approx(carried, abs=1, rel=0.01)


def test_the_spectral_encoder_has_no_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "RATES_HZ", (8000, 16_000))
    first = next(bench.measure(config_with(SpectralEncoder(window_s=1.0, hop_s=0.5))))
    assert all(at.gated_machines is None for at in first.capacities)
    assert (first.encoder, first.runtime, first.runtimes_ms) == ("spectral", "", {})
    adds_up(first.to_json()["capacities"], 0.5)


def test_without_weights_it_is_random_ones_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "STAND_INS", ("tiny",))
    monkeypatch.setattr(bench, "RATES_HZ", (8000,))
    _, echo = bench.measure(config_with(SpectralEncoder()))
    assert echo.encoder == "echo tiny"
    assert "random" in echo.about
    assert echo.runtime == echo.auto
    assert {echo.auto, "plain float32"} <= set(echo.runtimes_ms)
    assert echo.capacities[0].machines > 0


def test_what_is_not_installed_is_named_and_the_rest_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("torch", "openvino"):
        monkeypatch.setitem(sys.modules, library, None)  # an import of it fails
        for module in [name for name in sys.modules if name.startswith("echo_stream.encode.")]:
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(bench, "RATES_HZ", (8000,))
    spectral, tiny, small = bench.measure(config_with(SpectralEncoder()))
    assert spectral.capacities[0].machines > 0
    for one in (tiny, small):
        assert "pip install 'echo-stream[echo]'" in one.about
        assert (one.runtime, one.capacities) == ("", [])


def test_configured_weights_are_measured_in_their_runtime_beside_what_auto_picks(weights: Path) -> None:
    settings = {"kind": "echo", "weights": weights, "dimensions": SMALLEST, "runtime": "plain"}
    found = list(bench.measure(config_with(EchoEncoder.model_validate({**settings, "window_s": 1.0}))))
    assert [one.encoder for one in found] == ["spectral", "echo"], "no stand-in where there are weights"
    echo = found[1]
    assert echo.runtime == "plain float32"
    assert echo.auto in echo.runtimes_ms
    assert "plain float32" in echo.runtimes_ms
    assert str(weights) in echo.about
    adds_up(echo.to_json()["capacities"], 1.0)


def test_a_larger_bank_scores_as_before() -> None:
    cut = SpectralEncoder()
    encoder = make_encoder("spectral", window_s=2.0)
    bank = bench._bank(encoder, 8000, cut)
    larger = of_size(bank, 1000)
    assert len(larger.references[0].start_s) == 1000
    source = bench._source(8000, 3.0, 20.0)
    features = [f for _, f in encode_windows(encoder, read_windows(source, window_s=2.0, hop_s=1.0))]
    before, after = Scorer(bank).score(features), Scorer(larger).score(features)
    assert [score.value for score in after] == pytest.approx([score.value for score in before], rel=1e-4)


def test_the_command_prints_for_people_and_for_programs(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench, "RATES_HZ", (8000, 16_000))
    (tmp_path / "config.yaml").write_text(
        f"node: pc\nencoder: {{kind: echo, weights: {weights}, hop_s: 0.5, "
        f"dimensions: {json.dumps(SMALLEST)}}}\n"
        "machines:\n  - {id: m, bank: b, source: {kind: simulated}}\n"
    )
    words = ["bench", "--config", str(tmp_path / "config.yaml")]
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0, printed.output
    for expected in (
        "auto picks it, in use",
        "16 kHz",
        "machines",
        "at a load of 70%",
        f"| {bench.this_class()} |",
    ):
        assert expected in printed.stdout
    found = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [one["encoder"] for one in found["encoders"]] == ["spectral", "echo"]
    for one in found["encoders"]:
        adds_up(one["capacities"], 0.5)


def test_energy_is_told_where_the_kernel_tells(tmp_path: Path) -> None:
    assert bench.energy_j(tmp_path) is None
    for zone, name, energy_uj in (
        ("0", "package-0", 3_000_000),
        ("0:0", "core", 9),
        ("1", "package-1", 500_000),
    ):
        (tmp_path / f"intel-rapl:{zone}").mkdir()
        (tmp_path / f"intel-rapl:{zone}" / "name").write_text(f"{name}\n")
        (tmp_path / f"intel-rapl:{zone}" / "energy_uj").write_text(f"{energy_uj}\n")
    assert bench.energy_j(tmp_path) == pytest.approx(3.5)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("")
    assert bench.energy_j(tmp_path) is None


def test_behind_the_gate_a_third_is_encoded() -> None:
    echo, spectral = bench.Capacity(16_000, 30.0, 1.0, 0), bench.Capacity(16_000, 1.0, 1.0, 0)
    assert bench.gated_ms(echo, spectral, 4) == pytest.approx(0.325 * 30 + 3)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "node: pc\nencoder: {kind: echo, weights: nowhere.safetensors}\nmachines:\n"
        "  - {id: m, bank: b, source: {kind: simulated}}\n"
    )
    refused(command("bench", cwd=tmp_path), 1, "nowhere.safetensors")
