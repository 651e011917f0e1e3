"""ECHO against what the published code returned for the same weights and signals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Float32
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import EchoDimensions, EchoWeights
from echo_stream.encode.echo_torch import EchoModel
from echo_stream.encode.runtime import Workers, build
from tests.encode.conftest import GOLDEN, GOLDEN_DIMENSIONS, usable_runtimes

TOLERANCE = 1e-4
CASES = [f"case{i}" for i in range(5)]


@pytest.fixture(scope="module")
def model(golden_weights: Path) -> EchoModel:
    return EchoModel.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)


def golden(case: str) -> tuple[int, dict[str, torch.Tensor]]:
    with safe_open(GOLDEN, framework="pt") as file:
        rate = json.loads(file.metadata()[case])["sample_rate"]
        names = [name for name in file.keys() if name.startswith(case)]  # noqa: SIM118
        return rate, {name.removeprefix(case + "."): file.get_tensor(name) for name in names}


@pytest.mark.parametrize("case", CASES)
def test_features_from_audio(model: EchoModel, case: str) -> None:
    rate, expected = golden(case)
    utterance, segments = model.extract_features_from_audio(expected["audio"], sample_rate=rate)
    torch.testing.assert_close(utterance, expected["utterance"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(segments, expected["segment"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", [name for name, precision in usable_runtimes() if precision == "float32"])
@pytest.mark.parametrize("case", CASES)
def test_features_by_each_runtime(golden_weights: Path, name: str, case: str) -> None:
    """Front end and runtime of the encoder, whose windows end at 20 s; longer sound is cut as published."""
    rate, expected = golden(case)
    weights = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    whole = front.log_spectrogram(expected["audio"].numpy(), rate)
    length, frames = GOLDEN_DIMENSIONS.spec_len, whole.shape[2]
    pieces = [whole[:, :, at : at + length] for at in range(0, frames - length + 1, length)]
    pieces += [whole[:, :, -length:]] if frames % length else []
    runtime, workers = build(weights, name, "float32"), Workers()
    embedding = front.frequency_embedding(rate, GOLDEN_DIMENSIONS.embed_dim)
    found: list[Float32] = [workers.run(runtime, front.patches(p)[0], embedding) for p in pieces]
    utterance = np.mean([tokens[:, 0].ravel() for tokens in found], axis=0)
    segments = np.concatenate([t[:, 1:].transpose(1, 0, 2).reshape(t.shape[1] - 1, -1) for t in found])
    np.testing.assert_allclose(utterance, expected["utterance"].numpy(), rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(segments, expected["segment"].numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("case", ["case0", "case1"])
def test_spectrogram_then_features(model: EchoModel, case: str) -> None:
    rate, expected = golden(case)
    spec = model.preprocess_audio_to_spectrogram(expected["audio"], sample_rate=rate)
    torch.testing.assert_close(spec, expected["spectrogram"], rtol=0, atol=TOLERANCE)
    utterance, segments = model.extract_features(expected["spectrogram"], sample_rate=rate)
    torch.testing.assert_close(utterance, expected["utterance"], rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(segments, expected["segment"], rtol=0, atol=TOLERANCE)


def test_wrong_number_of_heads_is_not_the_published_net(golden_weights: Path) -> None:
    """It loads, as the shapes show nothing of it: the golden features are what tells."""
    wrong = EchoDimensions(embed_dim=24, encoder_depth=2, num_heads=4)
    rate, expected = golden("case0")
    model = EchoModel.from_checkpoint(golden_weights, wrong)
    utterance, _ = model.extract_features_from_audio(expected["audio"], rate)
    assert (utterance - expected["utterance"]).abs().max() > 100 * TOLERANCE


def test_one_channel_may_come_without_its_axis(model: EchoModel) -> None:
    rate, expected = golden("case4")
    with_axis = model.extract_features_from_audio(expected["audio"], rate)
    without = model.extract_features_from_audio(expected["audio"][0], rate)
    torch.testing.assert_close(without, with_axis, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(2, 16000), (1, 399), (1, 0)])
def test_audio_that_has_no_spectrogram(model: EchoModel, shape: tuple[int, int]) -> None:
    with pytest.raises(EncoderError, match="expected \\(1, samples\\) with at least 400 samples"):
        model.extract_features_from_audio(torch.zeros(shape), 16000)


@pytest.mark.parametrize("shape", [(201, 2001), (200, 100), (201, 0)])
def test_spectrogram_that_has_no_features(model: EchoModel, shape: tuple[int, int]) -> None:
    with pytest.raises(EncoderError, match="expected \\(201, 1 to 2000\\)"):
        model.extract_features(torch.zeros(shape), 16000)


@pytest.mark.parametrize("rate", [1000, 2560, 8000, 11025, 16000, 22050, 44100, 48000, 96000, 192000])
def test_front_end_is_torchaudios(torchaudio: Any, rate: int) -> None:
    audio = 0.1 * torch.randn(1, rate // 2, generator=torch.Generator().manual_seed(rate)) + 0.3
    spectrogram = torchaudio.transforms.Spectrogram(
        int(0.025 * rate), hop_length=int(0.01 * rate), power=1, center=False
    )
    magnitude = spectrogram(audio - audio.double().mean().float())
    expected = (torch.log(magnitude + 1e-9) + 5.874158) / (2 * 5.223174)
    ours = front.log_spectrogram(audio.numpy(), rate)
    # Where a bin is all but zero, its logarithm shows the rounding of whichever library transforms it.
    heard = magnitude > 1e-4 * magnitude.amax()
    torch.testing.assert_close(torch.from_numpy(ours)[heard], expected[heard], rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.from_numpy(ours), expected, rtol=0, atol=1e-2)
    assert heard.float().mean() > 0.99
