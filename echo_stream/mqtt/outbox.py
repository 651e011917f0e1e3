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
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from echo_stream.core.log import get_logger
from echo_stream.core.text import clean_text
from echo_stream.mqtt.outbox_file import (
    DISK_ERRORS,
    MAX_ID,
    MachineState,
    NewerVersion,
    OutboxFile,
    Row,
    is_corrupt,
    salvaged,
    trouble_of,
)

_MAX_SPEED = 24.0
"""Age is counted at most so many times faster than the daemon lives: a clock that is a year ahead, at this
start or at an earlier one, deletes nothing in its first fortnight."""
_DROP_CHUNK = 500
_ROOM_SHARE = 100
"""A full outbox makes room for this part of its rows at once, so that it is not searched at every put."""
_AHEAD_S = time.time() - time.monotonic()

log = get_logger()


def steady_time() -> float:
    """Unix time as this process found it at its start, and what passed since; it never jumps."""
    return _AHEAD_S + time.monotonic()


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
        self._newer_snapshots: dict[str, str] = {}
        """Those that wait for the next time that something is written."""
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
            self._take_snapshots()
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
        """Keep a machine's state where there is no event to put with it: on disk after the next `maintain`.

        It waits for no disk, which may stand for seconds: the sound goes on. To be called by the thread that
        puts the machine's events.
        """
        self._newer_snapshots[machine] = json.dumps(snapshot)

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
                self._newer_snapshots[machine] = json.dumps(snapshot)
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
            rows, machines = salvaged(aside)
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
        except DISK_ERRORS as error:
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
        except DISK_ERRORS as error:
            self._refused(error)
            return
        if self.trouble:
            log.info("the outbox can be written again", path=str(self.path), waiting=self.depth)
        self.trouble = ""

    def _take_snapshots(self) -> None:
        while self._newer_snapshots:  # another thread adds to them without the lock
            machine, text = self._newer_snapshots.popitem()
            self._snapshots[machine] = text
            self._unkept.add(machine)

    def _write(self) -> None:
        if not self._loaded:
            self._load()
        self._take_snapshots()
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
            if isinstance(seq, int) and 0 <= seq < MAX_ID:
                self._seq[machine] = max(self._seq[machine], seq)
            else:
                self.damaged += 1
                named, found = repr(machine)[:100], repr(seq)[:100]
                log.error("the saved sequence number is damaged", machine=named, found=found)
            self._snapshots.setdefault(machine, snapshot)
        if last_id < MAX_ID:  # otherwise it is set aside when it is read
            self._last_id = max(self._last_id, last_id)
        self._loaded = True

    def _rows(self, after: int, limit: int) -> list[Row]:
        rows: list[Row] = []
        try:
            rows = self._file.read(after, limit + len(self._gone))
            self.readable = True
        except DISK_ERRORS as error:
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
        except DISK_ERRORS as refusal:
            self._refused(refusal)

    def _replace_file(self, error: Exception) -> None:
        self._set_file_aside(error)
        self._on_disk = 0
        self._gone.clear()
        self._unkept.update(self._seq, self._snapshots)

    def _set_file_aside(self, error: Exception) -> None:
        if isinstance(error, NewerVersion):
            self.set_aside = self._file.set_aside("newer")
            log.error(
                "the outbox was written by a newer echo-stream: it is kept, and what waits in it is not sent",
                path=str(self.path),
                kept_as=str(self.set_aside),
                error=str(error),
                hint="install the newer version, stop it, and rename the file back to send what waits in it",
            )
            return
        self.set_aside = self._file.set_aside()
        rows: list[Row] = []
        if self._loaded:  # reading it may take seconds: not on the thread that listens
            self._to_salvage, self._acknowledged = self.set_aside, frozenset(self._gone)
        else:
            rows, machines = salvaged(self.set_aside)
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

    def _take_salvaged(self, rows: Iterable[Row], machines: Iterable[MachineState]) -> None:
        """Rows of a corrupt file wait again; what this run knows of a machine is newer than what was read."""
        known = {row.id for row in rows if row.id not in self._acknowledged and row.id not in self._unsaved}
        self._unsaved.update({row.id: row for row in rows if row.id in known})
        self._last_id = max([self._last_id, *known])
        for machine, seq, snapshot in machines:
            if 0 <= seq < MAX_ID:
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
