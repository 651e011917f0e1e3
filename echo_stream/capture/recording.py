"""A recording delivers the sound of a file, streamed from disk, at real-time pace or faster.

Runs on its reader's thread.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from echo_stream.capture.sound_file import full_scale_of, open_sound_file, truncated
from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.capture.stored import objects_in
from echo_stream.capture.table import TABLE_KINDS, Columns, is_table, open_table
from echo_stream.core.errors import SourceError
from echo_stream.core.text import is_object, path_text
from echo_stream.core.types import AudioBlock, Float32

AUDIO_KINDS = (
    "wav",
    "flac",
    "mp3",
    "ogg",
    "oga",
    "opus",
    "aif",
    "aiff",
    "aifc",
    "au",
    "snd",
    "caf",
    "w64",
    "rf64",
)
FOREIGN_FOLDERS = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found")
EXACT_KINDS = ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64")
"""Formats that can be entered at any sample; others have to be decoded from their beginning."""
MAX_READ_S = 10.0  # a reader that was away for longer catches up in several reads
MPEG_LENGTH_TOLERANCE = 0.05  # an MP3 does not always know its own length


def find_recordings(paths: Sequence[Path], columns: Columns | None = None) -> list[Path]:
    """The audio files that `paths` (files or folders, searched recursively) name; sorted, each once.

    Also objects of a store, and folders of them (`s3://bucket/folder`).

    A file that is named itself is taken whatever its name; in folders the suffix decides, and hidden files
    and folders, those of other systems (._a.wav, __MACOSX) and pipes are passed over. Links to folders are
    not followed. Tables count as recordings where their `columns` are given.

    Raises:
        SourceError: a path does not exist, or a folder holds no audio file or cannot be read.
        StoreError: an object store does not answer, or refuses.
    """
    kinds = AUDIO_KINDS if columns is None else (*AUDIO_KINDS, *TABLE_KINDS)
    found: dict[Path, tuple[object, ...]] = {}
    for path in paths:
        objects = objects_in(path) if is_object(path) else None
        if objects == [path]:
            found[path] = (path,)
        elif objects is not None or path.is_dir():
            inside = dict(_inside(path, kinds) if objects is None else _objects_inside(path, kinds, objects))
            if not inside:
                raise SourceError(
                    f"{path_text(path)}: no recording in this folder", f"Looked for {', '.join(kinds)}."
                )
            found |= inside
        elif path.exists():
            found[path] = _identity(path)
        else:
            raise SourceError(f"{path_text(path)}: no such file or folder", f"Looked from {Path.cwd()}.")
    once = {identity: path for path, identity in sorted(found.items(), reverse=True)}  # not links to others
    return sorted(once.values())


def _inside(folder: Path, kinds: Sequence[str]) -> Iterator[tuple[Path, tuple[object, ...]]]:
    def refuse(error: OSError) -> None:
        raise SourceError(
            f"{path_text(Path(error.filename))}: the folder cannot be read: {error.strerror}",
            "Give this user the right to read it, or name other folders.",
        ) from error

    for here, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not _is_foreign(name)]
        for name in files:
            path = Path(here, name)
            if path.suffix.lower()[1:] in kinds and not _is_foreign(name) and path.is_file():
                yield path, _identity(path)


def _objects_inside(
    folder: Path, kinds: Sequence[str], objects: Sequence[Path]
) -> Iterator[tuple[Path, tuple[object, ...]]]:
    for path in objects:
        names = path.relative_to(folder).parts
        if path.suffix.lower()[1:] in kinds and not any(map(_is_foreign, names)):
            yield path, (path,)


def _is_foreign(name: str) -> bool:
    return name.startswith((".", "@")) or name in FOREIGN_FOLDERS


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


class Recording(UnsupervisedSource):
    """An AudioSource that plays a file: WAV, FLAC, MP3, OGG and what else libsndfile reads.

    With `loop` it never ends: the index grows on, and no gap is marked at the seam, because no sample is
    lost there (the sound may click).
    """

    def __init__(
        self,
        path: Path,
        pace: Literal["realtime", "fast"] = "realtime",
        loop: bool = False,
        block_s: float | None = None,
        columns: Columns | None = None,
    ) -> None:
        """Open `path`.

        Args:
            path: the file.
            pace: `realtime` delivers what is due now, counted from the first read; `fast` a block a read.
            loop: begin anew at the end, for ever.
            block_s: length of a block in seconds; the least that a real-time read delivers. Without it 0.05,
                and 0.5 for `fast`, because a read costs the same whatever it brings.
            columns: of a table (CSV, MAT): which column, at which rate.

        Raises:
            SourceError: no such file, no audio, no sample in it, or shorter than its header promises.
        """
        self.path = path
        if is_table(path):
            self._file, self.frames, self.full_scale = open_table(path, columns)
        else:
            self._file, self.frames = open_sound_file(path)
            self.full_scale = full_scale_of(path, str(self._file.subtype))
        self._realtime = pace == "realtime"
        self._loop = loop
        self.sample_rate_hz = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.description = path_text(path)
        self.ended = False
        self.lost_samples = 0
        if block_s is None:
            block_s = 0.05 if self._realtime else 0.5
        self._block = max(1, round(block_s * self.sample_rate_hz))
        self._index = 0
        self._in_file = 0
        self._began_s: float | None = None
        self._anchor = Anchor.now(0, self.sample_rate_hz)

    @property
    def duration_s(self) -> float:
        """Length of the file in seconds, as its header says; counted where that does not say it."""
        return float(self.frames / self.sample_rate_hz)

    @property
    def subtype(self) -> str:
        """How samples are stored, in libsndfile's words: PCM_24, FLOAT."""
        return str(self._file.subtype)

    @property
    def exact(self) -> bool:
        """Whether the file can be entered at any sample."""
        return self._file.format in EXACT_KINDS

    def skip(self, samples: int) -> None:
        """Go on at a sample, which keeps its index; where it is `exact`."""
        self._index = self._in_file = self._file.seek(samples)
        self.ended = False

    def read(self) -> AudioBlock | None:
        """The next block: what is due (real time), or the next `block_s` seconds (fast).

        Raises:
            SourceError: a sample is not finite, or the file ends before its header says.
        """
        count = self._due()
        if self.ended or count == 0:
            return None
        samples = self._take(count)
        if len(samples) == 0:
            self.ended = True
            return None
        block = AudioBlock(samples, self._index)
        self._index += len(samples)
        return block

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: the first sample is at the first read."""
        return self._anchor.time_of(index)

    def close(self) -> None:
        """Close the file."""
        self.ended = True
        self._file.close()

    def _due(self) -> int:
        if self._began_s is None:
            self._began_s = time.monotonic()
            self._anchor = Anchor.now(0, self.sample_rate_hz)
        if not self._realtime:
            return self._block
        due = int((time.monotonic() - self._began_s) * self.sample_rate_hz) - self._index
        return min(due, int(MAX_READ_S * self.sample_rate_hz)) if due >= self._block else 0

    def _take(self, count: int) -> Float32:
        """The next samples (n <= count, channels) of the file; none at its end (a loop has no end)."""
        samples = self._decode(count)
        if len(samples) == 0:
            self._check_length()
            if self._loop:
                self._file.seek(0)
                self._in_file = 0
                samples = self._decode(count)
        if not np.isfinite(samples).all():
            frame, channel = np.argwhere(~np.isfinite(samples))[0]
            at_s = (self._in_file + int(frame)) / self.sample_rate_hz
            raise SourceError(
                f"{self.description}: sample {samples[frame, channel]} at {at_s:.3f} s in channel {channel}",
                "The file is damaged, or was written by a program that divided by zero: leave it out.",
            )
        self._in_file += len(samples)
        return samples

    def _decode(self, count: int) -> Float32:
        try:
            samples: Float32 = self._file.read(count, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            at_s = self._in_file / self.sample_rate_hz
            raise SourceError(
                f"{self.description}: cannot be decoded beyond {at_s:.1f} s of "
                f"{self.duration_s:.1f} s ({error})",
                "The file is truncated or damaged: copy it again, or leave it out.",
            ) from error
        return samples

    def _check_length(self) -> None:
        tolerance = MPEG_LENGTH_TOLERANCE if self._file.format == "MP3" else 0.0
        if self._in_file < self.frames * (1.0 - tolerance):
            raise truncated(self.description, self._in_file / self.sample_rate_hz, self.duration_s)
