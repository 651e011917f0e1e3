"""The slicer cuts blocks into windows, on a grid of absolute sample indices.

Runs on the pipeline thread; has no clock.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from echo_stream.capture.ring import put_wrapped, take_wrapped
from echo_stream.core.types import Float32


class Slicer:
    """Cuts one channel into windows of `window_samples`, one every `hop_samples`.

    The first window begins with the first sample, and with the first sample after every gap; no window has a
    gap inside. The newest `keep_samples` stay in memory, for windows that are still to be popped and for
    evidence; nothing else grows. Windows that nobody popped before their samples went are skipped hops.
    """

    def __init__(self, window_samples: int, hop_samples: int, keep_samples: int) -> None:
        """Raises ValueError for a window or hop under 1, or where `keep_samples` does not hold a window."""
        if window_samples < 1 or hop_samples < 1 or keep_samples < window_samples:
            raise ValueError(f"window {window_samples}, hop {hop_samples}, keep {keep_samples} samples")
        self._window = window_samples
        self._hop = hop_samples
        self._kept = np.zeros(keep_samples, np.float32)
        self._ready: deque[int] = deque()
        self._next = 0  # where the next window begins that is not complete yet
        # An evidence worker may read these two while the pipeline pushes:
        self._claimed = 0  # index after the last sample that is, or is being, written
        self._stretches: tuple[tuple[int, int], ...] = ()  # (start, end) without a gap, oldest first
        self.skipped_hops = 0
        """Windows that were complete and never popped."""
        self.lost_samples = 0
        """Samples missing between blocks."""

    @property
    def end(self) -> int:
        """Index after the last sample that was pushed."""
        return self._claimed

    @property
    def pending(self) -> int:
        """Windows ready to be popped."""
        return len(self._ready)

    def push(self, samples: Float32, start: int, gap: bool = False) -> None:
        """Take `samples` (n,) in, the first of which has the absolute index `start`.

        Raises:
            ValueError: `start` goes back.
        """
        if not self._stretches:
            self._begin(start)
        elif start < self._claimed:
            raise ValueError(f"sample index went back from {self._claimed} to {start}")
        elif gap or start > self._claimed:
            self.lost_samples += start - self._claimed
            self._begin(start)
        end = start + len(samples)
        newest = samples[-len(self._kept) :]
        self._claimed = end
        put_wrapped(self._kept, end - len(newest), newest)
        self._publish(end)
        while self._next + self._window <= end:
            self._ready.append(self._next)
            self._next += self._hop
        self.skipped_hops += self._drop_ready(end - len(self._kept))

    def pop(self) -> tuple[int, Float32] | None:
        """The oldest window that is ready: absolute start, and samples (window_samples,) as an own array."""
        if not self._ready:
            return None
        start = self._ready.popleft()
        return start, take_wrapped(self._kept, start, self._window)

    def skip_to_newest(self, keep: int = 1) -> int:
        """Drop all pending windows but the newest `keep`; returns how many went."""
        skipped = max(0, len(self._ready) - keep)
        for _ in range(skipped):
            self._ready.popleft()
        self.skipped_hops += skipped
        return skipped

    def stretch(self, index: int) -> tuple[int, int] | None:
        """The stretch (start, end) without a gap round sample `index`, as far as it is kept. Any thread."""
        stretches = self._stretches
        oldest = stretches[-1][1] - len(self._kept) if stretches else 0
        for start, end in stretches:
            if max(start, oldest) <= index < end:
                return max(start, oldest), end
        return None

    def history(self, start: int, end: int) -> Float32 | None:
        """Copy of the samples `start` to `end`; None where they are not all kept or have a gap."""
        kept = self.stretch(start)
        if kept is None or not start < end <= kept[1]:
            return None
        samples = take_wrapped(self._kept, start, end - start)
        # The pipeline may have pushed meanwhile: what it claimed may be half overwritten.
        return samples if start >= self._claimed - len(self._kept) else None

    def _begin(self, start: int) -> None:
        self._next = start
        self._stretches = (*self._stretches, (start, start))

    def _publish(self, end: int) -> None:
        oldest = end - len(self._kept)
        past = tuple(stretch for stretch in self._stretches[:-1] if stretch[1] > oldest)
        self._stretches = (*past, (self._stretches[-1][0], end))

    def _drop_ready(self, oldest: int) -> int:
        dropped = 0
        while self._ready and self._ready[0] < oldest:
            self._ready.popleft()
            dropped += 1
        return dropped
