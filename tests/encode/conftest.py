"""Weights, windows and the published front end for the tests of encoders."""

from __future__ import annotations

import math
import os
import sys
import types
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from echo_stream.core.types import Window
from echo_stream.encode.echo import EchoDimensions, dimensions_of
from echo_stream.encode.runtime import CPUINFO, GPU, KNOWN, PROMISED_COSINE
from echo_stream.encode.runtime_torch import available

torch.set_num_threads(1)  # threads inside an operation wait long for each other where the cores are busy

GOLDEN = Path(__file__).parents[1] / "data" / "echo_golden.safetensors"
"""Weights and signals of our own making, and the features that the published code returned for them."""
GOLDEN_DIMENSIONS = EchoDimensions(embed_dim=24, encoder_depth=2, num_heads=3)

INSTRUCTIONS_HIDDEN = "avx512f" in CPUINFO.read_text() and os.environ.get(
    "ONEDNN_MAX_CPU_ISA", ""
).upper().startswith("AVX2")
"""These tests pass with newer instructions hidden as well; OpenVINO would crash, and is refused there."""

MakeWindow = Callable[..., Window]


@pytest.fixture(scope="session")
def golden_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden weights alone, under their published names, as a file of their own."""
    path = tmp_path_factory.mktemp("golden") / "model.safetensors"
    with safe_open(GOLDEN, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("weights.")]  # noqa: SIM118
        save_file({name.removeprefix("weights."): file.get_tensor(name) for name in names}, path)
    return path


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the published size tiny, spread so that the net mixes its tokens."""
    path = tmp_path_factory.mktemp("tiny") / "model.safetensors"
    save_file(random_weights("tiny", seed=5), path)
    return path


def random_weights(size: str | EchoDimensions, seed: int) -> dict[str, torch.Tensor]:
    """Every tensor of a net, its scale after the fan-in as training would start."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in dimensions_of(size).tensor_shapes().items():
        fan_in = math.prod(shape[1:])
        scale = 0.02 if len(shape) == 1 or name in {"cls_token", "pos_embed"} else fan_in**-0.5
        offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        weights[name] = offset + scale * torch.randn(shape, generator=generator)
    return weights


def usable_runtimes() -> list[tuple[str, str]]:
    """Runtimes and precisions that this machine says that it has: neither more nor less may be usable."""
    has = {
        "plain": ["float32"],
        "torch": [p for p in PROMISED_COSINE if available(p)],
        "openvino": [],
        GPU: [],
    }
    if find_spec("openvino") is not None:
        import openvino

        here = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if not INSTRUCTIONS_HIDDEN:
            has["openvino"] = ["float32", *(["bfloat16"] if "BF16" in here else [])]
        has[GPU] = ["float32"] if any(d.startswith("GPU") for d in openvino.Core().available_devices) else []
    return [(name, p) for name, p in KNOWN if p in has[name]]


@pytest.fixture(scope="session")
def make_window() -> MakeWindow:
    """Windows of tone and noise: (machine, rate, seconds, seed, start)."""

    def make(
        machine: str = "pump", rate: int = 16000, seconds: float = 2.0, seed: int = 0, start: int = 0
    ) -> Window:
        generator = np.random.default_rng(seed)
        n = round(seconds * rate)
        tone = 0.2 * np.sin(2 * np.pi * (90 + 10 * seed) * np.arange(n) / rate)
        samples = (tone + 0.05 * generator.standard_normal(n) + 0.01).astype(np.float32)
        return Window(machine, samples, start, start + n, rate, datetime(2026, 1, 1, tzinfo=UTC))

    return make


@pytest.fixture(scope="session")
def torchaudio() -> Any:
    """The oracle of the front end; its Python code needs no native extension.

    The packaged build of torchaudio is linked against CUDA and raises OSError beside a CPU build of torch, so
    that extension is stood in for.
    """
    try:
        import torchaudio
    except OSError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stand_in: Any = types.ModuleType("torchaudio._extension")
        stand_in._IS_TORCHAUDIO_EXT_AVAILABLE = False
        stand_in._IS_ALIGN_AVAILABLE = stand_in._IS_RIR_AVAILABLE = False
        stand_in.fail_if_no_align = lambda function: function
        sys.modules["torchaudio._extension"] = stand_in
        import torchaudio
    return torchaudio
