"""A known sound is one that a person taught as no fault: it is named when it comes and raises no alarm.

Pure numpy, no clock; runs on the pipeline thread. A taught sound is what machine and passing sound are like
together, in the features of the machine's own encoder. It explains a window that is much nearer to it than
to all normal sound, in the bank's own metric, and that is not louder than what was taught; for how long,
`Occurrences` says (docs/adr/0041).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from echo_stream.core.types import EncoderIdentity, Features, Float32
from echo_stream.detect.reference import Reference, Sound

LOUDER_DB = 3.0
"""What is so much louder than what was taught is another sound."""
LEAST_RISE = 0.25
"""Of the machine's normal power: a smaller rise than this cannot be told from the machine's own wandering."""
NEARER = 0.5
"""A window's score against the taught sound is at most this share of its score against normal sound."""
STRANGE = 1.0
"""Scores up to here are normal and need no explanation."""
LONGER = 1.5
"""What lasts longer than this many times the taught length is no longer explained."""
QUIET_S = 3.0
"""An occurrence is over when the machine has sounded normal for so long."""


@dataclass(frozen=True, slots=True)
class KnownSound:
    """Windows of a machine while a sound that is no fault was there."""

    name: str
    sound: Sound
    """(n, 1, bands, dim) and (n, patches, bands, dim)"""
    loudest_dbfs: float
    """Level of the loudest window."""
    length_s: float
    """How long the sound itself lasted."""
    window_s: float
    sample_rate_hz: int
    encoder: EncoderIdentity
    created: str
    """UTC, ISO 8601."""
    taught_from: str
    """The event or the recording that it was learned from."""

    @property
    def longest_s(self) -> float:
        """From the start of the first to the end of the last window that it may explain in a row."""
        return self.window_s + max(LONGER * self.length_s, self.length_s + self.window_s)

    def explains_level(self, level_dbfs: float, normal_dbfs: float) -> bool:
        """Whether a window is not too loud for it: what it adds to the machine's normal power is compared."""
        normal, taught, now = (10 ** (dbfs / 10) for dbfs in (normal_dbfs, self.loudest_dbfs, level_dbfs))
        rise = max(taught - normal, LEAST_RISE * normal)
        return bool(now - normal <= 10 ** (LOUDER_DB / 10) * rise)


class KnownSounds:
    """The taught sounds of a machine, in the metric of each of its operating states.

    Args:
        references: the bank's.
        sounds: features of the bank's own encoder.
    """

    def __init__(self, references: Sequence[Reference], sounds: Sequence[KnownSound]) -> None:
        self.sounds = {sound.name: sound for sound in sounds}
        self._compared = [[(sound, _as_normal(own, sound.sound)) for sound in sounds] for own in references]
        self._normal_dbfs = [own.level_dbfs for own in references]

    def name_of(self, features: Features, state: int, value: float) -> str:
        """The nearest taught sound that explains a window; empty where none does.

        Args:
            features: of the window.
            state: index of the reference that is nearest to it.
            value: its score against that.
        """
        if not self.sounds or value <= STRANGE:
            return ""
        sound = Sound.of([features])
        level_dbfs, normal_dbfs = features.level_dbfs, self._normal_dbfs[state]
        found = [
            (float(taught.compare(sound)[0].sum()), known.name)
            for known, taught in self._compared[state]
            if known.explains_level(level_dbfs, normal_dbfs)
        ]
        nearest, name = min(found, default=(value, ""))
        return name if nearest <= NEARER * value else ""


def _as_normal(own: Reference, sound: Sound) -> Reference:
    """The reference with taught windows in the place of its normal ones: the same metric and units."""
    bands, dim = sound.segments.shape[2:]
    segments: Float32 = sound.segments.reshape(-1, bands, dim)
    return replace(
        own,
        recordings=[""] * len(sound.window),
        start_s=own.start_s[:0],
        window=replace(own.window, normals=own.window.metric.apply(sound.window[:, 0])),
        segments=replace(own.segments, normals=own.segments.metric.apply(segments)),
    )


@dataclass(slots=True)
class Occurrences:
    """How long each known sound has been there, and how often it came. Times in absolute samples."""

    counts: Counter[str] = field(default_factory=Counter)
    """Occurrences of each sound since the start."""
    _began: dict[str, int] = field(default_factory=dict)
    _quiet_from: int | None = None

    def step(
        self, name: str, sounds: Mapping[str, KnownSound], *, normal: bool, start: int, end: int, rate: int
    ) -> tuple[bool, bool]:
        """Take the next window into account.

        Args:
            name: the known sound that explains it, or "".
            sounds: by name.
            normal: the window is at or below the clear level, and no known sound.
            start: absolute index of its first sample.
            end: absolute index after its last.
            rate: samples a second.

        Returns:
            Whether it passes, that is, does not count towards an alarm; and whether an occurrence begins.
        """
        if not normal:
            self._quiet_from = None
        elif self._quiet_from is None:
            self._quiet_from = start
        if self._quiet_from is not None and end - self._quiet_from >= QUIET_S * rate:
            self._began.clear()
        if not name:
            return False, False
        begins = name not in self._began
        if begins:
            self._began[name] = start
            self.counts[name] += 1
        return end - self._began[name] <= sounds[name].longest_s * rate, begins
