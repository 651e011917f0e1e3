"""A sound file is opened here, and what its header promises is compared with what the file holds.

A recorder that loses power leaves a header of 0 bytes, a pipe one of 4 GB, a file over 4 GB one that counted
round; libsndfile believes them, and sound is lost without a word. What can be repaired while reading is; the
rest is refused with the way to repair it. Any thread.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soundfile

from echo_stream.capture.stored import open_stored, reading, state_of
from echo_stream.core.errors import EchoStreamError, SourceError
from echo_stream.core.level import OVERSHOOT
from echo_stream.core.text import is_object, path_text

LOWEST_HZ, HIGHEST_HZ = 1000, 192_000
STREAMED_HEADER_BYTES = 0x7FFF0000  # what wrote to a pipe claims at least this, because it cannot know
UNKNOWN_FRAMES = 1 << 48  # libsndfile's count of a FLAC file from a pipe is larger still
HEADER_BYTES = 1 << 16  # of an object, read with each request for its header
LEFT_OVER_S = 0.1  # so little behind the sound may be anything
FLOAT_SUBTYPES = ("FLOAT", "DOUBLE")


class StraightFile(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read straight on.

    soundfile asks for, and sets, its position at every read where a file can seek; an MP3 decoder forgets its
    bit reservoir over that, and delivers silence or noise wherever a block begins.
    """

    def __init__(self, file: bytes | io.IOBase) -> None:
        self._read_through = file
        try:
            super().__init__(file)
        except soundfile.LibsndfileError:
            self._raise_failure()
            raise
        self._raise_failure()

    def seekable(self) -> bool:
        """Never."""
        return False

    def read(self, *args: Any, **kwargs: Any) -> Any:
        """The same as soundfile's.

        Raises:
            SourceError, StoreError: a store no longer gives the object.
        """
        try:
            return super().read(*args, **kwargs)
        finally:
            self._raise_failure()

    def close(self) -> None:
        """Close it, and what it is read through."""
        super().close()
        if isinstance(self._read_through, io.IOBase):
            self._read_through.close()

    def _raise_failure(self) -> None:
        failure = getattr(self._read_through, "failure", None)
        if failure is not None:
            raise failure


def _open(path: Path, through: _Reader | None = None) -> StraightFile:
    if through is None and is_object(path):
        through = _Reader(path)
    return StraightFile(os.fsencode(path) if through is None else through)


@dataclass(frozen=True, slots=True)
class Container:
    """How a family of formats lays out its chunks."""

    first: int
    """Offset of the first chunk."""
    id_bytes: int
    size: str
    """struct format of a chunk's size."""
    align: int
    sound: bytes
    """How the id of the chunk with the samples begins."""
    counts_head: bool = False
    """A chunk's size includes its id and size."""

    @property
    def head(self) -> int:
        """Bytes of a chunk before its content."""
        return self.id_bytes + struct.calcsize(self.size)


CONTAINERS = {
    b"RIFF": Container(12, 4, "<I", 2, b"data"),
    b"RF64": Container(12, 4, "<I", 2, b"data"),
    b"RIFX": Container(12, 4, ">I", 2, b"data"),
    b"FORM": Container(12, 4, ">I", 2, b"SSND"),
    b"riff": Container(40, 16, "<Q", 8, b"data", counts_head=True),
    b"caff": Container(8, 4, ">q", 1, b"data"),
}


@dataclass(frozen=True, slots=True)
class SoundChunk:
    """Where the samples stand, by the header."""

    size_at: int
    """Offset of the field with the size."""
    begins: int
    promised: int
    """Bytes, as the header says."""
    container: Container
    peak: float | None = None
    """Largest magnitude, where a PEAK chunk says it."""


def open_sound_file(path: Path) -> tuple[StraightFile, int]:
    """A file that libsndfile can read, and how many sample frames it holds.

    Raises:
        SourceError: no such file, no sound, none in it, or less or more than its header promises.
    """
    name = path_text(path)
    if path.suffix.lower() == ".raw":
        raise SourceError(
            f"{name}: raw samples do not say their rate and format",
            "Use a source of kind stdin, or convert it: sox -r RATE -e signed -b 16 -c 1 IN OUT.wav",
        )
    size, chunk, left_over = _layout(path)
    patch = None
    if chunk is not None and left_over > 0 and chunk.promised <= 0:
        patch = _Reader(path, chunk.size_at, _size_field(chunk, size - chunk.begins))
    try:
        file = _open(path, patch)
    except (soundfile.LibsndfileError, ValueError, TypeError) as error:
        raise SourceError(
            f"{name}: not a recording that can be read ({getattr(error, 'error_string', error)})",
            "Expected WAV, FLAC, MP3, OGG or the like. Converting may help: ffmpeg -i IN OUT.flac",
        ) from error
    try:
        _check(name, file, chunk if patch is None else None, left_over)
        frames = int(file.frames)
        if frames >= UNKNOWN_FRAMES:
            frames = _counted_frames(path, *state_of(path))
        _refuse_no_frames(name, frames)
    except SourceError:
        file.close()
        raise
    return file, frames


def full_scale_of(path: Path, subtype: str) -> float:
    """1, or infinity where float samples beyond 1 show that they have another unit, such as m/s2."""
    if subtype not in FLOAT_SUBTYPES:
        return 1.0
    _, chunk, _ = _layout(path)
    peak = chunk.peak if chunk is not None and chunk.peak is not None else None
    if peak is None:
        peak = _largest(path, *state_of(path))
    return math.inf if peak > OVERSHOOT else 1.0


def _layout(path: Path) -> tuple[int, SoundChunk | None, int]:
    """Bytes of the file, its chunk with the sound, and how many bytes behind that are no chunks."""
    name = path_text(path)
    try:
        with reading(path), open_stored(path, HEADER_BYTES) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            if size == 0:
                raise SourceError(f"{name}: the file is empty (0 bytes)", "Record it again, or leave it out.")
            return size, *_sound_chunk(file, size)
    except FileNotFoundError as error:
        raise SourceError(f"{name}: no such file", f"Looked from {Path.cwd()}.") from error
    except PermissionError as error:
        raise SourceError(f"{name}: not readable for this user", f"Try: chmod a+r {name}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SourceError(f"{name}: {reason}", "Name a recording.") from error


def _sound_chunk(file: BinaryIO, size: int) -> tuple[SoundChunk | None, int]:
    start = file.read(4)
    container = CONTAINERS.get(start)
    if container is None:
        return None, 0
    peak: float | None = None
    long_size: int | None = None
    for at, identity, promised in _chunks(file, container, container.first, size):
        if identity == b"ds64":
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        elif identity == b"PEAK":
            values = file.read(min(promised, 8 + 8 * 1024))[8:]
            magnitudes = [
                abs(value) for (value, _) in struct.iter_unpack("<fI", values[: len(values) // 8 * 8])
            ]
            peak = max((value for value in magnitudes if math.isfinite(value)), default=None)
        elif identity.startswith(container.sound):
            begins = at + container.head
            is_long = start == b"RF64" and promised == 0xFFFFFFFF and long_size is not None
            length = long_size if is_long and long_size is not None else promised
            chunk = SoundChunk(at + container.id_bytes, begins, length, container, peak)
            end = begins + length + -length % container.align
            if length < 0:  # CAF from a pipe (-1), W64 that was never closed (0, less its own head)
                return chunk, max(0, size - begins)
            if end >= size:
                return chunk, 0
            return chunk, _left_over(file, container, end, size)
    return None, 0


def _chunks(file: BinaryIO, container: Container, at: int, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Offset, id and content bytes of each chunk from `at`; the file stands at its content."""
    while at + container.head <= size:
        file.seek(at)
        head = file.read(container.head)
        promised = int(struct.unpack(container.size, head[container.id_bytes :])[0])
        promised -= container.head if container.counts_head else 0
        yield at, head[: container.id_bytes], promised
        if promised < 0:
            return
        at += container.head + promised + -promised % container.align


def _left_over(file: BinaryIO, container: Container, end: int, size: int) -> int:
    """Bytes from `end` that are neither chunks nor zeros."""
    for at, identity, promised in _chunks(file, container, end, size):
        printable = all(32 <= byte < 127 for byte in identity[:4])
        if not printable or promised < 0 or at + container.head + promised > size:
            file.seek(at)
            return 0 if not any(file.read(1 << 20)) else size - at
    return 0


def _size_field(chunk: SoundChunk, present: int) -> bytes:
    """A header's size field that says how much there is."""
    container = chunk.container
    value = present + (container.head if container.counts_head else 0)
    limit = STREAMED_HEADER_BYTES - 1 if struct.calcsize(container.size) == 4 else value
    return struct.pack(container.size, min(value, limit))


def _check(name: str, file: StraightFile, chunk: SoundChunk | None, left_over: int) -> None:
    # libsndfile forgives a header that promises more than there is, and says so only in its log:
    # "data : 96000 (should be 47978)".
    for promised, present in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
        if int(present) < int(promised) < STREAMED_HEADER_BYTES:
            raise truncated(name, file.frames / file.samplerate, None)
    if not LOWEST_HZ <= file.samplerate <= HIGHEST_HZ:
        raise SourceError(
            f"{name}: a rate of {file.samplerate} Hz; expected {LOWEST_HZ} to {HIGHEST_HZ} Hz",
            "Is the header damaged? Otherwise resample it: sox IN -r 48000 OUT.wav",
        )
    if chunk is None or chunk.promised <= 0 or not 0 < file.frames < UNKNOWN_FRAMES:
        return
    present_s = file.frames / file.samplerate
    left_over_s = left_over * present_s / chunk.promised
    if left_over_s > LEFT_OVER_S:
        raise SourceError(
            f"{name}: the header promises {present_s:.1f} s of sound, but {left_over_s:.1f} s more follow it",
            "It was not closed properly, or grew beyond 4 GB. Repair it: sox --ignore-length IN OUT.wav",
        )


def _refuse_no_frames(name: str, frames: int) -> None:
    if frames == 0:
        raise SourceError(f"{name}: a recording without a single sample", "Record it again, or leave it out.")


def truncated(name: str, present_s: float, promised_s: float | None) -> SourceError:
    """What there is to say of a file that holds less than its header promises."""
    promised = f" of the {promised_s:.1f} s that its header promises" if promised_s else ""
    return SourceError(
        f"{name}: truncated, it holds only {present_s:.1f} s{promised or ', less than its header promises'}",
        "Copy it again, or keep what is there: sox IN OUT.wav",
    )


class _Reader(io.RawIOBase):
    """What libsndfile reads through: an object of a store, or a file with bytes of its header replaced.

    libsndfile takes what is raised here for the end of the file; so `failure` keeps it.
    """

    def __init__(self, path: Path, at: int = 0, replacement: bytes = b"") -> None:
        super().__init__()
        self._path = path
        self._file = open_stored(path)
        self._at, self._replacement = at, replacement
        self.failure: EchoStreamError | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        at = self._file.tell()
        try:
            with reading(self._path):
                count: int = self._file.readinto(buffer)  # type: ignore[attr-defined]
        except EchoStreamError as error:
            self.failure = error
            return 0
        for n, byte in enumerate(self._replacement, start=self._at - at):
            if 0 <= n < count:
                buffer[n : n + 1] = bytes([byte])
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


@lru_cache(maxsize=64)
def _counted_frames(path: Path, size: int, modified_ns: int) -> int:  # noqa: ARG001 - name the content
    return sum(len(block) for block in _blocks(path))


@lru_cache(maxsize=64)
def _largest(path: Path, size: int, modified_ns: int) -> float:  # noqa: ARG001 - name the content
    """Largest finite magnitude; where one is beyond what a full scale of 1 allows, that one."""
    largest = 0.0
    for block in _blocks(path):
        finite = np.abs(block[np.isfinite(block)])
        largest = max(largest, float(finite.max(initial=0.0)))
        if largest > OVERSHOOT:
            break
    return largest


def _blocks(path: Path) -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """All samples, as far as they can be decoded."""
    with _open(path) as file:
        while True:
            try:
                block = file.read(1 << 16, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError:
                return
            if len(block) == 0:
                return
            yield block
