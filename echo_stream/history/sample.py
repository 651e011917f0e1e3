"""A feature sample keeps features, no sound, of stretches spread over all that a machine was heard.

A bank that was fitted on minutes does not know a machine's days. From this sample `bank propose` makes a
version that does, when a person asks for it. The sample is bounded: when it is full, every second stretch
goes and the next ones are taken half as often, so that it stays spread however long it lasts. Pure; the
daemon feeds and writes it, `bank propose` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from echo_stream.core.files import read_regular
from echo_stream.core.gate_features import gate_tensors, with_gates
from echo_stream.core.sequences import commonest
from echo_stream.core.types import GATE_EVERY, EncoderIdentity, Features

FORMAT = 1
HEADER_KEY = "echo_stream_sample"
FOLDER = "samples"
"""Below the state directory."""
FAULTS = "faults"
"""The same, of confirmed faults: their sound, and their features in the form of a sample of one event."""
STRETCH = 16
"""Windows in a row: a calibration needs to see what follows what."""
MOST_STRETCHES, FEWEST_STRETCHES = 60, 4
MOST_FILE_BYTES = 1 << 28
"""A file that is larger is none of ours."""
MOST_BYTES = 16e6
"""Of features: with a large encoder fewer stretches are kept."""
EVERY_S = 120.0
"""Between the beginnings of two stretches, at first; for a gated encoder times `gate_every`."""
MOST_EVENTS = 20
"""Of the newest; each with the windows that led to it."""
NEEDED_H, NEEDED_DAYS = 24.0, 3
"""What a bank must have heard to be no longer provisional."""
DAY_COUNTS_H = 0.5
"""A day with less is none."""
MOST_DAYS = 400


@dataclass(frozen=True, slots=True)
class About:
    """What the features depend on."""

    encoder: EncoderIdentity
    sample_rate_hz: int
    window_s: float
    hop_s: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; two are equal where these are."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


@dataclass(frozen=True, slots=True)
class Stretch:
    """Windows in a row, at the hop."""

    at: str
    """UTC of its last sample."""
    condition: str
    """The operating state that most of its windows were nearest to."""
    alarmed: bool
    """An alarm or a warning stood meanwhile."""
    features: tuple[Features, ...]
    level: str = ""
    """Of what was announced at its end: `warning` or `alarm`; empty for a part of the spread sample."""
    event_id: str = ""


@dataclass(frozen=True, slots=True)
class Probation:
    """How much a machine was heard, and what is missing."""

    hours: float
    days: int

    @property
    def missing_h(self) -> float:
        """Hours that are missing."""
        return max(0.0, NEEDED_H - self.hours)

    @property
    def missing_days(self) -> int:
        """Days that are missing."""
        return max(0, NEEDED_DAYS - self.days)

    @property
    def provisional(self) -> bool:
        """Something is missing."""
        return self.missing_h > 0 or self.missing_days > 0

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "provisional": self.provisional,
            "heard_h": round(self.hours, 2),
            "heard_days": self.days,
            "missing_h": round(self.missing_h, 2),
            "missing_days": self.missing_days,
        }


class FeatureSample:
    """The sample of one machine. One thread feeds it; `to_bytes` of a `copy` may run on another.

    Args:
        about: Of the features that are added.
    """

    def __init__(self, about: About) -> None:
        self.about = about
        self.stretches: list[Stretch] = []
        self.events: list[Stretch] = []
        self.seconds_a_day: dict[str, float] = {}
        # Behind ECHO's gate each window of a stretch is one more to encode.
        self._every_s = EVERY_S * about.encoder.dimensions.get(GATE_EVERY, 1)
        self._since_s = self._every_s
        self._recent: deque[Features] = deque(maxlen=STRETCH)
        self._open: list[tuple[Features, str, bool]] | None = None
        self._end: int | None = None

    @property
    def recent(self) -> tuple[Features, ...]:
        """Of the newest windows in a row, oldest first; the thread that adds them."""
        return tuple(self._recent)

    def begin_after(self, share: float) -> None:
        """The next stretch begins after so much of the time between two: of many machines not all at once."""
        self._since_s = (1 - share) * self._every_s

    @property
    def keeps_next(self) -> bool:
        """The next window belongs to a stretch that is kept; the thread that adds them."""
        return self._open is not None or self._since_s + self.about.hop_s >= self._every_s

    @property
    def probation(self) -> Probation:
        """What was heard so far."""
        seconds = list(self.seconds_a_day.values())  # at once: the pipeline may add a day meanwhile
        return Probation(sum(seconds) / 3600, sum(each >= DAY_COUNTS_H * 3600 for each in seconds))

    def add(
        self, features: Features, condition: str, at: datetime, start: int, end: int, *, alarmed: bool
    ) -> None:
        """The next window.

        Args:
            features: Of the window.
            condition: The operating state that it is nearest to.
            at: UTC of its last sample.
            start: Absolute index of its first sample.
            end: Absolute index after its last sample.
            alarmed: An alarm or a warning stands.
        """
        hop_s = self.about.hop_s
        if self._end is not None and start > self._end:
            self._recent.clear()
            self._open = None
        self._end = end
        day = at.date().isoformat()
        self.seconds_a_day[day] = self.seconds_a_day.get(day, 0.0) + hop_s
        while len(self.seconds_a_day) > MOST_DAYS:
            del self.seconds_a_day[min(self.seconds_a_day)]
        self._recent.append(features)
        self._since_s += hop_s
        if self._open is None and self._since_s >= self._every_s:
            self._open, self._since_s = [], 0.0
        if self._open is None:
            return
        self._open.append((features, condition, alarmed))
        if len(self._open) == STRETCH:
            self._keep(self._open, at)
            self._open = None

    def event(self, event_id: str, level: str, condition: str, at: datetime) -> None:
        """Something was announced at the newest window: what led to it is kept."""
        if self._recent:
            stamp = at.isoformat(timespec="seconds")
            self.events.append(Stretch(stamp, condition, True, tuple(self._recent), level, event_id))
            del self.events[:-MOST_EVENTS]

    def _keep(self, windows: Sequence[tuple[Features, str, bool]], at: datetime) -> None:
        conditions = [condition for _, condition, _ in windows]
        most = commonest(conditions)
        alarmed = any(each for _, _, each in windows)
        features = tuple(each for each, _, _ in windows)
        self.stretches.append(Stretch(at.isoformat(timespec="seconds"), most, alarmed, features))
        size = STRETCH * sum(_bytes_of(each) for each in (features[0], features[0].gate) if each)
        if len(self.stretches) > min(MOST_STRETCHES, max(FEWEST_STRETCHES, int(MOST_BYTES / size))):
            self.stretches = self.stretches[::2]
            self._every_s *= 2

    def copy(self) -> FeatureSample:
        """What `to_bytes` needs, for another thread; stretches are never changed."""
        other = FeatureSample(self.about)
        other.stretches, other.events = list(self.stretches), list(self.events)
        other.seconds_a_day, other._every_s = dict(self.seconds_a_day), self._every_s
        return other

    def to_bytes(self) -> bytes:
        """A safetensors file with a checksum."""
        both = [*self.stretches, *self.events]
        windows = [features for stretch in both for features in stretch.features]
        tensors: dict[str, NDArray[Any]] = {}
        if windows:
            segments = np.stack([each.segments for each in windows]).astype(np.float32)
            centre = segments.mean(axis=(0, 1))
            tensors = {
                "window": np.stack([each.window for each in windows]).astype(np.float32),
                "segments": (segments - centre).astype(np.float16),
                "segments_centre": centre,
                "bands_hz": np.asarray(windows[0].bands_hz, np.float32),
                "level_dbfs": np.array([each.level_dbfs for each in windows], np.float64),
                **gate_tensors(windows),
            }
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
        metadata = {
            "format": FORMAT,
            "about": self.about.to_json(),
            "every_s": self._every_s,
            "seconds_a_day": self.seconds_a_day,
            "stretches": [
                [each.at, each.condition, each.alarmed, len(each.features), each.level, each.event_id]
                for each in both
            ],
        }
        text = json.dumps({**metadata, "checksum": _checksum(metadata, tensors)}, sort_keys=True)
        return safetensors.numpy.save(tensors, metadata={HEADER_KEY: text})

    @classmethod
    def read(cls, path: Path, about: About) -> Self | None:
        """The sample in a file; None where it is of other features.

        Raises:
            OSError: It cannot be read.
            ValueError: It is damaged.
        """
        return cls.from_bytes(read_regular(path, MOST_FILE_BYTES), about)

    @classmethod
    def from_bytes(cls, data: bytes, about: About) -> Self | None:
        """Read what `to_bytes` wrote; None where it is of other features.

        Raises:
            ValueError: It is damaged.
        """
        try:
            length = int.from_bytes(data[:8], "little")
            metadata = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][HEADER_KEY])
            tensors = safetensors.numpy.load(data)
            if metadata.pop("checksum") != _checksum(metadata, tensors) or metadata["format"] != FORMAT:
                raise ValueError("its checksum or format is another")
            if metadata["about"] != about.to_json():
                return None
            found = cls(about)
            found._restore(metadata, tensors)
        except (SafetensorError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
            raise ValueError(f"no feature sample: {error!r}") from error
        return found

    def _restore(self, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> None:
        self._every_s = self._since_s = float(metadata["every_s"])
        self.seconds_a_day = {str(day): float(each) for day, each in metadata["seconds_a_day"].items()}
        windows = (
            [
                Features(
                    window, tensors["segments_centre"] + segments, tensors["bands_hz"], float(level_dbfs)
                )
                for window, segments, level_dbfs in zip(
                    tensors["window"],
                    tensors["segments"].astype(np.float32),
                    tensors["level_dbfs"],
                    strict=True,
                )
            ]
            if tensors
            else []
        )
        windows = with_gates(windows, tensors)
        at = 0
        for moment, condition, alarmed, count, level, event_id in metadata["stretches"]:
            features = tuple(windows[at : at + count])
            at += count
            stretch = Stretch(moment, condition, bool(alarmed), features, level, event_id)
            (self.events if level else self.stretches).append(stretch)


def _bytes_of(features: Features) -> int:
    return features.window.nbytes + features.segments.nbytes


def _checksum(metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def path_of(state_dir: Path, machine: str) -> Path:
    """Where the sample of a machine lies."""
    return state_dir / FOLDER / f"{machine}.safetensors"
