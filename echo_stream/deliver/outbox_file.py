"""The outbox's SQLite file: its tables, and each thread's own connection to it.

Used by outbox.py alone, from the pipeline and the publisher thread, under the outbox's lock. Every method may
raise sqlite3.Error or OSError; `is_corrupt` tells a damaged file from a disk that refuses.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

_VERSION = 1
_TABLES = (
    """CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, machine TEXT NOT NULL, key TEXT NOT NULL,
        topic TEXT NOT NULL, payload TEXT NOT NULL, put_at_s REAL NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS machine (machine TEXT PRIMARY KEY, seq INTEGER NOT NULL, snapshot TEXT)",
    f"PRAGMA user_version = {_VERSION}",
)

log = structlog.get_logger()

MachineState = tuple[str, int, str | None]
"""Machine, its last sequence number, its snapshot as JSON."""


@dataclass(frozen=True, slots=True)
class Row:
    """A message that waits."""

    id: int
    """Rises in the order of put, over restarts too."""
    machine: str
    key: str
    topic: str
    payload: dict[str, Any]
    put_at_s: float
    """Unix time."""


class OutboxFile:
    """The file; opened, and made, by each thread at its first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []

    def load(self) -> tuple[list[MachineState], int, int]:
        """What an earlier run left: the machines, how many rows, the highest row id."""
        connection = self._connection()
        machines = connection.execute("SELECT machine, seq, snapshot FROM machine").fetchall()
        count, last_id = connection.execute("SELECT count(*), ifnull(max(id), 0) FROM outbox").fetchone()
        return machines, count, last_id

    def write(self, new: Collection[Row], gone: Collection[int], machines: Collection[MachineState]) -> int:
        """Add rows, delete rows, keep states, all or nothing, and on disk; how many rows were deleted."""
        rows = [(r.id, r.machine, r.key, r.topic, json.dumps(r.payload), r.put_at_s) for r in new]
        connection = self._connection()
        with _transaction(connection):
            connection.executemany("INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)", rows)
            deleted = connection.executemany(
                "DELETE FROM outbox WHERE id = ?", [(row_id,) for row_id in gone]
            )
            connection.executemany("REPLACE INTO machine VALUES (?, ?, ?)", machines)
        return max(deleted.rowcount, 0)

    def read(self, after: int, limit: int) -> list[Row]:
        """Rows with an id above `after`, lowest first."""
        found = self._connection().execute(
            "SELECT * FROM outbox WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [
            Row(row_id, machine, key, topic, _parsed(payload), put_at_s)
            for row_id, machine, key, topic, payload, put_at_s in found
        ]

    def close(self) -> None:
        """Close every thread's connection; the next use opens it again."""
        while self._open:
            self._open.pop().close()

    def set_aside(self) -> Path:
        """Rename the file, with its journal, to the first free `<name>.corrupt-<n>`."""
        self.close()
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.corrupt-{number}")).exists():
            number += 1
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                self._path.with_name(self._path.name + suffix).rename(aside.with_name(aside.name + suffix))
        return aside

    def _connection(self) -> sqlite3.Connection:
        known: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if known is not None and known in self._open:
            return known
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Opened and used by one thread; the check is off because another may close it.
        opened = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            _prepare(opened)
        except sqlite3.Error:
            opened.close()
            raise
        self._open.append(opened)
        self._local.connection = opened
        return opened


def is_corrupt(error: Exception) -> bool:
    """The file is damaged or not ours, so that trying again cannot help; otherwise the disk refused."""
    # The lowest byte is the primary code; extended codes say more in the others.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # Plain ERROR is "no such table" and the like: a file of somebody else's.
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _prepare(connection: sqlite3.Connection) -> None:
    # A damaged text is shown as such by its message; it must not stop those behind it.
    connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if version not in (0, _VERSION) or check != "ok":
        error = sqlite3.DatabaseError(f"version {version}, check {check}; expected version {_VERSION}, ok")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if version == 0:
        with _transaction(connection):
            for statement in _TABLES:
                connection.execute(statement)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _parsed(payload: str) -> dict[str, Any]:
    """The payload of a row; a damaged one is passed on as it is, because silence would hide an alarm."""
    try:
        loaded: dict[str, Any] = json.loads(payload)
    except ValueError:
        log.exception("a message in the outbox is damaged: it is sent as it is", payload=payload[:200])
        return {"damaged": payload}
    return loaded
