"""The settings of a calibrated sensor and of what turns: calibration, limits, speed, bearing."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from echo_stream.config.values import ForeignTopic, Number, Text, Whole

Unit = Literal["g", "m/s2", "Pa"]


class Model(BaseModel):
    """Frozen, and no unknown keys: a typo must not be ignored for years."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class SensorCalibration(Model):
    """What a sample of 1.0, full scale of the card or of a file, stands for."""

    unit: Unit = Field(description="g or m/s2 of an accelerometer, Pa of a microphone")
    full_scale: Number | None = Field(None, gt=0, le=1e9, description="the unit's value at full scale")
    sensitivity_mv_per_unit: Number | None = Field(
        None, gt=0, le=1e9, description="of the sensor with its preamplifier, instead of full_scale"
    )
    full_scale_v: Number | None = Field(
        None, gt=0, le=1e6, description="volts (peak) at the card's input at full scale"
    )
    envelope_hz: tuple[Number, Number] = Field(
        (500.0, 10_000.0), description="band of an accelerometer's envelope, from and to"
    )

    @field_validator("envelope_hz")
    @classmethod
    def _band_ascends(cls, band_hz: tuple[float, float]) -> tuple[float, float]:
        low_hz, high_hz = band_hz
        if not 0 < low_hz < high_hz:
            raise ValueError(f"expected two frequencies above 0, the lower one first, found {list(band_hz)}")
        return band_hz

    @model_validator(mode="after")
    def _one_way(self) -> SensorCalibration:
        by_volts = (self.sensitivity_mv_per_unit, self.full_scale_v)
        if (self.full_scale is None) == (by_volts == (None, None)):
            raise ValueError(
                "expected either full_scale, or sensitivity_mv_per_unit and full_scale_v together"
            )
        if self.full_scale is None and None in by_volts:
            missing = "full_scale_v" if self.full_scale_v is None else "sensitivity_mv_per_unit"
            raise ValueError(f"{missing} is missing: a sensitivity and full_scale_v belong together")
        return self

    @property
    def units_at_full_scale(self) -> float:
        """What a sample of 1.0 stands for, in the unit."""
        if self.full_scale is not None:
            return self.full_scale
        assert self.full_scale_v is not None  # noqa: S101 - the validator saw to it
        assert self.sensitivity_mv_per_unit is not None  # noqa: S101
        return 1000 * self.full_scale_v / self.sensitivity_mv_per_unit


class Limits(Model):
    """Limits that the user takes from a standard: zones beside the anomaly score, never instead of it."""

    velocity_mm_s: tuple[Number, ...] = Field(
        min_length=2,
        max_length=3,
        description="where zones B and C meet, and C and D; of three the first: A and B",
    )

    @field_validator("velocity_mm_s")
    @classmethod
    def _ascend(cls, limits: tuple[float, ...]) -> tuple[float, ...]:
        if limits[0] <= 0 or any(after <= before for before, after in pairwise(limits)):
            raise ValueError(f"expected numbers above 0, each above the one before, found {list(limits)}")
        return limits


class PublishedSpeed(Model):
    """A speed that another program publishes on our broker, in turns a minute."""

    topic: ForeignTopic = Field(description="where it is published; no wildcards, none of our own topics")
    key: Text | None = Field(
        None, description="where in a JSON object, as in drive.rpm; null: the payload is the number"
    )
    max_age_s: Number = Field(60.0, gt=0, le=604_800, description="an older value is not used")


def _shape(speed: Any) -> str:
    return A_TOPIC if isinstance(speed, dict | PublishedSpeed) else A_NUMBER


A_NUMBER: Final = "a number"
A_TOPIC: Final = "a topic"
"""How pydantic's places name the two shapes of a speed; no key of ours has a blank."""
Speed = Annotated[
    Annotated[Number, Field(gt=0, le=1e6), Tag(A_NUMBER)] | Annotated[PublishedSpeed, Tag(A_TOPIC)],
    Discriminator(_shape),
]


class Bearing(Model):
    """A rolling bearing, as its maker's catalogue gives it; its outer race stands still."""

    balls: Whole = Field(ge=3, le=500, description="balls or rollers in one row")
    d: Number = Field(gt=0, le=1e4, description="diameter of a ball")
    D: Number = Field(gt=0, le=1e5, description="diameter of the circle of their centres, same unit as d")
    angle: Number = Field(0.0, ge=0, lt=90, description="contact angle in degrees")

    @model_validator(mode="after")
    def _balls_fit(self) -> Bearing:
        if self.balls * self.d > math.pi * self.D:
            raise ValueError(
                f"{self.balls} balls of {self.d:g} do not fit on a circle of {self.D:g}; d is the diameter "
                "of a ball, D that of the circle of their centres"
            )
        return self
