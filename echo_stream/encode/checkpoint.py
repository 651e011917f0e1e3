"""Reads a weights file strictly, and keeps the note of where it came from. Runs at start, in the main thread.

Only safetensors: it holds numbers and nothing that could run. The model card loads with `strict=False`, which
leaves random weights wherever a name is missing; here every tensor must be there, in its shape.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Mapping
from pathlib import Path

import structlog
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from echo_stream.errors import CheckpointError

_log = structlog.get_logger(__name__)
_FETCH = "Fetch it again with `echo-stream fetch-model`, or name another file as encoder.weights."


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def note_path(weights: Path) -> Path:
    """Where the origin of a weights file is noted: repository, commit and SHA-256, as JSON beside it."""
    return weights.with_name(weights.name + ".json")


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Tensor], str]:
    """The tensors of these names, and the file's SHA-256.

    Further tensors (a decoder) are ignored, and said in the log; further layers of the encoder are an error.

    Args:
        path: A safetensors file.
        shapes: Every tensor that must be there.

    Returns:
        Tensors by name, float32, and the SHA-256 of the file in hexadecimal.

    Raises:
        CheckpointError: The file is missing, of another kind, damaged or not the one that was fetched, or a
            tensor is missing, misshapen or not finite.
    """
    _check_kind(path)
    sha256 = sha256_of(path)
    _check_origin(path, sha256)
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)
            _check_shapes(path, shapes, found)
            tensors = {name: file.get_tensor(name) for name in shapes}
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", _FETCH) from error
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise CheckpointError(f"{path}: {name} holds {tensor.dtype}, expected floating point", _FETCH)
        if not tensor.isfinite().all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite", _FETCH)
    if further := sorted(found.keys() - shapes.keys()):
        _log.info("weights_ignored", path=str(path), tensors=len(further), first=further[0])
    return {name: tensor.to(torch.float32) for name, tensor in tensors.items()}, sha256


def _check_kind(path: Path) -> None:
    """Refuses what is no safetensors file, saying what it is instead."""
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise CheckpointError(f"weights file {path} {what}", _FETCH)
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise CheckpointError(f"{path} is empty, expected safetensors", _FETCH)
    if start[:2] == b"PK" or start[:1] == b"\x80":  # the zip of torch.save, or a bare pickle
        raise CheckpointError(
            f"{path} is a pickle (a PyTorch checkpoint), expected safetensors",
            f"A pickle can run any program when it is loaded, so it is never opened. {_FETCH}",
        )
    if all(chr(byte) in string.printable for byte in start):
        line = start.decode("ascii").splitlines()[0]
        raise CheckpointError(f"{path} is a text file ({line!r}), expected safetensors", _FETCH)
    if start[8:9] != b"{":
        raise CheckpointError(f"{path} is no safetensors file: it starts with {start[:9].hex(' ')}", _FETCH)
    end = 8 + int.from_bytes(start[:8], "little")
    if end > size:
        raise CheckpointError(f"{path} is cut off: {size} bytes, its header alone ends at {end}", _FETCH)


def _check_origin(path: Path, sha256: str) -> None:
    """Compares with what was noted when the file was fetched, where it was fetched."""
    note = note_path(path)
    if not note.is_file():
        return
    try:
        expected = json.loads(note.read_text("utf-8"))["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{note} is damaged: it has no SHA-256 of {path.name}", _FETCH) from error
    if sha256 != expected:
        raise CheckpointError(
            f"{path} has changed since it was fetched: SHA-256 {sha256}, expected {expected}", _FETCH
        )


def _check_shapes(
    path: Path, shapes: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    hint = "Are these weights of another size (encoder.size is tiny or small), or of another model?"
    for name, shape in shapes.items():
        if name not in found:
            raise CheckpointError(f"{path}: {name} is missing, expected shape {shape}", hint)
        if found[name] != shape:
            raise CheckpointError(f"{path}: {name} has shape {found[name]}, expected {shape}", hint)
    for name in sorted(found.keys() - shapes.keys()):
        if name.startswith("encoder."):  # a deeper net, not a part that features do without
            raise CheckpointError(f"{path}: {name} is there, but not in a net of this size", hint)
