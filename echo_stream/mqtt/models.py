"""The models describe every payload; schemas/*.json and docs/mqtt.md are made from them, commands checked.

Here is what they have in common, and the events, which go through the outbox and arrive at least once;
state_models.py and command_models.py hold the others. What the daemon sends is built as plain dicts by
payloads.py, because a thousand machines send a score each second, and because an alarm must go out even where
a value is unforeseen; the tests hold every builder against its model.
"""

# ruff: noqa: E501 - descriptions are lines of docs/mqtt.md

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from echo_stream.core.types import AlarmLevel, AlarmState, SensorFault

EventId = Annotated[str, Field(pattern="^[0-7][0-9A-HJKMNP-TV-Z]{25}$")]
Timestamp = Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{3}Z$")]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Band = tuple[float, float, Share]
Bands = Annotated[
    list[Band],
    Field(
        max_length=5,
        description="The bands that carry the score, largest first: lower edge in Hz, upper edge in Hz, "
        "share (0 to 1) of all that raises the score.",
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

    model_config = ConfigDict(title="Event")

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


class Evidence(Payload):
    """The recording of an event is complete, its post-roll included. Sent through the outbox; deduplicate on `event_id`."""

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


class Enrolled(OutboxPayload):
    """A version of a machine's bank was made, by whichever way. Sent through the outbox; deduplicate on `event_id`."""

    machine: str = Field(description="Id of the machine that is watched.")
    bank: str = Field(description="Id of the version.")
    accepted: bool = Field(description="It is in use; otherwise it is a proposal.")


class Flood(OutboxPayload):
    """More alarms and warnings of this node's machines than people can take in: announced as one. The events of its warnings carry `merged: true`; an alarm of high priority is never merged. Sent through the outbox, again while further machines join it; deduplicate on `event_id`."""

    since: Timestamp = Field(description="When the flood began (UTC).")
    active: bool = Field(description="It has begun or goes on; otherwise it is over.")
    announcements: Count = Field(
        description="At its beginning those of the last ten minutes; later and at its end these and all that followed."
    )
    machines: list[str] = Field(
        description="Where: every machine that announced something in this flood; the first ones only, where the broker takes no larger packet."
    )
