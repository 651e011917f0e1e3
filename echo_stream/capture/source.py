"""An audio source delivers sound in blocks; what several machines use is opened once and shared.

Recordings, microphones, standard input and the simulator all keep to the protocol AudioSource, so that
neither the pipeline nor the status needs to know which of them it has. All methods run on one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from echo_stream.core.errors import SourceError
from echo_stream.core.types import AudioBlock

SourceState = Literal["waiting", "running", "lost", "ended"]
"""`waiting`: a device that has not delivered yet; `lost`: one that stopped; `ended`: nothing will come."""
BEHIND_S = 0.5
KEEP_S = 10.0  # what a channel's reader may leave unread: as much as a microphone's ring holds


@runtime_checkable
class AudioSource(Protocol):
    """Something that delivers sound. All methods are called by one thread.

    A block's `start` is the absolute sample index: it begins at 0, counts lost samples too and never goes
    back. A block says `gap` where samples were lost between the block before and this one; its samples are
    its receiver's own.
    """

    @property
    def sample_rate_hz(self) -> int:
        """The native rate in Hz; never changes."""
        ...

    @property
    def channels(self) -> int:
        """Columns of every block; never changes."""
        ...

    @property
    def description(self) -> str:
        """What it is, for people: the file, the device."""
        ...

    @property
    def ended(self) -> bool:
        """Exhausted: read() will return None for ever. A microphone never ends."""
        ...

    @property
    def state(self) -> SourceState:
        """Whether sound comes."""
        ...

    @property
    def last_error(self) -> SourceError | None:
        """Why no sound comes, in state `waiting` or `lost`; None where it does or no reason is known."""
        ...

    @property
    def full_scale(self) -> float:
        """The magnitude at which samples are clipped: 1, or infinity where they have a unit of their own."""
        ...

    @property
    def lost_samples(self) -> int:
        """All samples known to be lost so far, in sample frames."""
        ...

    @property
    def losses(self) -> int:
        """How often it was lost since it was opened; 0 where it cannot be."""
        ...

    def read(self) -> AudioBlock | None:
        """What is new since the last read, or None where there is nothing new yet. Never blocks.

        Raises:
            SourceError: the source delivers no usable sound (any more).
        """
        ...

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index."""
        ...

    def close(self) -> None:
        """Give everything back; may be called twice. Nothing else may be called afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Anchor:
    """One (index, UTC) pair, which gives wall time to every index of a source."""

    index: int
    utc: datetime
    sample_rate_hz: int

    @classmethod
    def now(cls, index: int, sample_rate_hz: int) -> Anchor:
        """The sample `index` is at this moment."""
        return cls(index, datetime.now(UTC), sample_rate_hz)

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index."""
        return self.utc + timedelta(seconds=(index - self.index) / self.sample_rate_hz)


class UnsupervisedSource:
    """Base of sources that deliver or raise: nobody waits for them, so `ended` gives their state."""

    ended = False
    last_error: SourceError | None = None
    full_scale: float = 1.0
    losses = 0

    @property
    def state(self) -> SourceState:
        """`running` until it has ended."""
        return "ended" if self.ended else "running"


class ClockFollower:
    """Follows the wall clock for a source whose times come from one anchor and a count of samples.

    What was just read is what sounds now, so the newest sample belongs to the present time. A clock that is
    set (NTP at boot, 1970 before it), a crystal that is 50 ppm off for a month, and a recording replayed
    faster than it sounded all make the count disagree with the clock: the source's times are then shifted as
    a whole, so that the newest is never in the future nor more than `behind_s` in the past. Durations between
    two times of one moment stay as the samples say.

    Args:
        source: gives the times by its samples.
        clock: gives the wall time.
        behind_s: what the delivery of a block may take.
    """

    def __init__(
        self,
        source: AudioSource,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        behind_s: float = BEHIND_S,
    ) -> None:
        self._source = source
        self._clock = clock
        self._behind = timedelta(seconds=behind_s)
        self._shift = timedelta()

    def on_read(self, end: int) -> None:
        """The samples before `end` were just read."""
        late = self._clock() - self.time_of(end)
        if late < timedelta() or late > self._behind:
            self._shift += late

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index."""
        return self._source.time_of(index) + self._shift


class SharedSource:
    """A source that is opened once and handed out channel by channel; its times follow the wall clock."""

    def __init__(self, source: AudioSource) -> None:
        self.source = source
        self.clock = ClockFollower(source)
        self._views: list[_ChannelView] = []

    def view(self, channel: int) -> AudioSource:
        """An AudioSource of one channel (from 0). The source is closed with the last of its views.

        Raises:
            SourceError: the source has no such channel.
        """
        channels = self.source.channels
        if not 0 <= channel < channels:
            expected = "channel 0" if channels == 1 else f"channel 0 to {channels - 1}"
            raise SourceError(f"{self.source.description}: no channel {channel}", f"Expected {expected}.")
        view = _ChannelView(self, channel)
        self._views.append(view)
        return view

    def pump(self) -> None:
        """Read the source once and hand the block to every view."""
        block = self.source.read()
        if block is not None:
            self.clock.on_read(block.start + len(block.samples))
            for view in self._views:
                view.take(block)

    def drop(self, view: _ChannelView) -> None:
        """Remove a view; the source is closed with the last."""
        if view in self._views:
            self._views.remove(view)
            if not self._views:
                self.source.close()


class _ChannelView:
    """An AudioSource of one channel of a shared source.

    What its reader leaves for longer than KEEP_S is lost, the oldest first.
    """

    channels = 1

    def __init__(self, shared: SharedSource, channel: int) -> None:
        self._shared = shared
        self._channel = channel
        self._blocks: deque[AudioBlock] = deque()
        self._overrun = False
        self._dropped = 0
        self.sample_rate_hz = shared.source.sample_rate_hz
        self.description = f"{shared.source.description}, channel {channel}"

    @property
    def ended(self) -> bool:
        return not self._blocks and self._shared.source.ended

    @property
    def state(self) -> SourceState:
        return "running" if self._blocks else self._shared.source.state

    @property
    def last_error(self) -> SourceError | None:
        return self._shared.source.last_error

    @property
    def full_scale(self) -> float:
        return self._shared.source.full_scale

    @property
    def lost_samples(self) -> int:
        return self._shared.source.lost_samples + self._dropped

    @property
    def losses(self) -> int:
        return self._shared.source.losses

    def take(self, block: AudioBlock) -> None:
        self._blocks.append(block)
        oldest = block.start - int(KEEP_S * self.sample_rate_hz)
        while self._blocks[0].start < oldest:
            self._dropped += len(self._blocks.popleft().samples)
            self._overrun = True

    def read(self) -> AudioBlock | None:
        if not self._blocks:
            self._shared.pump()
        if not self._blocks:
            return None
        block = self._blocks.popleft()
        gap, self._overrun = block.gap or self._overrun, False
        mono = np.ascontiguousarray(block.samples[:, self._channel : self._channel + 1])
        return replace(block, samples=mono, gap=gap)

    def time_of(self, index: int) -> datetime:
        return self._shared.clock.time_of(index)

    def close(self) -> None:
        self._blocks.clear()
        self._shared.drop(self)
