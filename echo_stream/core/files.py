"""Files are read within bounds, and written so that a power cut leaves the old one or the new one.

What stands where a file is expected may be a pipe, a device or a folder: to open a pipe waits for a writer,
for ever, and a device never ends. `open_regular` and `read_regular` refuse these at once. Any thread.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file; never waits. The caller closes it.

    Raises:
        OSError: it does not exist, is not readable, or is no regular file; `strerror` says which.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = next((name for matches, name in KINDS if matches(mode)), "no regular file")
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, f"is {kind}, expected a file", str(path))
    return descriptor


def read_regular(path: Path, most_bytes: int) -> bytes:
    """The whole content of a regular file; never waits.

    Raises:
        OSError: as `open_regular`, or it is longer than `most_bytes`; `strerror` says which.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"is larger than {most_bytes:,} bytes", str(path))
    return data


def require_writable(folder: Path, least_bytes: int = 0) -> None:
    """Refuse a folder in which nothing could be written, before long work; it may not exist yet.

    Raises:
        OSError: no right to write there, a read-only file system, a file in its place, or too little space.
    """
    existing = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise OSError(errno.ENOTDIR, "is a file, expected a folder", str(existing))
    if not os.access(existing, os.W_OK | os.X_OK):
        read_only = os.statvfs(existing).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number), str(existing))
    if shutil.disk_usage(existing).free < least_bytes:
        raise OSError(errno.ENOSPC, f"has less than {least_bytes / 1e6:.0f} MB left", str(existing))


def write_whole(path: Path, data: bytes) -> None:
    """Write a new file, sync it, and rename it into place; its folder is made where it is missing.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make what was renamed inside a folder last through a power cut.

    Raises:
        OSError: the folder cannot be opened or synced.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
