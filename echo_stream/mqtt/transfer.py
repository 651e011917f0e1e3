"""A transfer brings a file over the broker in chunks; one chunk is in memory, the rest on disk.

Who receives asks for each chunk by its number, or counts them, so that one that is missing, comes twice, or
was never announced is seen at once. Any one thread.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

from echo_stream.core.errors import CommandRefused
from echo_stream.core.files import open_regular, sync_folder, write_whole
from echo_stream.core.text import utc_text
from echo_stream.mqtt.command_models import Manifest

CHUNK_BYTES = 65_536
HEAD_BYTES = 21
LONGEST_MESSAGE = CHUNK_BYTES + HEAD_BYTES
"""A longer one is no part of a transfer."""
MOST_BYTES = {"config": 1_000_000, "bank": 256_000_000}
FRESH_S = 600.0
SEEN = 1000
_CHUNK = b"\0"


def to_chunk(transfer: str, number: int, data: bytes) -> bytes:
    """The message that carries a chunk; `transfer` is the manifest's id."""
    return _CHUNK + bytes.fromhex(transfer) + number.to_bytes(4, "big") + data


def from_chunk(payload: bytes) -> tuple[str, int, bytes] | None:
    """Id, number and bytes of a message that carries a chunk; None where it is another message."""
    if len(payload) < HEAD_BYTES or not payload.startswith(_CHUNK):
        return None
    return payload[1:17].hex(), int.from_bytes(payload[17:21], "big"), payload[HEAD_BYTES:]


def pieces(path: Path, first: int = 0) -> Iterator[bytes]:
    """The bytes of a file, in chunks from the one with the number `first` on.

    Raises:
        OSError: it cannot be read.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(first * CHUNK_BYTES)
        while data := file.read(CHUNK_BYTES):
            yield data


def sha256_of(path: Path) -> tuple[str, int]:
    """SHA-256 and size of a file.

    Raises:
        OSError: it cannot be read.
    """
    found, size = hashlib.sha256(), 0
    for data in pieces(path):
        found.update(data)
        size += len(data)
    return found.hexdigest(), size


class Incoming:
    """One file that arrives in order, written beside its place and synced; `keep` renames it there.

    Args:
        path: where it is to be.
        size: bytes that were announced.
        sha256: that was announced.

    Raises:
        CommandRefused: it cannot be written.
    """

    def __init__(self, path: Path, size: int, sha256: str) -> None:
        self.path = path
        self.wanted = 0
        """Number of the chunk that is next."""
        self._part = path.with_name(f".{path.name}.part")
        self._left, self._sha256, self._found = size, sha256, hashlib.sha256()
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("wb")

    @property
    def whole(self) -> bool:
        """All bytes are there."""
        return self._left == 0

    def add(self, number: int, data: bytes) -> bool:
        """Write a chunk; False for one that is known already, as QoS 1 may bring it twice.

        Raises:
            CommandRefused: it is not the next one, or of another length; or it cannot be written.
        """
        if number < self.wanted:
            return False
        if number > self.wanted or self.whole:
            raise CommandRefused(f"chunk {number} came, expected {'none' if self.whole else self.wanted}")
        expected = min(CHUNK_BYTES, self._left)
        if len(data) != expected:
            raise CommandRefused(f"chunk {number} has {len(data)} bytes, expected {expected}")
        with self._writing():
            self._file.write(data)
        self._found.update(data)
        self._left -= expected
        self.wanted += 1
        return True

    def keep(self) -> Path:
        """Rename the file into its place, synced.

        Raises:
            CommandRefused: it is not what was announced, or it cannot be written; nothing is left.
        """
        if (found := self._found.hexdigest()) != self._sha256:
            self.discard()
            raise CommandRefused(f"the file has the SHA-256 {found}, announced was {self._sha256}")
        with self._writing():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self.path)
            sync_folder(self.path.parent)
        return self.path

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError):
                self._part.unlink(missing_ok=True)
            raise CommandRefused(f"{self.path} cannot be written: {error.strerror}") from None


class Seen:
    """Manifests that were taken, on disk: none is taken twice, also after a restart or with a clock set back.

    Args:
        path: of the file; where it is damaged, all that was made before now counts as seen.
    """

    def __init__(self, path: Path, now: datetime) -> None:
        self._path = path
        self._until, self._ids = "", dict[str, str]()
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self._until, self._ids = str(found["until"]), {str(k): str(v) for k, v in found["ids"].items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            self._until = utc_text(now)

    def admit(self, manifest: Manifest, now: datetime) -> None:
        """Remember a manifest.

        Raises:
            CommandRefused: it is too old, from the future, or was seen; or it cannot be remembered.
        """
        try:
            age = now - datetime.fromisoformat(manifest.created)
        except ValueError:
            raise CommandRefused(f"created: {manifest.created} is no time") from None
        if abs(age) > timedelta(seconds=FRESH_S):
            when = "ago" if age > timedelta(0) else "from now"
            raise CommandRefused(
                f"the manifest was made {abs(age).total_seconds():.0f} s {when} by the clock of this node "
                f"({utc_text(now)}), expected at most {FRESH_S:.0f} s; are both clocks right?"
            )
        if manifest.id in self._ids or manifest.created <= self._until:
            raise CommandRefused("the manifest was taken before; ask again with a new one")
        ids = dict(sorted({**self._ids, manifest.id: manifest.created}.items(), key=lambda each: each[1]))
        until = self._until
        while len(ids) > SEEN:  # what is forgotten is refused by its time
            oldest = next(iter(ids))
            until = max(until, ids.pop(oldest))
        try:
            write_whole(self._path, json.dumps({"until": until, "ids": ids}).encode())
        except OSError as error:
            raise CommandRefused(f"{self._path} cannot be written: {error.strerror}") from None
        self._ids, self._until = ids, until
