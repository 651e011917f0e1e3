"""The settings of a source, where sound comes from, and of a calibrated sensor on what turns.

Of the sensor: what its samples stand for; of the machine: limits of vibration, speed, bearing.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from echo_stream.config.values import (
    Argument,
    Channel,
    ConfigPath,
    Device,
    ForeignTopic,
    Host,
    Number,
    SampleRate,
    Text,
    Whole,
    check_address,
)

Unit = Literal["g", "m/s2", "Pa"]


class Model(BaseModel):
    """Frozen, and no unknown keys: a typo must not be ignored for years.

    Built with the whole configuration when that is read, which one thread does before others begin: each
    class alone, at its import, would cost every command 50 ms more.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, defer_build=True)


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


USUAL_RATE_HZ = 48_000
LONGEST_STREAM_S = 1e9  # 30 years


class SourceSettings(Model):
    """Base of all sources: what can be asked of each, whatever its kind."""

    channel: Channel = Field(0, description="which channel of the source, counted from 0")
    sensor: Literal["microphone", "vibration"] = Field(
        "microphone", description="vibration: an accelerometer on the machine"
    )
    steady_speed: bool = Field(
        False, description="true: the machine's speed is fixed; with sensor vibration lines from 5 Hz on join"
    )

    calibration: SensorCalibration | None = Field(
        None, description="what full scale stands for; null: levels are relative to full scale"
    )

    @model_validator(mode="after")
    def _steady_speed_needs_vibration(self) -> Self:
        if self.steady_speed and self.sensor != "vibration":
            raise ValueError("steady_speed needs sensor: vibration; a microphone does not hear 5 Hz")
        return self

    @model_validator(mode="after")
    def _unit_is_the_sensors(self) -> Self:
        unit = self.calibration and self.calibration.unit
        if unit is not None and (unit == "Pa") == (self.sensor == "vibration"):
            needed = "microphone" if unit == "Pa" else "vibration"
            raise ValueError(f"calibration.unit {unit} needs sensor: {needed}, found {self.sensor}")
        return self

    @property
    def low_lines(self) -> bool:
        """Fine low lines join the features of the spectral encoder."""
        return self.sensor == "vibration" and self.steady_speed

    @property
    def realtime(self) -> bool:
        """Sound comes as time goes by, whether it is read or not."""
        return True

    @property
    def fixed_rate_hz(self) -> int | None:
        """The sample rate that the configuration sets; None where the source itself says it."""
        return None

    @property
    def device_key(self) -> object:
        """The same for machines that share a device, each with a channel of it; None: it is one machine's."""
        return None


class Microphone(SourceSettings):
    """A device that PortAudio knows."""

    kind: Literal["microphone"]
    device: Device = Field(description="name as `echo-stream devices` prints it, or a part of it")
    sample_rate_hz: SampleRate = USUAL_RATE_HZ

    @property
    def fixed_rate_hz(self) -> int:
        """The rate with which the device is opened."""
        return self.sample_rate_hz

    @property
    def device_key(self) -> object:
        """A device is opened once at each rate."""
        return (self.device, self.sample_rate_hz)


class RecordingSource(SourceSettings):
    """A file instead of a microphone."""

    kind: Literal["recording"]
    path: ConfigPath = Field(description="WAV, FLAC, MP3, OGG, ...")
    pace: Literal["realtime", "fast"] = Field("realtime", description="as recorded, or as fast as possible")
    loop: bool = Field(False, description="begin anew at its end, for ever")

    @property
    def realtime(self) -> bool:
        """Not at full speed."""
        return self.pace == "realtime"


class PcmSettings(SourceSettings):
    """Base of sources that are raw PCM, which says nothing about itself."""

    sample_rate_hz: SampleRate
    format: Literal["s16le", "s24le", "s32le", "f32le"] = "s16le"
    channels: Whole = Field(1, ge=1, le=256)

    @model_validator(mode="after")
    def _channel_exists(self) -> Self:
        if self.channel >= self.channels:
            raise ValueError(f"channel {self.channel} of {self.channels}; channels are counted from 0")
        return self

    @property
    def fixed_rate_hz(self) -> int:
        """The rate of the samples."""
        return self.sample_rate_hz


class StdinSource(PcmSettings):
    """Raw PCM on standard input, as `arecord -t raw` writes it."""

    kind: Literal["stdin"]

    @property
    def realtime(self) -> bool:
        """A pipe holds its writer up until it is read."""
        return False


class CommandSource(PcmSettings):
    """A program that prints PCM, raw or as WAV; started again whenever it ends."""

    kind: Literal["command"]
    argv: tuple[Argument, ...] = Field(
        min_length=1, max_length=1000, description="the program and its arguments; no shell sees them"
    )

    @field_validator("argv")
    @classmethod
    def _program_can_be_found(cls, argv: tuple[str, ...]) -> tuple[str, ...]:
        if not argv[0]:
            raise ValueError("the program's name is empty")
        if "/" in argv[0] and not argv[0].startswith("/"):
            raise ValueError(
                f"{argv[0]!r:.80} is a relative path; write the whole path, or the name alone to look it "
                "up in PATH"
            )
        return argv

    @property
    def device_key(self) -> object:
        """Machines with channels of the same command share one process."""
        return (self.argv, self.sample_rate_hz, self.format, self.channels)


class UdpSource(SourceSettings):
    """A thin sensor, such as an ESP32, that sends numbered packets of sound."""

    kind: Literal["udp"]
    sender: Annotated[Host, AfterValidator(check_address)] = Field(
        description="address of the sensor; others are passed over"
    )
    host: Annotated[Host, AfterValidator(check_address)] = Field(
        "0.0.0.0",  # noqa: S104 - the sensor is in the network
        description="address of this PC to listen on",
    )
    port: Whole = Field(ge=1, le=65535, description="UDP port of this PC to listen on; one a sensor")
    sample_rate_hz: SampleRate
    channels: Whole = Field(1, ge=1, le=16)

    @model_validator(mode="after")
    def _channel_exists(self) -> UdpSource:
        if self.channel >= self.channels:
            raise ValueError(f"channel {self.channel} of {self.channels}; channels are counted from 0")
        if (":" in self.host) != (":" in self.sender):
            raise ValueError(f"host {self.host} and sender {self.sender} are not both IPv4 or both IPv6")
        return self

    @property
    def fixed_rate_hz(self) -> int:
        """The rate that the sensor must send."""
        return self.sample_rate_hz

    @property
    def device_key(self) -> object:
        """Machines with channels of one sensor share its port."""
        return (self.host, self.port, self.sender, self.sample_rate_hz, self.channels)


class SimulatedFault(Model):
    """A fault of the simulated machine."""

    kind: Literal["bearing", "imbalance", "rattle"]
    start_s: Number = Field(ge=0, le=LONGEST_STREAM_S, description="seconds after the start of the stream")
    end_s: Number = Field(gt=0, le=LONGEST_STREAM_S)

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> SimulatedFault:
        if self.end_s <= self.start_s:
            raise ValueError(f"end_s ({self.end_s} s) is not after start_s ({self.start_s} s)")
        return self


class SimulatedSource(SourceSettings):
    """The built-in simulator: to try everything without a microphone."""

    kind: Literal["simulated"]
    channel: Literal[0] = 0
    seed: Whole = Field(1, ge=0, le=2**31 - 1)
    sample_rate_hz: SampleRate = 16_000
    pace: Literal["realtime", "fast"] = "realtime"
    duration_s: Number | None = Field(None, ge=0.01, le=LONGEST_STREAM_S, description="null: for ever")
    start_s: Number = Field(
        0.0, ge=0, le=LONGEST_STREAM_S, description="where in the machine's life the stream begins"
    )
    faults: tuple[SimulatedFault, ...] = ()

    @property
    def realtime(self) -> bool:
        """Not at full speed."""
        return self.pace == "realtime"

    @property
    def fixed_rate_hz(self) -> int:
        """The rate at which the sound is computed."""
        return self.sample_rate_hz


Source = Annotated[
    Microphone | CommandSource | UdpSource | RecordingSource | StdinSource | SimulatedSource,
    Field(discriminator="kind"),
]
