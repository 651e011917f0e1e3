"""An archive of many hours is cut into parts, of which some are taken where there are too many.

A part is some minutes of one recording: what one core computes at a time (`archive_encode`, `archive_work`),
what is kept when the work is interrupted (`archive_kept`), and what is taken or passed over where there is
more sound than is learnt. Parts are cut the same whatever computes them, so that the features do not depend
on the number of cores. No thread of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from echo_stream.capture.recording import Recording
from echo_stream.capture.source import AudioSource, SharedSource
from echo_stream.capture.table import Columns
from echo_stream.core.errors import SourceError
from echo_stream.core.files import write_whole
from echo_stream.core.sequences import evenly_chosen
from echo_stream.core.text import path_text
from echo_stream.core.types import Float32, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.normal_sound import LEAST_S, ClipsOf, NormalClip, clip_lengths, evenly, touches
from echo_stream.pipeline.loop import read_windows

PART_S = 300.0
"""Long enough for the runs of windows that a calibration needs, short enough for a core to finish soon."""
MOST_WINDOWS = 20_000
"""Windows that are learnt at most, 5.5 hours at a hop of 1 s: memory does not grow with the archive."""
MOST_BYTES = 750e6
"""Of features, at most: fewer windows where they are large (ECHO tiny at 48 kHz: about an hour)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Windows in a row of one recording, and how they are cut."""

    path: Path
    first: int
    """Number of its first window in the recording."""
    windows: int
    """As many, by the header of the file."""
    last: bool
    """It goes on to the end of the recording, whatever the header says."""
    sample_rate_hz: int
    window_s: float
    hop_s: float
    channel: int
    """Of the recording; of one with fewer channels, its last."""
    details: bool
    """Also what the sensor delivered and what a picture shows of it."""
    columns: Columns | None = None
    """Of a table."""

    @property
    def hop_samples(self) -> int:
        """Between the starts of two windows."""
        return max(1, round(self.hop_s * self.sample_rate_hz))

    @property
    def last_start_s(self) -> float:
        """Where in the recording its last window begins."""
        return (self.first + self.windows - 1) * self.hop_samples / self.sample_rate_hz

    @property
    def seconds(self) -> float:
        """How much sound it adds."""
        return self.windows * self.hop_s


def parts_of(
    path: Path,
    *,
    window_s: float,
    hop_s: float,
    channel: int = 0,
    details: bool = False,
    columns: Columns | None = None,
) -> list[Part]:
    """A recording in parts; one that can only be read from its beginning (MP3, OGG) is one part.

    Raises:
        SourceError: it cannot be read, or is shorter than a window.
    """
    with closing(Recording(path, pace="fast", columns=columns)) as recording:
        rate, exact = recording.sample_rate_hz, recording.exact
        samples = round(recording.duration_s * rate)
    window, hop = round(window_s * rate), max(1, round(hop_s * rate))
    windows = (samples - window) // hop + 1
    if windows < 1:
        raise too_short(path, window_s)
    size = max(1, round(PART_S / hop_s)) if exact else windows
    return [
        Part(
            path=path,
            first=first,
            windows=min(size, windows - first),
            last=first + size >= windows,
            sample_rate_hz=rate,
            window_s=window_s,
            hop_s=hop_s,
            channel=channel,
            details=details,
            columns=columns,
        )
        for first in range(0, windows, size)
    ]


def spread(parts: Sequence[Part], most: int) -> list[Part]:
    """The parts, or as many of them, evenly spread, as hold about `most` windows."""
    windows = sum(part.windows for part in parts)
    if windows <= most:
        return list(parts)
    count = max(1, len(parts) * most // windows)
    return evenly_chosen(parts, count)


def most_windows(encoder: Encoder, parts: Sequence[Part]) -> int:
    """How many windows like those of the first part that can be read are learnt at most."""
    for part in parts:
        try:
            with closing(source_of(part)) as source:
                cut = read_windows(source, window_s=part.window_s, hop_s=part.hop_s)
                (features,) = encoder.encode(list(islice(cut, 1)))
        except SourceError:  # said when it is encoded
            continue
        return min(
            MOST_WINDOWS, max(1, int(MOST_BYTES / (features.window.nbytes + features.segments.nbytes)))
        )
    return MOST_WINDOWS


def source_of(part: Part) -> AudioSource:
    """Its channel, from its first sample."""
    recording = _open(part)
    if part.first:
        recording.skip(part.first * part.hop_samples)
    return _channel(part, recording)


def _open(part: Part) -> Recording:
    return Recording(part.path, pace="fast", columns=part.columns)


def _channel(part: Part, recording: Recording) -> AudioSource:
    return SharedSource(recording).view(min(part.channel, recording.channels - 1))


def windows_of(part: Part, numbers: Collection[int]) -> Iterator[Window]:
    """Windows of a part, by their numbers in it; each is read where it lies.

    A recording that can only be decoded from its beginning is read once, and no further than `PART_S`: the
    same windows are then spread over what is read.
    """
    with closing(_open(part)) as recording:
        if recording.exact:
            runs = [(number, 1) for number in sorted(numbers)]
        else:
            most = min(part.windows, round(PART_S / part.hop_s))
            numbers = {number * most // part.windows for number in numbers}
            runs = [(0, max(numbers, default=-1) + 1)]
        for begin, count in runs:
            if recording.exact:
                recording.skip((part.first + begin) * part.hop_samples)
            cut = read_windows(_channel(part, recording), window_s=part.window_s, hop_s=part.hop_s)
            for number, window in enumerate(islice(cut, count), start=begin):
                if number in numbers:
                    yield window


def clips_of(parts: Sequence[Part], condition: str, keep_s: float) -> ClipsOf:
    """Gives clips spread over parts of recordings, read again once it is known what was left out.

    A recording that can only be decoded from its beginning is entered in its first `PART_S` seconds.

    Args:
        parts: What was learnt.
        condition: Operating state of their sound.
        keep_s: Seconds of sound in all; 0: none.
    """
    length_s, wanted = clip_lengths(keep_s)

    def slots() -> Iterator[tuple[Part, float, float]]:
        for part in parts:
            begins_s = part.first * part.hop_samples / part.sample_rate_hz
            ends_s = begins_s + min(part.seconds + part.window_s - part.hop_s, PART_S + length_s)
            while ends_s - begins_s >= LEAST_S:
                yield part, begins_s, min(begins_s + length_s, ends_s)
                begins_s += length_s

    def clips(left_out: Collection[tuple[str, float, float]]) -> Sequence[NormalClip]:
        if keep_s <= 0:
            return []
        clean = [slot for slot in slots() if not touches(path_text(slot[0].path), *slot[1:], left_out)]
        return [_read_clip(*slot, condition) for slot in evenly(clean, wanted)]

    return clips


def _read_clip(part: Part, start_s: float, end_s: float, condition: str) -> NormalClip:
    """Raises SourceError where the recording can no longer be read."""
    rate = part.sample_rate_hz
    first, end = round(start_s * rate), round(end_s * rate)
    recording = _open(part)
    if recording.exact:
        recording.skip(first)
    blocks: list[Float32] = []
    with closing(_channel(part, recording)) as source:
        while (block := source.read()) is not None and block.start < end:
            blocks.append(block.samples[max(0, first - block.start) : end - block.start, 0])
    samples = np.concatenate([np.zeros(0, np.float32), *blocks])
    return NormalClip(path_text(part.path), start_s, condition, rate, samples)


def too_short(path: Path, window_s: float) -> SourceError:
    """What there is to say of a recording without a single window."""
    return SourceError(
        f"{path}: shorter than one window of {window_s:g} s",
        "give longer recordings, or set a shorter encoder.window_s",
    )


# What a long work has finished, kept in a folder so that it can go on after an interruption. Any process.
#
# One safetensors file for each part of a recording, named after all that its content depends on: a recording
# that changed, another window or another encoder has another name, and is computed anew. So is what is
# damaged.

HEADER_KEY = "echo_stream_part"

Tensors = dict[str, NDArray[Any]]


def place(folder: Path, about: Mapping[str, Any]) -> Path:
    """Where the part that depends on all this (plain JSON) is kept."""
    text = json.dumps(about, sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def keep(path: Path, tensors: Tensors) -> None:
    """Write contiguous tensors, all or nothing.

    Raises:
        SourceError: the folder cannot be made or written.
    """
    data = safetensors.numpy.save(tensors, metadata={HEADER_KEY: _checksum(tensors)})
    try:
        write_whole(path, data)
    except OSError as error:
        raise SourceError(
            f"{path}: the finished part cannot be saved: {error.strerror}",
            "Make room, or name another folder with --resume.",
        ) from error


def kept(path: Path) -> Tensors | None:
    """What `keep` wrote; None where there is nothing, or nothing sound."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            checksum = (file.metadata() or {}).get(HEADER_KEY)
    except (OSError, SafetensorError, ValueError, TypeError):
        return None
    return tensors if checksum == _checksum(tensors) else None


def _checksum(tensors: Tensors) -> str:
    """SHA-256 of the content; safetensors alone notices no flipped bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()
