"""Stored recordings are files of this PC, or objects of a store (`s3://bucket/folder`): opened in one place.

An object's path is a Path like any other, `s3:/bucket/key`, so that names, folders and endings are asked for
in the same way; only what touches its content passes through here. It is read in pieces, where it lies: no
copy is made. Any thread or process.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from echo_stream.core.errors import SourceError, StoreError, of_extra
from echo_stream.core.files import open_regular
from echo_stream.core.text import is_object, path_text

AHEAD_BYTES = 2 << 20
"""Of an object, read with each request while sound is decoded."""
LISTED_S = 60.0
"""So long a listing counts: a worker lives for days, and recordings are added."""
_CONFIG = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 3}}
_RIGHTS = (
    "Expected AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or ~/.aws, for this user on each PC that computes "
    "(AWS_ENDPOINT_URL where the store is not Amazon's)."
)


def open_stored(path: Path, ahead_bytes: int = AHEAD_BYTES) -> BinaryIO:
    """A recording, for reading.

    Raises:
        OSError: of a file, as `open_regular`.
        SourceError: there is no such object.
        StoreError: the store does not answer, or refuses.
    """
    if not is_object(path):
        return os.fdopen(open_regular(path), "rb")
    with _store(path) as store:
        return cast(BinaryIO, store.open(_key(path), "rb", block_size=ahead_bytes, cache_type="readahead"))


def state_of(path: Path) -> tuple[int, int]:
    """Bytes of a recording, and when it was changed, in ns.

    Raises:
        OSError: of a file.
        SourceError, StoreError: of an object, as `open_stored`.
    """
    if not is_object(path):
        found = path.stat()
        return found.st_size, found.st_mtime_ns
    with _store(path) as store:
        about = store.info(_key(path))
    if about["type"] != "file":
        raise SourceError(f"{path_text(path)}: is a folder, expected an object", "Name a recording.")
    return int(about["size"]), int(about["LastModified"].timestamp() * 1e9)


def located(path: Path) -> Path:
    """A path that means the same in any folder."""
    return path if is_object(path) else path.resolve()


def look_up(paths: Collection[Path]) -> None:
    """Have `state_of` answer for many objects by a request for each thousand, instead of one for each.

    Raises:
        SourceError, StoreError: as `open_stored`.
    """
    for folder in {path.parent for path in paths if is_object(path)}:
        with _store(folder) as store:
            store.ls(_key(folder), refresh=True)


def objects_in(folder: Path) -> list[Path]:
    """All objects below a folder; of an object itself, that one.

    Raises:
        SourceError, StoreError: as `open_stored`.
    """
    with _store(folder) as store:
        store.invalidate_cache()
        return [Path("s3:", name) for name in store.find(_key(folder))]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Errors of an object that is read inside are those of `open_stored`."""
    if not is_object(path):
        yield
        return
    with _store(path):
        yield


@contextmanager
def _store(path: Path) -> Iterator[Any]:
    """The filesystem of fsspec; its errors in words."""
    with of_extra("a recording of an object store (s3://)", "s3"):
        import s3fs  # noqa: PLC0415 - half a second, and only of this extra
        from botocore.exceptions import (  # noqa: PLC0415
            BotoCoreError,
            NoCredentialsError,
            PartialCredentialsError,
            ProfileNotFound,
        )
    try:
        yield s3fs.S3FileSystem(listings_expiry_time=LISTED_S, config_kwargs=_CONFIG)
    except FileNotFoundError as error:
        raise SourceError(
            f"{path_text(path)}: no such bucket, folder or object",
            "Expected s3://BUCKET/FOLDER; is it the right store (AWS_ENDPOINT_URL)?",
        ) from error
    except (NoCredentialsError, PartialCredentialsError, ProfileNotFound) as error:
        raise StoreError(
            f"{path_text(path)}: no credentials for the object store ({error})", _RIGHTS
        ) from error
    except PermissionError as error:
        raise StoreError(f"{path_text(path)}: the object store refuses access ({error})", _RIGHTS) from error
    except (BotoCoreError, OSError) as error:
        raise StoreError(
            f"{path_text(path)}: the object store does not answer as expected: {error}",
            "Is it up, and AWS_ENDPOINT_URL right? With --resume FOLDER the command goes on where it was.",
        ) from error


def _key(path: Path) -> str:
    return "/".join(path.parts[1:])
