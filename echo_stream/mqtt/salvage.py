"""Salvage reads what can still be read of a corrupt outbox, page by page and row by row, without SQLite.

SQLite refuses a file whose first page is damaged, and ends a query at the first damaged page. Here each page
is looked at by itself: where it is a leaf of a table, each of its rows that can be read is taken. Deleted
rows are not found, because the outbox overwrites them (PRAGMA secure_delete).

Source of the format: https://www.sqlite.org/fileformat2.html
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PAGE_BYTES = 4096
_LEAF = 0x0D
_FILE_HEADER_BYTES = 100
_WAL_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_OUTBOX_COLUMNS, _MACHINE_COLUMNS = 6, 3
_MOST_COLUMNS = 20
_DAMAGE = (IndexError, ValueError, struct.error, UnicodeDecodeError)

Value = str | int | float | bytes | None
Record = tuple[Value, ...]
MachineRecord = tuple[str, int, str | None]
"""Machine, its last sequence number, its snapshot as JSON."""


def salvage(path: Path) -> tuple[list[Record], list[MachineRecord]]:
    """The rows of an outbox by id, with the id first, and the states of machines, as far as they can be read.

    Args:
        path: a corrupt file, with its journal (`-wal`) beside it; neither is changed.

    Raises:
        OSError: the disk does not give the file.
    """
    rows: dict[int, Record] = {}
    machines: dict[str, MachineRecord] = {}
    with path.open("rb") as file:
        pages = _Pages(file, _journal(path))
        for number in range(1, pages.count + 1):
            for row_id, record in _leaf(pages, number):
                if _is_row(record):
                    rows[row_id] = (row_id, *record[1:])
                elif (state := _machine(record)) is not None:
                    machines[state[0]] = state
    return [rows[row_id] for row_id in sorted(rows)], list(machines.values())


def _is_row(record: Record) -> bool:
    texts = record[1:5]
    if len(record) != _OUTBOX_COLUMNS or record[0] is not None:
        return False
    return all(isinstance(text, str) for text in texts) and isinstance(record[5], int | float)


def _machine(record: Record) -> MachineRecord | None:
    if len(record) != _MACHINE_COLUMNS:
        return None
    machine, seq, snapshot = record
    if isinstance(machine, str) and isinstance(seq, int) and isinstance(snapshot, str | None):
        return machine, seq, snapshot
    return None


class _Pages:
    """The pages of a file, the newer ones from its journal."""

    def __init__(self, file: BinaryIO, journal: dict[int, bytes]) -> None:
        self._file = file
        self._journal = journal
        size = file.seek(0, 2)
        self.count = max([size // PAGE_BYTES, *journal])

    def __getitem__(self, number: int) -> bytes:
        if number in self._journal:
            return self._journal[number]
        self._file.seek((number - 1) * PAGE_BYTES)
        return self._file.read(PAGE_BYTES)


def _journal(path: Path) -> dict[int, bytes]:
    """Pages of the write-ahead log up to its last commit, the newest of each."""
    try:
        data = path.with_name(f"{path.name}-wal").read_bytes()
    except OSError:
        return {}
    salts, newest, pages = data[16:24], {}, {}
    step = _FRAME_HEADER_BYTES + PAGE_BYTES
    for at in range(_WAL_HEADER_BYTES, len(data) - step + 1, step):
        number, committed = struct.unpack(">II", data[at : at + 8])
        if data[at + 8 : at + 16] != salts or not 0 < number < 2**31:
            break  # what follows is of an earlier use of the log
        newest[number] = data[at + _FRAME_HEADER_BYTES : at + step]
        if committed:
            pages.update(newest)
    return {number: page for number, page in pages.items() if number < 2**24}


def _leaf(pages: _Pages, number: int) -> Iterator[tuple[int, Record]]:
    """Row id and values of each row of a page that can be read; nothing of other pages."""
    page = pages[number]
    at = _FILE_HEADER_BYTES if number == 1 else 0
    if len(page) < PAGE_BYTES or page[at] != _LEAF:
        return
    cells = min(int.from_bytes(page[at + 3 : at + 5]), (PAGE_BYTES - at - 8) // 2)
    for cell in range(cells):
        try:
            start = int.from_bytes(page[at + 8 + 2 * cell : at + 10 + 2 * cell])
            length, start = _varint(page, start)
            row_id, start = _varint(page, start)
            yield row_id, _record(_payload(pages, page, start, length))
        except _DAMAGE:
            continue


def _payload(pages: _Pages, page: bytes, start: int, length: int) -> bytes:
    """The bytes of a row: those in its page, and those on overflow pages."""
    most = PAGE_BYTES - 35
    if length <= most:
        return page[start : start + length]
    if length > pages.count * PAGE_BYTES:
        raise ValueError("longer than the file")
    least = (PAGE_BYTES - 12) * 32 // 255 - 23
    local = least + (length - least) % (PAGE_BYTES - 4)
    local = local if local <= most else least
    data = bytearray(page[start : start + local])
    following = int.from_bytes(page[start + local : start + local + 4])
    while len(data) < length:
        if not 0 < following <= pages.count:
            raise ValueError("its overflow page is none")
        more = pages[following]
        following = int.from_bytes(more[:4])
        data += more[4:]
    return bytes(data[:length])


def _record(data: bytes) -> Record:
    """The values of a row.

    Raises:
        ValueError, IndexError, struct.error, UnicodeDecodeError: it is damaged.
    """
    header, at = _varint(data, 0)
    kinds = []
    while at < header:
        kind, at = _varint(data, at)
        kinds.append(kind)
        if len(kinds) > _MOST_COLUMNS:
            raise ValueError("too many columns")
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(data, at, kind)
        values.append(value)
    if at > len(data):
        raise ValueError("it ends too early")
    return tuple(values)


def _value(data: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in _INTEGER_BYTES:
        end = at + _INTEGER_BYTES[kind]
        return int.from_bytes(data[at:end], signed=True), end
    if kind == 7:
        return struct.unpack(">d", data[at : at + 8])[0], at + 8
    if kind in (8, 9):
        return kind - 8, at
    if kind < 12:
        raise ValueError("no kind of value")
    end = at + (kind - 12) // 2
    return (data[at:end].decode("utf-8") if kind % 2 else data[at:end]), end


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 9 bytes, and where the next begins."""
    number = 0
    for i in range(9):
        byte = data[at + i]
        if i == 8:
            return number << 8 | byte, at + 9
        number = number << 7 | byte & 0x7F
        if byte < 0x80:
            return number, at + i + 1
    raise ValueError("no number")
