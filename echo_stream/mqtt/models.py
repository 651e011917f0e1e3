"""The models describe every payload: schemas/*.json and docs/mqtt.md are made from them, commands are checked.

`scripts/make-mqtt-docs` writes both; a test fails when they are stale. What the daemon sends is built as
plain dicts by payloads.py, because a thousand machines send a score each second, and because an alarm must go
out even where a value is unforeseen; the tests hold every builder against its model.
"""

# ruff: noqa: E501 - descriptions are lines of docs/mqtt.md

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.json_schema import GenerateJsonSchema

from echo_stream.core.types import AlarmLevel, AlarmState, SensorFault

MAX_SHELVE_S = 7 * 86_400
_EVENT_ID = "01KB5GZ1P0W3V6F1Q2Z8Y7X5RT"
_TS = "2026-11-20T08:14:03.120Z"
_CLIP = "20261120T081403Z_pump3.flac"
_PICTURE = "20261120T081403Z_pump3.png"

EventId = Annotated[str, Field(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Band = tuple[float, float, Share]
Bands = Annotated[
    list[Band],
    Field(
        max_length=5,
        description="The bands that carry the score, largest first: lower edge in Hz, upper edge in Hz, share "
        "(0 to 1) of all that raises the score.",
    ),
]
FlatHz = Annotated[
    float | None,
    Field(description="An edge in Hz of the band of that place in `bands_hz`. Left out where there is none."),
]
FlatShare = Annotated[
    float | None, Field(ge=0, le=1, description="Its share of all that raises the score. Left out likewise.")
]
Level = Literal[AlarmLevel.ALARM, AlarmLevel.WARNING]
Priority = Literal["high", "low"]
Cause = Literal[
    "condition",
    "clear",
    "ack",
    "reset",
    "shelve",
    "unshelve",
    "shelve_expired",
    "out_of_service",
    "in_service",
    "suppress",
    "unsuppress",
    "realarm",
    "changed_again",
    "new_steady_state",
]
CommandName = Literal[
    "ack",
    "shelve",
    "unshelve",
    "reset",
    "out_of_service",
    "in_service",
    "mark_normal",
    "enrol",
    "accept_bank",
]
EnrolAction = Literal["start", "pause", "resume", "finish", "cancel"]
MAX_ENROL_MINUTES = 60 * 24 * 60


class Model(BaseModel):
    """What all payloads have in common: no unknown field, JSON's own types."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Payload(Model):
    """A message of ours: which version of its schema, and from where."""

    schema_: Literal[1] = Field(
        alias="schema",
        description="Version of this payload; raised when a field changes its meaning or goes.",
    )
    ts: Timestamp = Field(description="When this was found (UTC).")
    node: str = Field(description="The PC that listens.")
    asset: dict[str, str] | None = Field(
        None,
        description="Where the machine stands, as configured: site, area, line. Left out where nothing is.",
    )


class FlatBands(Model):
    """The first three bands as fields of their own, for time series, which take no lists."""

    band1_low_hz: FlatHz = None
    band1_high_hz: FlatHz = None
    band1_share: FlatShare = None
    band2_low_hz: FlatHz = None
    band2_high_hz: FlatHz = None
    band2_share: FlatShare = None
    band3_low_hz: FlatHz = None
    band3_high_hz: FlatHz = None
    band3_share: FlatShare = None


class OutboxPayload(Payload):
    """A message that waits in the outbox until the broker has acknowledged it."""

    event_id: EventId = Field(description="ULID; the same however often the message arrives.")
    delayed: bool = Field(description="It could not be sent at once: broker or network were away.")
    unsaved: bool | None = Field(
        None,
        description="true: the disk did not take it before it was sent. After a power cut its `seq` can come "
        "again with another `event_id`. Left out otherwise.",
    )


class EvidenceOfEvent(Model):
    """What the sound at the event was like."""

    bands_hz: Bands
    level_delta_db: float | None = Field(description="Level less the usual level, in dB.")
    clip: str | None = Field(description="File name of the recorded sound, on the node.")
    picture: str | None = Field(description="File name of the spectrogram, on the node.")


class BankOfEvent(Model):
    """The bank of normal sound that it was compared with."""

    id: str = Field(description="Its name.")
    sha256: str = Field(description="Of its file.")


class Event(OutboxPayload, FlatBands):
    """One transition of one level of a machine's alarm. Sent through the outbox: at least once; deduplicate on `event_id`."""

    model_config = ConfigDict(
        title="Event",
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "event_id": _EVENT_ID,
                    "seq": 412,
                    "ts": _TS,
                    "delayed": False,
                    "merged": False,
                    "node": "pc7",
                    "machine": "pump3",
                    "level": "alarm",
                    "priority": "high",
                    "from": "NORMAL",
                    "to": "UNACK",
                    "cause": "condition",
                    "reason": None,
                    "active": True,
                    "score": 3.41,
                    "threshold": 2.1,
                    "p_value": 0.0003,
                    "onset_ts": "2026-11-20T08:14:00.120Z",
                    "evidence": {
                        "bands_hz": [[2800, 3500, 0.41]],
                        "level_delta_db": 2.3,
                        "clip": _CLIP,
                        "picture": _PICTURE,
                    },
                    "bank": {"id": "b7", "sha256": "9f" * 32},
                    "coverage_10m": 0.998,
                    "band1_low_hz": 2800,
                    "band1_high_hz": 3500,
                    "band1_share": 0.41,
                }
            ]
        },
    )

    seq: int = Field(
        ge=1,
        description="Counts the events of this machine; a hole says that events were dropped by a full outbox.",
    )
    ts: Timestamp = Field(description="When it happened (UTC).")
    merged: bool = Field(
        description="A warning that is part of a flood, which is announced as one: need not be announced by itself. Never true of an alarm."
    )
    machine: str = Field(description="Id of the machine that is watched.")
    level: Level = Field(description="Which of the two levels of the alarm moved.")
    priority: Priority = Field(description="`high` for an alarm, `low` for a warning.")
    from_: AlarmState = Field(alias="from", description="State before.")
    to: AlarmState = Field(description="State after.")
    cause: Cause = Field(description="What moved it.")
    path: Literal["strong", "step", "slow"] | None = Field(
        None,
        description="Which way led to the alarm: `strong`: over the strong level for the on-delay; `step`: away "
        "from the machine's own last minutes for 10 s; `slow`: minute after minute higher than those of the past "
        "days. Left out where none did.",
    )
    why: str | None = Field(None, description="The same in words, for people. Left out where there is none.")
    reason: str | None = Field(
        description="What the cause alone does not say: the sensor's fault, where a sound comes from that a "
        "warning is held for, or who commanded it and why."
    )
    active: bool = Field(description="The condition is true now.")
    score: float | None = Field(description="Anomaly score: about 0 for normal sound, higher is worse.")
    threshold: float | None = Field(description="Score at which this level trips.")
    p_value: Share | None = Field(description="Share of normal windows that score at least as high.")
    onset_ts: Timestamp | None = Field(
        description="When the condition became true; null where it is not true."
    )
    evidence: EvidenceOfEvent = Field(description="What the sound was like.")
    bank: BankOfEvent = Field(description="The bank of normal sound that it was compared with.")
    coverage_10m: Share | None = Field(description="Share of the last ten minutes that was scored.")


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

    model_config = ConfigDict(
        title="Alarm state",
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "machine": "pump3",
                    "name": "Pump 3",
                    "state": "UNACK",
                    "active": True,
                    "level": "alarm",
                    "priority": "high",
                    "event_id": _EVENT_ID,
                    "levels": {
                        "alarm": {
                            "state": "UNACK",
                            "active": True,
                            "since": _TS,
                            "onset_ts": "2026-11-20T08:14:00.120Z",
                            "event_id": _EVENT_ID,
                        },
                        "warning": {
                            "state": "NORMAL",
                            "active": False,
                            "since": None,
                            "onset_ts": None,
                            "event_id": None,
                        },
                    },
                }
            ]
        },
    )

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


class Evidence(Payload):
    """The recording of an event is complete, its post-roll included. Sent through the outbox; deduplicate on `event_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "event_id": _EVENT_ID,
                    "ts": "2026-11-20T08:14:13.120Z",
                    "node": "pc7",
                    "machine": "pump3",
                    "clip": _CLIP,
                    "picture": _PICTURE,
                    "folder": "/var/lib/echo-stream/evidence/pump3",
                    "lines": ["modulated with 87.4 Hz = BPFO (87.2)"],
                }
            ]
        }
    )

    event_id: EventId = Field(description="Of the event that the recording belongs to.")
    ts: Timestamp = Field(description="When it was complete (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    clip: str = Field(description="File name of the sound (FLAC).")
    picture: str | None = Field(description="File name of the spectrogram (PNG); null where none was drawn.")
    folder: str = Field(description="Where both lie on the node.")
    lines: list[str] = Field(
        [], description="Lines of shaft, gear and bearing that stand out; empty where the speed is not known."
    )
    unsaved: bool | None = Field(None, description="As in an event. Left out otherwise.")


class Sensor(OutboxPayload):
    """A microphone or its cable went wrong, or is well again: not a fault of the machine. The machine's alarm is SUPPRESSED meanwhile. Sent through the outbox; deduplicate on `event_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "event_id": _EVENT_ID,
                    "ts": _TS,
                    "delayed": False,
                    "node": "pc7",
                    "machine": "pump3",
                    "from": None,
                    "to": "dead",
                    "active": True,
                    "onset_ts": "2026-11-20T08:13:53.120Z",
                }
            ]
        }
    )

    ts: Timestamp = Field(description="When it was found (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    from_: SensorFault | None = Field(alias="from", description="What was wrong before; null: nothing.")
    to: SensorFault | None = Field(
        description="`dead`: no sample differs from another. `stuck`: long runs of one value. `clipped`: "
        "overdriven. `quiet`, `loud`: far outside the level that was fitted. `hum`: little but mains hum. "
        "`rumble`: little but the lowest frequencies. null: nothing is wrong."
    )
    active: bool = Field(description="Something is wrong now.")
    onset_ts: Timestamp | None = Field(description="When the fault began; null where nothing is wrong.")


class Drift(OutboxPayload):
    """Minute by minute the sound creeps away from what it was, or has come back: time to look, or to extend the bank. Sent through the outbox; deduplicate on `event_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "event_id": _EVENT_ID,
                    "ts": _TS,
                    "delayed": False,
                    "node": "pc7",
                    "machine": "pump3",
                    "active": True,
                    "median": 0.92,
                    "limit": 0.8,
                    "since": _TS,
                }
            ]
        }
    )

    ts: Timestamp = Field(description="When it was found (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    active: bool = Field(description="They are away now.")
    median: float | None = Field(description="Median of the scores of the newest minutes.")
    limit: float | None = Field(
        description="What they must come back to: nine in ten of the machine's minutes were below."
    )
    since: Timestamp | None = Field(
        default=None, description="Since when it is suspected (UTC); `null` where it is over."
    )


class Bank(Payload):
    """Which version of a machine's bank is in use, and which is proposed. Retained; its fields are those that Home Assistant's update entity reads."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "machine": "pump3",
                    "installed_version": "b7",
                    "latest_version": "b8",
                    "title": "Bank of normal sound",
                    "release_summary": "Alarm from a score of 12.1 to 12.9; warning from a score of 8.0 to 8.2; 5400 windows of normal sound (now 3600); operating states: idle, load.",
                }
            ]
        }
    )

    machine: str = Field(description="Id of the machine that is watched.")
    installed_version: str = Field(description="Id of the version in use; `none` without a bank.")
    latest_version: str = Field(
        description="Id of the version that is proposed: the newest, made after the one in use. Otherwise `installed_version`."
    )
    title: str = Field(description="What it is a version of.")
    release_summary: str = Field(
        max_length=255, description="What accepting it would change; empty where none is proposed."
    )


class Enrolled(OutboxPayload):
    """A version of a machine's bank was made, by whichever way. Sent through the outbox; deduplicate on `event_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "event_id": _EVENT_ID,
                    "ts": _TS,
                    "delayed": False,
                    "node": "pc7",
                    "machine": "pump3",
                    "bank": "b8",
                    "accepted": False,
                }
            ]
        }
    )

    machine: str = Field(description="Id of the machine that is watched.")
    bank: str = Field(description="Id of the version.")
    accepted: bool = Field(description="It is in use; otherwise it is a proposal.")


class Flood(OutboxPayload):
    """More alarms and warnings of this node's machines than people can take in: announced as one. The events of its warnings carry `merged: true`; an alarm of high priority is never merged. Sent through the outbox, again while further machines join it; deduplicate on `event_id`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "event_id": _EVENT_ID,
                    "ts": _TS,
                    "delayed": False,
                    "node": "pc7",
                    "since": _TS,
                    "active": True,
                    "announcements": 11,
                    "machines": ["fan1", "pump3"],
                }
            ]
        }
    )

    since: Timestamp = Field(description="When the flood began (UTC).")
    active: bool = Field(description="It has begun or goes on; otherwise it is over.")
    announcements: Count = Field(
        description="At its beginning those of the last ten minutes; later and at its end these and all that followed."
    )
    machines: list[str] = Field(
        description="Where: every machine that announced something in this flood; the first ones only, where the broker takes no larger packet."
    )


class Score(Payload, FlatBands):
    """The newest anomaly score, one every 1 to 10 s. Not retained; expires (MQTT 5)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "machine": "pump3",
                    "score": 0.31,
                    "threshold": 2.1,
                    "warning_threshold": 1.6,
                    "p_value": 0.38,
                    "level_dbfs": -31.2,
                    "level_delta_db": 0.4,
                    "condition": "normal",
                    "bands_hz": [[2800, 3500, 0.2]],
                    "band1_low_hz": 2800,
                    "band1_high_hz": 3500,
                    "band1_share": 0.2,
                }
            ]
        }
    )

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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "machine": "pump3",
                    "capture": "listening",
                    "coverage_10m": 0.998,
                    "level_dbfs": -31.2,
                    "measured": {"velocity_mm_s": 2.31, "acceleration_m_s2": 4.1, "kurtosis": 3.2},
                    "zone": "B",
                    "overruns": 0,
                    "lost_samples": 0,
                    "real_time_factor": 0.04,
                    "versions": {"echo-stream": "0.1.0", "encoder": "spectral 1"},
                    "counters": {"windows": 3600},
                    "outlook": {
                        "false_alarms_per_month": 1.0,
                        "quiet_h": 212.0,
                        "at_most_per_month": 10.2,
                        "past_h": 72.0,
                        "paths": {"strong": {"share_per_month": 0.3333, "raised": 0, "level": 6.5}},
                        "known": [
                            "in 212 h 0 alarms, so with 95 % at most 10 false alarms a month",
                            "strong (0.33 a month): a change to a score over 6.5 for 7 s",
                        ],
                    },
                }
            ]
        }
    )

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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "state": "degraded",
                    "reasons": ["pump3: bank /var/lib/echo-stream/banks/pump3.safetensors is damaged"],
                    "worst_coverage_10m": 0.998,
                    "counters": {"restarts": 0, "outbox_unsaved": 0, "evidence_failed": 0},
                }
            ]
        }
    )

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


def _shelving(schema: dict[str, Any]) -> None:
    """What a field alone cannot say, for those who read the schema; `commands.parse` holds it too."""
    schema["allOf"] = [
        {
            "if": {"properties": {"command": {"const": "shelve"}}, "required": ["command"]},
            "then": {"required": ["duration_s"]},
            "else": {"properties": {"duration_s": False}},
        },
    ]
    # Not in allOf: so it is plain that what an older version accepted is accepted still.
    schema["if"] = {"properties": {"command": {"const": "enrol"}}, "required": ["command"]}
    schema["then"] = {
        "properties": {"level": False, "bank": False},
        "if": {"properties": {"action": {"const": "start"}}},
        "else": {"properties": dict.fromkeys(START_FIELDS, False)},
    }
    schema["else"] = {
        "properties": dict.fromkeys(ENROL_FIELDS, False),
        "if": {"properties": {"command": {"const": "accept_bank"}}, "required": ["command"]},
        "else": {"properties": {"bank": False}},
    }
    schema["examples"] = [
        {"command": "shelve", "duration_s": 3600, "by": "J. Smith", "reason": "bearing is changed on Monday"},
        {"command": "enrol", "minutes": 4320, "condition": "load", "by": "J. Smith"},
    ]


START_FIELDS = ("minutes", "condition", "accept")
ENROL_FIELDS = ("action", *START_FIELDS)
"""Of a command `enrol` only; the last three of its `start` only."""


class Command(Model):
    """What an operator asks of a machine's alarm. Not retained: retained commands are refused. The outcome comes on the response topic of the message (MQTT 5), otherwise on `.../reply`. A response topic below `echo-stream/` must have `reply` as its level after node and machine (`echo-stream/<node>/<machine>/reply/...`); on one that says something else (another topic of ours, Home Assistant's, one that begins with `$`, one with wildcards) no reply is sent, and the journal says so."""

    model_config = ConfigDict(json_schema_extra=_shelving)

    command: CommandName = Field(
        description="`ack`: seen. `reset`: end a latched alarm. `shelve`: silence for `duration_s`; `unshelve` "
        "ends it. `out_of_service`, `in_service`. `mark_normal`: propose the present sound as normal. `enrol`: "
        "learn what is normal from what is heard from now on, while the daemon goes on listening; the health of "
        "the machine says how far it is. `accept_bank`: take a version of the bank into use; refused where a "
        "confirmed fault would no longer be found."
    )
    # Left out or of their type, never null: the defaults are not checked, and not part of the schema.
    level: Literal["alarm", "warning"] = Field(
        default=None,  # type: ignore[arg-type]
        description="Of which level; both where it is left out.",
    )
    duration_s: float = Field(
        default=None,  # type: ignore[assignment]
        gt=0,
        le=MAX_SHELVE_S,
        allow_inf_nan=False,
        description="How long to shelve, in seconds; needed by `shelve`, at most a week.",
    )
    action: EnrolAction = Field(
        default=None,  # type: ignore[arg-type]
        description="Of `enrol`: `start` (also where it is left out), `pause`, `resume`; `finish` learns from what "
        "was heard so far, `cancel` forgets it.",
    )
    minutes: float = Field(
        default=None,  # type: ignore[assignment]
        ge=0.05,
        le=MAX_ENROL_MINUTES,
        allow_inf_nan=False,
        description="Of `enrol`: how long to listen, 10 where it is left out.",
    )
    condition: str = Field(
        default=None,  # type: ignore[assignment]
        min_length=1,
        max_length=100,
        description="Of `enrol`: the operating state that is learnt. Where the bank knows it beside others, only "
        "sound that the daemon takes for it is kept. Left out: all states that the bank knows, each by itself; "
        "without a bank `normal`.",
    )
    accept: bool = Field(
        default=None,  # type: ignore[assignment]
        description="Of `enrol`: use the new bank at once. Left out: only where there was none before; otherwise it "
        "is a version that `bank accept` or the page takes into use.",
    )
    bank: str = Field(
        default=None,  # type: ignore[assignment]
        pattern="^b[0-9]{1,9}$",
        description="Of `accept_bank`: which version; the one that is proposed where it is left out.",
    )
    by: str = Field(
        default=None,  # type: ignore[assignment]
        min_length=1,
        max_length=100,
        description="Who asks, for the log.",
    )
    reason: str = Field(
        default=None,  # type: ignore[assignment]
        max_length=500,
        description="Why, for the log and the event.",
    )
    id: str = Field(
        default=None,  # type: ignore[assignment]
        max_length=100,
        description="Any text that comes back in the reply.",
    )


class Reply(Payload):
    """What became of a command."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "machine": "pump3",
                    "command": "ack",
                    "id": None,
                    "ok": True,
                    "outcome": "alarm: UNACK to ACKED",
                }
            ]
        }
    )

    ts: Timestamp = Field(description="When it was decided (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    command: str | None = Field(description="The command; null where it could not be read.")
    id: str | None = Field(description="As it was sent.")
    ok: bool = Field(description="It was carried out.")
    outcome: str = Field(description="What was done, or why not.")


class Transfer(Model):
    """What an operator asks of a node by a signed manifest (`plant push`, `plant collect`). Taken only where `plant.trust` in the node's configuration lists the key. The bytes of a file follow on the same topic, each chunk when the node asks for it: one byte 0, the 16 bytes of the manifest's `id`, its number as 4 bytes (big-endian, from 0), then 65,536 bytes of the file (the last chunk: what is left)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "manifest": '{"kind": "banks", "node": "pc7", ...}',
                    "key": "ed25519:11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
                    "signature": "5VZDAMNgrHKQhuLMgG6CioSHfx645dl02HPgZSJJAVVfuIIVkKM7rMYeOXAc+bRr0lv18FlbvilUUoSDj/nOBw==",
                }
            ]
        }
    )

    manifest: str = Field(max_length=4096, description="The text of a [manifest](#manifest), JSON.")
    key: str = Field(max_length=100, description="The operator's public key.")
    signature: str = Field(
        max_length=100,
        description="Base64 of the Ed25519 signature of `echo-stream transfer 1`, a line feed, and the manifest as it stands there.",
    )


class Manifest(Model):
    """What is transferred; the text in `manifest` of a [transfer](#transfer). A node takes each `id` once, and none that is older than ten minutes by its clock."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "kind": "bank",
                    "node": "pc7",
                    "machine": "pump3",
                    "id": "0123456789abcdef0123456789abcdef",
                    "created": _TS,
                    "by": "J. Smith",
                    "sha256": "9f" * 32,
                    "size": 412345,
                }
            ]
        }
    )

    kind: Literal["config", "bank", "banks", "evidence"] = Field(
        description="`config`, `bank`: a file for the node. `banks`, `evidence`: the node shall send its own."
    )
    node: str = Field(max_length=100, description="Which node it is for; others refuse it.")
    machine: str | None = Field(
        None, max_length=100, description="Of a bank: whose. Of what is collected: null for all machines."
    )
    id: str = Field(pattern="^[0-9a-f]{32}$", description="Random.")
    created: Timestamp = Field(description="When it was signed (UTC).")
    by: str = Field(min_length=1, max_length=100, description="Who asks, for the log.")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Of the file; null where none is sent."
    )
    size: int | None = Field(
        None, ge=1, description="Bytes of the file; of what is collected: how many are sent at most."
    )


class Transferred(Payload):
    """What a node says of a transfer. What it sends itself (`collect`) comes on the same topic: `file` names each file, its chunks follow as in a [transfer](#transfer)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "schema": 1,
                    "ts": _TS,
                    "node": "pc7",
                    "id": "0123456789abcdef0123456789abcdef",
                    "state": "refused",
                    "outcome": "the manifest is for pc8, this is pc7",
                }
            ]
        }
    )

    ts: Timestamp = Field(description="When it was said (UTC).")
    id: str | None = Field(description="Of the manifest; null where it could not be read.")
    state: Literal["send", "checking", "trial", "file", "done", "refused", "rolled_back"] = Field(
        description="`send`: the node waits for chunk number `chunk`. `checking`: all is there. `trial`: it is in use, and the node looks whether it listens as before. `file`: what follows. The others are the end: `done`; `refused`: nothing has changed; `rolled_back`: what was in use before is in use again."
    )
    outcome: str = Field(description="What was done, or why not.")
    chunk: int | None = Field(None, ge=0, description="Of `send`.")
    machine: str | None = Field(None, description="Of `file`: whose.")
    name: str | None = Field(None, description="Of `file`: its name.")
    size: int | None = Field(None, ge=0, description="Of `file`: bytes.")
    sha256: str | None = Field(None, description="Of `file`.")


MODELS: dict[str, type[Model]] = {
    "event": Event,
    "alarm": Alarm,
    "score": Score,
    "health": Health,
    "node": NodeHealth,
    "evidence": Evidence,
    "sensor": Sensor,
    "drift": Drift,
    "flood": Flood,
    "bank": Bank,
    "enrolled": Enrolled,
    "command": Command,
    "reply": Reply,
    "transfer": Transfer,
    "manifest": Manifest,
    "transferred": Transferred,
}
"""The model of each schema by its name; `availability` is a plain word and has none."""


class _AsWritten(GenerateJsonSchema):
    """Fields and examples stay in the order in which they are written."""

    def sort(self, value: Any, parent_key: str | None = None) -> Any:  # noqa: ARG002 - its interface
        return value


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a payload, without references: readable from top to bottom."""
    if name == "availability":
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Status and availability",
            "description": "Plain text, not JSON. Retained. `status`: the daemon of the node runs (`offline` is "
            "also its last will). `availability`: capture and bank of the machine work; true only while "
            "`status` is `online` too.",
            "type": "string",
            "enum": ["online", "offline"],
            "examples": ["online"],
        }
    found = MODELS[name].model_json_schema(by_alias=True, schema_generator=_AsWritten)
    definitions = found.pop("$defs", {})
    plain = _plain(found, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": found["title"]}
    return {**head, **{key: value for key, value in plain.items() if key != "title"}}


def _plain(node: JsonValue, definitions: dict[str, Any]) -> Any:
    """References put in place, `X or null` as one type, no titles made from the names of fields."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = dict(definitions[str(node["$ref"]).rsplit("/", 1)[1]])
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    kept = {
        key: value
        for key, value in node.items()
        if not (key == "title" and isinstance(value, str)) and not (key == "default" and value is None)
    }
    if "examples" in kept:
        examples = kept.pop("examples")
        return {**_plain(kept, definitions), "examples": examples}
    plain = {key: _plain(value, definitions) for key, value in kept.items()}
    choices = plain.get("anyOf")
    if isinstance(choices, list) and len(choices) == 2 and choices[1] == {"type": "null"}:
        del plain["anyOf"]
        value = dict(choices[0])
        if "enum" in value:
            value["enum"] = [*value["enum"], None]
            value.pop("type", None)
        else:
            value["type"] = [value["type"], "null"]
        plain = {**value, **plain}
    if "const" in plain:
        plain.pop("type", None)
    return plain
