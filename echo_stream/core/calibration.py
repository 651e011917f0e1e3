"""A bank's calibration holds what was measured on normal sound: held-out scores, sensor limits, spectra.

fit-normal makes it, the bank keeps it, the alarms, the sensor's checks and the evidence each read their part.
It is one typed value, so that a part that goes missing is noticed where it is read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from echo_stream.core.errors import FIT_AGAIN, BankError
from echo_stream.core.sensitivity import Sensitivity
from echo_stream.core.types import Float64

VERSION = 1


@dataclass(frozen=True, slots=True)
class SensorLimits:
    """What normal sound of a machine is like for its sensor."""

    quietest_dbfs: float
    loudest_dbfs: float
    most_hum: float = 1.0
    """Largest share in a normal window; 1 where it was not looked at, and then hum is no fault."""
    most_rumble: float = 1.0

    @classmethod
    def fit(
        cls,
        levels_dbfs: Sequence[float],
        hum_shares: Sequence[float] = (1.0,),
        rumble_shares: Sequence[float] = (1.0,),
    ) -> Self:
        """From the windows of normal sound; at least one level.

        Raises:
            BankError: No window, or figures that are not finite.
        """
        if not levels_dbfs or not all(map(math.isfinite, (*levels_dbfs, *hum_shares, *rumble_shares))):
            raise BankError("no level, or one that is not finite, among the normal windows", FIT_AGAIN)
        return cls(min(levels_dbfs), max(levels_dbfs), max(hum_shares), max(rumble_shares))

    @classmethod
    def widest(cls, limits: Sequence[SensorLimits]) -> Self:
        """The limits that hold for all of these, at least one."""
        return cls(
            min(each.quietest_dbfs for each in limits),
            max(each.loudest_dbfs for each in limits),
            max(each.most_hum for each in limits),
            max(each.most_rumble for each in limits),
        )

    def to_json(self) -> dict[str, float]:
        """Plain JSON, for a bank's metadata."""
        return asdict(self)

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            BankError: It is damaged.
        """
        try:
            limits = cls(**{key: float(value) for key, value in saved.items()})
        except (AttributeError, TypeError, ValueError) as error:
            raise BankError(f"the bank's sensor limits are damaged: {error}", FIT_AGAIN) from error
        if not all(map(math.isfinite, asdict(limits).values())):
            raise BankError("the bank's sensor limits are damaged: one is not finite", FIT_AGAIN)
        return limits


@dataclass(frozen=True, slots=True)
class NormalSpectrum:
    """What was normal in each band: the middle of the windows' levels, and the range most of them kept."""

    sample_rate_hz: int
    low_db: Float64
    """(bands,) one window in twenty was quieter."""
    median_db: Float64
    """(bands,)"""
    high_db: Float64
    """(bands,) one window in twenty was louder."""

    @classmethod
    def fit(cls, sample_rate_hz: int, levels_db: Sequence[Float64]) -> Self:
        """From the level of each band (bands,) in each window of normal sound, at least one window."""
        low_db, median_db, high_db = np.quantile(np.stack(levels_db), [0.05, 0.5, 0.95], axis=0)
        return cls(sample_rate_hz, low_db, median_db, high_db)

    @classmethod
    def joined(cls, spectra: Sequence[NormalSpectrum], windows: Sequence[int]) -> Self:
        """Of several enrolments of one operating state and sample rate, by how many windows each has.

        What was normal in one of them is normal: the range reaches from the quietest to the loudest.
        """
        return cls(
            spectra[0].sample_rate_hz,
            np.min([each.low_db for each in spectra], axis=0),
            np.average([each.median_db for each in spectra], axis=0, weights=windows),
            np.max([each.high_db for each in spectra], axis=0),
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, to a tenth of a decibel."""
        levels = {
            name: np.round(getattr(self, name), 1).tolist() for name in ("low_db", "median_db", "high_db")
        }
        return {"sample_rate_hz": self.sample_rate_hz, **levels}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            BankError: It is damaged: a part is missing, not finite, or of another length than the others.
        """
        try:
            rate_hz = int(saved["sample_rate_hz"])
            levels = [np.asarray(saved[name], np.float64) for name in ("low_db", "median_db", "high_db")]
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BankError(f"the normal spectrum is damaged: {error!r}", FIT_AGAIN) from error
        if rate_hz < 1 or any(
            each.ndim != 1 or each.shape != levels[0].shape or not each.size or not np.isfinite(each).all()
            for each in levels
        ):
            raise BankError(
                "the normal spectrum is damaged: levels that are not finite or not one a band", FIT_AGAIN
            )
        return cls(rate_hz, *levels)


@dataclass(frozen=True, slots=True)
class BankCalibration:
    """What a bank knows of normal sound beyond its features."""

    hop_s: float
    """Between the starts of two windows."""
    runs: tuple[Float64, ...]
    """Held-out scores that the trip levels rest on: contiguous runs at hop spacing, each in time order."""
    sensor: SensorLimits | None = None
    """None: the bank does not say, and nothing is a sensor fault by its level."""
    spectra: Mapping[str, NormalSpectrum] = field(default_factory=dict)
    """By operating state; empty in banks of versions that did not keep it."""
    sensitivity: Sensitivity | None = None
    """What would be announced; None: it was not measured."""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for a bank's metadata; scores to four digits."""
        saved: dict[str, Any] = {
            "version": VERSION,
            "hop_s": self.hop_s,
            "runs": [run.round(4).tolist() for run in self.runs],
        }
        if self.sensor is not None:
            saved["sensor"] = self.sensor.to_json()
        if self.spectra:
            saved["spectra"] = {state: spectrum.to_json() for state, spectrum in self.spectra.items()}
        if self.sensitivity is not None:
            saved["sensitivity"] = self.sensitivity.to_json()
        return saved

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            BankError: It is of another version, or damaged.
        """
        try:
            if saved["version"] != VERSION:
                raise BankError(
                    f"calibration of version {saved['version']!r}, expected is {VERSION}", FIT_AGAIN
                )
            runs = tuple(np.array(run, dtype=np.float64) for run in saved["runs"])
            hop_s = float(saved["hop_s"])
            spectra = {
                str(state): NormalSpectrum.from_json(plain)
                for state, plain in saved.get("spectra", {}).items()
            }
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise BankError(f"the bank's calibration is damaged: {error!r}", FIT_AGAIN) from error
        if not (math.isfinite(hop_s) and hop_s > 0):
            raise BankError(f"the bank's calibration is damaged: hop_s is {hop_s}", FIT_AGAIN)
        if not all(run.ndim == 1 and np.isfinite(run).all() for run in runs):
            raise BankError("the bank's calibration is damaged: scores that are not finite", FIT_AGAIN)
        sensor = SensorLimits.from_json(saved["sensor"]) if saved.get("sensor") else None
        sensitivity = Sensitivity.from_json(saved["sensitivity"]) if saved.get("sensitivity") else None
        return cls(hop_s, runs, sensor, spectra, sensitivity)
