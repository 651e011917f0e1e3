"""The outbox: order, survival, bounds, corruption, a disk that refuses."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from echo_stream.mqtt.outbox import Outbox
from echo_stream.mqtt.outbox_file import Row
from echo_stream.mqtt.salvage import salvage

NOW_S = 1_800_000_000.0
DAY_S = 86_400.0
Logged = list[MutableMapping[str, Any]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "outbox.sqlite"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    opened = Outbox(path)
    yield opened
    opened.close()


def put(outbox: Outbox, n: int, machine: str = "pump3", now_s: float = NOW_S, key: str = "alarm") -> Row:
    return outbox.put(machine, f"t/{machine}/event", {"n": n}, now_s=now_s, key=key)


def numbers(outbox: Outbox) -> list[int]:
    return [row.payload["n"] for row in outbox.pending(limit=10**6)]


def test_rows_come_in_order_and_go_when_acknowledged(outbox: Outbox) -> None:
    rows = [put(outbox, n) for n in range(5)]
    assert outbox.pending() == rows
    assert outbox.pending(after=rows[1].id, limit=2) == rows[2:4]
    outbox.ack([rows[0].id, rows[2].id])
    assert numbers(outbox) == [1, 3, 4]
    outbox.ack([rows[0].id, 12345])
    assert outbox.depth == 3


def test_what_was_put_is_there_for_the_next_run(path: Path) -> None:
    first = Outbox(path)
    assert [first.next_seq("pump3") for _ in range(3)] == [1, 2, 3]
    row = put(first, 0)
    first.put("fan1", "t", {"n": 1}, now_s=NOW_S, snapshot={"state": "UNACK"})
    first.save_snapshot("pump3", {"state": "NORMAL"})
    first.close()
    second = Outbox(path)
    assert numbers(second) == [0, 1]
    assert second.depth == 2
    assert second.next_seq("pump3") == 4
    assert second.next_seq("fan1") == 1
    assert second.snapshot("fan1") == {"state": "UNACK"}
    assert second.snapshot("pump3") == {"state": "NORMAL"}
    assert second.snapshot("none") is None
    assert put(second, 2, now_s=NOW_S - DAY_S).id > row.id, "the clock went back; the order stays"
    assert numbers(second) == [0, 1, 2]
    second.close()


def test_text_comes_back_as_it_was(outbox: Outbox) -> None:
    payload = {"machine": "Pümpe № 3 \N{SNOWMAN} \x00 \"'", "n": 0.1}
    outbox.put("m", "t", payload, now_s=NOW_S)
    assert outbox.pending()[0].payload == payload


def test_a_full_outbox_drops_the_oldest_but_no_newest_of_its_key(path: Path, logged: Logged) -> None:
    outbox = Outbox(path, max_rows=100)
    put(outbox, -1, "fan1", key="alarm")
    put(outbox, -2, "fan1", key="warning")
    for n in range(300):
        put(outbox, n, "pump3")
        if outbox.maintenance_due:  # as the publisher does
            outbox.maintain(NOW_S)
        assert outbox.depth <= 101
    left = numbers(outbox)
    assert left[:2] == [-1, -2], "the newest state of a machine stays, however old"
    assert left[2:] == list(range(left[2], 300))
    assert outbox.dropped == 302 - len(left)
    loud = [line for line in logged if "dropped" in line]
    assert loud
    assert all(line["log_level"] == "error" for line in loud)
    assert sum(line["dropped"] for line in loud) == outbox.dropped
    assert len(loud) <= 101
    outbox.close()


def test_a_bound_below_the_number_of_machines_keeps_the_newest_of_each(path: Path) -> None:
    outbox = Outbox(path, max_rows=2)
    for n in range(20):
        put(outbox, n, f"m{n % 5}")
    outbox.maintain(NOW_S)
    assert numbers(outbox) == [15, 16, 17, 18, 19]
    outbox.close()


def test_what_is_too_old_goes_but_no_newest_of_its_key(path: Path, logged: Logged) -> None:
    now_s = NOW_S
    outbox = Outbox(path, max_age_s=30 * DAY_S, monotonic=lambda: now_s)
    for n in range(5):
        put(outbox, n, now_s=NOW_S + n * DAY_S)

    def live_until(day: float) -> None:
        nonlocal now_s
        now_s = NOW_S + day * DAY_S
        outbox.maintain(now_s)

    live_until(29)
    assert outbox.depth == 5
    live_until(31.5)
    assert numbers(outbox) == [2, 3, 4]
    live_until(365)
    assert numbers(outbox) == [4]
    assert outbox.dropped == 4
    assert [line["dropped"] for line in logged] == [2, 2]
    outbox.close()


SALVAGED = {"text": 0, "half": 0, "middle": 200}
"""Rows: the leaves of a file of this size are behind the middle, and what is damaged there says which."""


@pytest.mark.parametrize("damage", ["text", "half", "middle", "no table", "folder"])
def test_a_corrupt_file_is_set_aside_kept_and_reported(path: Path, damage: str, logged: Logged) -> None:
    whole = Outbox(path)
    for n in range(200):
        put(whole, n)
    whole.close()
    content = path.read_bytes()
    if damage == "text":
        path.write_text("this is no database\n" * 100)
    elif damage == "half":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "middle":
        path.write_bytes(content[:4096] + b"\xa5" * 8192 + content[12288:])
    elif damage == "no table":
        with sqlite3.connect(path) as connection:
            connection.execute("DROP TABLE outbox")
        connection.close()
    else:
        path.unlink()
        path.mkdir()
    damaged = path.read_bytes() if path.is_file() else None
    outbox = Outbox(path)
    put(outbox, 1000)
    assert numbers(outbox)[-1] == 1000
    if damage == "folder":
        assert outbox.unsaved == 1, "nothing can be set right here; it waits in memory"
        assert [line["event"] for line in logged] == [
            "the outbox cannot be written: listening goes on, events wait in memory"
        ]
    else:
        readable = numbers(outbox)[:-1]
        assert readable == sorted(set(readable)), "in order, each once"
        assert len(readable) == SALVAGED.get(damage, len(readable))
        assert outbox.set_aside == path.with_name("outbox.sqlite.corrupt-1")
        assert outbox.set_aside.read_bytes() == damaged
        assert len(logged) == 1
        assert logged[0]["log_level"] == "error"
        assert logged[0]["set_aside"] == str(outbox.set_aside)
    outbox.close()


def test_a_second_corrupt_file_does_not_replace_the_first(path: Path) -> None:
    for n in (1, 2):
        path.parent.mkdir(exist_ok=True)
        path.write_text("garbage " * 1000)
        outbox = Outbox(path)
        assert outbox.set_aside == path.with_name(f"outbox.sqlite.corrupt-{n}")
        outbox.close()


def test_a_file_that_goes_bad_while_it_is_used(path: Path, logged: Logged) -> None:
    outbox = Outbox(path)
    assert [outbox.next_seq("pump3") for _ in range(7)][-1] == 7
    for n in range(300):
        put(outbox, n)
    outbox.maintain(NOW_S)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (size - 4096))
    # A connection may still hold good pages in its cache; another thread's reads the disk.
    reader = threading.Thread(target=outbox.pending)
    reader.start()
    reader.join()
    put(outbox, 1000)
    assert outbox.set_aside is not None
    outbox.maintain(NOW_S)
    assert numbers(outbox) == [1000], "nothing can be read where every page is destroyed"
    assert outbox.next_seq("pump3") == 8, "the count goes on"
    outbox.close()
    again = Outbox(path)
    assert again.next_seq("pump3") == 9
    again.close()
    assert [line["log_level"] for line in logged] == ["error", "warning"]


@pytest.mark.parametrize("page", range(1, 9))
@pytest.mark.parametrize("running", [False, True])
def test_one_page_that_is_destroyed_costs_its_own_rows(path: Path, page: int, running: bool) -> None:
    outbox = Outbox(path)
    events = [put(outbox, n) for n in range(200)]
    outbox.ack(row.id for row in events[:20])
    assert [outbox.next_seq("pump3") for _ in range(7)][-1] == 7
    outbox.save_snapshot("pump3", {"state": "UNACK"})
    outbox.maintain(NOW_S)
    if not running:
        outbox.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    pages = path.stat().st_size // 4096
    with path.open("r+b") as file:
        file.seek((min(page, pages) - 1) * 4096)
        file.write(b"\xa5" * 4096)
    if running:
        reader = threading.Thread(target=outbox.pending)  # another connection, whose cache is empty
        reader.start()
        reader.join()
        put(outbox, 1000)
    else:
        outbox = Outbox(path)
    outbox.maintain(NOW_S)
    found = [n for n in numbers(outbox) if n < 1000]
    assert found == sorted(set(found))
    assert min(found) >= 20, "what was delivered does not come back"
    assert len(found) >= 180 - 80
    assert outbox.next_seq("pump3") in (8, 1), "the page may have been that of the sequence numbers"
    outbox.close()


def test_rows_of_many_pages_and_of_a_journal_are_read(path: Path) -> None:
    outbox = Outbox(path)
    for n in range(50):
        outbox.put("pump3", "t/pump3/event", {"n": n, "text": "ü" * (n * 300)}, now_s=NOW_S)
    for suffix in ("", "-wal"):  # as after a kill: most of it is in the journal
        copy = path.with_name(f"copy.sqlite{suffix}")
        copy.write_bytes(path.with_name(path.name + suffix).read_bytes())
    outbox.close()
    rows, _ = salvage(path.with_name("copy.sqlite"))
    assert [json.loads(str(row[4]))["n"] for row in rows] == list(range(50))
    with path.with_name("copy.sqlite-wal").open("r+b") as file:  # torn: the last transactions count no more
        file.truncate(path.with_name("copy.sqlite-wal").stat().st_size // 2)
    fewer, _ = salvage(path.with_name("copy.sqlite"))
    assert fewer == rows[: len(fewer)]
    assert 0 < len(fewer) < 50


def test_a_damaged_payload_is_sent_as_it_is(path: Path) -> None:
    outbox = Outbox(path)
    put(outbox, 0)
    outbox.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE outbox SET payload = CAST(x'7b226e223a20ff' AS TEXT)")
    connection.close()
    outbox = Outbox(path)
    put(outbox, 1)
    rows = outbox.pending()
    assert rows[0].payload["damaged"].startswith('{"n":')
    assert rows[1].payload == {"n": 1}
    outbox.close()


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
import structlog
from echo_stream.mqtt.outbox import Outbox

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails instead of ending us
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
outbox = Outbox(Path(sys.argv[1]))
for n in range(3):
    outbox.put("m", "t", {"n": n}, now_s=1.8e9 + n)
free = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, free[1]))  # from now on no file may be longer than this
for n in range(3, 60):
    outbox.put("m", "t", {"n": n}, now_s=1.8e9 + n, snapshot={"n": n})
rows = outbox.pending()
full = {"unsaved": outbox.unsaved, "depth": outbox.depth, "refusals": outbox.refusals,
        "pending": [row.payload["n"] for row in rows]}
outbox.ack([rows[0].id, rows[1].id, rows[10].id])
full["left"] = outbox.depth
full["first"] = outbox.pending()[0].payload["n"]
resource.setrlimit(resource.RLIMIT_FSIZE, free)
outbox.maintain(1.8e9)
print(json.dumps({"full": full, "unsaved": outbox.unsaved, "depth": outbox.depth}))
"""


def test_a_full_disk_is_said_once_and_recovered_from(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True, timeout=120
    )
    said = json.loads(done.stdout)
    assert said["full"]["pending"] == list(range(60)), "all of it can still be sent, in order"
    assert said["full"]["unsaved"] == 57
    assert said["full"]["refusals"] >= 57
    assert said["full"]["left"] == 57
    assert said["full"]["first"] == 2, "what was acknowledged is not sent again"
    assert said["unsaved"] == 0
    assert said["depth"] == 57
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, done.stderr
    assert "cannot be written" in lines[0]
    assert "can be written again" in lines[1]
    later = Outbox(path)
    assert numbers(later) == [n for n in range(60) if n not in (0, 1, 10)]
    assert later.snapshot("m") == {"n": 59}
    later.close()


def test_a_disk_that_is_away_at_start_and_comes_later(tmp_path: Path, logged: Logged) -> None:
    path = tmp_path / "mount" / "outbox.sqlite"
    earlier = Outbox(path)
    put(earlier, 0)
    assert earlier.next_seq("pump3") == 1
    put(earlier, 1)
    earlier.close()
    # "Unmounted": a file stands where its folder is to be.
    (tmp_path / "mount").rename(tmp_path / "disk")
    (tmp_path / "mount").touch()
    outbox = Outbox(path)
    put(outbox, 2, now_s=NOW_S + 60)
    assert (outbox.unsaved, outbox.depth) == (1, 1)
    assert numbers(outbox) == [2]
    readable = outbox.readable
    assert not readable
    (tmp_path / "mount").unlink()
    (tmp_path / "disk").rename(tmp_path / "mount")
    outbox.maintain(NOW_S)
    assert numbers(outbox) == [0, 1, 2], "what an earlier run left comes first"
    readable = outbox.readable
    assert readable
    assert (outbox.unsaved, outbox.depth) == (0, 3)
    assert outbox.next_seq("pump3") == 2
    assert len(logged) == 2
    outbox.close()


KILLED = """
import sys
from pathlib import Path
from echo_stream.mqtt.outbox import Outbox
outbox = Outbox(Path(sys.argv[1]))
n = 0
while True:
    row = outbox.put("m", "t", {"n": n}, now_s=1.8e9, snapshot={"n": n})
    if n >= 5:
        outbox.ack([outbox.pending(limit=1)[0].id])
        sys.stdout.write(f"{n} {n - 5}\\n")
        sys.stdout.flush()
    n += 1
"""


def test_killed_at_any_moment_nothing_that_put_returned_from_is_lost(path: Path) -> None:
    for seed in range(6):
        child = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        for _ in range(3 + 7 * seed):
            line = child.stdout.readline()
        os.kill(child.pid, signal.SIGKILL)
        rest = child.stdout.read().splitlines()
        child.wait()
        child.stdout.close()
        last_put, last_acked = map(int, ([line, *rest])[-1].split())
        outbox = Outbox(path)
        left = numbers(outbox)
        assert left == list(range(left[0], left[-1] + 1)), "no hole"
        assert left[-1] in (last_put, last_put + 1)
        assert left[0] in (last_acked + 1, last_acked + 2)
        assert outbox.snapshot("m") == {"n": left[-1]}, "state and event belong together"
        outbox.ack(row.id for row in outbox.pending(limit=10**6))
        outbox.close()


def test_threads_on_their_own_connections(path: Path) -> None:
    outbox = Outbox(path)
    sent: dict[str, list[int]] = {"a": [], "b": []}
    done = threading.Event()

    def write(machine: str) -> None:
        for n in range(150):
            put(outbox, n, machine)

    def read() -> None:
        while not done.is_set() or outbox.depth:
            rows = outbox.pending(limit=7)
            for row in rows:
                sent[row.machine].append(row.payload["n"])
            outbox.ack(row.id for row in rows)

    writers = [threading.Thread(target=write, args=(machine,)) for machine in sent]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert sent == {"a": list(range(150)), "b": list(range(150))}
    outbox.close()


class Model(RuleBasedStateMachine):
    """Any order of put, ack, restart, and time against a list."""

    @initialize(max_rows=st.integers(1, 12))
    def begin(self, max_rows: int) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.max_rows = max_rows
        self.waiting: list[Row] = []
        self.n = 0
        self.now_s = NOW_S
        self.seen_s: float | None = None
        self.open()

    def open(self) -> None:
        self.lived_from_s = self.now_s
        self.outbox = Outbox(
            Path(self.folder.name) / "o.sqlite",
            max_rows=self.max_rows,
            max_age_s=1000.0,
            monotonic=lambda: self.now_s,
        )

    @rule(machine=st.sampled_from("abc"), key=st.sampled_from(["alarm", "warning"]))
    def put(self, machine: str, key: str) -> None:
        self.n += 1
        self.now_s += 1
        self.waiting.append(put(self.outbox, self.n, machine, self.now_s, key))

    @rule(place=st.integers(0, 20))
    def ack(self, place: int) -> None:
        if self.waiting:
            gone = self.waiting.pop(place % len(self.waiting))
            self.outbox.ack([gone.id])

    @rule(by_s=st.sampled_from([1.0, 500.0, 2000.0]))
    def maintain(self, by_s: float) -> None:
        self.now_s += by_s
        self.outbox.maintain(self.now_s)
        if self.seen_s is None:
            self.seen_s = self.waiting[0].put_at_s if self.waiting else self.now_s
        # Age follows the clock, at most 24 times as fast as the outbox has lived.
        self.seen_s = min(self.now_s, self.seen_s + 24 * (self.now_s - self.lived_from_s))
        self.lived_from_s = self.now_s
        self.make_room()

    @rule()
    def restart(self) -> None:
        self.outbox.close()
        self.open()

    def make_room(self) -> None:
        """What the class promises, written down another way."""
        assert self.seen_s is not None
        oldest_s = self.seen_s - 1000.0
        surplus = len(self.waiting) - self.max_rows
        if surplus <= 0 and not (self.waiting and self.waiting[0].put_at_s < oldest_s):
            return
        for row in list(self.waiting):
            newer = [
                r for r in self.waiting if (r.machine, r.key) == (row.machine, row.key) and r.id > row.id
            ]
            too_many = len(self.waiting) > self.max_rows
            if newer and (too_many or row.put_at_s < oldest_s):
                self.waiting.remove(row)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "outbox"):
            assert self.outbox.pending() == self.waiting
            assert self.outbox.depth == len(self.waiting)

    def teardown(self) -> None:
        if hasattr(self, "outbox"):
            self.outbox.close()
            self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=40, deadline=None)


def test_a_file_of_a_newer_version_is_kept_and_said(path: Path, logged: Logged) -> None:
    whole = Outbox(path)
    put(whole, 1)
    whole.close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    content = path.read_bytes()
    outbox = Outbox(path)
    put(outbox, 2)
    assert numbers(outbox) == [2]
    assert path.with_name("outbox.sqlite.newer-1").read_bytes() == content
    assert [line["event"] for line in logged] == [
        "the outbox was written by a newer echo-stream: it is kept, and what waits in it is not sent"
    ]
    outbox.close()


def test_an_empty_file_is_said(path: Path, logged: Logged) -> None:
    path.parent.mkdir()
    path.touch()
    outbox = Outbox(path)
    put(outbox, 1)
    assert numbers(outbox) == [1]
    assert "empty file" in logged[0]["event"]
    outbox.close()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_link_or_a_pipe_in_its_place_is_left_alone(path: Path, kind: str, logged: Logged) -> None:
    path.parent.mkdir()
    elsewhere = path.with_name("elsewhere")
    elsewhere.write_text("somebody's")
    if kind == "link":
        path.symlink_to(elsewhere)
    else:
        os.mkfifo(path)
    outbox = Outbox(path)
    put(outbox, 1)
    assert numbers(outbox) == [1]
    assert outbox.unsaved == 1
    assert elsewhere.read_text() == "somebody's"
    outbox.close()
    assert "events are lost" in logged[-1]["event"]
    assert logged[-1]["lost"] == 1


def test_a_clock_that_is_a_year_ahead_at_the_next_start_drops_nothing(path: Path) -> None:
    first = Outbox(path)
    for n in range(10):
        put(first, n)
    first.maintain(NOW_S)
    first.close()
    for wrong_s in (NOW_S + 365 * DAY_S, 0.0):
        outbox = Outbox(path)
        outbox.maintain(wrong_s)
        assert numbers(outbox) == list(range(10))
        outbox.close()


@pytest.mark.parametrize(
    ("column", "value"),
    [("topic", "a/#"), ("topic", ""), ("topic", b"\xff\xfe"), ("topic", None)],
)
def test_a_damaged_row_is_set_aside_and_those_behind_it_go_on(
    path: Path, column: str, value: object, logged: Logged
) -> None:
    outbox = Outbox(path)
    for n in range(3):
        put(outbox, n)
    second = outbox.pending()[1]
    outbox.close()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM outbox")
        connection.execute("DROP TABLE outbox")
        connection.execute("ALTER TABLE loose RENAME TO outbox")
        connection.execute(f"UPDATE outbox SET {column} = ? WHERE id = ?", (value, second.id))
    connection.close()
    outbox = Outbox(path)
    left = numbers(outbox)
    assert left == [0, 2]
    assert outbox.damaged == 1
    assert "set aside" in logged[-1]["event"]
    assert path.with_name("outbox.sqlite.damaged.jsonl").read_text().count("\n") == 1
    outbox.close()


def test_a_state_waits_for_no_disk(path: Path) -> None:
    """60 machines keep a state a minute each, and the thread that listens must not stand with a disk."""
    outbox = Outbox(path)
    outbox.put("pump3", "t", {"n": 1}, now_s=NOW_S, snapshot={"state": "UNACK"})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # as a disk that hangs: what is written now waits, and is refused
        outbox.save_snapshot("pump3", {"state": "ACKED"})
        outbox.save_snapshot("fan1", {"state": "NORMAL"})
        assert outbox.refusals == 0
        assert outbox.snapshot("fan1") == {"state": "NORMAL"}
    outbox.save_snapshot("pump3", {"state": "NORMAL"})
    outbox.maintain(NOW_S)
    assert (outbox.refusals, outbox.trouble) == (0, "")
    later = Outbox(path)
    assert later.snapshot("pump3") == {"state": "NORMAL"}
    assert later.snapshot("fan1") == {"state": "NORMAL"}
    outbox.save_snapshot("pump3", {"state": "ACKED"})
    outbox.put("pump3", "t", {"n": 2}, now_s=NOW_S, snapshot={"state": "UNACK"})
    outbox.close()
    later.close()
    last = Outbox(path)
    assert last.snapshot("pump3") == {"state": "UNACK"}, "an event's state is newer than one that waited"
    last.close()


@pytest.mark.parametrize("text", ["nonsense", "[1]", "[" * 5000, b"\xff"])
def test_a_damaged_snapshot_is_said_and_discarded(path: Path, text: object, logged: Logged) -> None:
    outbox = Outbox(path)
    outbox.save_snapshot("pump3", {"state": "NORMAL"})
    outbox.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE machine SET snapshot = ?", (text,))
    connection.close()
    outbox = Outbox(path)
    assert outbox.snapshot("pump3") is None
    assert "damaged" in logged[-1]["event"]
    outbox.close()


def test_any_byte_of_the_file_may_be_flipped(tmp_path: Path) -> None:
    """No exception, what is put is there, and what is lost is said; every 13th byte, a bit at a time."""
    whole = Outbox(tmp_path / "whole.sqlite")
    for n in range(3):
        put(whole, n)
    whole.save_snapshot("pump3", {"state": "NORMAL"})
    whole.close()
    content = (tmp_path / "whole.sqlite").read_bytes()
    used = [at for at in range(len(content)) if content[at]]
    for at in used[::13]:
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "o.sqlite").write_bytes(
            content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]
        )
        with structlog.testing.capture_logs() as lines:
            outbox = Outbox(folder / "o.sqlite")
            outbox.snapshot("pump3")
            outbox.maintain(NOW_S)
            row = put(outbox, 99)
            pending = outbox.pending()
            assert row in pending, at
            for one in pending:
                json.dumps(one.payload)
            intact = [one.payload for one in pending] == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 99}]
            outbox.close()
        assert intact or lines or len(pending) == 4, at
