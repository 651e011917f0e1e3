"""The file of the outbox is an SQLite database that one process writes; every row is checked when it is read.

Raises what SQLite and the file system raise: what becomes of it, outbox.py decides.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import stat
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from echo_stream.core.log import get_logger
from echo_stream.core.text import clean_text
from echo_stream.mqtt.salvage import salvage
from echo_stream.mqtt.topics import MAX_TOPIC_BYTES

_VERSION = 1
_CLOCK_TABLE = "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, seen_s REAL NOT NULL)"
"""Unix time up to which age is counted; older versions pass over it."""
MAX_ID = 2**62
_COLUMNS = "id, machine, key, topic, payload, put_at_s"
DISK_ERRORS = (sqlite3.Error, OSError, UnicodeError)
"""UnicodeError: Python's sqlite3 cannot read a message of SQLite that quotes a damaged schema."""
_TABLES = (
    """CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, machine TEXT NOT NULL, key TEXT NOT NULL,
        topic TEXT NOT NULL, payload TEXT NOT NULL, put_at_s REAL NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS machine (machine TEXT PRIMARY KEY, seq INTEGER NOT NULL, snapshot TEXT)",
    _CLOCK_TABLE,
    f"PRAGMA user_version = {_VERSION}",
)
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}
MachineState = tuple[str, int, str | None]
"""Machine, its last sequence number, its snapshot as JSON."""

log = get_logger()


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
    saved: bool = field(default=True, compare=False)
    """It was on disk when it was given to the publisher."""


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
            connection.executemany(f"INSERT INTO outbox ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", rows)  # noqa: S608
            deleted = connection.executemany(
                "DELETE FROM outbox WHERE id = ?", [(row_id,) for row_id in gone]
            )
            connection.executemany("REPLACE INTO machine VALUES (?, ?, ?)", machines)
        return max(deleted.rowcount, 0)

    def read(self, after: int, limit: int) -> list[Row]:
        """Rows with an id above `after`, lowest first."""
        found = self._connection().execute(
            f"SELECT {_COLUMNS} FROM outbox WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608 - literals of ours
            (after, limit),
        )
        return [_row(values) for values in found]

    def droppable(self, surplus: int, before_s: float) -> list[tuple[int, str]]:
        """Id and machine of rows to give up: the oldest `surplus`, and those put before a time.

        Never the newest of a (machine, key). Reads no payload.
        """
        connection = self._connection()
        newest = "id NOT IN (SELECT max(id) FROM outbox GROUP BY machine, key)"
        columns = f"SELECT id, machine FROM outbox WHERE {newest}"  # noqa: S608 - literals of ours
        found = connection.execute(f"{columns} ORDER BY id LIMIT ?", (max(surplus, 0),)).fetchall()
        found += connection.execute(f"{columns} AND put_at_s < ?", (before_s,)).fetchall()
        return [(row_id, str(machine)) for row_id, machine in dict(found).items()]

    def oldest_s(self) -> float | None:
        """When the oldest row was put; None where none waits."""
        found = self._connection().execute("SELECT put_at_s FROM outbox ORDER BY id LIMIT 1").fetchone()
        return found[0] if found and isinstance(found[0], int | float) else None

    def clock(self) -> float | None:
        """Unix time up to which age was counted by an earlier run; None where nothing says so."""
        found = self._connection().execute("SELECT seen_s FROM clock").fetchone()
        return found[0] if found and isinstance(found[0], int | float) and math.isfinite(found[0]) else None

    def set_clock(self, seen_s: float) -> None:
        """Keep the time up to which age was counted."""
        self._connection().execute("REPLACE INTO clock VALUES (1, ?)", (seen_s,))

    def set_row_aside(self, row: Row) -> Path:
        """Append a row to `<name>.damaged.jsonl`, on disk when this returns."""
        aside = self._path.with_name(f"{self._path.name}.damaged.jsonl")
        names = ("id", "machine", "key", "topic", "payload")
        text = json.dumps({name: getattr(row, name) for name in names}, default=repr)
        with aside.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        return aside

    def close(self) -> None:
        """Close every thread's connection; the next use opens it again."""
        while self._open:
            self._open.pop().close()

    def set_aside(self, why: str = "corrupt") -> Path:
        """Rename the file, with its journal, to the first free `<name>.<why>-<n>`."""
        self.close()
        number = 1
        while (aside := self._path.with_name(f"{self._path.name}.{why}-{number}")).exists():
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
        _check_kind(self._path)
        # Opened and used by one thread; the check is off because another may close it.
        opened = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            _prepare(opened)
        except DISK_ERRORS:
            opened.close()
            raise
        self._open.append(opened)
        self._local.connection = opened
        return opened


class NewerVersion(sqlite3.DatabaseError):
    """The file was written by a newer echo-stream."""


def _check_kind(path: Path) -> None:
    """A file that is not there yet, or a plain one: a link leads elsewhere, a pipe would hang.

    Raises:
        OSError: It is something else.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{path} is no plain file but {_KINDS.get(stat.S_IFMT(found.st_mode), 'a device')}")
    if found.st_size == 0:
        log.error(
            "the outbox is an empty file: what waited in it, if anything did, is lost",
            path=str(path),
            hint="a power cut can do this; check the disk",
        )


def is_corrupt(error: Exception) -> bool:
    """The file is damaged or not ours, so that trying again cannot help; otherwise the disk refused."""
    # The lowest byte is the primary code; extended codes say more in the others.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    # Plain ERROR is "no such table" and the like: a file of somebody else's.
    damaged = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
    return isinstance(error, NewerVersion | UnicodeError) or code in damaged


def _prepare(connection: sqlite3.Connection) -> None:
    # A damaged text is shown as such by its message; it must not stop those behind it.
    connection.text_factory = lambda raw: raw.decode("utf-8", errors="replace")
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    check = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if version > _VERSION and check == "ok":
        raise NewerVersion(f"version {version}; this echo-stream reads version {_VERSION}")
    if version not in (0, _VERSION) or check != "ok":
        error = sqlite3.DatabaseError(f"version {version}, check {check}; expected version {_VERSION}, ok")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")  # `salvage` must not find what was delivered
    if version == 0:
        with _transaction(connection):
            for statement in _TABLES:
                connection.execute(statement)
    else:
        # A schema with one letter wrong takes rows, and never gives them back.
        connection.execute(f"SELECT {_COLUMNS} FROM outbox LIMIT 1").fetchall()  # noqa: S608
        connection.execute("SELECT machine, seq, snapshot FROM machine LIMIT 1").fetchall()
        connection.execute(_CLOCK_TABLE)


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


def _row(values: tuple[Any, ...]) -> Row:
    """A row as it was read; whatever its values are, `trouble_of` can look at it."""
    row_id, machine, key, topic, payload, put_at_s = values
    at_s = float(put_at_s) if isinstance(put_at_s, int | float) and math.isfinite(put_at_s) else 0.0
    topic = topic if isinstance(topic, str) else ""
    return Row(row_id, str(machine), str(key), topic, _parsed(payload), at_s)


def salvaged(aside: Path) -> tuple[list[Row], list[MachineState]]:
    """Rows and states of machines that can be read of a corrupt file; those of senseless ids stay in it."""
    try:
        rows, machines = salvage(aside)
    except OSError as error:
        log.error("nothing can be read of the corrupt outbox", set_aside=str(aside), reason=str(error))
        return [], []
    sound = [row for row in map(_row, rows) if not trouble_of(row)]
    return sound, machines


def trouble_of(row: Row) -> str:
    """Why a row cannot be published; empty where it can."""
    try:
        size = len(row.topic.encode())
    except UnicodeError:
        return "its topic is no text"
    if not 0 < size <= MAX_TOPIC_BYTES or any(c in "+#" or ord(c) < 32 or c == "\ufffd" for c in row.topic):
        return f"its topic {clean_text(row.topic)!r} is none"
    if not 0 < row.id < MAX_ID:
        return f"its id {row.id} is none"
    return ""


def _parsed(payload: str) -> dict[str, Any]:
    """The payload of a row; a damaged one is passed on as it is, because silence would hide an alarm."""
    try:
        loaded = json.loads(payload)
    except (ValueError, TypeError, RecursionError):
        loaded = None
    if isinstance(loaded, dict):
        return loaded
    # Once a row: it is read again at each connection until it is acknowledged.
    text = clean_text(payload if isinstance(payload, str) else repr(payload), 2000)
    log.error("a message in the outbox is damaged: it is sent as it is", payload=text[:200])
    return {"damaged": text}
