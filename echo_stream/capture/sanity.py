"""Is what the microphone delivers sound at all? Pure checks of one window; runs on the pipeline thread."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from echo_stream.types import Float32

FLOOR_DBFS = -200.0
FULL_SCALE = 0.9995  # int16 reaches 32767 / 32768 at most; the last half per mille counts as clipped
STUCK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Sanity:
    """What one window says about its sensor."""

    level_dbfs: float
    """20 log10 of the root mean square after the mean was taken away; never below -200."""
    clipped_share: float
    """Share of samples at full scale, 0 to 1."""
    dead: bool
    """No sample differs from another: nothing is connected, or it is switched off."""
    stuck: bool
    """At least half of the window is one uninterrupted run of one value, but not all of it."""
    finite: bool
    """No NaN, no infinity; where there is one the other figures are those with zeros in its place."""
    dc_offset: float
    """Mean, full scale is -1 to 1."""


def inspect(samples: Float32) -> Sanity:
    """Check one window `samples` (n,), n >= 1, full scale -1 to 1."""
    low, high = float(samples.min()), float(samples.max())  # NaN where there is one
    finite = bool(np.isfinite(low) and np.isfinite(high))
    if not finite:
        samples = np.nan_to_num(samples, nan=0.0, posinf=0.0, neginf=0.0)
    clips = not finite or max(-low, high) >= FULL_SCALE
    clipped = np.count_nonzero(np.abs(samples) >= FULL_SCALE) if clips else 0
    run = _longest_run(samples)
    return Sanity(
        level_dbfs=level_dbfs(samples),
        clipped_share=float(clipped) / len(samples),
        dead=run == len(samples),
        stuck=STUCK_SHARE * len(samples) <= run < len(samples),
        finite=finite,
        dc_offset=float(np.mean(samples, dtype=np.float64)),
    )


def level_dbfs(samples: Float32) -> float:
    """Level of `samples` (n,) without their mean, in dB relative to full scale; never below -200."""
    centred = samples.astype(np.float64)
    centred -= centred.mean()
    power = float(np.square(centred, out=centred).mean())
    return max(FLOOR_DBFS, 10.0 * math.log10(power)) if power > 0.0 else FLOOR_DBFS


def _longest_run(samples: Float32) -> int:
    """Length of the longest run of equal samples, exact where that is half of them or more."""
    middle = len(samples) // 2  # of so long a run, one of the two samples in the middle is a part
    if 2 * max(np.count_nonzero(samples == samples[i]) for i in {middle, max(0, middle - 1)}) < len(samples):
        return 1
    changes = np.flatnonzero(samples[1:] != samples[:-1])
    edges = np.concatenate([[-1], changes, [len(samples) - 1]])
    return int(np.diff(edges).max())
