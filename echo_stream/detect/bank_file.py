"""How a bank lies on disk: one safetensors file whose header holds the metadata as one JSON text.

Used by fit-normal (write) and by all that load a bank; no thread of its own. Never a pickle: reading a bank
runs no code. One JSON text, because safetensors keeps several entries in no fixed order and equal banks
shall be equal bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from echo_stream.core.errors import BankError
from echo_stream.core.files import read_regular, write_whole

FORMAT = 3
"""Raised whenever a program of another version could not read the file."""
HEADER_KEY = "echo_stream_bank"
FIT_AGAIN = "Run fit-normal again, or point the configuration at a bank that it wrote."

MOST_BYTES = 1 << 30
"""A bank that is larger is no bank: it would not fit into memory."""

Tensors = Mapping[str, NDArray[Any]]


def to_bytes(metadata: Mapping[str, Any], tensors: Tensors) -> bytes:
    """The whole file, with a checksum of all that is in it. Equal content gives equal bytes."""
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    whole = {"format": FORMAT, **metadata}
    signed = {**whole, "checksum": _checksum(whole, contiguous)}
    text = json.dumps(signed, sort_keys=True, allow_nan=False)
    return safetensors.numpy.save(contiguous, metadata={HEADER_KEY: text})


def write(path: Path, data: bytes, *, what: str = "bank") -> None:
    """Write a new file and rename it into place: a power cut leaves the old bank or the new one.

    Raises:
        BankError: the folder cannot be made or written.
    """
    try:
        write_whole(path, data)
    except OSError as error:
        raise BankError(
            f"{what} {path} cannot be written: {error.strerror}",
            "Check that its folder exists, is writable and not full.",
        ) from error


def read(
    path: Path, *, what: str = "bank", hint: str = FIT_AGAIN
) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Metadata and tensors of a bank, or of what else is kept in this form.

    Args:
        path: The file.
        what: The file's kind, for error messages.
        hint: What to do about a file that cannot be used.

    Raises:
        BankError: missing, truncated, of another format, or no bank at all; the message says which.
    """
    try:
        data = read_regular(path, MOST_BYTES)
    except OSError as error:
        first = "Run fit-normal for this machine first." if hint is FIT_AGAIN else hint
        raise BankError(f"{what} {path} cannot be read: {error.strerror}", first) from error
    return _parse(data, path, what, hint)


def _parse(data: bytes, path: Path, what: str, hint: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or length > 100_000_000:
        raise BankError(f"{path} is no {what}: {_looks_like(data)}, expected safetensors", hint)
    try:
        header = json.loads(data[8 : 8 + length])
        tensors = safetensors.numpy.load(data)
    except (ValueError, RecursionError, SafetensorError) as error:
        raise BankError(f"{what} {path} is truncated or damaged: {error}", hint) from error
    about = header.get("__metadata__")
    text = about.get(HEADER_KEY) if isinstance(about, dict) else None
    if text is None:
        raise BankError(f"{path} is no {what}: a safetensors file of something else", hint)
    try:
        metadata = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BankError(f"{what} {path} is damaged: its metadata is no JSON", hint) from error
    if not isinstance(metadata, dict):
        raise BankError(f"{what} {path} is damaged: its metadata is no JSON object", hint)
    if metadata.get("format") != FORMAT:
        raise BankError(
            f"{what} {path} is of format {metadata.get('format')}, this program reads format {FORMAT}",
            hint,
        )
    signed = metadata.pop("checksum", None)
    # What was signed is the text as `to_bytes` wrote it: to write it anew takes a fifth of all reading.
    if signed != _checksum_of_text(text.replace(f'"checksum": "{signed}", ', "", 1), tensors) and (
        signed != _checksum(metadata, tensors)
    ):
        raise BankError(f"{what} {path} is damaged: its checksum is not that of its content", hint)
    return metadata, tensors


def _checksum(metadata: Mapping[str, Any], tensors: Tensors) -> str:
    """SHA-256 of the content: a card that wears out flips bits, and safetensors would not notice."""
    return _checksum_of_text(json.dumps(metadata, sort_keys=True), tensors)


def _checksum_of_text(text: str, tensors: Tensors) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _no_number(name: str) -> None:
    raise ValueError(name)  # NaN and Infinity, which Python's parser takes, and `to_bytes` does not write


def _looks_like(data: bytes) -> str:
    if not data:
        return "an empty file"
    if data[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "a pickle or a zip archive, which this program never opens"
    with contextlib.suppress(UnicodeDecodeError):
        data[:512].decode("utf-8")
        return "a text file"
    return "a binary file of another kind"


def accepted_version(path: Path) -> str | None:
    """Id of the version that the link `path` points to, or a plain file's own name; None without a bank."""
    return path.resolve().stem if path.exists() else None
