"""The contract of everything that sound can come from. Sources are polled by the pipeline thread.

Polled rather than iterated (docs/adr): one pipeline thread serves many machines, so no source may hold it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, runtime_checkable

from echo_stream.types import AudioBlock


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
    def lost_samples(self) -> int:
        """All samples known to be lost so far, in sample frames."""
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
