"""A weights file is read and checked here, and fetched from the Hugging Face hub with a note of its origin.

The file model.safetensors and nothing else: a repository's code is never downloaded, let alone run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors import SafetensorError, deserialize, safe_open

from echo_stream.core.errors import CheckpointError, of_extra
from echo_stream.core.files import sync_folder
from echo_stream.core.log import get_logger
from echo_stream.core.types import Float32

_log = get_logger(__name__)
_FLOATING = ("F64", "F32", "F16", "BF16")
_FETCH = "Fetch it again with `echo-stream fetch-model`, or name another file as encoder.weights."


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def note_path(weights: Path) -> Path:
    """Where the origin of a weights file is noted: repository, commit and SHA-256, as JSON beside it."""
    return weights.with_name(weights.name + ".json")


def read_tensors(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Float32], str]:
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
        with safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no dict)
            found = {name: tuple(kind.get_shape()) for name, kind in kinds.items()}
            _check_shapes(path, shapes, found)
            types = {name: kinds[name].get_dtype() for name in shapes}
            for name, held in types.items():
                if held not in _FLOATING:
                    raise CheckpointError(f"{path}: {name} holds {held}, expected floating point", _FETCH)
            tensors = {
                name: np.asarray(file.get_tensor(name), np.float32)
                for name in shapes
                if types[name] != "BF16"
            }
        if len(tensors) < len(shapes):
            tensors |= _bfloat16_tensors(path, [name for name in shapes if types[name] == "BF16"])
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged: {error}", _FETCH) from error
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise CheckpointError(f"{path}: {name} holds numbers that are not finite", _FETCH)
    if further := sorted(found.keys() - shapes.keys()):
        _log.info(
            "tensors of the weights file are ignored", path=str(path), tensors=len(further), first=further[0]
        )
    return tensors, sha256


def _bfloat16_tensors(path: Path, names: Sequence[str]) -> dict[str, Float32]:
    """Tensors that numpy has no type for: the upper halves of float32 numbers."""
    held = dict(deserialize(path.read_bytes()))  # type: ignore[no-untyped-call]
    tensors = {}
    for name in names:
        halves = np.frombuffer(held[name]["data"], "<u2").astype(np.uint32)
        tensors[name] = (halves << 16).view(np.float32).reshape(held[name]["shape"])
    return tensors


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


PUBLISHED = {"echo-tiny": "yucongzh/echo-tiny-0828", "echo-small": "yucongzh/echo-small-0824"}
FILE = "model.safetensors"


def fetch_model(name: str, into: Path, revision: str | None = None) -> Path:
    """Downloads the weights of a repository, with a progress bar where stderr is a terminal.

    The hub is that of HF_ENDPOINT, huggingface.co where it is not set; HF_TOKEN opens private repositories.
    The commit that the revision resolved to and the file's SHA-256 are written beside it, and every load
    compares the file with them. An earlier file stays until the new one is complete on the disk.

    Args:
        name: `echo-tiny`, `echo-small`, or the id of a repository, `owner/name`.
        into: Folder for the file; made where it is missing.
        revision: Commit, tag or branch; the default branch if it is not given.

    Returns:
        The path of the weights.

    Raises:
        CheckpointError: No such repository, revision or file, no connection, or an unwritable folder.
    """
    repository = PUBLISHED.get(name, name)
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        into.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=into, prefix=".fetch-") as scratch:
            file, commit = _download(repository, revision, endpoint, Path(scratch))
            note = {"repository": repository, "revision": revision, "commit": commit, "file": FILE}
            new_note = note_path(file)
            new_note.write_text(json.dumps(note | {"sha256": sha256_of(file)}, indent=1) + "\n", "utf-8")
            for source in (file, new_note):  # weights first: an old note beside them is an error, never a lie
                _move(source, into / source.name)
    except OSError as error:
        raise CheckpointError(
            f"weights cannot be written to {into}: {error}", "Check the folder's permissions and free space."
        ) from error
    return into / FILE


def _move(source: Path, target: Path) -> None:
    """Puts a complete file in place, so that a crash leaves the old one or the new one."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(target)
    sync_folder(target.parent)


def _download(repository: str, revision: str | None, endpoint: str, scratch: Path) -> tuple[Path, str]:
    """The file in a scratch folder, and the commit that it is from."""
    # A file of 22 MB needs no second protocol, and plain HTTPS is what a plant's proxy lets through.
    os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    # Slow to import, and nothing but this command needs it; it reads its environment when it is imported.
    with of_extra("fetch-model", "echo"):
        from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url  # noqa: PLC0415
        from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]  # noqa: PLC0415

    try:
        url = hf_hub_url(repository, FILE, revision=revision, endpoint=endpoint)
        metadata = get_hf_file_metadata(url, endpoint=endpoint)
        commit = metadata.commit_hash
        if commit is None:
            raise CheckpointError(
                f"{endpoint} is no Hugging Face hub: it names no commit", "Check HF_ENDPOINT."
            )
        path = hf_hub_download(repository, FILE, revision=commit, local_dir=scratch, endpoint=endpoint)
    except (HTTPError, HFValidationError, ConnectionError, FileNotFoundError) as error:
        raise _in_plain_words(error, repository, revision, endpoint) from error
    sha256 = sha256_of(Path(path))
    if metadata.etag and re.fullmatch("[0-9a-f]{64}", metadata.etag) and metadata.etag != sha256:
        raise CheckpointError(
            f"{FILE} of {repository} arrived damaged: SHA-256 {sha256}, expected {metadata.etag}",
            "Try again.",
        )
    return Path(path), commit


def _in_plain_words(
    error: Exception, repository: str, revision: str | None, endpoint: str
) -> CheckpointError:
    """What the hub's library said, for a person; the most particular error first."""
    from huggingface_hub import errors as hub  # noqa: PLC0415 (as above)

    known = ", ".join(PUBLISHED)
    words: list[tuple[type[Exception], str, str]] = [
        (hub.HFValidationError, f"{repository!r} is no name of a repository", f"Use {known} or OWNER/NAME."),
        (
            hub.GatedRepoError,
            f"repository {repository} on {endpoint} asks for permission first",
            "Accept its terms on its web page, then set HF_TOKEN to a token of that account.",
        ),
        (
            hub.RepositoryNotFoundError,
            f"there is no repository {repository} on {endpoint}",
            f"Known names are {known}; a private repository needs HF_TOKEN.",
        ),
        (
            hub.RevisionNotFoundError,
            f"repository {repository} has no revision {revision}",
            "Name a commit, tag or branch of it.",
        ),
        (
            hub.RemoteEntryNotFoundError,
            f"repository {repository} has no file {FILE}",
            "Only weights in that form can be used.",
        ),
        (
            hub.HfHubHTTPError,
            f"{endpoint} refused {repository}: {str(error).splitlines()[0]}",
            "Try again later, and check HF_ENDPOINT and HF_TOKEN.",
        ),
    ]
    for kind, message, hint in words:
        if isinstance(error, kind):
            return CheckpointError(message, hint)
    return CheckpointError(
        f"{endpoint} cannot be reached: {error}",
        "Check the network and HF_ENDPOINT, unset HF_HUB_OFFLINE, or copy the file from another machine.",
    )
