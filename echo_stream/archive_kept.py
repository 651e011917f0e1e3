"""What a long work has finished, kept in a folder so that it can go on after an interruption. Any process.

One safetensors file for each part of a recording, named after all that its content depends on: a recording
that changed, another window or another encoder has another name, and is computed anew. So is what is damaged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from echo_stream.errors import SourceError
from echo_stream.files import write_whole

HEADER_KEY = "echo_stream_part"

Tensors = dict[str, NDArray[Any]]


def place(folder: Path, about: Mapping[str, Any]) -> Path:
    """Where the part that depends on all this (plain JSON) is kept."""
    text = json.dumps(about, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def keep(path: Path, tensors: Tensors) -> None:
    """Write contiguous tensors, all or nothing.

    Raises:
        SourceError: the folder cannot be made or written.
    """
    data = safetensors.numpy.save(tensors, metadata={HEADER_KEY: _checksum(tensors)})
    try:
        write_whole(path, data)
    except OSError as error:
        raise SourceError(
            f"{path}: what is finished cannot be kept: {error.strerror}",
            "Make room, or name another folder with --resume.",
        ) from error


def kept(path: Path) -> Tensors | None:
    """What `keep` wrote; None where there is nothing, or nothing sound."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            checksum = (file.metadata() or {}).get(HEADER_KEY)
    except (OSError, SafetensorError, ValueError, TypeError):
        return None
    return tensors if checksum == _checksum(tensors) else None


def _checksum(tensors: Tensors) -> str:
    """SHA-256 of the content; safetensors alone notices no flipped bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
