"""The history: minute rows out of windows, and a store that outlives crashes, full disks and wrong clocks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from echo_stream.history import store as store_module
from echo_stream.history.minutes import MinuteRow, MinuteSummary, WindowFigures
from echo_stream.history.read import read_highest, read_history, read_journal, rows_to_csv
from echo_stream.history.store import HistoryStore, prune

NOON_S = 1_790_000_040  # the 20th second of a minute
LEVELS = {"warning": 2.0, "alarm": 4.0}


def window(at_s: float, score: float = 0.0, state: str = "normal") -> WindowFigures:
    return WindowFigures(at_s, score, -30.0, state, (800.0, 1200.0) if score > 2 else None)


def row(minute: int, machine: str = "pump3") -> MinuteRow:
    return MinuteRow(machine, minute * 60, 60, 0.25, 5.125, 0.5, 0.05, -31.4, "load", 1.0, (800.0, 1200.0))


def write(path: Path, rows: list[MinuteRow], **settings: float) -> HistoryStore:
    store = HistoryStore(path, max_days=settings.get("max_days", 400))
    for each in rows:
        store.put(each)
    store.start()
    store.stop(10.0)
    return store


def test_a_minute_becomes_one_row() -> None:
    summary = MinuteSummary("pump3", hop_s=1.0)
    first_s = NOON_S // 60 * 60
    rows = [
        summary.add(
            window(first_s + i, score=5.0 if i < 6 else 1.0, state="idle" if i < 10 else "load"), LEVELS
        )
        for i in range(61)
    ]
    assert rows[:60] == [None] * 60
    made = rows[60]
    assert made == MinuteRow("pump3", first_s, 60, 1.0, 5.0, 0.1, 0.1, -30.0, "load", 1.0, (800.0, 1200.0))
    assert len(summary.recent()) == 61


def test_missing_windows_are_missing_coverage() -> None:
    summary = MinuteSummary("pump3", hop_s=1.0)
    for i in range(0, 60, 2):
        summary.add(window(NOON_S // 60 * 60 + i), LEVELS)
    made = summary.close()
    assert made is not None
    assert made.coverage == 0.5
    assert summary.close() is None


def test_rows_come_back_as_they_were_put(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "history.sqlite"
    rows = [row(28_000_000 + i) for i in range(100)]
    store = write(path, [*rows, row(28_000_000, "fan1"), replace(rows[3], band_hz=None, minute_s=6)])
    assert store.counters.written == 102
    assert read_history(path, "pump3", since_s=28_000_000 * 60) == rows
    assert read_history(path, "pump3", since_s=0)[0].band_hz is None
    assert read_history(path, "pump3", since_s=28_000_010 * 60) == rows[10:]
    assert read_history(path, "fan1", since_s=0) == [row(28_000_000, "fan1")]
    assert read_history(path, "nobody", since_s=0) == []
    lines = list(rows_to_csv(rows))
    assert len(lines) == 101
    assert all(line.count(",") == lines[0].count(",") for line in lines)


def test_measures_are_kept_and_an_older_history_takes_them(tmp_path: Path) -> None:
    measured = {"velocity_mm_s": (2.345, 3.1), "kurtosis": (3.0, 8.25)}
    rows = [row(28_000_000), replace(row(28_000_001), measured=measured), row(28_000_002)]
    path = tmp_path / "history.sqlite"
    write(path, rows[:1])
    with sqlite3.connect(path) as database:  # as a version before measures left it
        database.execute("DROP TABLE measured")
    database.close()
    assert read_history(path, "pump3", since_s=0) == rows[:1]
    write(path, rows[1:])
    assert read_history(path, "pump3", since_s=0) == rows
    lines = list(rows_to_csv(rows))
    assert lines[0].endswith(
        "band_high_hz,velocity_mm_s_median,velocity_mm_s_max,kurtosis_median,kurtosis_max"
    )
    assert lines[1].endswith("1200.0,,,,")
    assert lines[2].endswith("1200.0,2.3450,3.1000,3.0000,8.2500")
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = dict(database.execute("SELECT name, id FROM names"))
        assert prune(database, names["pump3"], 1) == 2
        assert database.execute("SELECT COUNT(*) FROM measured").fetchone() == (0,)


def test_a_minute_has_median_and_maximum_of_each_measure() -> None:
    summary = MinuteSummary("pump3", hop_s=1.0)
    for n, velocity in enumerate((1.0, 9.0, 2.0)):
        measured = {"velocity_mm_s": velocity} | ({"kurtosis": 3.0} if n else {})
        summary.add(replace(window(NOON_S + n), measured=measured), LEVELS)
    made = summary.close()
    assert made is not None
    assert made.measured == {"velocity_mm_s": (2.0, 9.0), "kurtosis": (3.0, 3.0)}


def test_without_a_file_there_is_no_history(tmp_path: Path) -> None:
    assert read_history(tmp_path / "none.sqlite", "pump3", since_s=0) == []


def test_the_oldest_rows_go_and_a_wrong_clock_deletes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    write(path, [row(28_000_000 + i) for i in range(200)])
    write(path, [row(28_000_000 + 525_600)])  # a clock that is a year ahead
    assert len(read_history(path, "pump3", since_s=0)) == 201
    with sqlite3.connect(path) as database:
        (machine,) = database.execute("SELECT id FROM names WHERE name = 'pump3'").fetchone()
        assert prune(database, machine, 1000) == 0
        assert prune(database, machine, 101) == 100
    database.close()
    assert read_history(path, "pump3", since_s=0)[0] == row(28_000_100)


def test_old_rows_are_pruned_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WRITE_EVERY_S", 0.01)
    path = tmp_path / "history.sqlite"
    store = HistoryStore(path, max_days=10 / 1440)
    store.start()
    for i in range(60):
        store.put(row(28_000_000 + i))
        time.sleep(0.02)
    store.stop(10.0)
    kept = read_history(path, "pump3", since_s=0)
    assert 10 <= len(kept) <= 30
    assert kept[-1] == row(28_000_059)


def test_a_disk_that_refuses_costs_history_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "WRITE_EVERY_S", 0.01)
    monkeypatch.setattr(store_module, "MOST_WAITING", 50)
    folder = tmp_path / "state"
    folder.write_text("in the way of the folder")
    store = HistoryStore(folder / "history.sqlite", max_days=400)
    store.start()
    for i in range(60):
        store.put(row(28_000_000 + i))
    deadline_s = time.monotonic() + 30
    while store.counters.last_error is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    counters = store.counters
    assert counters.last_error is not None
    assert (counters.dropped, counters.waiting) == (10, 50)
    folder.unlink()
    while store.counters.waiting and time.monotonic() < deadline_s:
        time.sleep(0.01)
    store.stop(10.0)
    assert store.counters.last_error is None
    assert len(read_history(folder / "history.sqlite", "pump3", since_s=0)) == 50


def test_a_row_that_cannot_be_kept_holds_up_no_other(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    bad = [replace(row(1), score_max=float("nan")), replace(row(2), operating_state="\ud800")]
    store = write(path, [*bad, row(3)])
    assert (store.counters.written, store.counters.dropped, store.counters.last_error) == (1, 2, None)
    assert read_history(path, "pump3", since_s=0) == [row(3)]


def test_an_unforeseen_exception_ends_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "WRITE_EVERY_S", 0.01)
    store = HistoryStore(tmp_path / "history.sqlite", max_days=400)
    store.put("not a row")  # type: ignore[arg-type]
    store.start()
    deadline_s = time.monotonic() + 30
    while not store.thread.guard.restarts and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert store.thread.guard.restarts
    assert "AttributeError" in store.thread.guard.last_error
    store.stop(10.0)


@pytest.mark.parametrize("seed", range(20))
def test_a_damaged_file_is_set_aside_or_read(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "history.sqlite"
    write(path, [row(28_000_000 + i) for i in range(500)])
    generator = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(50):
        data[generator.randrange(len(data) if seed % 2 else 100)] ^= 1 << generator.randrange(8)
    path.write_bytes(data)
    store = write(path, [row(29_000_000)])
    assert store.thread.guard.last_error == ""
    aside = path.with_name("history.sqlite.corrupt-1")
    try:
        kept = read_history(path, "pump3", since_s=29_000_000 * 60)
    except sqlite3.DatabaseError:  # a damaged page that writing did not touch
        kept = [row(29_000_000)]
    assert aside.exists() or store.counters.last_error or kept == [row(29_000_000)]


def test_damage_costs_its_own_minutes_and_nothing_that_is_written_later(tmp_path: Path) -> None:
    """Any bit of any page, of six hundred minutes on many pages: the others are read, new ones are kept."""
    whole = tmp_path / "whole.sqlite"
    write(whole, [row(minute) for minute in range(600)])
    with sqlite3.connect(whole) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    content = whole.read_bytes()
    used = [at for at in range(len(content)) if content[at]]
    lost = []
    for at in used[:: len(used) // 60]:
        path = tmp_path / f"{at}.sqlite"
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        with contextlib.suppress(sqlite3.Error, UnicodeError):  # of its first page, which says what it is
            found = [each.minute_s // 60 for each in read_history(path, "pump3", since_s=0)]
            assert found == sorted(found)
            if at >= 5 * 4096:  # behind the first page of each table, which says where the others are
                lost.append(600 - len(found))
        store = write(path, [row(1000)])
        assert store.counters.waiting == 0, at
        assert store.counters.last_error is None, at
    # A key that is damaged can hide those behind it from SQLite without an error; a damaged page does not.
    assert sum(each <= 100 for each in lost) >= 0.85 * len(lost) > 20


def test_a_newer_version_is_kept_and_said(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    write(path, [row(1)])
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    before = path.read_bytes()
    store = write(path, [row(2)])
    assert "newer version" in (store.counters.last_error or "")
    assert path.read_bytes() == before


def test_killed_it_keeps_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    script = f"""
import time
from pathlib import Path
from echo_stream.history import store as store_module
from tests.history.test_history import row
store_module.WRITE_EVERY_S = 0.01
store = store_module.HistoryStore(Path({str(path)!r}), max_days=400)
store.start()
minute = 28_000_000
while True:
    store.put(row(minute)); minute += 1
    print(store.counters.written, flush=True)
    time.sleep(0.001)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    written = 0
    for line in process.stdout:
        written = int(line)
        if written > 200:
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    kept = read_history(path, "pump3", since_s=0)
    assert len(kept) >= written
    assert kept == [row(28_000_000 + i) for i in range(len(kept))]


def test_the_journal_is_written_at_once_and_read_page_by_page(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    assert read_journal(path) == []
    store = HistoryStore(path, max_days=400)
    store.start()
    for n in range(5):
        store.put_event("event", "pump3" if n % 2 else "fan1", f'{{"n": {n}}}')
    until_s = time.monotonic() + store_module.WRITE_EVERY_S / 2
    while len(read_journal(path)) < 5 and time.monotonic() < until_s:
        time.sleep(0.02)
    newest = read_journal(path, limit=2)
    store.stop(10.0)
    assert [entry.payload for _, entry in newest] == ['{"n": 4}', '{"n": 3}']
    before = read_journal(path, before=newest[-1][0])
    assert [entry.payload for _, entry in before] == ['{"n": 2}', '{"n": 1}', '{"n": 0}']
    assert {entry.machine for _, entry in read_journal(path, machine="pump3")} == {"pump3"}


def test_the_journal_is_bounded_and_an_older_history_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_EVENTS", 3)
    path = tmp_path / "history.sqlite"
    store = HistoryStore(path, max_days=400)
    for n in range(9):
        store.put_event("event", "pump3", str(n))
    store.start()
    store.stop(10.0)
    assert [entry.payload for _, entry in read_journal(path)] == ["8", "7", "6"]
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE events")
    database.close()
    assert read_journal(path) == []


def test_highest_scores_of_all_machines_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    assert read_highest(path, since_s=0, step_s=900) == {}
    rows = [replace(row(28_000_005 + i), score_max=float(i)) for i in range(20)]
    write(path, [*rows, row(28_000_005, "fan1")])
    found = read_highest(path, since_s=28_000_000 * 60, step_s=900)
    assert [(at_s / 60, highest) for at_s, highest, _ in found["pump3"]] == [
        (27_999_990 + 15, 14.0),
        (27_999_990 + 30, 19.0),
    ]
    assert found["pump3"][0][2] == pytest.approx(1.0)
    assert found["pump3"][1][2] == pytest.approx(5 / 15)
    assert set(found) == {"pump3", "fan1"}


def test_a_week_of_minutes_takes_as_much_as_is_said(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    store = HistoryStore(path, max_days=400)
    store.start()
    scores = np.random.default_rng(0).normal(0, 1, (7 * 1440, 2))
    for minute, (middle, spread) in enumerate(scores.tolist()):
        band = (1000.0, 2000.0)
        at_s = 1_700_000_040 + 60 * minute
        highest = middle + abs(spread)
        store.put(MinuteRow("pump3", at_s, 60, middle, highest, 0.1, 0.0, -30.0 + spread, "load", 1.0, band))
    store.stop(60)
    assert len(read_history(path, "pump3", since_s=0)) == 7 * 1440
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert 30 < path.stat().st_size / (7 * 1440) < 45, "bytes a row; 21 MB a machine and year"
