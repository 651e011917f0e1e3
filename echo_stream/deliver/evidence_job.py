"""One alarm's sound on its way to the disk: copied out of memory, described, encoded. Pure."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from echo_stream.deliver.spectra import NormalSpectrum
from echo_stream.types import BandScore, Float32

History = Callable[[int, int], Float32 | None]
"""Samples (n,) from one absolute index up to another, or None where they are not all there."""

_GRAIN_S: Final = 0.05
"""How exactly the end of what is in memory is found."""


@dataclass(frozen=True, slots=True)
class Job:
    """An alarm, with the sound that is there so far."""

    path: Path
    event: Mapping[str, Any]
    at: int
    onset: int | None
    rate: int
    bands: Sequence[BandScore]
    normal: NormalSpectrum | None
    history: History
    before: Float32
    after: Float32 | None = None

    @property
    def samples(self) -> Float32:
        """(n,) what there is: the sound before the alarm, and after it once that is there."""
        return self.before if self.after is None else np.concatenate([self.before, self.after])

    def document(self) -> dict[str, Any]:
        """What is written beside the sound: all that the picture is drawn from, and the event itself."""
        start = self.at - len(self.before)
        start_at = datetime.fromisoformat(self.event["ts"]) - timedelta(seconds=len(self.before) / self.rate)
        return {
            "schema": 1,
            "event": self.event,
            "complete": self.after is not None,
            "clip": {
                "file": self.path.with_suffix(".flac").name,
                "sample_rate_hz": self.rate,
                "start_ts": start_at.isoformat(timespec="milliseconds"),
                "duration_s": len(self.samples) / self.rate,
                "alarm_s": len(self.before) / self.rate,
                "onset_s": None if self.onset is None else max(0, self.onset - start) / self.rate,
            },
            "bands_hz": [[band.low_hz, band.high_hz, band.contribution] for band in self.bands],
            "normal": self.normal and self.normal.to_json(),
        }


def longest(history: History, at: int, n: int, rate: int) -> Float32:
    """The n samples from `at` on, or the -n before it; where not all are there, as many as touch `at`."""

    def take(length: int) -> Float32 | None:
        return history(at, at + length) if n > 0 else history(at - length, at)

    whole = take(abs(n)) if n else None
    if whole is not None:
        return whole
    grain = max(1, round(_GRAIN_S * rate))
    least, most = 0, abs(n) // grain
    while least < most:  # the longest that there is: bisection, because longer pieces hold shorter ones
        middle = (least + most + 1) // 2
        least, most = (middle, most) if take(middle * grain) is not None else (least, middle - 1)
    found = take(least * grain) if least else None
    return np.zeros(0, np.float32) if found is None else found


def flac(samples: Float32, rate: int) -> bytes:
    """Lossless, 24 bit: a quiet machine is 60 dB under full scale."""
    import soundfile  # noqa: PLC0415 - the worker's alone

    data = io.BytesIO()
    soundfile.write(data, np.clip(samples, -1, 1), rate, format="FLAC", subtype="PCM_24")
    return data.getvalue()
