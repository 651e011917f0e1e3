"""Weights files, good and bad: each error names the file, what was found and what was expected."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from structlog.testing import capture_logs

from echo_stream.core.errors import CheckpointError
from echo_stream.encode.echo import EchoDimensions, EchoWeights
from echo_stream.encode.echo_encoder import EchoEncoder
from echo_stream.encode.spectrogram import patches
from echo_stream.encode.weights import note_path, sha256_of
from tests.encode.conftest import GOLDEN_DIMENSIONS, random_weights

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def tensors(golden_weights: Path) -> Tensors:
    return load_file(golden_weights)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def refusal(path: Path, size: str | EchoDimensions = GOLDEN_DIMENSIONS) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        EchoWeights.from_checkpoint(path, size)
    assert str(path) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_each_tensor_is_needed(tensors: Tensors, path: Path) -> None:
    for name in tensors:
        save_file({other: tensor for other, tensor in tensors.items() if other != name}, path)
        assert f"{name} is missing" in refusal(path).message


def test_each_shape_is_checked(tensors: Tensors, path: Path) -> None:
    for name, tensor in tensors.items():
        save_file(tensors | {name: tensor[..., :-1].contiguous()}, path)
        found = (*tensor.shape[:-1], tensor.shape[-1] - 1)
        assert f"{name} has shape {found}, expected {tuple(tensor.shape)}" in refusal(path).message


def test_further_tensors_are_ignored_and_said(tensors: Tensors, path: Path) -> None:
    save_file(tensors | {"decoder.weight": torch.zeros(3), "mask_token": torch.zeros(1)}, path)
    with capture_logs() as logs:
        model = EchoWeights.from_checkpoint(path, GOLDEN_DIMENSIONS)
    assert model.sha256 == sha256_of(path)
    [entry] = logs
    assert (entry["event"], entry["log_level"]) == ("tensors of the weights file are ignored", "info")
    assert (entry["tensors"], entry["first"]) == (2, "decoder.weight")


@pytest.mark.parametrize(
    ("depth", "words"),
    [(1, "layers.1.linear1.bias is there"), (3, "layers.2.self_attn.in_proj_weight is missing")],
)
def test_another_depth_is_refused(tensors: Tensors, path: Path, depth: int, words: str) -> None:
    save_file(tensors, path)
    size = EchoDimensions(embed_dim=24, encoder_depth=depth, num_heads=3)
    assert words in refusal(path, size).message


def test_published_sizes_are_told_apart(path: Path, tiny_weights: Path) -> None:
    save_file(random_weights("small", seed=1), path)
    assert "cls_token has shape (1, 1, 384), expected (1, 1, 192)" in refusal(path, "tiny").message
    assert "encoder.size" in refusal(path, "tiny").hint
    assert "cls_token has shape (1, 1, 192), expected (1, 1, 384)" in refusal(tiny_weights, "small").message
    for size, file, millions in (("tiny", tiny_weights, 5.5), ("small", path, 21.5)):
        model = EchoWeights.from_checkpoint(file, size)
        assert sum(t.size for t in model.tensors.values()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_unknown_size(golden_weights: Path) -> None:
    with pytest.raises(CheckpointError, match="no ECHO of size 'base'"):
        EchoWeights.from_checkpoint(golden_weights, "base")


def write_zip_pickle(path: Path, tensors: Tensors) -> None:
    torch.save(tensors, path)


def write_bare_pickle(path: Path, tensors: Tensors) -> None:
    path.write_bytes(pickle.dumps(list(tensors)))


def write_text(path: Path, _: Tensors) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 22000000\n")


def write_short_text(path: Path, _: Tensors) -> None:
    path.write_text("404")


def write_nothing(path: Path, _: Tensors) -> None:
    path.write_bytes(b"")


def write_cut_header(path: Path, tensors: Tensors) -> None:
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:200])


def write_cut_data(path: Path, tensors: Tensors) -> None:
    save_file(tensors, path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_noise(path: Path, _: Tensors) -> None:
    path.write_bytes(bytes(reversed(range(256))) * 40)


def write_nan(path: Path, tensors: Tensors) -> None:
    bad = tensors["encoder.layers.1.linear2.bias"].clone()
    bad[3] = torch.nan
    save_file(tensors | {"encoder.layers.1.linear2.bias": bad}, path)


def write_integers(path: Path, tensors: Tensors) -> None:
    save_file(tensors | {"norm.bias": torch.zeros(24, dtype=torch.int64)}, path)


def write_folder(path: Path, _: Tensors) -> None:
    path.mkdir()


def write_no_file(path: Path, _: Tensors) -> None:
    path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (write_zip_pickle, "is a pickle"),
        (write_bare_pickle, "is a pickle"),
        (write_text, "is a text file .*git-lfs"),
        (write_short_text, "is a text file .*404"),
        (write_nothing, "is empty"),
        (write_cut_header, "is cut off: 200 bytes"),
        (write_cut_data, "is damaged"),
        (write_noise, "is no safetensors file"),
        (write_nan, "encoder.layers.1.linear2.bias holds numbers that are not finite"),
        (write_integers, "norm.bias holds I64"),
        (write_folder, "is a folder"),
        (write_no_file, "does not exist"),
    ],
)
def test_bad_file(path: Path, tensors: Tensors, write: Callable[[Path, Tensors], None], words: str) -> None:
    write(path, tensors)
    assert re.search(words, refusal(path).message)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(path: Path, tensors: Tensors, kind: torch.dtype) -> None:
    save_file({name: tensor.to(kind) for name, tensor in tensors.items()}, path)
    model = EchoWeights.from_checkpoint(path, GOLDEN_DIMENSIONS)
    for name, tensor in tensors.items():
        assert model.tensors[name].dtype == np.float32
        np.testing.assert_array_equal(model.tensors[name], tensor.to(kind).float().numpy())


def test_the_kernel_of_the_patches_is_laid_out_as_the_published_convolution(golden_weights: Path) -> None:
    weights = EchoWeights.from_checkpoint(golden_weights, GOLDEN_DIMENSIONS)
    spectrogram = np.random.default_rng(1).standard_normal((1, 32, 16), np.float32)
    kernel, bias = map(
        torch.from_numpy, (weights.tensors["patch_embed.proj.weight"], weights.patch_matrix()[1])
    )
    expected = torch.nn.functional.conv2d(torch.from_numpy(spectrogram)[None], kernel, bias).flatten()
    found = weights.patch_matrix()[0] @ patches(spectrogram)[0, 0, 0] + bias.numpy()
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


def test_the_noted_sha256_is_checked_at_every_load(path: Path, tensors: Tensors) -> None:
    save_file(tensors, path)
    note_path(path).write_text(json.dumps({"sha256": sha256_of(path)}))
    identity = EchoEncoder.from_checkpoint(path, GOLDEN_DIMENSIONS).identity
    assert identity.weights_sha256 == sha256_of(path)
    save_file(tensors | {"norm.bias": tensors["norm.bias"] + 1e-3}, path)
    assert f"has changed since it was fetched: SHA-256 {sha256_of(path)}" in refusal(path).message


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"sha256": 5'])
def test_a_damaged_note(path: Path, tensors: Tensors, note: str) -> None:
    save_file(tensors, path)
    note_path(path).write_text(note)
    assert "has no SHA-256" in refusal(path).message
