"""Every runtime and precision against the net as it is written in echo.py, and how one is chosen."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from echo_stream.core.errors import EncoderError
from echo_stream.encode.choice import Choice, choose
from echo_stream.encode.echo import EchoDimensions, EchoModel
from echo_stream.encode.echo_encoder import EchoEncoder
from echo_stream.encode.runtime import PROMISED_COSINE, Workers, build
from tests.encode.conftest import GOLDEN_DIMENSIONS, MakeWindow, usable_runtimes
from tests.encode.test_echo_golden import CASES, TOLERANCE, golden

RUNTIMES = usable_runtimes()
EXACT = [name for name, precision in RUNTIMES if precision == "float32"]


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers()


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> EchoModel:
    return EchoModel.from_checkpoint(tiny_weights, "tiny")


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("case", [case for case in CASES if case != "case3"])  # that one is longer than 20 s
def test_float32_gives_the_golden_features(
    golden_weights: Path, make_window: MakeWindow, name: str, case: str
) -> None:
    rate, expected = golden(case)
    encoder = EchoEncoder.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS, name, "float32")
    window = make_window(rate=rate, seconds=expected["audio"].shape[1] / rate)
    window.samples[:] = expected["audio"][0].numpy()
    [features] = encoder.encode([window])
    utterance, segments = torch.from_numpy(features.window), torch.from_numpy(features.segments)
    torch.testing.assert_close(utterance.flatten(), expected["utterance"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(segments.flatten(1), expected["segment"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_promised_nearness(tiny: EchoModel, make_window: MakeWindow, name: str, precision: str) -> None:
    """Of every band's window and segment features, over sounds other than those tried at start."""
    windows = [
        make_window("hum", 48000, 2.0, seed=11),
        make_window("slow", 8000, 2.0, seed=12),
        make_window("short", 44100, 0.5, seed=13),
        make_window("long", 2000, 12.0, seed=14),
        make_window("click", 16000, 2.0, seed=15),
        make_window("faint", 16000, 2.0, seed=16),
        make_window("silent", 16000, 2.0, seed=17),
    ]
    windows[4].samples[::4000] += 0.9
    windows[5].samples[:] *= 1e-4
    windows[6].samples[:] = 0.0
    exact = EchoEncoder(tiny, "plain", "float32").encode(windows)
    for one, other in zip(exact, EchoEncoder(tiny, name, precision).encode(windows), strict=True):
        for ours, theirs in ((one.window, other.window), (one.segments, other.segments)):
            cosine = torch.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(theirs), dim=-1)
            assert cosine.min() >= PROMISED_COSINE[precision]
            assert cosine.max() <= 1 + 1e-5


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_bands_share_nothing(tiny: EchoModel, workers: Workers, name: str, precision: str) -> None:
    """Any number of bands, cut into jobs anyhow and padded, gives each band the same tokens."""
    runtime = build(tiny, name, precision)
    generator = torch.Generator().manual_seed(2)
    patches = torch.randn(95, 3, 512, generator=generator)
    frequency = torch.randn(95, 192, generator=generator)
    together = workers.run(runtime, patches, frequency)
    assert together.shape == (95, 4, 192)
    for rows in (1, 2, 7, 11):
        fewer = workers.run(runtime, patches[-rows:], frequency[-rows:])
        torch.testing.assert_close(fewer, together[-rows:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_results_outlive_the_next_call(tiny: EchoModel, workers: Workers, name: str, precision: str) -> None:
    runtime = build(tiny, name, precision)
    patches, frequency = torch.randn(5, 2, 512), torch.randn(5, 192)
    first = workers.run(runtime, patches, frequency)
    kept = first.clone()
    workers.run(runtime, -patches, -frequency)
    assert torch.equal(first, kept)


def test_auto_chooses_and_remembers(golden_weights: Path, workers: Workers, tmp_path: Path) -> None:
    model = EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    runtime, choice = choose(model, workers, "auto", "auto", cache)
    measured = choice.milliseconds
    assert (runtime.name, runtime.precision) == (choice.runtime, choice.precision)
    assert "plain float32" in measured
    assert measured[f"{choice.runtime} {choice.precision}"] <= measured["plain float32"]
    assert set(measured) <= {" ".join(known) for known in RUNTIMES}
    _, again = choose(model, workers, "auto", "auto", cache)
    assert again == choice


def remembered(cache: Path, **changes: str) -> None:
    """Makes the file name a choice that was not made, so that reading it shows in the result."""
    kept = json.loads(cache.read_text())
    kept["choice"] = {"runtime": "torch", "precision": "float32", "milliseconds": {}} | changes
    cache.write_text(json.dumps(kept))


def test_what_is_remembered_is_not_measured_again(
    golden_weights: Path, workers: Workers, tmp_path: Path
) -> None:
    model = EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    choose(model, workers, "auto", "auto", cache)
    remembered(cache)
    runtime, choice = choose(model, workers, "auto", "auto", cache)
    assert choice == Choice("torch", "float32")
    assert (runtime.name, runtime.precision) == ("torch", "float32")


@pytest.mark.parametrize("change", ["cpu", "cpu_flags_sha256", "cores", "versions", "weights_sha256"])
def test_another_machine_measures_anew(
    golden_weights: Path, workers: Workers, tmp_path: Path, change: str
) -> None:
    model = EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    choose(model, workers, "plain", "auto", cache)
    kept = json.loads(cache.read_text())
    kept["key"][change] = "other"
    cache.write_text(json.dumps(kept))
    remembered(cache, precision="int8")
    _, choice = choose(model, workers, "plain", "auto", cache)
    assert set(choice.milliseconds) == {"plain float32"}
    assert json.loads(cache.read_text())["key"][change] != "other"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"choice": {"runtime": "torch"}}', '{"key": {}, "choice": {"colour": 1}}']
)
def test_a_damaged_memory_is_replaced(
    golden_weights: Path, workers: Workers, tmp_path: Path, text: str
) -> None:
    model = EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    cache.write_text(text)
    _, choice = choose(model, workers, "plain", "auto", cache)
    assert json.loads(cache.read_text())["choice"]["runtime"] == choice.runtime == "plain"


def test_a_memory_that_cannot_be_written_is_done_without(
    golden_weights: Path, workers: Workers, tmp_path: Path
) -> None:
    model = EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    _, choice = choose(model, workers, "plain", "auto", tmp_path / "no-such-folder" / "runtime.json")
    assert choice.runtime == "plain"


def test_what_is_asked_for_by_name_is_built_or_refused(golden_weights: Path, workers: Workers) -> None:
    model = EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    for name, precision in RUNTIMES:
        runtime, choice = choose(model, workers, name, precision, None)
        assert (runtime.name, runtime.precision) == (name, precision)
        assert choice == Choice(name, precision)
    with pytest.raises(EncoderError, match=r"'plain' with .* 'int8' is unknown"):
        choose(model, workers, "plain", "int8", None)
    with pytest.raises(EncoderError, match="'tensorflow' with"):
        choose(model, workers, "tensorflow", "float32", None)
    with pytest.raises(EncoderError, match=r"nothing here computes encoder\.runtime 'tensorflow'"):
        choose(model, workers, "tensorflow", "auto", None)


def test_a_broken_promise_is_refused_by_name_and_left_out_by_auto(workers: Workers) -> None:
    """Weights on which eight bits do not suffice: a few numbers far above the rest in each layer."""
    from tests.encode.conftest import random_weights

    size = EchoDimensions(embed_dim=64, encoder_depth=6, num_heads=2)
    model = EchoModel(size).eval().requires_grad_(False)
    weights = random_weights(size, seed=3)
    for name, tensor in weights.items():
        if name.endswith(("in_proj_weight", "linear1.weight", "linear2.weight")):
            tensor[:, 0] *= 300
    model.load_state_dict(weights)
    with pytest.raises(EncoderError, match=r"torch int8 is too far from float32 .* promised 0.999"):
        choose(model, workers, "torch", "int8", None)
    _, choice = choose(model, workers, "torch", "auto", None)
    assert "torch int8" not in choice.milliseconds
    assert "torch float32" in choice.milliseconds


def test_auto_takes_no_precision_that_rounds_differences_away(tiny_weights: Path, workers: Workers) -> None:
    """With random weights windows of one machine are so alike that bfloat16 hides what tells them apart."""
    model = EchoModel.from_checkpoint(tiny_weights, "tiny")
    _, choice = choose(model, workers, "torch", "auto", None)
    assert choice.precision == "float32"
    assert list(choice.milliseconds) == ["torch float32"]
    if ("torch", "bfloat16") in usable_runtimes():
        assert choose(model, workers, "torch", "bfloat16", None)[1].precision == "bfloat16"


def test_without_openvino() -> None:
    """In a process where openvino cannot be imported: refused by name, left out by auto."""
    program = (
        "import sys; sys.modules['openvino'] = None\n"
        "from echo_stream.encode.echo import EchoDimensions, EchoModel\n"
        "from echo_stream.encode.runtime import build\n"
        "from echo_stream.core.errors import EncoderError\n"
        "model = EchoModel(EchoDimensions(embed_dim=8, encoder_depth=1, num_heads=1))\n"
        "try: build(model, 'openvino', 'float32')\n"
        "except EncoderError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "openvino is not installed" in done.stdout
    assert "pip install" in done.stdout


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_openvino_begins_in_two_threads_at_once() -> None:
    """The first inference of a process, wanted by two threads: it once waited for itself for ever."""
    program = (
        "import torch\n"
        "from echo_stream.encode.echo import EchoDimensions, EchoModel\n"
        "from echo_stream.encode.runtime import Workers, build\n"
        "model = EchoModel(EchoDimensions(embed_dim=8, encoder_depth=1, num_heads=1)).eval()\n"
        "[weight.copy_(torch.zeros(weight.shape)) for weight in model.state_dict().values()]\n"
        "workers = Workers()\n"
        "runtime = workers.call(build, model, 'openvino', 'float32')\n"
        "print(tuple(workers.run(runtime, torch.zeros(20, 2, 512), torch.zeros(20, 8)).shape))"
    )
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.strip() == "(20, 3, 8)"


def test_small_fits_every_runtime(workers: Workers) -> None:
    """The other published width, in two layers: six heads, and shapes that nothing was tuned on."""
    from tests.encode.conftest import random_weights

    size = EchoDimensions(embed_dim=384, encoder_depth=2, num_heads=6)
    model = EchoModel(size).eval().requires_grad_(False)
    model.load_state_dict(random_weights(size, seed=4))
    for name, precision in RUNTIMES:
        choose(model, workers, name, precision, None)  # refuses what is not as near as promised
