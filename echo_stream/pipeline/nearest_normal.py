"""The nearest normal sound is what a person hears beside an alarm: the kept clip that is most alike.

Alike by the features that score: the windows of an alarm are compared with those windows of the bank that lie
in a kept clip of the same operating state. Asked for by the evidence's own thread, once an alarm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from echo_stream.core.types import Features
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.reference import Reference, Sound
from echo_stream.evidence.normal_sound import KeptClip, folder_of, read_clips

COMPARED: Final = 8
"""Last windows of an alarm: about what its on-delay saw."""
_SLACK_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class NearestNormal:
    """A clip, and where in it to listen."""

    version: str
    """Of the bank whose folder holds it."""
    clip: KeptClip
    at_s: float
    """Where in the clip the nearest window begins."""
    distance: float | None
    """As the bank measures; None: no window of the bank lies in a clip, and this is any of them."""

    def to_json(self) -> dict[str, Any]:
        """For the document of an alarm."""
        return {"version": self.version, **asdict(self.clip), "at_s": self.at_s, "distance": self.distance}


def nearest_normal(
    bank: NormalBank, path: Path, features: Sequence[Features], condition: str
) -> NearestNormal | None:
    """Of the sound that was kept for a bank, what is nearest to these windows; None where none was kept.

    Args:
        bank: The bank.
        path: What the configuration names.
        features: Of the windows, at least one.
        condition: Operating state; clips of another are no comparison.
    """
    clips = kept_clips(bank, path, condition)
    reference = next((each for each in bank.references if each.condition == condition), None)
    if not clips or reference is None or not features:
        return None
    _, distances = reference.compare(Sound.of(features[-COMPARED:]))
    away = np.median(distances, axis=0)
    found = [
        NearestNormal(version, clip, round(reference.start_s[i] - clip.start_s, 3), round(float(away[i]), 4))
        for version, clip in clips
        if (i := _nearest_inside(reference, clip, bank.window_s, away)) is not None
    ]
    if not found:
        return NearestNormal(*clips[0], at_s=0.0, distance=None)
    return min(found, key=lambda each: each.distance or 0.0)


def kept_clips(bank: NormalBank, path: Path, condition: str) -> list[tuple[str, KeptClip]]:
    """The normal sound of an operating state that was kept for a bank, each clip with its version."""
    return [
        (version, clip)
        for version in bank.session_ids
        for clip in read_clips(folder_of(path, version))
        if clip.condition == condition
    ]


def _nearest_inside(
    reference: Reference, clip: KeptClip, window_s: float, away: np.ndarray[Any, np.dtype[np.floating[Any]]]
) -> int | None:
    """The window of the bank that lies in a clip and is nearest; None where none lies in it."""
    first_s, last_s = clip.start_s - _SLACK_S, clip.start_s + clip.duration_s - window_s + _SLACK_S
    inside = [
        i
        for i, (name, start_s) in enumerate(zip(reference.recordings, reference.start_s, strict=True))
        if name == clip.recording and first_s <= start_s <= last_s
    ]
    return min(inside, key=lambda i: away[i], default=None)
