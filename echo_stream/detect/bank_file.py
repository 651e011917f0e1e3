"""A bank lies on disk as one safetensors file whose header holds the metadata as one JSON text.

Used by fit-normal (write) and by all that load a bank; no thread of its own. Never a pickle: reading a bank
runs no code. One JSON text, because safetensors keeps several entries in no fixed order and equal banks
shall be equal bytes. What was read is checked, so that scoring cannot fail later: a file may be damaged or
come from another program, and a NaN in it would score every window as normal for ever.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from echo_stream.core.errors import BankError
from echo_stream.core.files import read_regular, write_whole
from echo_stream.core.types import EncoderIdentity
from echo_stream.detect.reference import Reference, View

FORMAT = 3
"""Raised whenever a program of another version could not read the file."""
HEADER_KEY = "echo_stream_bank"
FIT_AGAIN = "Run fit-normal again, or point the configuration at a bank that it wrote."

MOST_BYTES = 1 << 30
"""A bank that is larger is no bank: it would not fit into memory."""

Tensors = Mapping[str, NDArray[Any]]
Array = NDArray[Any]
_VERSION_FILE = re.compile(r"b([0-9]{1,9})\.safetensors")


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
            f"{what} {path} is of format {metadata.get('format')}, this program reads format {FORMAT}", hint
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


def version_numbers(bank: Path) -> list[int]:
    """Of the versions beside a bank, oldest first, by their names: to read a hundred takes seconds."""
    names = (_VERSION_FILE.fullmatch(path.name) for path in bank.with_suffix(".versions").glob("b*"))
    return sorted(int(name[1]) for name in names if name)


def faults_in(
    references: Sequence[Reference], bands_hz: Array, held_out: Sequence[Array], plain: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong, part by part; nothing where all is well.

    Args:
        references: One for each operating state, all of the same bands and dimensions.
        bands_hz: Edges of each band, (bands, 2).
        held_out: Runs of scores, each (windows,).
        plain: The plain values of the bank, by name.
    """
    if not references:
        yield "no reference"
        return
    shapes = [view.normals.shape for r in references for view in (r.window, r.segments)]
    if any(len(shape) != 3 or 0 in shape for shape in shapes):
        yield f"normal features of shapes {shapes}"
        return
    (_, bands, dim), (_, _, segment_dim) = shapes[:2]
    yield from _array("bands_hz", bands_hz, (bands, 2))
    scores = np.concatenate(held_out) if held_out else np.zeros(0)
    yield from _array("held_out", scores, (max(1, scores.size),))
    for reference in references:
        yield from _faults_in_one(reference)
        yield from _faults_in_view(reference.window, len(reference.recordings), bands, dim)
        yield from _faults_in_view(reference.segments, 1, bands, segment_dim)
    for name, kind in (("provenance", Mapping), ("created", str)):
        if not isinstance(plain[name], kind):
            yield f"{name} {plain[name]!r:.60}"
    for name in ("sample_rate_hz", "window_s", "hop_s"):
        if not _is_positive(plain[name]):
            yield f"{name} {plain[name]!r:.60}"


def faults_in_encoder(encoder: EncoderIdentity) -> Iterator[str]:
    """What is wrong with the identity as the file has it; nothing where all is well."""
    kind, version, weights, dimensions = map(
        _as_it_is, (encoder.kind, encoder.version, encoder.weights_sha256, encoder.dimensions)
    )
    if not (isinstance(kind, str) and isinstance(version, int) and isinstance(weights, str)):
        yield f"encoder {kind!r:.60}, version {version!r:.60}"
    if not isinstance(dimensions, Mapping) or not all(_is_number(value) for value in dimensions.values()):
        yield f"dimensions of the encoder {dimensions!r:.60}"


def _as_it_is(value: object) -> object:
    """Without the type that it should have."""
    return value


def _faults_in_view(view: View, n: int, bands: int, dim: int) -> Iterator[str]:
    metric = view.metric
    k = metric.shrink.size
    yield from _array("normals", view.normals, (n, bands, dim))
    yield from _array("centre", metric.centre, (bands, dim))
    yield from _array("scale", metric.scale, (bands, dim), above_0=True)
    yield from _array("directions", metric.directions, (bands * dim, k))
    yield from _array("shrink", metric.shrink, (k,))
    if not (_is_positive(metric.unit) and _is_number(view.median) and _is_positive(view.spread)):
        yield "unit, median or spread of a view"


def _faults_in_one(own: Reference) -> Iterator[str]:
    n = len(own.recordings)
    yield from _array("start_s", own.start_s, (n,))
    if n == 0 or not all(isinstance(name, str) for name in own.recordings):
        yield "recordings"
    condition = _as_it_is(own.condition)
    if not isinstance(condition, str):
        yield f"condition {condition!r:.60}"
    if not _is_number(own.level_dbfs):
        yield f"level_dbfs {own.level_dbfs!r:.60}"
    if not (_is_number(own.score_median) and _is_positive(own.score_spread)):
        yield "score_median or score_spread"


def _array(name: str, values: Array, shape: tuple[int, ...], *, above_0: bool = False) -> Iterator[str]:
    if values.shape != shape or values.dtype not in (np.float32, np.float64):
        yield f"{name} is {values.dtype} of shape {values.shape}, expected float32 or 64 of shape {shape}"
    elif not np.isfinite(values).all():
        yield f"{name} has values that are not finite"
    elif above_0 and not (values > 0).all():
        yield f"{name} has values that are not above 0"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # NaN is not


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0
