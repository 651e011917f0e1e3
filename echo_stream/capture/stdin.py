"""The standard input source reads PCM from a pipe, as in `arecord -t raw | echo-stream run`.

Runs on its reader's thread.
"""

from __future__ import annotations

import os
import select
from datetime import datetime

import numpy as np

from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.core.errors import SourceError
from echo_stream.core.types import AudioBlock, Float32

SAMPLE_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4}
MAX_READ_BYTES = 1 << 20  # a second of 5 channels at 48 kHz and 4 bytes; the pipe itself keeps the rest


class RawPcm(UnsupervisedSource):
    """An AudioSource that reads interleaved little-endian PCM from a file descriptor.

    Nothing is lost: what is not read yet waits in the pipe, and holds the writer up when that is full. The
    descriptor stays in blocking mode (that mode is shared with other processes, such as a terminal) and
    is only read when it has something.
    """

    def __init__(
        self, sample_rate_hz: int, sample_format: str = "s16le", channels: int = 1, fd: int = 0
    ) -> None:
        """Take a descriptor over; it is not closed by close().

        Raises:
            SourceError: an unknown format.
        """
        if sample_format not in SAMPLE_BYTES:
            raise SourceError(f"raw PCM format {sample_format!r}", f"Expected {', '.join(SAMPLE_BYTES)}.")
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.description = "standard input" if fd == 0 else f"file descriptor {fd}"
        self.ended = False
        self.lost_samples = 0
        self._format = sample_format
        self._fd = fd
        self._poll = select.poll()
        self._poll.register(fd, select.POLLIN)
        self._rest = b""
        self._index = 0
        self._anchor: Anchor | None = None

    def read(self) -> AudioBlock | None:
        """Whole sample frames that have arrived.

        Raises:
            SourceError: a sample is not finite (f32le), or the descriptor cannot be read.
        """
        data = self._rest + self._arrived()
        size = SAMPLE_BYTES[self._format] * self.channels
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        if whole == 0:
            return None
        samples = _decode(data[:whole], self._format).reshape(-1, self.channels)
        self._check_finite(samples)
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

    def _arrived(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while not self.ended and size < MAX_READ_BYTES and self._poll.poll(0):
            try:
                part = os.read(self._fd, MAX_READ_BYTES - size)
            except OSError as error:
                self.ended = True
                raise SourceError(
                    f"{self.description}: {error.strerror}", "Give it something to read."
                ) from error
            self.ended = not part
            parts.append(part)
            size += len(part)
        return b"".join(parts)

    def _check_finite(self, samples: Float32) -> None:
        if np.isfinite(samples).all():
            return
        frame, channel = np.argwhere(~np.isfinite(samples))[0]
        at_s = (self._index + int(frame)) / self.sample_rate_hz
        raise SourceError(
            f"{self.description}: {samples[frame, channel]} at {at_s:.3f} s in channel {channel}; "
            "expected finite f32le samples",
            "Is the stream really f32le? 16-bit sound read as floats looks like this.",
        )


def _decode(data: bytes, sample_format: str) -> Float32:
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
