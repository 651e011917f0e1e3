"""Types are what the stages hand each other: frozen values, which a stage may keep.

The absolute sample index of a source is its only clock: it starts at 0, counts every sample that the device
should have delivered, lost ones included, and never goes back. Wall time appears only as `captured_at`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
MAX_SHELVE_S = 7 * 86_400
BANK_ID = "b[0-9]{1,9}"
"""Pattern of the name of a bank's version."""
OFF = "off"
"""The operating state of a machine at rest: silence is its normal sound, and it raises no alarm."""


GATE_EVERY = "gate_every"
"""Dimension of a gated encoder: of normal sound each so many-th window is encoded."""
NEW_STEADY_STATE = "new_steady_state"
"""Cause of an event: what the alarm stands for has become a steady sound."""


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """What a source delivers at a time."""

    samples: Float32
    """(n, channels), full scale is -1 to 1; n may be any number from 1."""
    start: int
    """Absolute index of the first sample."""
    gap: bool = False
    """Samples were lost between the block before and this one."""


@dataclass(frozen=True, slots=True)
class Window:
    """What is encoded and scored: one channel of one machine, without a gap inside."""

    machine: str
    samples: Float32
    """(n,), full scale is -1 to 1."""
    start: int
    end: int
    """Absolute index after the last sample; end - start == n."""
    sample_rate_hz: int
    captured_at: datetime
    """UTC of the last sample."""
    full_scale: float = 1.0
    """The magnitude at which samples are clipped; infinity where they have a unit of their own."""


@dataclass(frozen=True, slots=True)
class EncoderIdentity:
    """What a bank must agree with: two encoders of one identity give equal features for equal sound."""

    kind: str
    """`spectral` or `echo`."""
    version: int
    """Raised whenever the features of this kind change."""
    weights_sha256: str = ""
    """Of the weights file; empty where an encoder has none."""
    dimensions: Mapping[str, int | float] = field(default_factory=dict)
    """Sizes and parameters that the features depend on."""


@dataclass(frozen=True, slots=True)
class Features:
    """What one window sounds like, band by band."""

    window: Float32
    """(bands, dim): the window as a whole (ECHO: the utterance-level feature, a CLS token a band)."""
    segments: Float32
    """(patches, bands, dim): 160 ms a patch (ECHO: the segment-level features); its dim may be another."""
    bands_hz: Float32
    """(bands, 2): lower and upper edge of each band."""
    level_dbfs: float
    """Root mean square of the window after its mean was taken away, in dB relative to full scale."""
    gate: Features | None = None
    """Of the encoder that says when this one is needed (`encoder.gate`); None where none does."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """One window of normal sound, as a bank is fitted on it."""

    features: Features
    recording: str
    """The recording or the contiguous stretch of listening that it came from; windows of one never overlap
    those of another, so that whole recordings can be left out in calibration."""
    start_s: float
    """Where in that recording the window starts."""
    condition: str = "normal"
    """Operating state, as the person who enrolled it named it."""


@dataclass(frozen=True, slots=True)
class BandScore:
    """How much a band adds to an anomaly score."""

    low_hz: float
    high_hz: float
    contribution: float
    """In the score's unit; all bands of a score add up to its value."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A normal window that the scored one is near to."""

    recording: str
    start_s: float
    distance: float


@dataclass(frozen=True, slots=True)
class Score:
    """How far a window is from normal, and why. Finite by construction."""

    value: float
    """Anomaly score, higher is worse: about 0 for the median of normal sound that the bank did not see, in
    units of that sound's own spread."""
    p_value: float
    """Share of held-out normal windows that score at least as high; never below 1 / (n + 1)."""
    bands: tuple[BandScore, ...]
    nearest: tuple[Neighbour, ...]
    level_dbfs: float
    level_delta_db: float
    """Level of the window less the median level of the normal sound of its condition."""
    condition: str
    """The operating state whose normal sound is nearest."""
    known_sound: str = ""
    """The sound that a person taught as no fault and that this window is like; empty where it is none."""
    gain_db: float | None = None
    """Everything is louder by so much, or quieter, and the spectrum is unchanged; None where it is not so."""

    @property
    def deciding_band_hz(self) -> tuple[float, float] | None:
        """The band that raises the score most; None where none does."""
        band = max(self.bands, key=lambda each: each.contribution, default=None)
        return (band.low_hz, band.high_hz) if band is not None and band.contribution > 0 else None


class AlarmState(StrEnum):
    """States of an alarm, named after ISA-18.2."""

    NORMAL = "NORMAL"
    UNACK = "UNACK"
    ACKED = "ACKED"
    RTN_UNACK = "RTN_UNACK"
    LATCHED_UNACK = "LATCHED_UNACK"
    LATCHED_ACKED = "LATCHED_ACKED"
    SHELVED = "SHELVED"
    SUPPRESSED = "SUPPRESSED"
    OUT_OF_SERVICE = "OUT_OF_SERVICE"


class AlarmLevel(StrEnum):
    """How much it matters."""

    WARNING = "warning"
    ALARM = "alarm"


class AlarmPath(StrEnum):
    """Which way led to an alarm; the one further up is the faster."""

    STRONG = "strong"
    """The score is far over all that normal sound reached."""
    STEP = "step"
    """The score left its own last minutes and stayed away."""
    SLOW = "slow"
    """Minute after minute is higher than the machine's own quiet minutes were."""


@dataclass(frozen=True, slots=True)
class AlarmEvent:
    """One transition of one alarm, in samples; who delivers it adds wall time, ids and evidence."""

    machine: str
    level: AlarmLevel
    before: AlarmState
    after: AlarmState
    cause: str
    """What moved it: condition, clear, ack, reset, shelve, unshelve, shelve_expired, out_of_service,
    in_service, suppress, unsuppress, realarm, changed_again, new_steady_state."""
    at: int
    """Absolute sample index: the end of the window that decided it."""
    onset: int | None
    """Absolute sample index at which the condition became true; None where it is not true."""
    active: bool
    """The condition is true now (after on-delay, until off-delay)."""
    score: float
    threshold: float
    """The trip level."""
    path: AlarmPath | None = None
    """The way that made the condition true; None where it is not true."""
    why: str = ""
    """In words, why it is true; empty where it is not, or where score and threshold say all."""


class SensorFault(StrEnum):
    """What is wrong with a sensor or its cable; the one further up hides those below."""

    DEAD = "dead"
    """No sample differs from another."""
    STUCK = "stuck"
    """Long runs of one value."""
    CLIPPED = "clipped"
    """Overdriven: a large share of the samples at full scale."""
    QUIET = "quiet"
    """Far below the level of all normal sound that was fitted."""
    LOUD = "loud"
    """Far above it."""
    HUM = "hum"
    """Hardly anything but mains hum, which the normal sound was not: a broken cable or shield."""
    RUMBLE = "rumble"
    """Hardly anything but the lowest frequencies, which the normal sound was not: a loose contact."""


@dataclass(frozen=True, slots=True)
class SensorEvent:
    """A sensor went wrong, came back, or is wrong in another way: not an alarm of the machine."""

    machine: str
    before: SensorFault | None
    after: SensorFault | None
    """None: nothing is wrong."""
    at: int
    """Absolute sample index: the end of the window that decided it."""
    onset: int | None
    """Absolute sample index at which the fault began; None where nothing is wrong."""


@dataclass(frozen=True, slots=True)
class DriftEvent:
    """Normal sound has slowly moved away from what this machine's minutes were like, or has come back."""

    machine: str
    active: bool
    at: int
    """Absolute sample index: the end of the window that decided it."""
    median: float
    """Median of the scores of the newest minutes."""
    limit: float
    """What they must come back to: nine in ten of the machine's minutes lay below it."""
    onset: int | None = None
    """Absolute sample index at which it was first suspected; None where it is over."""
