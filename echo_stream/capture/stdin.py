"""Raw PCM is read from a pipe: standard input, as in `arecord | echo-stream run`, or what a command prints.

A pipe holds its writer up until it is read, therefore nothing is lost here, however fast the sound comes: a
block is short, and the next one waits in the pipe. What announces itself as WAV is believed; every other
format that announces itself is refused. Runs on its reader's thread.
"""

from __future__ import annotations

import math
import os
import select
import struct
from dataclasses import dataclass
from datetime import datetime

import numpy as np

from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.core.errors import SourceError
from echo_stream.core.level import OVERSHOOT
from echo_stream.core.log import get_logger
from echo_stream.core.types import AudioBlock, Float32

SAMPLE_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
LONGEST_BLOCK_S = 0.5
LONGEST_HEADER_BYTES = 1 << 20
STREAMED_BYTES = 0x7FFF0000  # a size from here on, or 0: the writer did not know it
UNUSED_BITS_S = 10.0
ANNOUNCED = {
    b"fLaC": "FLAC",
    b"OggS": "Ogg",
    b"FORM": "AIFF",
    b"caff": "CAF",
    b".snd": "AU",
    b"ID3\x03": "MP3",
    b"ID3\x04": "MP3",
    b"RIFX": "big-endian WAV",
}

log = get_logger()


@dataclass(frozen=True, slots=True)
class WavHeader:
    """What a WAV header announces."""

    sample_format: str
    channels: int
    sample_rate_hz: int
    length: int
    """Bytes of it; the samples follow."""
    sound_bytes: int | None
    """Bytes of samples; None where the writer did not know."""


class RawPcm(UnsupervisedSource):
    """An AudioSource that reads interleaved little-endian PCM, raw or as WAV, from a file descriptor.

    The descriptor stays in blocking mode (that mode is shared with other processes, such as a terminal) and
    is only read when it has something.
    """

    def __init__(
        self,
        sample_rate_hz: int,
        sample_format: str = "s16le",
        channels: int = 1,
        fd: int = 0,
        description: str = "standard input",
    ) -> None:
        """Take a descriptor over; it is not closed by close().

        Raises:
            SourceError: an unknown format.
        """
        if sample_format not in SAMPLE_BYTES:
            raise SourceError(f"raw PCM format {sample_format!r}", f"Expected {', '.join(SAMPLE_BYTES)}.")
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.description = description
        self.ended = False
        self.lost_samples = 0
        self._format = sample_format
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._rest = b""
        self._header_read = False
        self._sound_left: int | None = None
        self._index = 0
        self._peak = 0.0
        self._anchor: Anchor | None = None

    def read(self) -> AudioBlock | None:
        """Whole sample frames that have arrived, at most half a second of them.

        Raises:
            SourceError: the stream announces another format than the configuration, a sample is not finite
                (f32le), or the descriptor cannot be read.
        """
        size = SAMPLE_BYTES[self._format] * self.channels
        longest = max(1, round(LONGEST_BLOCK_S * self.sample_rate_hz)) * size
        least = 0 if self._header_read else 4096  # a header may be longer than a block
        data = self._rest + self._arrived(max(least, longest - len(self._rest)))
        if not self._header_read:
            sound = self._after_header(data)
            if sound is None:
                self._rest = data
                return None
            data = sound
            size = SAMPLE_BYTES[self._format] * self.channels
        if self._sound_left is not None:
            data = data[: self._sound_left]
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        if self._sound_left is not None:
            self._sound_left -= whole
            self.ended |= self._sound_left < size
        if whole == 0:
            return None
        samples = decode(data[:whole], self._format).reshape(-1, self.channels)
        self._check(samples)
        block = AudioBlock(samples, self._index)
        self._index += len(samples)
        if self._anchor is None:
            self._anchor = Anchor.now(self._index, self.sample_rate_hz)
        return block

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: the end of the first block is when it arrived."""
        return (self._anchor or Anchor.now(0, self.sample_rate_hz)).time_of(index)

    def close(self) -> None:
        """Stop reading."""
        self.ended = True

    def _arrived(self, most: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while not self.ended and size < most and self._poll.poll(0):
            try:
                part = os.read(self._fd, most - size)
            except OSError as error:
                self.ended = True
                raise SourceError(
                    f"{self.description}: {error.strerror}", "Give it something to read."
                ) from error
            self.ended = not part
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def _after_header(self, data: bytes) -> bytes | None:
        """The samples behind a WAV header; None while the header is not complete."""
        if len(data) < 12 and not self.ended and any(m.startswith(data[:4]) for m in (b"RIFF", *ANNOUNCED)):
            return None
        if data[:4] in ANNOUNCED:
            raise SourceError(
                f"{self.description}: the stream is {ANNOUNCED[data[:4]]}, expected raw PCM or WAV",
                "Decode it first: ffmpeg -i IN -f wav - | echo-stream ...",
            )
        if data[:4] in {b"RIFF", b"RF64"} and data[8:12] == b"WAVE":
            header = _wav_header(data, self.description)
            if header is None and not self.ended and len(data) < LONGEST_HEADER_BYTES:
                return None
            if header is None:
                raise SourceError(
                    f"{self.description}: a WAV header without samples", "Send raw PCM instead."
                )
            self._believe(header)
            data = data[header.length :]
        self._header_read = True
        return data

    def _believe(self, header: WavHeader) -> None:
        for name, announced, configured in (
            ("Hz", header.sample_rate_hz, self.sample_rate_hz),
            ("channels", header.channels, self.channels),
        ):
            if announced != configured:
                raise SourceError(
                    f"{self.description}: the WAV header announces {announced} {name}, "
                    f"configured are {configured}",
                    "Set sample_rate_hz and channels of the source to what is sent.",
                )
        if header.sample_format != self._format:
            log.warning(
                f"{self.description} announces another format by its WAV header, which is taken",
                announced=header.sample_format,
                configured=self._format,
            )
        self._format = header.sample_format
        self._sound_left = header.sound_bytes

    def _check(self, samples: Float32) -> None:
        if not np.isfinite(samples).all():
            frame, channel = np.argwhere(~np.isfinite(samples))[0]
            at_s = (self._index + int(frame)) / self.sample_rate_hz
            raise SourceError(
                f"{self.description}: {samples[frame, channel]} at {at_s:.3f} s in channel {channel}; "
                "expected finite f32le samples",
                "Is the stream really f32le? 16-bit sound read as floats looks like this.",
            )
        before, self._peak = self._peak, max(self._peak, float(np.abs(samples).max()))
        if self._format == "f32le" and self._peak > OVERSHOOT:
            self.full_scale = math.inf
        end, limit = self._index + len(samples), round(UNUSED_BITS_S * self.sample_rate_hz)
        if self._format == "s32le" and self._index < limit <= end and 0 < max(before, self._peak) < 1 / 256:
            log.warning(
                f"{self.description} uses the lower 24 of 32 bits only: all levels are 48 dB too low",
                hint="is it sent by arecord -f S24_LE? use S24_3LE with format: s24le, or S32_LE",
            )


def _wav_header(data: bytes, description: str) -> WavHeader | None:
    """The header at the beginning of `data`; None where more of it must come first."""
    at, found = 12, b""
    while len(data) >= at + 8:
        identity, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if identity == b"data":
            if len(found) < 16:
                raise SourceError(f"{description}: a WAV header without a format", "Send raw PCM instead.")
            known = 0 < size < STREAMED_BYTES
            name, channels, rate = _wav_format(found, description)
            return WavHeader(name, channels, rate, at + 8, size if known else None)
        if identity == b"fmt ":
            if len(data) < at + 8 + size:
                return None
            found = data[at + 8 : at + 8 + size]
        at += 8 + size + size % 2
    return None


def _wav_format(found: bytes, description: str) -> tuple[str, int, int]:
    tag, channels, rate, _, frame_bytes, bits = struct.unpack("<HHIIHH", found[:16])
    if tag == 0xFFFE and len(found) >= 26:  # extensible: the format is the beginning of its GUID
        tag = int.from_bytes(found[24:26], "little")
    width = frame_bytes // channels if channels else 0
    names = {(1, 2): "s16le", (1, 3): "s24le", (1, 4): "s32le", (3, 4): "f32le"}
    name = names.get((tag, width))
    if name is None:
        raise SourceError(
            f"{description}: a WAV header of format {tag} with {bits} bits",
            "Expected PCM of 16, 24 or 32 bits, or 32-bit floats.",
        )
    return name, channels, rate


def decode(data: bytes, sample_format: str) -> Float32:
    """Interleaved PCM to float32 (n * channels,), full scale -1 to 1."""
    if sample_format == "f32le":
        return np.frombuffer(data, "<f4").astype(np.float32)
    if sample_format == "s16le":
        return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(1 << 15)
    if sample_format == "s32le":
        return (np.frombuffer(data, "<i4") / float(1 << 31)).astype(np.float32)
    wide = np.zeros((len(data) // 3, 4), np.uint8)  # 24 bits, moved to the top of 32
    wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
    return (wide.view("<i4")[:, 0] / float(1 << 31)).astype(np.float32)
