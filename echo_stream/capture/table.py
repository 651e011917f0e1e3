"""A table of samples (CSV, MAT) is read like a recording: one column, at a rate that the user gives.

Values keep their unit (g, m/s2): they are neither scaled nor clipped. Any thread or process.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from echo_stream.capture.sound_file import HIGHEST_HZ, LOWEST_HZ, StraightFile
from echo_stream.capture.stored import open_stored, reading, state_of
from echo_stream.core.errors import SourceError
from echo_stream.core.level import OVERSHOOT
from echo_stream.core.text import path_text
from echo_stream.core.types import Float32

TABLE_KINDS = ("csv", "mat")
_DELIMITERS = ";\t,"


@dataclass(frozen=True, slots=True)
class Columns:
    """Which column of a table is the sound, and at which rate it was sampled, which no table says."""

    rate_hz: int
    column: str | None = None
    """Name, or number from 1 on; in MAT the name of a variable. None: the only one."""


def is_table(path: Path) -> bool:
    """Whether a file is a table by its name."""
    return path.suffix.lower()[1:] in TABLE_KINDS


def open_table(path: Path, columns: Columns | None) -> tuple[StraightFile, int, float]:
    """A table as a sound file in memory, its number of samples and its full scale, as a recording has them.

    Raises:
        SourceError: no rate is given, the file or the column is not there, or holds no numbers.
    """
    name = path_text(path)
    if columns is None:
        raise SourceError(f"{name}: a table does not say its rate", "Give --rate-hz, and --column.")
    if not LOWEST_HZ <= columns.rate_hz <= HIGHEST_HZ:
        raise SourceError(
            f"{name}: a rate of {columns.rate_hz} Hz; expected {LOWEST_HZ} to {HIGHEST_HZ} Hz",
            "Give the sampling rate of the table: --rate-hz.",
        )
    try:
        samples = _samples(path, columns.column, *state_of(path))
    except OSError as error:
        raise SourceError(f"{name}: {error.strerror or error}", "Name a table that can be read.") from error
    if not samples.size:
        raise _empty(name)
    sound = io.BytesIO()
    soundfile.write(sound, samples, columns.rate_hz, format="WAV", subtype="FLOAT")
    sound.seek(0)
    largest = float(np.abs(samples[np.isfinite(samples)]).max(initial=0.0))
    return StraightFile(sound), samples.size, math.inf if largest > OVERSHOOT else 1.0


@lru_cache(maxsize=2)
def _samples(path: Path, column: str | None, size: int, modified_ns: int) -> Float32:  # noqa: ARG001 - content
    return _of_mat(path, column) if path.suffix.lower() == ".mat" else _of_csv(path, column)


def _of_csv(path: Path, column: str | None) -> Float32:
    name = path_text(path)
    try:
        with reading(path), open_stored(path) as file:
            lines = file.read().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise SourceError(f"{name}: no text in UTF-8 ({error})", "Save it as CSV in UTF-8.") from error
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise _empty(name)
    first = lines[0]
    delimiter = next((each for each in _DELIMITERS if each in first), None)
    cells = [cell.strip().strip('"') for cell in first.split(delimiter)]
    comma = delimiter != ","  # a decimal comma
    headed = not all(_is_number(cell, comma=comma) for cell in cells)
    at = _place(name, column, cells if headed else [], len(cells))
    rows = [line.replace(",", ".") for line in lines[headed:]] if comma else lines[headed:]
    if not rows:
        raise _empty(name)
    try:
        found = np.loadtxt(rows, delimiter=delimiter, usecols=at, dtype=np.float64, comments=None, ndmin=1)
    except ValueError as error:
        raise SourceError(
            f"{name}: column {column or at + 1}: {error}; expected is a number on each line",
            "Rows count from 0 behind the heading. Leave out what is no sample, or name another --column.",
        ) from error
    return found.astype(np.float32)


def _empty(name: str) -> SourceError:
    return SourceError(f"{name}: a table without a single sample", "Record it again, or leave it out.")


def _is_number(text: str, *, comma: bool) -> bool:
    try:
        float(text.replace(",", ".") if comma else text)
    except ValueError:
        return False
    return True


def _place(name: str, column: str | None, names: list[str], count: int) -> int:
    """Index of a column by its name, or its number from 1 on."""
    if column is None and count == 1:
        return 0
    if column in names:
        return names.index(column)
    if column is not None and column.isdecimal() and 1 <= int(column) <= count:
        return int(column) - 1
    there = ", ".join(names) if names else f"1 to {count}"
    asked = f"there is no column {column!r}" if column else f"{count} columns, and none is named"
    raise SourceError(f"{name}: {asked}; expected one of: {there}", "Name it: --column.")


def _of_mat(path: Path, column: str | None) -> Float32:
    name = path_text(path)
    try:
        from scipy.io import loadmat  # noqa: PLC0415 - only who reads MAT needs it
        from scipy.io.matlab import MatReadError  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise SourceError(
            f"{name}: scipy, which reads MAT files, is not installed", "pip install 'echo-stream[mat]'"
        ) from error
    try:
        with reading(path), open_stored(path) as file:
            found: dict[str, Any] = loadmat(file)  # type: ignore[arg-type]
    except NotImplementedError as error:
        raise SourceError(f"{name}: a MAT file of version 7.3", "Save it with -v7, or as CSV.") from error
    except (MatReadError, OSError, ValueError, TypeError, KeyError, IndexError, MemoryError) as error:
        raise SourceError(f"{name}: no MAT file that can be read ({error})", "Save it again.") from error
    vectors = {
        key: value.ravel()
        for key, value in found.items()
        if isinstance(value, np.ndarray)
        and value.dtype.kind in "fiu"
        and value.size == max(value.shape, default=0)
    }
    long = [key for key, value in vectors.items() if value.size > 1]
    key = column if column is not None else long[0] if len(long) == 1 else None
    if key is None or key not in vectors:
        asked = f"there is no vector {column!r}" if column else f"{len(long)} vectors, and none is named"
        raise SourceError(
            f"{name}: {asked}; expected one of: {', '.join(long) or 'none'}", "Name it: --column."
        )
    samples: Float32 = vectors[key].astype(np.float32)
    return samples
