"""The outbox: what must reach the broker waits here on disk, from before it is sent until it is acknowledged.

SQLite in WAL mode with synchronous FULL: what `put` returned from survives a power cut. Used by the pipeline
(put) and the publisher (pending, ack), each on its own connection; one lock keeps their short transactions
apart. Nothing here raises because of a disk: what cannot be written waits in memory, is said once, counted,
and written when the disk takes it again. A file that is corrupt is set aside and kept.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

_AHEAD_S = time.time() - time.monotonic()


def steady_time() -> float:
    """Unix time as this process found it at its start, and what passed since; it never jumps."""
    return _AHEAD_S + time.monotonic()


# The outbox's SQLite file: its tables, and each thread's own connection to it.
#
# Used by outbox.py alone, from the pipeline and the publisher thread, under the outbox's lock. Every
# method may
# raise sqlite3.Error or OSError; `is_corrupt` tells a damaged file from a disk that refuses.

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


# The outbox: what must reach the broker waits here on disk, from before it is sent until it is acknowledged.
#
# SQLite in WAL mode with synchronous FULL: what `put` returned from survives a power cut. Used by the
# pipeline
# (put) and the publisher (pending, ack), each on its own connection; one lock keeps their short transactions
# apart. Nothing here raises because of a disk: what cannot be written waits in memory, is said once, counted,
# and written when the disk takes it again. A file that is corrupt is set aside and kept.

_ROOM_SHARE = 100
"""A full outbox makes room for this part of its rows at once, so that it is not searched at every put."""


class Outbox:
    """Messages in order, on disk until acknowledged, with the sequence numbers and states beside them.

    Args:
        path: The SQLite file; it and its folder are made where they are missing.
        max_rows: Above it the oldest rows go, but never the newest of a (machine, key).
        max_age_s: Rows older than it go likewise.
    """

    def __init__(self, path: Path, *, max_rows: int = 100_000, max_age_s: float = 30 * 86_400.0) -> None:
        self.path = path
        self.set_aside: Path | None = None
        """Where a corrupt file went that was found in this one's place."""
        self.dropped = 0
        """Rows given up since the start, because the outbox was full or they were too old."""
        self.refusals = 0
        """Times since the start that the disk did not take or give what it should."""
        self.readable = True
        """`pending` could read the disk the last time; if not, it may give more later."""
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._file = OutboxFile(path)
        self._unsaved: dict[int, Row] = {}
        self._gone: set[int] = set()
        self._unkept: set[str] = set()
        self._on_disk = 0
        self._last_id = 0
        self._seq: Counter[str] = Counter()
        self._snapshots: dict[str, str | None] = {}
        self._loaded = False
        self._disk_refuses = False
        with self._lock:
            self._save()

    @property
    def last_id(self) -> int:
        """Id of the newest row that was put."""
        return self._last_id

    @property
    def depth(self) -> int:
        """Rows that wait."""
        return self._on_disk + len(self._unsaved) - len(self._gone)

    @property
    def unsaved(self) -> int:
        """Rows of these that the disk did not take: they would be lost with the process."""
        return len(self._unsaved)

    def next_seq(self, machine: str) -> int:
        """The next sequence number of a machine, from 1; kept on disk with the next put."""
        with self._lock:
            self._seq[machine] += 1
            self._unkept.add(machine)
            return self._seq[machine]

    def snapshot(self, machine: str) -> dict[str, Any] | None:
        """The state last kept for a machine by `put` or `save_snapshot`; None where there is none."""
        with self._lock:
            text = self._snapshots.get(machine)
        loaded: dict[str, Any] | None = json.loads(text) if text else None
        return loaded

    def save_snapshot(self, machine: str, snapshot: dict[str, Any]) -> None:
        """Keep a machine's state where there is no event to put with it."""
        with self._lock:
            self._snapshots[machine] = json.dumps(snapshot)
            self._unkept.add(machine)
            self._save()

    def put(
        self,
        machine: str,
        topic: str,
        payload: dict[str, Any],
        *,
        now_s: float,
        key: str = "",
        snapshot: dict[str, Any] | None = None,
    ) -> Row:
        """Keep a message until it is acknowledged; it is on disk when this returns, or counted in `unsaved`.

        Args:
            machine: Rows of one machine are sent in the order in which they were put.
            topic: Where to publish it.
            payload: What to publish.
            now_s: Unix time.
            key: The newest row of each (machine, key) is never dropped.
            snapshot: The machine's state after this event, kept in the same transaction: after a crash both
                are there or neither.
        """
        with self._lock:
            # From the clock, so that rows made while the file could not be read come after those in it.
            self._last_id = max(self._last_id + 1, int(now_s * 1e6))
            row = Row(self._last_id, machine, key, topic, payload, now_s)
            self._unsaved[row.id] = row
            self._unkept.add(machine)
            if snapshot is not None:
                self._snapshots[machine] = json.dumps(snapshot)
            self._save()
            if self.depth > self._max_rows:
                self._make_room(now_s)
        return row

    def pending(self, after: int = 0, limit: int = 100) -> list[Row]:
        """The oldest rows with an id above `after`, at most `limit`, in order."""
        with self._lock:
            return self._rows(after, limit)

    def ack(self, ids: Iterable[int]) -> None:
        """The broker has them: forget them. Ids that are not there are no error."""
        with self._lock:
            self._forget(ids)
            self._save()

    def maintain(self, now_s: float) -> None:
        """To be called now and then: writes what the disk refused before, drops what is too old."""
        with self._lock:
            self._save()
            oldest = self._rows(0, 1)
            if oldest and oldest[0].put_at_s < now_s - self._max_age_s:
                self._make_room(now_s)

    def close(self) -> None:
        """Close the file. No thread may use the outbox afterwards."""
        with self._lock:
            self._save()
            self._file.close()

    # From here on the lock is held.

    def _forget(self, ids: Iterable[int]) -> None:
        for row_id in ids:
            if self._unsaved.pop(row_id, None) is None:
                self._gone.add(row_id)

    def _save(self) -> None:
        """Bring the disk up to what memory says; where that fails, memory keeps it for the next time."""
        try:
            try:
                self._write()
            except sqlite3.DatabaseError as error:
                if not is_corrupt(error):
                    raise
                self._replace_file(error)
                self._write()
        except (sqlite3.Error, OSError) as error:
            self._refused(error)
            return
        if self._disk_refuses:
            log.info("the outbox can be written again", path=str(self.path), waiting=self.depth)
        self._disk_refuses = False

    def _write(self) -> None:
        if not self._loaded:
            self._load()
        if not (self._unsaved or self._gone or self._unkept):
            return
        states = [(machine, self._seq[machine], self._snapshots.get(machine)) for machine in self._unkept]
        deleted = self._file.write(self._unsaved.values(), self._gone, states)
        self._on_disk += len(self._unsaved) - deleted
        self._unsaved.clear()
        self._gone.clear()
        self._unkept.clear()

    def _load(self) -> None:
        """Take over what an earlier run left; what this run counted before it could read goes on top."""
        machines, self._on_disk, last_id = self._file.load()
        for machine, seq, snapshot in machines:
            self._seq[machine] = max(self._seq[machine], seq)
            self._snapshots.setdefault(machine, snapshot)
        self._last_id = max(self._last_id, last_id)
        self._loaded = True

    def _rows(self, after: int, limit: int) -> list[Row]:
        rows: list[Row] = []
        try:
            rows = self._file.read(after, limit + len(self._gone))
            self.readable = True
        except (sqlite3.Error, OSError) as error:
            self.readable = False
            self._unreadable(error)
        waiting = [row for row in rows if row.id not in self._gone]
        waiting += [row for row in self._unsaved.values() if row.id > after]
        return waiting[:limit]

    def _unreadable(self, error: sqlite3.Error | OSError) -> None:
        try:
            if not is_corrupt(error):
                raise error
            self._replace_file(error)
        except (sqlite3.Error, OSError) as refusal:
            self._refused(refusal)

    def _replace_file(self, error: Exception) -> None:
        self.set_aside = self._file.set_aside()
        log.error(
            "the outbox is corrupt: it was set aside and a new one begun; what waited in it is not sent",
            path=str(self.path),
            set_aside=str(self.set_aside),
            rows_lost=self._on_disk if self._loaded else "unknown",
            error=str(error),
            hint="keep the file for the analysis; check the disk",
        )
        self._on_disk = 0
        self._gone.clear()
        self._unkept.update(self._seq, self._snapshots)

    def _refused(self, error: Exception) -> None:
        self.refusals += 1
        if not self._disk_refuses:
            log.error(
                "the outbox cannot be written: listening goes on, events wait in memory",
                path=str(self.path),
                error=str(error),
                hint="free or mount the disk; until then a power cut would lose what waits",
            )
        self._disk_refuses = True

    def _make_room(self, now_s: float) -> None:
        """Drop the oldest rows of a full outbox, and those that are too old, but no newest of its key."""
        rows = self._rows(0, self.depth)
        surplus = len(rows) - self._max_rows
        if surplus > 0:
            surplus += self._max_rows // _ROOM_SHARE
        newest = set({(row.machine, row.key): row.id for row in rows}.values())
        others = [row for row in rows if row.id not in newest]
        oldest_s = now_s - self._max_age_s
        drop = [row for place, row in enumerate(others) if place < surplus or row.put_at_s < oldest_s]
        if not drop:
            return
        self.dropped += len(drop)
        log.error(
            "the outbox dropped its oldest events: the broker was away for too long",
            dropped=len(drop),
            machines=dict(Counter(row.machine for row in drop)),
            dropped_since_start=self.dropped,
            waiting=len(rows) - len(drop),
            hint="bring the broker back, or raise the bounds of the outbox",
        )
        self._forget(row.id for row in drop)
        self._save()
