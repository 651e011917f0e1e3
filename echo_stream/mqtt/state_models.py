"""The models of how things stand: each is retained or replaced by the next of its kind."""

# ruff: noqa: E501 - descriptions are lines of docs/mqtt.md

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from echo_stream.core.types import AlarmState
from echo_stream.mqtt.models import (
    Bands,
    Count,
    EventId,
    FlatBands,
    Level,
    Model,
    Payload,
    Priority,
    Share,
    Timestamp,
)


class LevelOfAlarm(Model):
    """Where one of the two levels stands."""

    state: AlarmState = Field(description="State.")
    active: bool = Field(description="The condition is true now.")
    since: Timestamp | None = Field(
        description="When it came into this state; null where it never left NORMAL."
    )
    onset_ts: Timestamp | None = Field(
        description="When the condition became true; null where it is not true."
    )
    event_id: EventId | None = Field(description="Of the transition that led here.")


class LevelsOfAlarm(Model):
    """Both levels."""

    alarm: LevelOfAlarm = Field(description="The alarm.")
    warning: LevelOfAlarm = Field(description="The warning.")


class Alarm(Payload):
    """Where the alarm of a machine stands. Retained: who subscribes knows it at once."""

    model_config = ConfigDict(title="Alarm state")

    ts: Timestamp = Field(description="When this state was made (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    name: str = Field(description="Name of the machine, for people.")
    state: AlarmState = Field(
        description="State of the level that matters more: the alarm's, or the warning's while the alarm is "
        "NORMAL."
    )
    active: bool = Field(description="The condition of either level is true now.")
    level: Level | None = Field(description="The higher level that is active; null where none is.")
    priority: Priority | None = Field(description="Of that level.")
    event_id: EventId | None = Field(description="Of the transition that led to `state`.")
    levels: LevelsOfAlarm = Field(description="Both levels.")


class Bank(Payload):
    """Which version of a machine's bank is in use, and which is proposed. Retained; its fields are those that Home Assistant's update entity reads."""

    machine: str = Field(description="Id of the machine that is watched.")
    installed_version: str = Field(description="Id of the version in use; `none` without a bank.")
    latest_version: str = Field(
        description="Id of the version that is proposed: the newest, made after the one in use. Otherwise `installed_version`."
    )
    title: str = Field(description="What it is a version of.")
    release_summary: str = Field(
        max_length=255, description="What accepting it would change; empty where none is proposed."
    )


class Score(Payload, FlatBands):
    """The newest anomaly score, one every 1 to 10 s. Not retained; expires (MQTT 5)."""

    ts: Timestamp = Field(description="End of the window (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    score: float | None = Field(description="Anomaly score: about 0 for normal sound, higher is worse.")
    threshold: float | None = Field(description="Score at which the alarm trips.")
    warning_threshold: float | None = Field(
        description="Score at which the warning trips; null where there is none."
    )
    p_value: Share | None = Field(description="Share of normal windows that score at least as high.")
    level_dbfs: float | None = Field(description="Level of the window, in dB relative to full scale.")
    level_delta_db: float | None = Field(description="Level less the usual level, in dB.")
    condition: str = Field(description="Operating state whose normal sound is nearest.")
    bands_hz: Bands


class PathOutlook(Model):
    """One of the ways to an alarm, as it is now."""

    share_per_month: Annotated[float, Field(ge=0)] = Field(description="False alarms that it may raise.")
    raised: Count = Field(description="Alarms that it raised with this bank, faults among them.")
    level: float | None = Field(
        description="Score over which it leads to an alarm now; of `slow` only while it stands."
    )


class Outlook(Model):
    """What the three ways to an alarm know of a machine by now."""

    false_alarms_per_month: Annotated[float, Field(ge=0)] = Field(description="As configured.")
    quiet_h: Annotated[float, Field(ge=0)] = Field(
        description="Hours that were listened to without an alarm, with this bank."
    )
    at_most_per_month: float | None = Field(
        description="With 95 %, had all alarms been false; null where too little was heard."
    )
    past_h: Annotated[float, Field(ge=0)] = Field(description="Hours that `slow` compares with.")
    paths: dict[str, PathOutlook] = Field(description="By the way to an alarm.")
    known: list[str] = Field(description="The same in words.")


class Measured(Model):
    """The newest window in physical units, of a calibrated sensor (docs/vibration.md). What cannot be measured is left out."""

    velocity_mm_s: float | None = Field(
        default=None,
        description="Velocity, RMS from 10 to 1000 Hz, in mm/s. Of an accelerometer, as the next five.",
    )
    acceleration_m_s2: float | None = Field(default=None, description="Acceleration, RMS, in m/s2.")
    acceleration_peak_m_s2: float | None = Field(default=None, description="Its highest magnitude, in m/s2.")
    crest_factor: float | None = Field(default=None, description="The highest magnitude through the RMS.")
    kurtosis: float | None = Field(default=None, description="3 of noise, more of impacts.")
    envelope_m_s2: float | None = Field(
        default=None, description="RMS by which the envelope swings in its band, in m/s2."
    )
    sound_level_db: float | None = Field(
        default=None, description="Level in dB re 20 uPa. Of a microphone, as the next."
    )
    sound_level_dba: float | None = Field(default=None, description="The same, A-weighted.")


class Enrolling(Model):
    """How far the learning of a machine's normal sound is."""

    stage: str = Field(description="`listening`, `paused`, `fitting`, `done` or `failed`.")
    progress: Share = Field(description="Of the listening.")
    left_s: float = Field(description="Still to be listened to, in seconds.")
    level_dbfs: float | None = Field(description="Of the newest window, while it listens.")
    clipped: Share = Field(description="Of the samples of the newest window at full scale.")
    hum: Share = Field(description="Of the newest window's power, hum of the mains.")
    said: str = Field(description="Why it failed, or what holds it up; empty where all is well.")
    banks: list[str] = Field(description="Versions that came of it.")


class Health(Payload):
    """How well a machine is being listened to. Retained."""

    ts: Timestamp = Field(description="When this was measured (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    capture: str = Field(description="State of the source, such as `listening` or `lost: no such device`.")
    coverage_10m: Share | None = Field(description="Share of the last ten minutes that was scored.")
    level_dbfs: float | None = Field(description="Level of the newest window, in dB relative to full scale.")
    measured: Measured | None = Field(
        default=None, description="The same in physical units; null where the sensor is not calibrated."
    )
    zone: Literal["A", "A/B", "B", "C", "D"] | None = Field(
        default=None,
        description="Where the velocity of the last minute lies between the limits that the user entered, beside "
        "the anomaly score; null without limits.",
    )
    overruns: Count = Field(description="Times that the ring ran full since the start.")
    lost_samples: Count = Field(
        description="Samples that the device should have delivered and did not, since the start."
    )
    real_time_factor: Annotated[float, Field(ge=0)] | None = Field(
        description="Time spent on a window through its hop; from 1 on, the PC is too slow."
    )
    versions: dict[str, str] = Field(description="Of the program, the encoder, and so on.")
    counters: dict[str, int] = Field(description="Further counts since the start.")
    outlook: Outlook | None = Field(
        default=None, description="What is known of its alarms by now; null before the first window."
    )
    enrolling: Enrolling | None = Field(
        default=None, description="The newest enrolment (command `enrol`); null where there is none."
    )


class NodeHealth(Payload):
    """Whether all parts of a daemon work. Retained, sent every ten seconds."""

    ts: Timestamp = Field(description="When it was last looked at (UTC).")
    state: Literal["ok", "degraded"] = Field(
        description="`degraded`: the daemon does less than it should, and goes on with the rest."
    )
    reasons: list[str] = Field(description="What is not as it should be, in sentences; at most 20.")
    worst_coverage_10m: Share | None = Field(
        default=None, description="The least `coverage_10m` of its machines; `null` before the first hops."
    )
    counters: dict[str, int] = Field(
        description="Since the start: restarts of threads, events that the disk did not take, evidence that could not be kept, and so on."
    )
