"""The schema defines the configuration as a person writes it: every field with its unit, bounds and meaning.

Only pipeline (factory, sources), daemon, fit and cli see these classes; a stage takes plain arguments.
`config.load` reads them from YAML with the line of every mistake.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from echo_stream.config.sources import Bearing, Limits, Model, Source, Speed
from echo_stream.config.values import (
    ConfigPath,
    Host,
    Name,
    Number,
    PublicKey,
    Text,
    TextOrEmpty,
    Topic,
    Whole,
)
from echo_stream.core.measures import MEASURES, OF_SOUND

# One patch: 16 frames of 25 ms, 10 ms apart (ECHO, section 3.1); longer than 20 s the net cuts it in pieces.
SHORTEST_WINDOW_S = 0.175
LONGEST_WINDOW_S = 20.0


class Windowing(Model):
    """How sound is cut."""

    window_s: Number = Field(
        2.0, ge=SHORTEST_WINDOW_S, le=LONGEST_WINDOW_S, description="length of what is scored, in seconds"
    )
    hop_s: Number = Field(1.0, ge=0.01, description="time between the starts of two windows, in seconds")

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

    embed_dim: Whole = Field(ge=2, le=4096, description="columns of a token")
    depth: Whole = Field(ge=1, le=100, description="transformer layers")
    heads: Whole = Field(ge=1, le=128, description="attention heads; leaves no trace in the weights' shapes")
    mlp_ratio: Number = Field(4.0, gt=0, le=16, description="hidden width of the MLP over embed_dim")


class EchoEncoder(Windowing):
    """ECHO (arXiv 2508.14689) with weights from a file."""

    kind: Literal["echo"]
    weights: ConfigPath = Field(description="safetensors file, as `echo-stream fetch-model` writes it")
    size: Literal["tiny", "small"] = Field("tiny", description="published size of the weights")
    dimensions: Dimensions | None = Field(None, description="instead of size, for other weights")
    runtime: Literal["auto", "plain", "torch", "openvino", "openvino-gpu"] = Field(
        "auto", description="auto: the fastest on this CPU; openvino-gpu: never chosen by itself"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: the fastest that tells windows apart as float32 does; float32: exact"
    )
    gate: Literal["auto"] | None = Field(
        None, description="auto: normal sound, by its spectral score, is encoded each gate_every-th hop only"
    )
    gate_every: Whole = Field(4, ge=2, le=20, description="of gate: auto")


Encoder = Annotated[SpectralEncoder | EchoEncoder, Field(discriminator="kind")]


class Tls(Model):
    """TLS is on as soon as a file is named, or with `enabled: true` (the system's authorities)."""

    enabled: bool | None = Field(None, description="null: on when a file is named")
    ca_file: ConfigPath | None = Field(
        None, description="authority that signed the broker's certificate (PEM)"
    )
    cert_file: ConfigPath | None = Field(None, description="client certificate (PEM)")
    key_file: ConfigPath | None = Field(None, description="key of the client certificate (PEM)")

    @model_validator(mode="after")
    def _key_needs_certificate(self) -> Tls:
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file without cert_file: the key belongs to a certificate; name that too")
        return self

    @property
    def on(self) -> bool:
        """Whether the connection is encrypted."""
        named = any((self.ca_file, self.cert_file, self.key_file))
        return named if self.enabled is None else self.enabled


def _protocol(value: Any) -> Any:
    return 3 if value in ("3.1.1", "3", 4, 311) else 5 if value in ("5", "5.0", 5.0) else value


class Mqtt(Model):
    """The broker."""

    host: Host = Field("localhost", description="name or address")
    port: Whole = Field(1883, ge=1, le=65535, description="TCP port; 8883 is usual with TLS")
    username: Text | None = None
    password_file: ConfigPath | None = Field(None, description="file whose first line is the password")
    tls: Tls = Tls()
    topic_root: Topic = Field("echo-stream", description="first part of topics")
    protocol: Annotated[Literal[5, 3], BeforeValidator(_protocol)] = Field(5, description="5, or 3 for 3.1.1")
    discovery_prefix: Topic | None = Field("homeassistant", description="Home Assistant's; null: none")
    score_interval_s: Number = Field(1.0, ge=0.1, le=60, description="at most one score message in this time")

    @model_validator(mode="after")
    def _password_needs_user(self) -> Mqtt:
        if self.password_file is not None and self.username is None:
            raise ValueError("password_file without username: the broker asks for both; set mqtt.username")
        return self


class AlarmSettings(Model):
    """When to say so."""

    false_alarms_per_month: Number = Field(1.0, gt=0, le=1000, description="accepted false alarms in 30 days")
    warnings_per_week: Number = Field(1.0, gt=0, le=1000, description="accepted false warnings in 7 days")
    on_delay_s: Number = Field(
        7.0, ge=0, le=3600, description="an alarm comes when the sound has stayed strange so long"
    )
    warning_on_delay_s: Number = Field(
        7.0, ge=0, le=3600, description="a warning after so long; never later than the alarm"
    )
    off_delay_s: Number = Field(
        6.0, ge=0, le=3600, description="both go when it has sounded normal again so long"
    )
    dead_band: Number = Field(
        0.1, ge=0, lt=1, description="clear level below the trip level, as a share of its height over normal"
    )
    latching: bool = Field(False, description="stays until a person resets it")
    realarm_s: Number | None = Field(None, gt=0, description="announce again after so long; null: never")

    @property
    def on_delays_s(self) -> dict[str, float]:
        """How long the sound must stay strange, for each level."""
        return {"warning": min(self.warning_on_delay_s, self.on_delay_s), "alarm": self.on_delay_s}


class Machine(Model):
    """One machine, one sensor, one bank."""

    id: Name
    name: TextOrEmpty = ""
    source: Source
    bank: ConfigPath = Field(description="the bank of normal sound that fit-normal writes")
    asset: dict[Name, Text] = Field(
        {}, max_length=10, description="where it stands, such as site, area, line: part of its payloads"
    )
    reference: Name | None = Field(
        None,
        description="id of another machine, such as a microphone in the hall, or auto: all others; "
        "a warning is held while the sound changes more there",
    )
    limits: Limits | None = Field(None, description="of a standard; null: no zone is told")
    rpm: Speed | None = Field(
        None,
        description="turns of its shaft in a minute, or the topic that says them: "
        "lines are named in the evidence",
    )
    gear_teeth: Whole | None = Field(None, ge=2, le=10_000, description="of the gear on that shaft")
    bearing: Bearing | None = Field(None, description="of that shaft")
    alarm: AlarmSettings = AlarmSettings()

    @model_validator(mode="after")
    def _parts_need_a_speed(self) -> Machine:
        if self.rpm is None and (self.gear_teeth is not None or self.bearing is not None):
            raise ValueError("gear_teeth and bearing need rpm: their frequencies follow from it")
        return self

    @model_validator(mode="after")
    def _limits_need_a_velocity(self) -> Machine:
        known = self.source.calibration
        if self.limits is not None and (known is None or known.unit == "Pa"):
            raise ValueError("limits.velocity_mm_s needs source.calibration with the unit g or m/s2")
        return self

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or self.id

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what is measured in physical units, `zone` where there are limits."""
        known = self.source.calibration
        if known is None:
            return ()
        names = tuple(name for name in MEASURES if (name in OF_SOUND) == (known.unit == "Pa"))
        return names if self.limits is None else (*names, "zone")


class EvidenceSettings(Model):
    """What is kept of each alarm, and to compare it with."""

    enabled: bool = Field(True, description="false: no sound is ever stored")
    pre_roll_s: Number = Field(10.0, ge=0, le=60, description="sound before the onset of the alarm")
    post_roll_s: Number = Field(10.0, ge=0, le=60, description="sound after it")
    max_mb: Number = Field(1000, gt=0, description="oldest evidence goes beyond this size")
    max_days: Number = Field(90, gt=0, description="and beyond this age")
    min_free_mb: Number = Field(500, ge=0, description="nothing is written when the disk has less")
    keep_normal_s: Number = Field(
        120, ge=0, le=3600, description="normal sound that each enrolment keeps beside its bank; 0: none"
    )

    @property
    def normal_s(self) -> float:
        """The same, as far as sound may be stored at all."""
        return self.keep_normal_s if self.enabled else 0.0


class OutboxSettings(Model):
    """How much waits for an absent broker."""

    max_rows: Whole = Field(100_000, ge=100)
    max_days: Number = Field(30, gt=0)


class HistorySettings(Model):
    """One row a machine and minute: scores, level, coverage."""

    enabled: bool = Field(True, description="false: no history is kept")
    max_days: Number = Field(
        400, gt=0, le=10_000, description="so many days of minutes are kept of each machine; 21 MB a year"
    )


class WebSettings(Model):
    """The page for people, which the daemon itself serves; needs the extra `web`."""

    enabled: bool = Field(False, description="true: serve the page")
    host: Host = Field(
        "127.0.0.1", description="address to listen on; another than this PC's own needs passwords"
    )
    port: Whole = Field(8765, ge=1, le=65535)
    password_file: ConfigPath | None = Field(
        None, description="who may see and do what, as `echo-stream web password` writes it"
    )
    hosts: tuple[Host, ...] = Field(
        (), description="further names under which browsers reach it, as of a proxy"
    )
    listen: bool = Field(False, description="true: people may listen live; a room may hold voices")

    @model_validator(mode="after")
    def _others_need_passwords(self) -> WebSettings:
        if self.enabled and self.password_file is None and not _is_loopback(self.host):
            raise ValueError(
                f"host {self.host} can be reached from other PCs, so password_file is needed; "
                "`echo-stream web password` writes one"
            )
        return self

    @property
    def address(self) -> str | None:
        """Where other PCs find the page; None where they do not, or it is not known under which name."""
        if not self.enabled or (_is_loopback(self.host) and not self.hosts):
            return None
        if self.hosts:
            return f"http://{self.hosts[0]}:{self.port}/"
        if self.host in ("0.0.0.0", "::"):  # noqa: S104 - any address is no address
            return None
        return (
            f"http://[{self.host}]:{self.port}/" if ":" in self.host else f"http://{self.host}:{self.port}/"
        )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class NotifySettings(Model):
    """Who is told of events beside the broker: a webhook (http, https), or what apprise knows."""

    url: Text | None = Field(None, repr=False, description="where to; a secret: better in a file")
    url_file: ConfigPath | None = Field(None, description="file whose first line is the URL")
    on: Literal["alarm", "warning", "all"] = Field(
        "alarm",
        description="alarm: alarms that are raised; warning: warnings too; all: each event, of sensors too",
    )

    @model_validator(mode="after")
    def _one_url(self) -> NotifySettings:
        if (self.url is None) == (self.url_file is None):
            raise ValueError("expected either url or url_file")
        return self


class PlantSettings(Model):
    """Who may roll out configurations and banks over the broker, and collect; needs the extra `plant`."""

    trust: tuple[PublicKey, ...] = Field(
        (),
        max_length=20,
        description="public keys of operators, as `echo-stream plant key` prints them; none: off",
    )


class Config(Model):
    """A whole config.yaml."""

    node: Name = Field(description="name of this PC in MQTT topics")
    state_dir: ConfigPath = Path("/var/lib/echo-stream")
    encoder: Encoder = SpectralEncoder()
    mqtt: Mqtt = Mqtt()
    machines: tuple[Machine, ...]
    evidence: EvidenceSettings = EvidenceSettings()
    outbox: OutboxSettings = OutboxSettings()
    notify: tuple[NotifySettings, ...] = Field((), max_length=10)
    history: HistorySettings = HistorySettings()
    web: WebSettings = WebSettings()
    plant: PlantSettings = PlantSettings()
    metrics_port: Whole | None = Field(
        None, ge=1, le=65535, description="Prometheus on 127.0.0.1; null: none"
    )

    @field_validator("machines")
    @classmethod
    def _some_and_one_stdin(cls, machines: tuple[Machine, ...], info: ValidationInfo) -> tuple[Machine, ...]:
        if not machines and not (info.context or {}).get("without_machines"):
            raise ValueError("expected at least one machine, found none")
        if sum(machine.source.kind == "stdin" for machine in machines) > 1:
            raise ValueError("only one machine can read standard input")
        ports = {
            key for m in machines if m.source.kind == "udp" for key in [(m.source.port, m.source.device_key)]
        }
        if len({port for port, _ in ports}) < len(ports):
            raise ValueError("two udp sources of different settings listen on one port; give each its own")
        return machines

    def machine(self, machine_id: str) -> Machine | None:
        """The machine of this id, or None."""
        return next((machine for machine in self.machines if machine.id == machine_id), None)
