"""The ring passes samples from one writer (PortAudio's callback) to one reader (the pipeline).

No lock: a callback must never wait. The writer claims slots before it overwrites them and publishes them
afterwards; the reader copies first and then throws away whatever was claimed while it copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import AudioBlock, Float32

PIECE_SAMPLES = 4096  # more than a callback usually brings


def put_wrapped(buffer: NDArray[Any], position: int, values: NDArray[Any]) -> None:
    """Write `values` (n, ...), n <= len(buffer), at `position` of an endless line wrapped round `buffer`."""
    at = position % len(buffer)
    head = min(len(values), len(buffer) - at)
    buffer[at : at + head] = values[:head]
    buffer[: len(values) - head] = values[head:]


def take_wrapped(buffer: NDArray[Any], position: int, count: int) -> NDArray[Any]:
    """Copy `count` <= len(buffer) values from `position` of an endless line wrapped round `buffer`."""
    at = position % len(buffer)
    head = min(count, len(buffer) - at)
    return np.concatenate([buffer[at : at + head], buffer[: count - head]])


class Ring:
    """Preallocated memory between one writer thread and one reader thread.

    Every sample is stored with its absolute index, so that gaps need no book-keeping of their own: they are
    where the index jumps. Overrun loses the oldest samples.
    """

    def __init__(self, capacity_samples: int, channels: int) -> None:
        if capacity_samples < 1 or channels < 1:
            raise ValueError(f"a ring of {capacity_samples} samples, {channels} channels holds nothing")
        self._samples = np.zeros((capacity_samples, channels), np.float32)
        self._index = np.zeros(capacity_samples, np.int64)
        self._ramp = np.arange(min(capacity_samples, PIECE_SAMPLES), dtype=np.int64)
        self._scratch = np.empty_like(self._ramp)
        # Touched by the writer alone (the reader looks at the first two):
        self._claimed = 0
        self._stored = 0
        self.next_index = 0
        self.marked_samples = 0
        # Touched by the reader alone:
        self._taken = 0
        self._expected = 0
        self.overwritten_samples = 0

    @property
    def lost_samples(self) -> int:
        """Samples that were marked as lost by the writer or overwritten before they were read."""
        return self.marked_samples + self.overwritten_samples

    @property
    def stored_samples(self) -> int:
        """Samples written so far."""
        return self._stored

    # ---- writer ----------------------------------------------------------------------------------------

    def write(self, samples: Float32) -> None:
        """Store `samples` (n, channels). Neither waits nor allocates beyond array views."""
        n, piece = len(samples), len(self._ramp)
        self._claimed = self._stored + n
        for at in range(0, n, piece):
            part = samples[at : at + piece]
            index = self._scratch[: len(part)]
            np.add(self._ramp[: len(part)], self.next_index + at, out=index)
            put_wrapped(self._samples, self._stored + at, part)
            put_wrapped(self._index, self._stored + at, index)
        self.next_index += n
        self._stored = self._claimed

    def mark_gap(self, lost_samples: int) -> None:
        """Say that `lost_samples` (at least 1) are missing before what is written next."""
        lost = max(1, lost_samples)
        self.next_index += lost
        self.marked_samples += lost

    # ---- reader ----------------------------------------------------------------------------------------

    def read(self) -> AudioBlock | None:
        """What is new since the last read, up to the next gap; None where there is nothing."""
        capacity = len(self._samples)
        while (stored := self._stored) > self._taken:
            first = max(self._taken, stored - capacity)
            samples = take_wrapped(self._samples, first, stored - first)
            index = take_wrapped(self._index, first, stored - first)
            intact = max(first, self._claimed - capacity)
            self.overwritten_samples += min(intact, stored) - self._taken
            self._taken = min(intact, stored)
            if intact < stored:
                return self._block(samples[intact - first :], index[intact - first :])
        return None

    def _block(self, samples: Float32, index: NDArray[np.int64]) -> AudioBlock:
        count = len(index)
        if index[-1] - index[0] != count - 1:  # a gap inside: the rest is for the next read
            count = int(np.flatnonzero(np.diff(index) != 1)[0]) + 1
        start = int(index[0])
        gap = start != self._expected
        self._taken += count
        self._expected = start + count
        return AudioBlock(samples[:count], start, gap)
