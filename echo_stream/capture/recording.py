"""A recording delivers the sound of a file, streamed from disk, at real-time pace or faster.

Runs on its reader's thread.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.core.errors import SourceError
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
LOWEST_HZ, HIGHEST_HZ = 1000, 192_000
EXACT_KINDS = ("WAV", "WAVEX", "FLAC", "AIFF", "AU", "CAF", "W64", "RF64")
"""Formats that can be entered at any sample; others have to be decoded from their beginning."""
MAX_READ_S = 10.0  # a reader that was away for longer catches up in several reads
MPEG_LENGTH_TOLERANCE = 0.05  # an MP3 does not always know its own length
STREAMED_HEADER_BYTES = 0x7FFF0000  # what wrote to a pipe claims at least this, because it cannot know


def find_recordings(paths: Sequence[Path]) -> list[Path]:
    """The audio files that `paths` (files or folders, searched recursively) name; sorted, each once.

    A file that is named itself is taken whatever its suffix; in folders the suffix decides.

    Raises:
        SourceError: a path does not exist, or a folder holds no audio file.
    """
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            inside = {p for p in path.rglob("*") if p.suffix.lower()[1:] in AUDIO_KINDS and p.is_file()}
            if not inside:
                raise SourceError(
                    f"{path}: no recording in this folder", f"Looked for {', '.join(AUDIO_KINDS)}."
                )
            found |= inside
        elif path.exists():
            found.add(path)
        else:
            raise SourceError(f"{path}: no such file or folder", f"Looked from {Path.cwd()}.")
    return sorted(found)


class _Straight(soundfile.SoundFile):  # type: ignore[misc]
    """A file that is read straight on.

    soundfile asks for, and sets, its position at every read where a file can seek; an MP3 decoder forgets its
    bit reservoir over that, and delivers silence or noise wherever a block begins.
    """

    def seekable(self) -> bool:
        return False


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
        block_s: float = 0.05,
    ) -> None:
        """Open `path`.

        Args:
            path: the file.
            pace: `realtime` delivers what is due now, counted from the first read; `fast` a block a read.
            loop: begin anew at the end, for ever.
            block_s: length of a block in seconds; the least that a real-time read delivers.

        Raises:
            SourceError: no such file, no audio, no sample in it, or shorter than its header promises.
        """
        self.path = path
        self._file = _open(path)
        self._realtime = pace == "realtime"
        self._loop = loop
        self.sample_rate_hz = int(self._file.samplerate)
        self.channels = int(self._file.channels)
        self.description = str(path)
        self.ended = False
        self.lost_samples = 0
        self._block = max(1, round(block_s * self.sample_rate_hz))
        self._index = 0
        self._in_file = 0
        self._began_s: float | None = None
        self._anchor = Anchor.now(0, self.sample_rate_hz)

    @property
    def duration_s(self) -> float:
        """Length of the file in seconds, as its header says."""
        return float(self._file.frames / self.sample_rate_hz)

    @property
    def exact(self) -> bool:
        """Whether the file can be entered at any sample."""
        return self._file.format in EXACT_KINDS

    def skip(self, samples: int) -> None:
        """Begin so many samples later, which keep their index; before the first read, where it is `exact`."""
        self._index = self._in_file = self._file.seek(samples)

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
                f"{self.path}: sample {samples[frame, channel]} at {at_s:.3f} s in channel {channel}",
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
                f"{self.path}: cannot be decoded beyond {at_s:.1f} s of {self.duration_s:.1f} s ({error})",
                "The file is truncated or damaged: copy it again, or leave it out.",
            ) from error
        return samples

    def _check_length(self) -> None:
        tolerance = MPEG_LENGTH_TOLERANCE if self._file.format == "MP3" else 0.0
        if self._in_file < self._file.frames * (1.0 - tolerance):
            raise _truncated(self.path, self._in_file / self.sample_rate_hz, self.duration_s)


def _open(path: Path) -> soundfile.SoundFile:
    if path.is_dir():
        raise SourceError(f"{path}: a folder, expected a recording", "Name one file in it.")
    if not path.exists():
        raise SourceError(f"{path}: no such file", f"Looked from {Path.cwd()}.")
    if path.suffix.lower() == ".raw":
        raise SourceError(
            f"{path}: raw samples do not say their rate and format",
            "Use a source of kind stdin, or convert it: sox -r RATE -e signed -b 16 -c 1 IN OUT.wav",
        )
    try:
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: the file is empty (0 bytes)", "Record it again, or leave it out.")
        file = _Straight(path)
    except PermissionError as error:
        raise SourceError(f"{path}: not readable for this user", f"Try: chmod a+r {path}") from error
    except soundfile.LibsndfileError as error:
        raise SourceError(
            f"{path}: not a recording that can be read ({error.error_string})",
            "Expected WAV, FLAC, MP3, OGG or the like. Converting may help: ffmpeg -i IN OUT.flac",
        ) from error
    try:
        _check_header(path, file)
    except SourceError:
        file.close()
        raise
    return file


def _check_header(path: Path, file: soundfile.SoundFile) -> None:
    # libsndfile forgives a header that promises more than there is, and says so only in its log:
    # "data : 96000 (should be 47978)".
    for promised, present in re.findall(r": (\d+) \(should be (\d+)\)", file.extra_info):
        if int(present) < int(promised) < STREAMED_HEADER_BYTES:
            raise _truncated(path, file.frames / file.samplerate, None)
    if not LOWEST_HZ <= file.samplerate <= HIGHEST_HZ:
        raise SourceError(
            f"{path}: a rate of {file.samplerate} Hz; expected {LOWEST_HZ} to {HIGHEST_HZ} Hz",
            "Is the header damaged? Otherwise resample it: sox IN -r 48000 OUT.wav",
        )
    if file.frames == 0:
        raise SourceError(f"{path}: a recording without a single sample", "Record it again, or leave it out.")


def _truncated(path: Path, present_s: float, promised_s: float | None) -> SourceError:
    promised = f" of the {promised_s:.1f} s that its header promises" if promised_s else ""
    return SourceError(
        f"{path}: truncated, it holds only {present_s:.1f} s{promised or ', less than its header promises'}",
        "Copy it again, or keep what is there: sox IN OUT.wav",
    )
