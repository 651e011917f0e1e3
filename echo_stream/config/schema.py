"""The schema defines the configuration as a person writes it: every field with its unit, bounds and meaning.

Only pipeline.factory, daemon, fit and cli see these classes; a stage takes plain arguments. `config.load`
reads them from YAML with the line of every mistake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

# Id of a node or machine: it becomes part of MQTT topics and of file names.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
SampleRate = Annotated[int, Field(ge=1_000, le=192_000)]
Channel = Annotated[int, Field(ge=0, le=255)]
Positive = Annotated[float, Field(gt=0)]

# One patch: 16 frames of 25 ms, 10 ms apart (ECHO, section 3.1); longer than 20 s the net cuts it in pieces.
SHORTEST_WINDOW_S = 0.175
LONGEST_WINDOW_S = 20.0


class Model(BaseModel):
    """Frozen, and no unknown keys: a typo must not be ignored for years."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Windowing(Model):
    """How sound is cut."""

    window_s: float = Field(
        2.0, ge=SHORTEST_WINDOW_S, le=LONGEST_WINDOW_S, description="length of what is scored, in seconds"
    )
    hop_s: float = Field(1.0, ge=0.01, description="time between the starts of two windows, in seconds")

    @model_validator(mode="after")
    def _hop_within_window(self) -> Windowing:
        if self.hop_s > self.window_s:
            raise ValueError(f"hop_s ({self.hop_s} s) is longer than window_s ({self.window_s} s)")
        return self


class SpectralEncoder(Windowing):
    """Log spectra and modulations per band; needs no weights."""

    kind: Literal["spectral"] = "spectral"


class Dimensions(Model):
    """Sizes of an ECHO net that is neither tiny nor small."""

    embed_dim: int = Field(ge=2, le=4096, description="columns of a token")
    depth: int = Field(ge=1, le=100, description="transformer layers")
    heads: int = Field(ge=1, le=128, description="attention heads; leaves no trace in the weights' shapes")
    mlp_ratio: float = Field(4.0, gt=0, le=16, description="hidden width of the MLP over embed_dim")


class EchoEncoder(Windowing):
    """ECHO (arXiv 2508.14689) with weights from a file."""

    kind: Literal["echo"]
    weights: Path = Field(description="safetensors file, as `echo-stream fetch-model` writes it")
    size: Literal["tiny", "small"] = Field("tiny", description="published size of the weights")
    dimensions: Dimensions | None = Field(None, description="instead of size, for other weights")
    runtime: Literal["auto", "plain", "torch", "openvino"] = Field(
        "auto", description="auto: the fastest on this CPU"
    )
    precision: Literal["auto", "float32", "bfloat16", "int8"] = Field(
        "auto", description="auto: the fastest that tells windows apart as float32 does; float32: exact"
    )


Encoder = Annotated[SpectralEncoder | EchoEncoder, Field(discriminator="kind")]


class Tls(Model):
    """TLS is on as soon as a file is named, or with `enabled: true` (the system's authorities)."""

    enabled: bool | None = Field(None, description="null: on when a file is named")
    ca_file: Path | None = Field(None, description="authority that signed the broker's certificate (PEM)")
    cert_file: Path | None = Field(None, description="client certificate (PEM)")
    key_file: Path | None = Field(None, description="key of the client certificate (PEM)")

    @property
    def on(self) -> bool:
        """Whether the connection is encrypted."""
        named = any((self.ca_file, self.cert_file, self.key_file))
        return named if self.enabled is None else self.enabled


def _protocol(value: Any) -> Any:
    return 3 if value in ("3.1.1", "3", 4, 311) else 5 if value in ("5", "5.0", 5.0) else value


class Mqtt(Model):
    """The broker."""

    host: str = Field("localhost", min_length=1, description="name or address")
    port: int = Field(1883, ge=1, le=65535, description="TCP port; 8883 is usual with TLS")
    username: str | None = None
    password_file: Path | None = Field(None, description="file whose first line is the password")
    tls: Tls = Tls()
    topic_root: str = Field(
        "echo-stream", pattern=r"^[^+#\x00/][^+#\x00]*$", description="first part of topics"
    )
    protocol: Annotated[Literal[5, 3], BeforeValidator(_protocol)] = Field(5, description="5, or 3 for 3.1.1")
    discovery_prefix: str | None = Field("homeassistant", description="Home Assistant's; null: none")
    score_interval_s: float = Field(1.0, ge=0.1, le=60, description="at most one score message in this time")


class SourceSettings(Model):
    """Base of all sources: what can be asked of each, whatever its kind."""

    channel: Channel = Field(0, description="which channel of the source, counted from 0")

    @property
    def realtime(self) -> bool:
        """Sound comes as time goes by, whether it is read or not."""
        return True

    @property
    def fixed_rate_hz(self) -> int | None:
        """The sample rate that the configuration sets; None where the source itself says it."""
        return None


class Microphone(SourceSettings):
    """A device that PortAudio knows."""

    kind: Literal["microphone"]
    device: str = Field(min_length=1, description="name as `echo-stream devices` prints it, or a part of it")
    sample_rate_hz: SampleRate = 48_000

    @property
    def fixed_rate_hz(self) -> int:
        """The rate with which the device is opened."""
        return self.sample_rate_hz


class RecordingSource(SourceSettings):
    """A file instead of a microphone."""

    kind: Literal["recording"]
    path: Path = Field(description="WAV, FLAC, MP3, OGG, ...")
    pace: Literal["realtime", "fast"] = Field("realtime", description="as recorded, or as fast as possible")
    loop: bool = Field(False, description="begin anew at its end, for ever")

    @property
    def realtime(self) -> bool:
        """Not at full speed."""
        return self.pace == "realtime"


class StdinSource(SourceSettings):
    """Raw PCM on standard input, as `arecord -t raw` writes it."""

    kind: Literal["stdin"]
    sample_rate_hz: SampleRate
    format: Literal["s16le", "s24le", "s32le", "f32le"] = "s16le"
    channels: int = Field(1, ge=1, le=256)

    @property
    def fixed_rate_hz(self) -> int:
        """The rate of the samples on standard input."""
        return self.sample_rate_hz


class SimulatedFault(Model):
    """A fault of the simulated machine."""

    kind: Literal["bearing", "imbalance", "rattle"]
    start_s: float = Field(ge=0, description="seconds after the start of the stream")
    end_s: float = Field(gt=0)


class SimulatedSource(SourceSettings):
    """The built-in simulator: to try everything without a microphone."""

    kind: Literal["simulated"]
    seed: int = 1
    sample_rate_hz: SampleRate = 16_000
    pace: Literal["realtime", "fast"] = "realtime"
    duration_s: float | None = Field(None, gt=0, description="null: for ever")
    start_s: float = Field(0.0, ge=0, description="where in the machine's life the stream begins")
    faults: tuple[SimulatedFault, ...] = ()

    @property
    def realtime(self) -> bool:
        """Not at full speed."""
        return self.pace == "realtime"

    @property
    def fixed_rate_hz(self) -> int:
        """The rate at which the sound is computed."""
        return self.sample_rate_hz


Source = Annotated[Microphone | RecordingSource | StdinSource | SimulatedSource, Field(discriminator="kind")]


class AlarmSettings(Model):
    """When to say so."""

    false_alarms_per_month: float = Field(1.0, gt=0, le=1000, description="accepted false alarms in 30 days")
    warnings_per_week: float = Field(1.0, gt=0, le=1000, description="accepted false warnings in 7 days")
    on_delay_s: float = Field(
        7.0, ge=0, le=3600, description="an alarm comes when the sound has stayed strange so long"
    )
    warning_on_delay_s: float = Field(
        3.0, ge=0, le=3600, description="a warning after so long already; never later than the alarm"
    )
    off_delay_s: float = Field(
        6.0, ge=0, le=3600, description="both go when it has sounded normal again so long"
    )
    dead_band: float = Field(
        0.1, ge=0, lt=1, description="clear level below the trip level, as a share of its height over normal"
    )
    latching: bool = Field(False, description="stays until a person resets it")
    realarm_s: float | None = Field(None, gt=0, description="announce again after so long; null: never")

    @property
    def on_delays_s(self) -> dict[str, float]:
        """How long the sound must stay strange, for each level."""
        return {
            "warning": min(self.warning_on_delay_s, self.on_delay_s),
            "alarm": self.on_delay_s,
        }


class Machine(Model):
    """One machine, one sensor, one bank."""

    id: Name
    name: str = ""
    source: Source
    bank: Path = Field(description="the bank of normal sound that fit-normal writes")
    alarm: AlarmSettings = AlarmSettings()

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.id


class EvidenceSettings(Model):
    """What is kept of each alarm."""

    enabled: bool = Field(True, description="false: no sound is ever stored")
    pre_roll_s: float = Field(10.0, ge=0, le=60, description="sound before the alarm")
    post_roll_s: float = Field(10.0, ge=0, le=60, description="sound after it")
    max_mb: float = Field(1000, gt=0, description="oldest evidence goes beyond this size")
    max_days: float = Field(90, gt=0, description="and beyond this age")
    min_free_mb: float = Field(500, ge=0, description="nothing is written when the disk has less")


class OutboxSettings(Model):
    """How much waits for an absent broker."""

    max_rows: int = Field(100_000, ge=100)
    max_days: float = Field(30, gt=0)


class Config(Model):
    """A whole config.yaml."""

    node: Name = Field(description="name of this PC in MQTT topics")
    state_dir: Path = Path("/var/lib/echo-stream")
    encoder: Encoder = SpectralEncoder()
    mqtt: Mqtt = Mqtt()
    machines: tuple[Machine, ...]
    evidence: EvidenceSettings = EvidenceSettings()
    outbox: OutboxSettings = OutboxSettings()
    metrics_port: int | None = Field(None, ge=1, le=65535, description="Prometheus on 127.0.0.1; null: none")

    @field_validator("machines")
    @classmethod
    def _some_and_one_stdin(cls, machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
        if not machines:
            raise ValueError("expected at least one machine, found none")
        if sum(machine.source.kind == "stdin" for machine in machines) > 1:
            raise ValueError("only one machine can read standard input")
        return machines

    def machine(self, machine_id: str) -> Machine | None:
        """The machine of this id, or None."""
        return next((machine for machine in self.machines if machine.id == machine_id), None)
