"""A session is one enrolment: where the normal sound of an operating state came from, and its features.

A bank keeps what it needs for scoring. To add another operating state, or another season, the features of
what was learnt before are needed again: they lie beside the bank, never changed, `b7.enrolled.safetensors`.
Sound is kept elsewhere, and only to be heard (evidence/normal_sound.py). Written by fit-normal, read by
fit-normal and `bank`; no thread of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from echo_stream.core.errors import BankError
from echo_stream.core.gate_features import gate_tensors, with_gates
from echo_stream.core.types import Enrolled, Features
from echo_stream.detect import bank_file as bankfile
from echo_stream.detect.bank import SESSIONS

FORMAT = 1
"""Of this file; a bank of another format can be fitted again from it."""
HEADER_KEY = "echo_stream_enrolled"
MICROPHONE = "microphone"
"""The kind of source whose device must stay the same."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A disturbance that was not learnt."""

    recording: str
    start_s: float
    end_s: float
    score: float
    """Highest anomaly score of its windows, against the bank that left it out."""
    level_dbfs: float
    """Of its loudest window."""
    band_hz: tuple[float, float]
    """The band that added most to that score."""


@dataclass(frozen=True, slots=True)
class Session:
    """What was recorded, when, with what, by whom."""

    condition: str
    source: str
    """Kind: microphone, recordings, stdin, simulated."""
    device: str
    """Description of the device, or of the recordings."""
    sample_rate_hz: int
    heard_at: str
    """UTC of the first sample, or of the enrolment of recordings."""
    windows: int
    minutes: float
    """Learnt, without what was left out."""
    recordings: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    by: str = ""
    """Who ran it."""
    on: str = ""
    """On which computer."""
    software_version: str = ""
    id: str = ""
    """Of the version whose `.enrolled.safetensors` holds its features."""

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` gave, after a way through JSON."""
        left_out = tuple(LeftOut(**{**each, "band_hz": tuple(each["band_hz"])}) for each in plain["left_out"])
        return cls(**{**plain, "recordings": tuple(plain["recordings"]), "left_out": left_out})


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A session with what was learnt in it."""

    session: Session
    enrolled: Sequence[Enrolled]
    """Windows, without those that were left out."""
    figures: Mapping[str, Any] = field(default_factory=dict)
    """Plain JSON: limits of the sensor, spectrum for pictures."""

    def save(self, path: Path) -> None:
        """Write it, all or nothing.

        Raises:
            BankError: the file cannot be written.
        """
        names = list(dict.fromkeys(item.recording for item in self.enrolled))
        number = {name: i for i, name in enumerate(names)}
        items = self.enrolled
        segments = np.stack([item.features.segments for item in items]).astype(np.float32)
        centre = segments.mean(axis=(0, 1))
        tensors: dict[str, NDArray[Any]] = {
            "recording": np.array([number[item.recording] for item in items], np.int32),
            "start_s": np.array([item.start_s for item in items], np.float64),
            "level_dbfs": np.array([item.features.level_dbfs for item in items], np.float64),
            "window": np.stack([item.features.window for item in items]).astype(np.float32),
            # Segments are most of it (ECHO: 350 kB a window). Half precision of how they vary is plenty; of
            # themselves it is not: a quiet band at -100 dB that varies by 0.1 dB would be lost.
            "segments": (segments - centre).astype(np.float16),
            "segments_centre": centre,
            "bands_hz": np.asarray(items[0].features.bands_hz, np.float32),
            **gate_tensors([item.features for item in items]),
        }
        metadata = {"format": FORMAT, "session": asdict(self.session), "names": names}
        text = json.dumps({**metadata, "figures": dict(self.figures)}, sort_keys=True, allow_nan=False)
        # safetensors writes memory as it lies: an array of another order would come back scrambled.
        tensors = {key: np.ascontiguousarray(tensor) for key, tensor in tensors.items()}
        bankfile.write(path, safetensors.numpy.save(tensors, metadata={HEADER_KEY: text}))

    @classmethod
    def load(cls, path: Path, bank_id: str) -> Self:
        """Read what `save` wrote, as the session of this version.

        Raises:
            BankError: missing, damaged, or something else.
        """
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = json.loads((file.metadata() or {})[HEADER_KEY])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  no mapping
            if metadata["format"] != FORMAT:
                raise BankError(
                    f"{path} is of format {metadata['format']}, expected is {FORMAT}", bankfile.FIT_AGAIN
                )
            session = Session.from_json({**metadata["session"], "id": bank_id})
            names = metadata["names"]
            bands_hz, centre = tensors["bands_hz"], tensors["segments_centre"]
            parts = [tensors[name] for name in ("window", "segments", "level_dbfs", "recording", "start_s")]
            found = [
                Features(window, centre + segments.astype(np.float32), bands_hz, float(level_dbfs))
                for window, segments, level_dbfs, _, _ in zip(*parts, strict=True)
            ]
            enrolled = [
                Enrolled(features, names[recording], float(start_s), session.condition)
                for features, recording, start_s in zip(with_gates(found, tensors), *parts[3:], strict=True)
            ]
        except OSError as error:
            raise BankError(
                f"{path} cannot be read: {error.strerror}, so that bank cannot be extended",
                "fit anew, all operating states: the first with --fresh",
            ) from error
        except (SafetensorError, KeyError, TypeError, ValueError, IndexError) as error:
            raise BankError(f"{path} is no enrolment: {error!r}", bankfile.FIT_AGAIN) from error
        return cls(session, enrolled, metadata["figures"])


def to_provenance(sessions: Sequence[Session]) -> str:
    """For a bank's provenance."""
    return json.dumps([asdict(session) for session in sessions], sort_keys=True)


def from_provenance(provenance: Mapping[str, str]) -> list[Session]:
    """The sessions that a bank was fitted on; none where it does not say."""
    return [Session.from_json(plain) for plain in json.loads(provenance.get(SESSIONS, "[]"))]
