"""History is read back from its file: minutes, highest values, the journal, CSV."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from echo_stream.core.measures import MEASURES
from echo_stream.history.minutes import MINUTE_S, MinuteRow
from echo_stream.history.store import FINE, SCALE, JournalEntry, Values, check_version

MOST_SEEKS = 5000
"""In damaged history; a second at most."""


def read_history(path: Path, machine: str, *, since_s: float) -> list[MinuteRow]:
    """Rows of a machine in order of time; any thread, also of another process.

    Args:
        path: Of the SQLite file; a missing one has no rows.
        machine: Id of the machine.
        since_s: Unix time of the first row.

    Raises:
        sqlite3.Error: the file is damaged, or is no history.
    """
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
        check_version(database, path)
        names = dict(database.execute("SELECT id, name FROM names"))
        machine_id = next((number for number, name in names.items() if name == machine), None)
        span = machine_id, int(since_s // MINUTE_S), 2**40
        measured = {}
        if database.execute("SELECT 1 FROM sqlite_master WHERE name = 'measured'").fetchone():
            measured = {each[1]: each[2:] for each in _between(database, "measured", *span)}
        rows = [
            row
            for each in _between(database, "minutes", *span)
            if (row := _unpacked_or_none(machine, names, each, measured.get(each[1], ())))
        ]
    return sorted(rows, key=lambda row: row.minute_s)


def _between(
    database: sqlite3.Connection, table: str, machine_id: int | None, first: int, last: int
) -> Iterator[Values]:
    """Rows of a machine from one minute to another, in any order; those on a damaged page are left out.

    SQLite ends a query at a damaged page. Halves of the time are asked for until the rest is found.
    """
    unknown = deque([(first, last)])
    for _ in range(MOST_SEEKS):
        if not unknown:
            return
        first, last = unknown.popleft()
        try:
            yield from database.execute(
                f"SELECT * FROM {table} WHERE machine = ? AND minute BETWEEN ? AND ?",  # noqa: S608
                (machine_id, first, last),
            ).fetchall()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            middle = (first + last) // 2
            if first < last:
                unknown += [(first, middle), (middle + 1, last)]


def _unpacked_or_none(
    machine: str, names: dict[int, str], values: Values, measured: Values
) -> MinuteRow | None:
    try:
        return replace(_unpacked(machine, names, values), measured=_unpacked_measures(measured))
    except (OverflowError, TypeError, ValueError):  # a damaged value
        return None


def read_highest(path: Path, *, since_s: float, step_s: float) -> dict[str, list[tuple[float, float, float]]]:
    """The highest score of every machine in each piece of time, for the small charts of many machines.

    Args:
        path: Of the SQLite file; a missing one has no rows.
        since_s: Unix time of the first piece.
        step_s: Length of a piece; a multiple of a minute.

    Returns:
        By machine: (Unix time at which the piece begins, highest score, mean coverage), in order of time.

    Raises:
        sqlite3.Error: the file is damaged, or is no history.
    """
    found: dict[str, list[tuple[float, float, float]]] = {}
    if not path.exists():
        return found
    step = max(1, round(step_s / MINUTE_S))
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
        check_version(database, path)
        rows = database.execute(
            "SELECT n.name, m.minute / ?1 AS piece, MAX(m.score_max), SUM(m.coverage) FROM minutes m "
            "JOIN names n ON n.id = m.machine WHERE m.minute >= ?2 GROUP BY m.machine, piece ORDER BY piece",
            (step, int(since_s // MINUTE_S)),
        )
        for name, piece, highest, coverage in rows:
            at_s = float(piece * step * MINUTE_S)
            found.setdefault(name, []).append((at_s, highest / SCALE, coverage / step / SCALE))
    return found


def read_journal(
    path: Path, *, machine: str | None = None, before: int | None = None, limit: int = 200
) -> list[tuple[int, JournalEntry]]:
    """Events of the journal with their numbers, newest first.

    Args:
        path: Of the SQLite file; a missing one has none.
        machine: Only of this one.
        before: Only those with a smaller number: the page before.
        limit: So many at most.

    Raises:
        sqlite3.Error: the file is damaged, or is no history.
    """
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)) as database:
        check_version(database, path)
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'events'").fetchone():
            return []  # of a version that kept none
        rows = database.execute(
            "SELECT id, kind, machine, payload FROM events WHERE (?1 IS NULL OR machine = ?1) "
            "AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
            (machine, before, limit),
        )
        return [(number, JournalEntry(*values)) for number, *values in rows]


def _unpacked_measures(values: Values) -> dict[str, tuple[float, float]]:
    pairs = zip(MEASURES, values[::2], values[1::2], strict=False)
    return {n: (a / FINE, b / FINE) for n, a, b in pairs if a is not None and b is not None}


def _unpacked(machine: str, names: dict[int, str], values: Values) -> MinuteRow:
    _, minute, windows, middle, highest, warning, alarm, level, state, coverage, low, high = (
        0 if value is None and i < 10 else value for i, value in enumerate(values)
    )
    return MinuteRow(
        machine,
        int(minute or 0) * MINUTE_S,
        windows=int(windows or 0),
        score_median=(middle or 0) / SCALE,
        score_max=(highest or 0) / SCALE,
        over_warning=(warning or 0) / SCALE,
        over_alarm=(alarm or 0) / SCALE,
        level_dbfs=(level or 0) / 10,
        operating_state=names.get(int(state or 0), "?"),
        coverage=(coverage or 0) / SCALE,
        band_hz=None if low is None or high is None else (float(low), float(high)),
    )


def rows_to_csv(rows: Iterable[MinuteRow]) -> Iterator[str]:
    """Lines of a CSV file with a head; times in UTC, units in the names; measures where a row has some."""
    rows = list(rows)
    names = [name for name in MEASURES if any(name in row.measured for row in rows)]
    more = "".join(f",{name}_median,{name}_max" for name in names)
    yield (
        "time_utc,machine,windows,score_median,score_max,over_warning,over_alarm,level_dbfs,operating_state,"
        f"coverage,band_low_hz,band_high_hz{more}"
    )
    for row in rows:
        low, high = row.band_hz or ("", "")
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(row.minute_s))
        pairs = (row.measured.get(name) for name in names)
        measured = "".join(f",{pair[0]:.4f},{pair[1]:.4f}" if pair else ",," for pair in pairs)
        yield (
            f"{at},{row.machine},{row.windows},{row.score_median:.3f},{row.score_max:.3f},"
            f"{row.over_warning:.3f},{row.over_alarm:.3f},{row.level_dbfs:.1f},{row.operating_state},{row.coverage:.3f},{low},{high}{measured}"
        )
