"""Any bytes are weights of the net that was asked for, or a CheckpointError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.core.errors import CheckpointError
from echo_stream.encode.weights import note_path, read_tensors
from tests.support.damage import TREES, damaged, fuzz, twisted

SHAPES = {"encoder.a.weight": (3, 4), "encoder.a.bias": (3,), "encoder.norm": (1,)}
WHOLE = safetensors.numpy.save(
    {name: np.ones(shape, np.float32) for name, shape in SHAPES.items()}, metadata={"format": "pt"}
)
HEADER_END = 8 + int.from_bytes(WHOLE[:8], "little")
HEADER = json.loads(WHOLE[8:HEADER_END])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "model.safetensors"


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        tensors, sha256 = read_tensors(path, SHAPES)
    except CheckpointError as error:
        said = error.message
    else:
        assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == SHAPES
        assert all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in tensors.values())
        assert len(sha256) == 64
        return
    assert str(path) in said


def test_the_weights_are_right(path: Path) -> None:
    path.write_bytes(WHOLE)
    assert read_tensors(path, SHAPES)[0]["encoder.norm"].item() == 1.0


@fuzz(200)
@given(st.binary(max_size=200) | damaged(WHOLE, within=HEADER_END) | damaged(WHOLE))
def test_damaged_bytes(path: Path, data: bytes) -> None:
    check(path, data)


@fuzz(200)
@given(twisted(HEADER) | TREES, st.booleans())
def test_odd_header(path: Path, header: Any, cut: bool) -> None:
    text = json.dumps(header).encode()
    check(path, len(text).to_bytes(8, "little") + text + WHOLE[HEADER_END : -4 if cut else None])


@fuzz(200)
@given(st.binary(max_size=60) | TREES.map(lambda tree: json.dumps(tree).encode()))
def test_odd_note_of_the_origin(path: Path, note: bytes) -> None:
    note_path(path).write_bytes(note)
    try:
        check(path, WHOLE)
    finally:
        note_path(path).unlink()
