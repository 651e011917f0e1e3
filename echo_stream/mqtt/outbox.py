"""The outbox keeps on disk what must reach the broker, from before it is sent until it is acknowledged.

SQLite in WAL mode with synchronous FULL: what `put` returned from survives a power cut, unless the disk
refused it: then it waits in memory, is counted in `unsaved` and sent marked so. Used by the pipeline (put)
and the publisher (pending, ack, maintain), each on its own connection; one lock keeps their transactions
apart.

Nothing here raises because of a disk or of what it gives back: every value is checked, a damaged row is
set aside, named and counted, and a file that is corrupt or of a newer version is renamed and kept.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import sqlite3
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from echo_stream.core.text import clean_text
from echo_stream.mqtt.salvage import salvage

_AHEAD_S = time.time() - time.monotonic()


def steady_time() -> float:
    """Unix time as this process found it at its start, and what passed since; it never jumps."""
    return _AHEAD_S + time.monotonic()


_VERSION = 1
_CLOCK_TABLE = "CREATE TABLE IF NOT EXISTS clock (one INTEGER PRIMARY KEY, seen_s REAL NOT NULL)"

"""Unix time up to which age is counted; older versions pass over it."""
_MAX_SPEED = 24.0
"""Age is counted at most so many times faster than the daemon lives: a clock that is a year ahead, at this
start or at an earlier one, deletes nothing in its first fortnight."""
_DROP_CHUNK = 500
_MAX_ID = 2**62
_COLUMNS = "id, machine, key, topic, payload, put_at_s"
_DISK_ERRORS = (sqlite3.Error, OSError, UnicodeError)
"""UnicodeError: Python's sqlite3 cannot read a message of SQLite that quotes a damaged schema."""
_MAX_TOPIC_BYTES = 65_535
_TABLES = (
    """CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY, machine TEXT NOT NULL, key TEXT NOT NULL,
        topic TEXT NOT NULL, payload TEXT NOT NULL, put_at_s REAL NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS machine (machine TEXT PRIMARY KEY, seq INTEGER NOT NULL, snapshot TEXT)",
    _CLOCK_TABLE,
    f"PRAGMA user_version = {_VERSION}",
)

log = structlog.get_logger()

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

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
        except _DISK_ERRORS:
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


def _salvaged(aside: Path) -> tuple[list[Row], list[MachineState]]:
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
    if not 0 < size <= _MAX_TOPIC_BYTES or any(c in "+#" or ord(c) < 32 or c == "\ufffd" for c in row.topic):
        return f"its topic {clean_text(row.topic)!r} is none"
    if not 0 < row.id < _MAX_ID:
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


_ROOM_SHARE = 100
"""A full outbox makes room for this part of its rows at once, so that it is not searched at every put."""


class Outbox:
    """Messages in order, on disk until acknowledged, with the sequence numbers and states beside them.

    Args:
        path: The SQLite file; it and its folder are made where they are missing.
        max_rows: Above it the oldest rows go, but never the newest of a (machine, key).
        max_age_s: Rows older than it go likewise.
        monotonic: Seconds that never jump: they bound how fast rows can become old.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_rows: int = 100_000,
        max_age_s: float = 30 * 86_400.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = path
        self.set_aside: Path | None = None
        """Where a corrupt file went that was found in this one's place."""
        self.dropped = 0
        """Rows given up since the start, because the outbox was full or they were too old."""
        self.damaged = 0
        """Values that were found damaged since the start: rows set aside, states begun anew."""
        self.refusals = 0
        """Times since the start that the disk did not take or give what it should."""
        self.readable = True
        """`pending` could read the disk the last time; if not, it may give more later."""
        self.salvages = 0
        """Times that rows with old ids came back from a corrupt file."""
        self._to_salvage: Path | None = None
        self._acknowledged: frozenset[int] = frozenset()
        self._max_rows = max_rows
        self._max_age_s = max_age_s
        self._lock = threading.Lock()
        self._file = OutboxFile(path)
        self._unsaved: dict[int, Row] = {}
        self._gone: set[int] = set()
        self._damaged_ids: set[int] = set()
        self._unkept: set[str] = set()
        self._on_disk = 0
        self._last_id = 0
        self._seq: Counter[str] = Counter()
        self._snapshots: dict[str, str | None] = {}
        self._loaded = False
        self.trouble = ""
        """Why the disk takes nothing at present, in a sentence; empty where it does."""
        self._seen_s: float | None = None
        self._monotonic = monotonic
        self._seen_at_s = monotonic()
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
        """The state last kept for a machine by `put` or `save_snapshot`; None where none can be read."""
        with self._lock:
            text = self._snapshots.get(machine)
        if not text:
            return None
        try:
            loaded = json.loads(text)
        except (ValueError, TypeError, RecursionError):
            loaded = None
        if isinstance(loaded, dict):
            return loaded
        self.damaged += 1
        found = repr(text)[:200]
        log.error("the saved alarm state is damaged and was discarded", machine=machine, found=found)
        return None

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
            row = Row(self._last_id, machine, key, topic, payload, now_s, saved=False)
            self._unsaved[row.id] = row
            self._unkept.add(machine)
            if snapshot is not None:
                self._snapshots[machine] = json.dumps(snapshot)
            self._save()
        return row

    def pending(self, after: int = 0, limit: int = 100) -> list[Row]:
        """The oldest rows with an id above `after`, at most `limit`, in order."""
        while True:
            with self._lock:
                rows = self._rows(after, limit)
            damaged = [(row, why) for row in rows if (why := trouble_of(row))]
            if not damaged:
                return rows
            for row, why in damaged:
                self.set_row_aside(row, why)
                with self._lock:
                    self._damaged_ids.add(row.id)  # also where the disk does not delete it

    def ack(self, ids: Iterable[int]) -> None:
        """The broker has them: forget them. Ids that are not there are no error."""
        with self._lock:
            self._forget(ids)
            self._save()

    @property
    def maintenance_due(self) -> bool:
        """More rows wait than there is room for, or a corrupt file was set aside: `maintain` is due."""
        return self.depth > self._max_rows or self._to_salvage is not None

    def maintain(self, now_s: float) -> None:
        """To be called now and then by the publisher: writes what the disk refused, makes room, drops by age.

        The pipeline's thread waits for none of it: the search needs no lock, and deletes little at a time.
        """
        aside = self._to_salvage
        if aside is not None:
            rows, machines = _salvaged(aside)
            with self._lock:
                self._to_salvage = None
                self._take_salvaged(rows, machines)
                self._save()
            log.warning("rows of the corrupt outbox were saved", set_aside=str(aside), salvaged=len(rows))
        with self._lock:
            self._save()
        try:
            seen_s = self._count_age(now_s)
            oldest_s = self._file.oldest_s() if self._loaded else None
            old = oldest_s is not None and oldest_s < seen_s - self._max_age_s
            if self.depth > self._max_rows or old:
                self._make_room(seen_s)
        except _DISK_ERRORS as error:
            with self._lock:
                self._unreadable(error)

    def set_row_aside(self, row: Row, why: str) -> None:
        """A row that cannot be published: to a file of its own, so that those behind it go on."""
        self.damaged += 1
        aside = None
        with contextlib.suppress(OSError):
            aside = str(self._file.set_row_aside(row))
        log.error(
            "a row of the outbox is damaged: it was set aside and is not sent",
            reason=why,
            id=row.id,
            machine=clean_text(row.machine),
            topic=clean_text(row.topic),
            set_aside=aside,
            damaged_since_start=self.damaged,
        )
        self.ack([row.id])

    def close(self) -> None:
        """Close the file, and say what is lost by it. No thread may use the outbox afterwards."""
        with self._lock:
            self._save()
            self._file.close()
        self.report_unsaved()

    def report_unsaved(self) -> None:
        """At the end: events that neither broker nor disk took."""
        if self._unsaved:
            log.error(
                "events are lost: neither the broker nor the disk took them",
                lost=len(self._unsaved),
                machines=dict(Counter(row.machine for row in self._unsaved.values())),
                path=str(self.path),
                hint="free or mount the disk of the state directory, and bring the broker back",
            )

    def _count_age(self, now_s: float) -> float:
        """Unix time for ages: follows the clock, but no faster than the daemon lives could explain."""
        lived_s = self._monotonic() - self._seen_at_s
        if self._seen_s is None:
            kept_s = self._file.clock() if self._loaded else None
            oldest_s = self._file.oldest_s() if self._loaded else None
            known = kept_s if kept_s is not None else oldest_s
            self._seen_s = now_s if known is None else known
        self._seen_at_s = self._monotonic()
        self._seen_s = min(now_s, self._seen_s + lived_s * _MAX_SPEED)
        if self._loaded:
            self._file.set_clock(self._seen_s)
        return self._seen_s

    def _make_room(self, seen_s: float) -> None:
        surplus = self.depth - self._max_rows
        if surplus > 0:
            surplus += self._max_rows // _ROOM_SHARE
        drop = self._file.droppable(surplus, seen_s - self._max_age_s)
        for begin in range(0, len(drop), _DROP_CHUNK):
            with self._lock:
                self._forget(row_id for row_id, _ in drop[begin : begin + _DROP_CHUNK])
                self._save()
        with self._lock:  # a disk that takes nothing: memory is bounded too
            drop += self._drop_unsaved(self.depth - self._max_rows)
        if not drop:
            return
        self.dropped += len(drop)
        log.error(
            "the outbox dropped its oldest events: the broker was away for too long",
            dropped=len(drop),
            machines=dict(Counter(machine for _, machine in drop)),
            dropped_since_start=self.dropped,
            waiting=self.depth,
            hint="bring the broker back, or raise the bounds of the outbox",
        )

    def _drop_unsaved(self, surplus: int) -> list[tuple[int, str]]:
        newest = set({(row.machine, row.key): row.id for row in self._unsaved.values()}.values())
        others = [row for row in self._unsaved.values() if row.id not in newest]
        drop = [(row.id, row.machine) for row in others[: max(surplus, 0)]]
        self._forget(row_id for row_id, _ in drop)
        return drop

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
            except (sqlite3.DatabaseError, UnicodeError) as error:
                if not is_corrupt(error):
                    raise
                self._replace_file(error)
                self._write()
        except _DISK_ERRORS as error:
            self._refused(error)
            return
        if self.trouble:
            log.info("the outbox can be written again", path=str(self.path), waiting=self.depth)
        self.trouble = ""

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
            if isinstance(seq, int) and 0 <= seq < _MAX_ID:
                self._seq[machine] = max(self._seq[machine], seq)
            else:
                self.damaged += 1
                named, found = repr(machine)[:100], repr(seq)[:100]
                log.error("the saved sequence number is damaged", machine=named, found=found)
            self._snapshots.setdefault(machine, snapshot)
        if last_id < _MAX_ID:  # otherwise it is set aside when it is read
            self._last_id = max(self._last_id, last_id)
        self._loaded = True

    def _rows(self, after: int, limit: int) -> list[Row]:
        rows: list[Row] = []
        try:
            rows = self._file.read(after, limit + len(self._gone))
            self.readable = True
        except _DISK_ERRORS as error:
            self.readable = False
            self._unreadable(error)
        waiting = [row for row in rows if row.id not in self._gone and row.id not in self._damaged_ids]
        waiting += [row for row in self._unsaved.values() if row.id > after]
        return sorted(waiting, key=lambda row: row.id)[:limit]

    def _unreadable(self, error: Exception) -> None:
        try:
            if not is_corrupt(error):
                raise error
            self._replace_file(error)
        except _DISK_ERRORS as refusal:
            self._refused(refusal)

    def _replace_file(self, error: Exception) -> None:
        if isinstance(error, NewerVersion):
            self.set_aside = self._file.set_aside("newer")
            log.error(
                "the outbox was written by a newer echo-stream: it is kept, and what waits in it is not sent",
                path=str(self.path),
                kept_as=str(self.set_aside),
                error=str(error),
                hint="install the newer version, stop it, and rename the file back to send what waits in it",
            )
            self._on_disk = 0
            self._gone.clear()
            self._unkept.update(self._seq, self._snapshots)
            return
        self.set_aside = self._file.set_aside()
        rows: list[Row] = []
        if self._loaded:  # reading it may take seconds: not on the thread that listens
            self._to_salvage, self._acknowledged = self.set_aside, frozenset(self._gone)
        else:
            rows, machines = _salvaged(self.set_aside)
            self._take_salvaged(rows, machines)
        log.error(
            "the outbox is corrupt: it was set aside and a new one begun; what can be read of it is sent",
            path=str(self.path),
            set_aside=str(self.set_aside),
            salvaged="soon" if self._to_salvage else len(rows),
            waiting=self._on_disk if self._loaded else "unknown",
            error=str(error),
            hint="keep the file for the analysis; check the disk",
        )
        self._on_disk = 0
        self._gone.clear()
        self._unkept.update(self._seq, self._snapshots)

    def _take_salvaged(self, rows: Iterable[Row], machines: Iterable[MachineState]) -> None:
        """Rows of a corrupt file wait again; what this run knows of a machine is newer than what was read."""
        known = {row.id for row in rows if row.id not in self._acknowledged and row.id not in self._unsaved}
        self._unsaved.update({row.id: row for row in rows if row.id in known})
        self._last_id = max([self._last_id, *known])
        for machine, seq, snapshot in machines:
            if 0 <= seq < _MAX_ID:
                self._seq[machine] = max(self._seq[machine], seq)
            self._snapshots.setdefault(machine, snapshot)
            self._unkept.add(machine)
        self.salvages += 1

    def _refused(self, error: Exception) -> None:
        self.refusals += 1
        if not self.trouble:
            log.error(
                "the outbox cannot be written: listening goes on, events wait in memory",
                path=str(self.path),
                error=str(error),
                hint="free or mount the disk; until then a power cut would lose what waits",
            )
        self.trouble = f"the outbox {self.path} cannot be written, events wait in memory: {error}"
