"""The history store keeps minute rows in SQLite; a writer thread of its own does all writing.

The pipeline only appends to a bounded queue. WAL mode: a killed process loses what the queue holds and at
most the last transaction. A full or read-only disk costs history and nothing else: rows that cannot be
written wait, the oldest of too many are dropped and counted. A damaged file is set aside and a new one begun.
Rows are bounded by their number a machine and not by their age, so that a clock that was set wrong deletes
nothing. Numbers are stored as scaled integers, which SQLite packs into one to four bytes each: 39 bytes a
row, 21 MB a machine and year (measured). What a calibrated sensor measures has a table of its own, so that
older versions read the file, and newer ones a file of theirs.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.measures import MEASURES
from echo_stream.history.minutes import MINUTE_S, MinuteRow

HISTORY_FILE = "history.sqlite"
"""Its name in the state directory."""
VERSION = 1
WRITE_EVERY_S = 10.0
ROWS_A_DAY = 86_400 // MINUTE_S
MOST_EVENTS = 100_000
"""Events that the journal keeps; the oldest go."""
MOST_WAITING = 100_000
"""Rows in memory while the disk refuses: 1,000 machines for 100 minutes."""
SCALE = 1000.0
FINE = 10_000.0
"""Of measures: a quiet bearing has 0.01 m/s2."""
_MEASURED = tuple(f"{name}_{of}" for name in MEASURES for of in ("median", "max"))
_TABLES = f"""
CREATE TABLE IF NOT EXISTS names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS minutes (
    machine INTEGER NOT NULL, minute INTEGER NOT NULL, windows INTEGER NOT NULL,
    score_median INTEGER NOT NULL, score_max INTEGER NOT NULL,
    over_warning INTEGER NOT NULL, over_alarm INTEGER NOT NULL,
    level INTEGER NOT NULL, state INTEGER NOT NULL, coverage INTEGER NOT NULL,
    band_low INTEGER, band_high INTEGER,
    PRIMARY KEY (machine, minute)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS measured (
    machine INTEGER NOT NULL, minute INTEGER NOT NULL, {", ".join(f"{each} INTEGER" for each in _MEASURED)},
    PRIMARY KEY (machine, minute)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, machine TEXT NOT NULL, payload TEXT NOT NULL);
"""

Values = tuple[int | None, ...]
"""Of a row, as they are stored."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class HistoryCounters:
    """What the store did, for status and metrics."""

    written: int
    """Rows since the start."""
    dropped: int
    """Rows that were lost because the disk did not take them in time."""
    waiting: int
    last_error: str | None
    """Why the last write failed; None after one that worked."""


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """What happened, as it was sent."""

    kind: str
    machine: str
    payload: str
    """JSON."""


class HistoryStore:
    """Writes minute rows in the background and reads them back.

    Args:
        path: Of the SQLite file; made where it is missing.
        max_days: So many days of minutes are kept of each machine; beyond that its oldest rows go.
    """

    def __init__(self, path: Path, *, max_days: float) -> None:
        self._path = path
        self._max_days = max_days
        self._queue: deque[MinuteRow] = deque()
        self._events: deque[JournalEntry] = deque(maxlen=MOST_WAITING)
        self._wake = threading.Event()
        self._written = self._dropped = 0
        self._last_error: str | None = None
        self._names: dict[str, int] = {}
        self._pruned = 0
        self._stop = threading.Event()
        self.thread = GuardedThread("the history", self._run, self._stop)

    def start(self) -> None:
        """Start the writer thread."""
        self.thread.start()

    def stop(self, patience_s: float = 2.0) -> None:
        """Write what waits and end the thread; waits for `patience_s` at most."""
        self._stop.set()
        self._wake.set()
        self.thread.join(patience_s)

    def put(self, row: MinuteRow) -> None:
        """Queue a row. Never waits, never raises; pipeline thread."""
        self._queue.append(row)
        if len(self._queue) > MOST_WAITING:
            with contextlib.suppress(IndexError):
                self._queue.popleft()
                self._dropped += 1

    def put_event(self, kind: str, machine: str, payload: str) -> None:
        """Queue an event for the journal, which is written at once. Never waits, never raises; any thread.

        Args:
            kind: Such as `event` or `sensor`.
            machine: Its id; empty where it is of none.
            payload: JSON.
        """
        self._events.append(JournalEntry(kind, machine, payload))
        self._wake.set()

    @property
    def counters(self) -> HistoryCounters:
        """What was done until now; any thread."""
        return HistoryCounters(self._written, self._dropped, len(self._queue), self._last_error)

    # The writer thread.

    def _run(self) -> None:
        while True:
            self._wake.wait(WRITE_EVERY_S)
            self._wake.clear()
            stopping = self._stop.is_set()
            try:
                self._write_queue()
            except sqlite3.OperationalError as error:  # such as a full disk: nothing is wrong with the file
                self._report(str(error))
            except (sqlite3.DatabaseError, UnicodeError) as error:
                self._begin_anew(error)
            except OSError as error:
                self._report(str(error))
            if stopping:
                return

    def _begin_anew(self, error: Exception) -> None:
        """A damaged page was met: the file is kept under another name, a new one takes what waits."""
        try:
            _set_aside(self._path, str(error))
            self._write_queue()
        except (sqlite3.Error, OSError, UnicodeError) as refusal:
            self._report(str(refusal))

    def _report(self, problem: str) -> None:
        if self._last_error is None:
            log.error("history cannot be written; rows wait in memory", path=str(self._path), reason=problem)
        self._last_error = problem

    def _write_queue(self) -> None:
        if not self._queue and not self._events and self._last_error is None:
            return
        rows, events = list(self._queue), list(self._events)
        with _connected(self._path) as database:
            with database:
                self._names = dict(database.execute("SELECT name, id FROM names"))
                packed = [values for row in rows if (values := self._packed_or_none(database, row))]
                minutes = [each for each, _ in packed]
                measured = [(*each[:2], *more) for each, more in packed if more]
                for table, found in (("minutes", minutes), ("measured", measured)):
                    if found:
                        marks = ", ".join("?" * len(found[0]))
                        database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", found)  # noqa: S608 - no outside text
                if events:
                    _add_events(database, events)
            for _ in rows:
                self._queue.popleft()
            for _ in events:
                self._events.popleft()
            self._written += len(packed)
            self._dropped += len(rows) - len(packed)
            if self._names:  # one name a round: that of a machine or of a state, which has no rows
                name_ids = sorted(self._names.values())
                self._pruned = (self._pruned + 1) % len(name_ids)
                prune(database, name_ids[self._pruned], round(self._max_days * ROWS_A_DAY))
        if self._last_error is not None:
            log.info("history is written again", path=str(self._path), waited=len(rows))
            self._last_error = None

    def _packed_or_none(self, database: sqlite3.Connection, row: MinuteRow) -> tuple[Values, Values] | None:
        """A row that SQLite cannot hold, such as one with NaN, must not hold up all others."""
        try:
            return self._packed(database, row), _packed_measures(row)
        except (ValueError, OverflowError) as error:
            log.error("history row is dropped", machine=row.machine, minute_s=row.minute_s, reason=str(error))
            return None

    def _packed(self, database: sqlite3.Connection, row: MinuteRow) -> Values:
        low, high = row.band_hz or (None, None)
        return (
            self._id(database, row.machine),
            row.minute_s // MINUTE_S,
            row.windows,
            round(row.score_median * SCALE),
            round(row.score_max * SCALE),
            round(row.over_warning * SCALE),
            round(row.over_alarm * SCALE),
            round(row.level_dbfs * 10),
            self._id(database, row.operating_state),
            round(row.coverage * SCALE),
            None if low is None else round(low),
            None if high is None else round(high),
        )

    def _id(self, database: sqlite3.Connection, name: str) -> int:
        """A number that stands for a machine or an operating state: three bytes a row instead of its name."""
        if name not in self._names:
            cursor = database.execute("INSERT INTO names (name) VALUES (?)", (name,))
            self._names[name] = int(cursor.lastrowid or 0)
        return self._names[name]


def _add_events(database: sqlite3.Connection, events: Iterable[JournalEntry]) -> None:
    database.executemany(
        "INSERT INTO events (kind, machine, payload) VALUES (?, ?, ?)",
        [(each.kind, each.machine, each.payload) for each in events],
    )
    database.execute("DELETE FROM events WHERE id <= (SELECT MAX(id) FROM events) - ?", (MOST_EVENTS,))


def _packed_measures(row: MinuteRow) -> Values:
    if not row.measured:
        return ()
    found = (row.measured.get(name, (None, None)) for name in MEASURES)
    return tuple(None if value is None else round(value * FINE) for pair in found for value in pair)


def prune(database: sqlite3.Connection, machine_id: int, most_rows: int) -> int:
    """Delete the oldest rows of a machine beyond `most_rows`; returns how many."""
    oldest = "(SELECT minute FROM minutes WHERE machine = :machine ORDER BY minute DESC LIMIT 1 OFFSET :most)"
    with database:
        gone = [
            database.execute(
                f"DELETE FROM {table} WHERE machine = :machine AND minute <= {oldest}",  # noqa: S608
                {"machine": machine_id, "most": most_rows},
            ).rowcount
            for table in ("measured", "minutes")
        ]
    return gone[1]


@contextlib.contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, timeout=5.0)
    try:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            check_version(database, path)
            database.executescript(_TABLES + f"PRAGMA user_version = {VERSION};")
        except (sqlite3.DatabaseError, UnicodeError) as error:
            if isinstance(error, sqlite3.OperationalError) and not _is_corrupt(error):
                raise  # such as a full disk: nothing is wrong with it
            database.close()
            _set_aside(path, str(error))
            database = sqlite3.connect(path, timeout=5.0)
            database.executescript(
                "PRAGMA journal_mode = WAL;" + _TABLES + f"PRAGMA user_version = {VERSION};"
            )
        yield database
    finally:
        database.close()


def _is_corrupt(error: sqlite3.Error) -> bool:
    """Whether the schema is damaged, which SQLite calls an operational error too."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def check_version(database: sqlite3.Connection, path: Path) -> None:
    """Raises sqlite3.Error where a newer version has written the file."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise sqlite3.OperationalError(
            f"{path}: history has version {version}, expected {VERSION} or less: a newer version wrote it"
        )


def _set_aside(path: Path, reason: str) -> None:
    """Keep a damaged file under another name."""
    number = 1
    while (kept := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    log.error("history is damaged and was set aside", path=str(kept), reason=reason)
