"""Every runtime and precision against the reference net, and how one is chosen."""

from __future__ import annotations

import json
import os
import pickle
import platform
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from echo_stream.core.errors import EncoderError, MissingExtra, PrecisionUnavailable
from echo_stream.core.types import Features, Window
from echo_stream.encode.echo import EchoDimensions, EchoWeights
from echo_stream.encode.echo_encoder import EchoEncoder
from echo_stream.encode.runtime import (
    GPU,
    KNOWN,
    PROMISED_COSINE,
    Choice,
    Runtime,
    Workers,
    build,
    choose,
    class_of,
    cpu,
)
from tests.encode.conftest import GOLDEN_DIMENSIONS, INSTRUCTIONS_HIDDEN, MakeWindow, usable_runtimes
from tests.encode.test_echo_golden import CASES, TOLERANCE, golden

AVX = {"AVX-512 + bf16", "AVX-512", "AVX2"}
RUNTIMES = usable_runtimes()
needs_openvino = pytest.mark.skipif(
    ("openvino", "float32") not in RUNTIMES, reason="openvino is not installed, or instructions are hidden"
)
EXACT = [name for name, precision in RUNTIMES if precision == "float32"]


@pytest.fixture(scope="module")
def workers() -> Workers:
    return Workers()


@pytest.fixture(scope="module")
def tiny(tiny_weights: Path) -> EchoWeights:
    return EchoWeights.from_checkpoint(tiny_weights, "tiny")


@pytest.fixture(scope="module")
def built(tiny: EchoWeights) -> Callable[[str, str], Runtime]:
    """Runtimes of that net, each built once; they compile anew for another number of patches than 3."""
    return cache(partial(build, tiny))


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


@pytest.fixture(scope="module")
def sounds(make_window: MakeWindow) -> list[Window]:
    """Other sounds than those tried at start."""
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
    return windows


@pytest.fixture(scope="module")
def exact(tiny: EchoWeights, sounds: list[Window]) -> list[Features]:
    return EchoEncoder(tiny, "plain", "float32").encode(sounds)


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_promised_nearness(
    tiny: EchoWeights, sounds: list[Window], exact: list[Features], name: str, precision: str
) -> None:
    """Of every band's window and segment features."""
    for one, other in zip(exact, EchoEncoder(tiny, name, precision).encode(sounds), strict=True):
        for ours, theirs in ((one.window, other.window), (one.segments, other.segments)):
            cosine = torch.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(theirs), dim=-1)
            assert cosine.min() >= PROMISED_COSINE[precision]
            assert cosine.max() <= 1 + 1e-5


@pytest.mark.parametrize("from_file", [True, False])
def test_another_process_gets_the_same_encoder(
    golden_weights: Path, make_window: MakeWindow, from_file: bool
) -> None:
    if from_file:
        encoder = EchoEncoder.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS, "plain", "float32")
    else:
        model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
        encoder = EchoEncoder(model, "plain", "float32")
    again: EchoEncoder = pickle.loads(pickle.dumps(encoder))
    assert (again.identity, again.computed_by) == (encoder.identity, encoder.computed_by)
    window = make_window("hum", 16000, 2.0, seed=11)
    (one,), (other,) = encoder.encode([window]), again.encode([window])
    assert np.array_equal(one.window, other.window)


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_bands_share_nothing(
    built: Callable[[str, str], Runtime], workers: Workers, name: str, precision: str
) -> None:
    """Any number of bands, cut into jobs anyhow and padded, gives each band the same tokens."""
    runtime = built(name, precision)
    generator = np.random.default_rng(2)
    patches = generator.standard_normal((95, 3, 512), np.float32)
    frequency = generator.standard_normal((95, 192), np.float32)
    together = workers.run(runtime, patches, frequency)
    assert together.shape == (95, 4, 192)
    for rows in (1, 2, 7, 11):
        fewer = workers.run(runtime, patches[-rows:], frequency[-rows:])
        np.testing.assert_allclose(fewer, together[-rows:], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "precision"), RUNTIMES)
def test_results_outlive_the_next_call(
    built: Callable[[str, str], Runtime], workers: Workers, name: str, precision: str
) -> None:
    runtime = built(name, precision)
    generator = np.random.default_rng(3)
    patches, frequency = generator.random((5, 3, 512), np.float32), generator.random((5, 192), np.float32)
    first = workers.run(runtime, patches, frequency)
    kept = first.copy()
    workers.run(runtime, -patches, -frequency)
    np.testing.assert_array_equal(first, kept)


def test_auto_chooses_and_remembers(golden_weights: Path, workers: Workers, tmp_path: Path) -> None:
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
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
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    choose(model, workers, "auto", "auto", cache)
    remembered(cache)
    runtime, choice = choose(model, workers, "auto", "auto", cache)
    assert choice == Choice("torch", "float32")
    assert (runtime.name, runtime.precision) == ("torch", "float32")


@pytest.mark.parametrize(
    "change", ["cpu", "cpu_flags_sha256", "cpu_limits", "cores", "versions", "weights_sha256"]
)
def test_another_machine_measures_anew(
    golden_weights: Path, workers: Workers, tmp_path: Path, change: str
) -> None:
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    choose(model, workers, "plain", "auto", cache)
    kept = json.loads(cache.read_text())
    kept["key"][change] = "other"
    cache.write_text(json.dumps(kept))
    remembered(cache, precision="bfloat16")
    _, choice = choose(model, workers, "plain", "auto", cache)
    assert set(choice.milliseconds) == {"plain float32"}
    assert json.loads(cache.read_text())["key"][change] != "other"


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"choice": {"runtime": "torch"}}', '{"key": {}, "choice": {"colour": 1}}']
)
def test_a_damaged_memory_is_replaced(
    golden_weights: Path, workers: Workers, tmp_path: Path, text: str
) -> None:
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    cache = tmp_path / "runtime.json"
    cache.write_text(text)
    _, choice = choose(model, workers, "plain", "auto", cache)
    assert json.loads(cache.read_text())["choice"]["runtime"] == choice.runtime == "plain"


def test_a_memory_that_cannot_be_written_is_done_without(
    golden_weights: Path, workers: Workers, tmp_path: Path
) -> None:
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    _, choice = choose(model, workers, "plain", "auto", tmp_path / "no-such-folder" / "runtime.json")
    assert choice.runtime == "plain"


def test_what_is_asked_for_by_name_is_built_or_refused(golden_weights: Path, workers: Workers) -> None:
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    for name, precision in RUNTIMES:
        runtime, choice = choose(model, workers, name, precision, None)
        assert (runtime.name, runtime.precision) == (name, precision)
        assert choice == Choice(name, precision)
    with pytest.raises(EncoderError, match=r"'plain' with .* 'bfloat16' is unknown"):
        choose(model, workers, "plain", "bfloat16", None)
    with pytest.raises(EncoderError, match="'tensorflow' with"):
        choose(model, workers, "tensorflow", "float32", None)
    with pytest.raises(EncoderError, match=r"no runtime on this PC computes encoder\.runtime 'tensorflow'"):
        choose(model, workers, "tensorflow", "auto", None)


def test_what_this_cpu_has_not_is_refused_by_name(golden_weights: Path, workers: Workers) -> None:
    """What it has is built, by the test above, and as near as promised: `test_promised_nearness`."""
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    for name, precision in set(KNOWN) - set(RUNTIMES):
        if name == GPU:
            with pytest.raises((EncoderError, MissingExtra), match="openvino-gpu'"):
                choose(model, workers, name, precision, None)
        elif name == "openvino" and INSTRUCTIONS_HIDDEN:
            with pytest.raises(EncoderError, match="hides what this CPU has"):
                choose(model, workers, name, precision, None)
        elif name != "openvino" or find_spec("openvino") is not None:
            with pytest.raises(PrecisionUnavailable, match=f"{name} computes in float32 only") as refused:
                choose(model, workers, name, precision, None)
            assert refused.value.exit_code == 78


def test_a_gpu_is_taken_by_its_name_only(golden_weights: Path, workers: Workers) -> None:
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    _, choice = choose(model, workers, "auto", "float32", None)
    assert choice.milliseconds
    assert not any(name.startswith(GPU) for name in choice.milliseconds)
    openvino = pytest.importorskip("echo_stream.encode.runtime_openvino")
    openvino.require_device("GPU", ["CPU", "GPU.0", "GPU.1"])
    openvino.require_device("GPU", ["CPU", "GPU"])
    with pytest.raises(EncoderError, match="OpenVINO finds no GPU here, only CPU, NPU"):
        openvino.require_device("GPU", ["CPU", "NPU"])


@pytest.mark.parametrize(
    ("about", "machine", "expected"),
    [
        ({"flags": "sse4_2 avx2 avx512f avx512_bf16"}, "x86_64", "AVX-512 + bf16"),
        ({"flags": "avx2 avx512f"}, "x86_64", "AVX-512"),
        ({"flags": "avx avx2 fma"}, "x86_64", "AVX2"),
        ({"flags": "avx"}, "x86_64", "x86_64"),
        ({"Features": "fp asimd"}, "aarch64", "aarch64"),
        ({}, "riscv64", "riscv64"),
    ],
)
def test_classes_of_pcs(about: dict[str, str], machine: str, expected: str) -> None:
    assert class_of(about, machine) == expected


def test_bfloat16_is_what_is_computed_where_it_is_said(
    built: Callable[[str, str], Runtime], workers: Workers
) -> None:
    """Rounding shows in the tokens: a runtime that computed in float32 all the same would agree to 1e-6."""
    generator = np.random.default_rng(2)
    patches = generator.standard_normal((10, 3, 512), np.float32)
    frequency = generator.standard_normal((10, 192), np.float32)
    exact = workers.run(built("plain", "float32"), patches, frequency)
    for name, precision in RUNTIMES:
        away = np.abs(workers.run(built(name, precision), patches, frequency) - exact).max()
        assert (away > 1e-3) == (precision == "bfloat16")


def test_a_broken_promise_is_refused_by_name_and_left_out_by_auto(
    golden_weights: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No float32 is as near as that."""
    weights = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    monkeypatch.setitem(PROMISED_COSINE, "float32", 1.5)
    with pytest.raises(EncoderError, match=r"torch float32 is too far from float32 .* promised 1.5"):
        choose(weights, workers, "torch", "float32", None)
    with pytest.raises(EncoderError, match="promised"):
        choose(weights, workers, "auto", "float32", None)


def test_auto_takes_no_precision_that_rounds_differences_away(golden_weights: Path, workers: Workers) -> None:
    """With these weights windows of one machine are so alike that bfloat16 hides what tells them apart."""
    model = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    _, choice = choose(model, workers, "auto", "auto", None)
    assert choice.precision == "float32"
    assert all(label.endswith("float32") for label in choice.milliseconds)


@cache
def chosen_without(missing: tuple[str, ...], *runtimes: str, limit: str = "") -> list[str]:
    """What a process chooses, or says, for each, in which these libraries cannot be imported."""
    program = (
        f"import sys; sys.modules |= dict.fromkeys({missing})\n"
        "from echo_stream.encode.echo import EchoDimensions, EchoWeights\n"
        "from echo_stream.encode.runtime import Workers, choose\n"
        "from echo_stream.core.errors import EchoStreamError\n"
        "import logging, structlog\n"
        "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))\n"
        "weights = EchoWeights.random(EchoDimensions(embed_dim=8, encoder_depth=1, num_heads=1))\n"
        "for name in sys.argv[1:]:\n"
        "    precision = 'auto' if name == 'auto' else 'float32'\n"
        "    try: print(*choose(weights, Workers(), name, precision, None)[1].milliseconds, end='\\0')\n"
        "    except EchoStreamError as error: print(type(error).__name__, error.exit_code, error, end='\\0')"
    )
    command = [sys.executable, "-c", program, *runtimes]
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": limit}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return done.stdout.split("\0")[:-1]


WITHOUT_TORCH = (("torch",), "plain", "torch", "auto")
WITHOUT_OPENVINO = (("openvino",), "openvino", "auto")


def test_what_is_not_installed_names_its_extra() -> None:
    openvino, _ = chosen_without(*WITHOUT_OPENVINO)
    assert "MissingExtra 1" in openvino
    assert "pip install 'echo-stream[echo]'" in openvino
    for said in chosen_without(*WITHOUT_TORCH)[:2]:
        assert "MissingExtra 1" in said
        assert "pip install 'echo-stream[torch]'" in said
    (neither,) = chosen_without(("torch", "openvino"), "auto")
    assert "MissingExtra 1" in neither
    assert "pip install 'echo-stream[echo]'" in neither


@needs_openvino
def test_auto_makes_do_with_what_is_installed() -> None:
    found = chosen_without(*WITHOUT_TORCH)[2]
    assert "torch" not in found
    assert "openvino float32" in found
    found = chosen_without(*WITHOUT_OPENVINO)[1]
    assert "openvino" not in found
    assert "plain float32" in found


@pytest.mark.skipif(class_of(cpu(), platform.machine()) not in AVX, reason="this CPU has no AVX")
@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_a_variable_that_hides_instructions_is_refused_before_openvino_crashes() -> None:
    by_name, found = chosen_without((), "openvino", "auto", limit="SSE41")
    assert "ONEDNN_MAX_CPU_ISA=SSE41 hides what this CPU has (avx" in by_name
    assert "Unset it" in by_name
    assert "openvino" not in found
    assert "plain float32" in found


@pytest.mark.parametrize(
    ("environment", "flags", "refused"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx avx2 avx512f", True),
        ({"DNNL_MAX_CPU_ISA": "avx2_vnni"}, "avx avx2 avx512f", True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX"}, "avx avx2", True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "avx avx2", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx avx2 avx512f avx512_bf16", False),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT", "DNNL_MAX_CPU_ISA": "AVX2"}, "avx avx2 avx512f", False),
        ({"ONEDNN_MAX_CPU_ISA": ""}, "avx avx2 avx512f", False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, "fp asimd", False),
        ({}, "avx avx2 avx512f", False),
    ],
)
def test_what_hides_instructions(environment: dict[str, str], flags: str, refused: bool) -> None:
    openvino = pytest.importorskip("echo_stream.encode.runtime_openvino")
    with pytest.raises(EncoderError, match="hides what this CPU has") if refused else nullcontext():
        openvino.require_whole_cpu(environment, {"flags": flags})


@needs_openvino
def test_openvino_begins_in_two_threads_at_once() -> None:
    """The first inference of a process, wanted by two threads: it once waited for itself for ever."""
    program = (
        "import numpy as np\n"
        "from echo_stream.encode.echo import EchoDimensions, EchoWeights\n"
        "from echo_stream.encode.runtime import Workers, build\n"
        "model = EchoWeights.random(EchoDimensions(embed_dim=8, encoder_depth=1, num_heads=1))\n"
        "workers = Workers()\n"
        "runtime = workers.call(build, model, 'openvino', 'float32')\n"
        "patches, frequency = np.zeros((20, 2, 512), np.float32), np.zeros((20, 8), np.float32)\n"
        "print(workers.run(runtime, patches, frequency).shape)"
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
    model = EchoWeights(size, {name: t.numpy() for name, t in random_weights(size, seed=4).items()})
    for name, precision in RUNTIMES:
        choose(model, workers, name, precision, None)  # refuses what is not as near as promised
