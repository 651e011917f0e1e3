"""The bank of normal sound of one machine: fitted once, never changed, only read.

fit-normal fits and saves it; the pipeline thread loads it and scores against it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

import echo_stream
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.errors import BankError, BankMismatch
from echo_stream.core.types import GATE_EVERY, EncoderIdentity, Enrolled, Float32, Float64
from echo_stream.detect import bank_file as bankfile
from echo_stream.detect.bank_file import faults_in, faults_in_encoder
from echo_stream.detect.encoder_gate import EncoderGate, middle_of
from echo_stream.detect.folds import Fold, folds_of, runs_of
from echo_stream.detect.reference import Reference, Sound, fit_reference

SESSIONS = "sessions"
"""Key in a bank's provenance: JSON text of the enrolments that it was fitted on."""
PLAIN = ("sample_rate_hz", "window_s", "hop_s", "created", "provenance", "software_version")


@dataclass(frozen=True)
class NormalBank:
    """Normal sound of one machine, with one reference for each of its operating states."""

    references: tuple[Reference, ...]
    bands_hz: Float32
    """(bands, 2)"""
    held_out: list[Float64]
    """Scores of windows that were left out, in contiguous runs at hop spacing, each in time order."""
    encoder: EncoderIdentity
    sample_rate_hz: int
    window_s: float
    hop_s: float
    created: str
    """UTC, ISO 8601."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    gate: EncoderGate | None = None
    """Of a gated encoder: what says which windows are encoded."""
    calibration: BankCalibration | None = None
    """Made by fit-normal from `held_out` and the enrolled sound; the bank only keeps it."""
    software_version: str = echo_stream.__version__

    @classmethod
    def fit(
        cls,
        enrolled: Sequence[Enrolled],
        *,
        encoder: EncoderIdentity,
        sample_rate_hz: int,
        window_s: float,
        hop_s: float,
        provenance: Mapping[str, str] = {},
        max_windows: int = 2000,
    ) -> Self:
        """Fit on windows of normal sound, of one or several recordings and operating states.

        Args:
            enrolled: All windows; those of one recording never overlap those of another.
            encoder: What made their features.
            sample_rate_hz: Of the sound.
            window_s: Length of a window.
            hop_s: From the start of a window to the start of the next.
            provenance: Where the sound came from, in words.
            max_windows: The most that each operating state keeps, chosen so that every other is near one
                that is kept. All count for the metric, the units and the held-out scores.

        Raises:
            BankError: no windows, too few to leave some out, of unequal shapes, not finite, or without the
                gate's features where the encoder is gated.
        """
        _check(enrolled)
        conditions = sorted({item.condition for item in enrolled})
        members = [[item for item in enrolled if item.condition == name] for name in conditions]
        folds = [folds_of(items, window_s=window_s, hop_s=hop_s) for items in members]
        fitted = [
            fit_reference(items, cut, kind=encoder.kind, max_windows=max_windows)
            for items, cut in zip(members, folds, strict=True)
        ]
        references = tuple(reference for reference, _ in fitted)
        own_scores = [scores for _, scores in fitted]
        held_out = _held_out(references, own_scores, members, folds, hop_s)
        gate = None
        if (every := encoder.dimensions.get(GATE_EVERY)) is not None:
            spectral = [[_gate_of(item) for item in items] for items in members]
            seen = [
                fit_reference(items, cut, kind="spectral", max_windows=max_windows)
                for items, cut in zip(spectral, folds, strict=True)
            ]
            own = tuple(reference for reference, _ in seen)
            of_gate = _held_out(own, [scores for _, scores in seen], spectral, folds, hop_s)
            bands_hz = np.asarray(spectral[0][0].features.bands_hz, np.float32)
            gate = EncoderGate(own, bands_hz, int(every), middle_of(of_gate))
        return cls(
            references=references,
            bands_hz=np.asarray(enrolled[0].features.bands_hz, dtype=np.float32),
            held_out=held_out,
            gate=gate,
            encoder=encoder,
            sample_rate_hz=sample_rate_hz,
            window_s=window_s,
            hop_s=hop_s,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            provenance=dict(provenance),
        )

    @property
    def conditions(self) -> tuple[str, ...]:
        """Operating states that it knows."""
        return tuple(reference.condition for reference in self.references)

    @property
    def session_ids(self) -> tuple[str, ...]:
        """Versions whose enrolment it was fitted on, oldest first; none where it does not say."""
        try:
            return tuple(str(each["id"]) for each in json.loads(self.provenance.get(SESSIONS, "[]")))
        except (ValueError, TypeError, KeyError):
            return ()

    @property
    def n_held_out(self) -> int:
        """How many left-out windows its p-values rest on: none can be below 1 / (n + 1)."""
        return sum(len(run) for run in self.held_out)

    @cached_property
    def sha256(self) -> str:
        """Of the file that `save` writes."""
        return hashlib.sha256(self._to_bytes()).hexdigest()

    @property
    def id(self) -> str:
        """Short name: the first 8 digits of its SHA-256."""
        return self.sha256[:8]

    def require(self, encoder: EncoderIdentity, sample_rate_hz: int, window_s: float, hop_s: float) -> None:
        """Refuse to serve another encoder, rate or window than it was fitted with.

        Raises:
            BankMismatch: naming every difference.
        """
        fitted = _flat(self.encoder, self.sample_rate_hz, self.window_s, self.hop_s)
        asked = _flat(encoder, sample_rate_hz, window_s, hop_s)
        differences = [
            f"{key}: the bank has {fitted.get(key, 'none')}, asked for is {asked.get(key, 'none')}"
            for key in dict.fromkeys([*fitted, *asked])
            if fitted.get(key) != asked.get(key)
        ]
        if differences:
            raise BankMismatch(
                f"bank {self.id} does not fit the configuration: {'; '.join(differences)}",
                "Run fit-normal with this configuration, or configure what the bank was fitted with.",
            )

    def save(self, path: Path) -> None:
        """Write it, all or nothing.

        Raises:
            BankError: the file cannot be written.
        """
        bankfile.write(path, self._to_bytes())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            BankError: missing, truncated, damaged, of another format, or no bank; the message says which.
        """
        metadata, tensors = bankfile.read(path)
        try:
            references = tuple(
                Reference.restore(own, tensors, f"{i}.") for i, own in enumerate(metadata["references"])
            )
            bands_hz = tensors["bands_hz"]
            held_out = np.split(tensors["held_out"], np.cumsum(metadata["runs"])[:-1])
            plain = {key: metadata[key] for key in PLAIN}
            encoder = EncoderIdentity(**metadata["encoder"])
            saved = metadata["calibration"]
            calibration = BankCalibration.from_json(saved) if saved != {} else None
            faults = [*faults_in_encoder(encoder), *faults_in(references, bands_hz, held_out, plain)]
            gate = EncoderGate.restore(metadata["gate"], tensors) if "gate" in metadata else None
            if gate is not None:
                faults += faults_in(gate.references, gate.bands_hz, held_out, plain)
        except (KeyError, TypeError, ValueError) as error:
            raise BankError(
                f"bank {path} is damaged: a part is missing: {error}", bankfile.FIT_AGAIN
            ) from error
        except BankError as error:
            raise BankError(f"bank {path}: {error.message}", error.hint) from error
        if faults:
            raise BankError(f"bank {path} is damaged: {'; '.join(faults[:3])}", bankfile.FIT_AGAIN)
        return cls(
            references=references,
            bands_hz=bands_hz,
            held_out=held_out,
            encoder=encoder,
            calibration=calibration,
            gate=gate,
            **plain,
        )

    def _to_bytes(self) -> bytes:
        metadata: dict[str, Any] = {key: getattr(self, key) for key in PLAIN}
        metadata["calibration"] = self.calibration.to_json() if self.calibration else {}
        metadata["encoder"] = asdict(self.encoder)
        metadata["runs"] = [len(run) for run in self.held_out]
        metadata["references"] = [reference.plain() for reference in self.references]
        tensors: dict[str, NDArray[Any]] = {
            "bands_hz": self.bands_hz,
            "held_out": np.concatenate(self.held_out),
        }
        for i, reference in enumerate(self.references):
            tensors |= reference.tensors(f"{i}.")
        if self.gate is not None:
            metadata["gate"] = self.gate.plain()
            tensors |= self.gate.tensors()
        return bankfile.to_bytes(metadata, tensors)


def _check(enrolled: Sequence[Enrolled]) -> None:
    if not enrolled:
        raise BankError("no window of normal sound to fit on", "Enrol recordings longer than one window.")
    first = enrolled[0].features
    for item in enrolled:
        where = f"window at {item.start_s:g} s of {item.recording}"
        shapes = item.features.window.shape, item.features.segments.shape
        if shapes != (first.window.shape, first.segments.shape):
            raise BankError(
                f"{where} has features of shapes {shapes}, the first window has "
                f"{(first.window.shape, first.segments.shape)}",
                "Enrol sound of one sample rate, cut into windows of one length.",
            )
        if not (np.isfinite(item.features.window).all() and np.isfinite(item.features.segments).all()):
            raise BankError(f"{where} has features that are not finite", "Leave this recording out.")


def _held_out(
    references: tuple[Reference, ...],
    own_scores: Sequence[Float64],
    members: Sequence[Sequence[Enrolled]],
    folds: Sequence[Sequence[Fold]],
    hop_s: float,
) -> list[Float64]:
    """Held-out scores of windows, against the nearest of all conditions, as the daemon will: in runs."""
    runs = []
    for own, (items, cut) in enumerate(zip(members, folds, strict=True)):
        sound = Sound.of([item.features for item in items])
        others = [r.compare(sound)[0].sum(axis=1) for i, r in enumerate(references) if i != own]
        scores = np.min([own_scores[own], *others], axis=0)
        runs += [scores[run] for fold in cut for run in runs_of(items, fold, hop_s=hop_s)]
    return runs


def _gate_of(item: Enrolled) -> Enrolled:
    if item.features.gate is None:
        raise BankError(
            f"window at {item.start_s:g} s of {item.recording} has no spectral features for the gate",
            "Fit from the sound itself, or set encoder.gate to null.",
        )
    return replace(item, features=item.features.gate)


def _flat(
    encoder: EncoderIdentity, sample_rate_hz: int, window_s: float, hop_s: float
) -> dict[str, str | int | float]:
    named: dict[str, str | int | float] = {"encoder": encoder.kind, "encoder version": encoder.version}
    named["weights"] = encoder.weights_sha256 or "none"
    return {
        **named,
        **encoder.dimensions,
        "sample_rate_hz": sample_rate_hz,
        "window_s": window_s,
        "hop_s": hop_s,
    }
