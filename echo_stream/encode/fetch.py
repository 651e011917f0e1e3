"""Fetches published weights from the Hugging Face hub and notes what was fetched. Runs in the CLI alone.

The file model.safetensors and nothing else: a repository's code is never downloaded, let alone run.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from tempfile import TemporaryDirectory

from echo_stream.encode.checkpoint import note_path, sha256_of
from echo_stream.errors import CheckpointError
from echo_stream.files import sync_folder

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
