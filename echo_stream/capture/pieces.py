"""Pieces keep the sound of an enrolment as short files in a folder, and give it back as a source.

A minute a file, renamed into place when it is complete: a restart or a power cut costs the minute at hand,
and memory holds no sound. A file's name says which stretch it belongs to and its first sample. Between the
stretches sound was passed over on purpose; what is missing within one was lost on its way.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import groupby, pairwise
from pathlib import Path
from typing import Self

import soundfile

from echo_stream.capture.recording import Recording
from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.core.errors import SourceError
from echo_stream.core.files import read_regular, write_whole
from echo_stream.core.types import AudioBlock, Float32

PIECE_S = 60.0
NOTE = "heard.json"
MOST_NOTE_BYTES = 1 << 16
_NAME = re.compile(r"(\d{6})-(\d{15})-(\d{12})\.(flac|wav)")


@dataclass(frozen=True, slots=True)
class SoundOrigin:
    """Where the sound in a folder came from, and who asked for it."""

    source: str
    """Kind: microphone, recording, stdin, simulated."""
    device: str
    sample_rate_hz: int
    began_at: str
    """UTC of sample 0, ISO 8601."""
    by: str

    def save(self, folder: Path) -> None:
        """Writes it beside the sound.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(folder / NOTE, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads it.

        Raises:
            SourceError: it is missing or damaged.
        """
        try:
            return cls(**json.loads(read_regular(folder / NOTE, MOST_NOTE_BYTES)))
        except (OSError, ValueError, TypeError) as error:
            raise SourceError(
                f"{folder / NOTE}: cannot be read: {error}", "start the enrolment anew"
            ) from error


@dataclass(frozen=True, slots=True, order=True)
class Piece:
    """A file of sound without a gap."""

    stretch: int
    start: int
    """Absolute index of its first sample."""
    samples: int
    path: Path

    @property
    def end(self) -> int:
        """Index after its last sample."""
        return self.start + self.samples


class PieceWriter:
    """Writes the sound of one channel into a folder, which it makes. One thread.

    Args:
        folder: of this sound alone; what is complete there is kept.
        sample_rate_hz: of the sound.
        full_scale: of the source; samples with a unit of their own are kept as they are, as WAV.
    """

    def __init__(self, folder: Path, sample_rate_hz: int, full_scale: float) -> None:
        self._folder, self._rate = folder, sample_rate_hz
        self._kind = "wav" if math.isinf(full_scale) else "flac"
        self._file: soundfile.SoundFile | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._part = folder / f"part.{self._kind}"
        before = pieces_in(folder)
        self.samples = sum(piece.samples for piece in before)
        """Kept so far, with what the folder held."""
        self.end = before[-1].end if before else 0
        """Index after the last sample."""
        self._stretch = before[-1].stretch if before else 0
        self._start = self.end

    def begin(self, start: int) -> None:
        """Begins another stretch at a sample, or later where it would overlap what is there."""
        self.close()
        self._stretch += 1
        self._start = self.end = max(start, self.end + 1 if self.samples else 0)

    def write(self, samples: Float32) -> None:
        """Adds (n,) float32 that follow what was written.

        Raises:
            OSError: the disk takes nothing.
        """
        try:
            if self._file is None:
                subtype = "FLOAT" if self._kind == "wav" else "PCM_24"
                self._file = soundfile.SoundFile(
                    self._part, "w", self._rate, 1, subtype=subtype, format=self._kind.upper()
                )
            self._file.write(samples)
        except soundfile.LibsndfileError as error:
            self._drop()
            raise OSError(f"{self._part}: {error}") from error
        self.end += len(samples)
        self.samples += len(samples)
        if self.end - self._start >= PIECE_S * self._rate:
            self.close()

    def lose(self, samples: int) -> None:
        """So many samples were lost: what follows is another file."""
        self.close()
        self.end += samples
        self._start = self.end

    def close(self) -> None:
        """Completes the file at hand.

        Raises:
            OSError: it cannot be completed.
        """
        if self._file is None:
            return
        try:
            self._file.close()
            name = f"{self._stretch:06d}-{self._start:015d}-{self.end - self._start:012d}.{self._kind}"
            self._part.replace(self._folder / name)
        except (soundfile.LibsndfileError, OSError) as error:
            self._drop()
            raise OSError(f"{self._part}: {error}") from error
        self._file, self._start = None, self.end

    def _drop(self) -> None:
        """The file at hand is lost, and counted as lost sound."""
        if self._file is not None:
            with contextlib.suppress(soundfile.LibsndfileError, OSError):
                self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink(missing_ok=True)
        self.samples -= self.end - self._start
        self._file, self._start = None, self.end


def pieces_in(folder: Path) -> list[Piece]:
    """The complete files of a folder, in the order of time."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _NAME.fullmatch(path.name):
            found.append(Piece(int(match[1]), int(match[2]), int(match[3]), path))
    return sorted(found)


def stretches_in(folder: Path) -> list[list[Piece]]:
    """The same, stretch by stretch."""
    return [list(pieces) for _, pieces in groupby(pieces_in(folder), key=lambda piece: piece.stretch)]


class PieceSource(UnsupervisedSource):
    """The sound of pieces of one stretch, as fast as it is read, with the indices that it had.

    Args:
        pieces: at least one.
        description: of the source that it came from.
        began: UTC of sample 0.
    """

    channels = 1

    def __init__(self, pieces: Sequence[Piece], description: str, began: datetime) -> None:
        self._left = list(pieces)
        self._gap = False
        self._open = self._next()
        self.sample_rate_hz = self._open.sample_rate_hz
        self.full_scale = self._open.full_scale
        self.description = description
        self.lost_samples = sum(b.start - a.end for a, b in pairwise(pieces))
        self._anchor = Anchor(0, began, self.sample_rate_hz)

    def read(self) -> AudioBlock | None:
        """The next block; None at the end.

        Raises:
            SourceError: a file is damaged.
        """
        while not self.ended:
            block = self._open.read()
            if block is not None:
                gap, self._gap = self._gap, False
                return replace(block, start=self._piece.start + block.start, gap=gap)
            self._open.close()
            if not self._left:
                self.ended = True
                break
            before = self._piece.end
            self._open = self._next()
            self._gap = self._piece.start > before
            if self._open.sample_rate_hz != self.sample_rate_hz:
                raise SourceError(f"{self._piece.path}: has another sample rate than the files before it")
        return None

    def _next(self) -> Recording:
        self._piece = self._left.pop(0)
        return Recording(self._piece.path, pace="fast")

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index."""
        return self._anchor.time_of(index)

    def close(self) -> None:
        """Closes the file at hand."""
        self.ended = True
        self._open.close()
