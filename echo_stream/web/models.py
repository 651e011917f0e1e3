"""The models describe what the page's API takes and gives; OpenAPI is made from them.

Events keep the form that they have over MQTT (docs/mqtt.md); everything else is here.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from echo_stream.core.types import BANK_ID, MAX_SHELVE_S

Time = Annotated[str | None, Field(description="UTC, ISO 8601; null where there is none")]
ASIDE: Final = {"SHELVED": "shelved", "OUT_OF_SERVICE": "out-of-service"}
"""The status of a machine whose alarm is in one of these states."""


class Model(BaseModel):
    """What all of them have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class LevelState(Model):
    """Where one of the two levels of an alarm stands."""

    state: str = Field(description="NORMAL, UNACK, ACKED, RTN_UNACK, LATCHED_..., SHELVED, ...")
    active: bool = Field(description="the condition is true now")
    since: Time = None
    event_id: str | None = Field(None, description="of the transition that led here")


class Level(LevelState):
    """The same with its trip level."""

    trip: float = Field(description="score at which this level trips")


class Machine(Model):
    """One machine as the wall shows it."""

    id: str
    name: str
    status: str = Field(description="one word, for colour and order")
    word: str = Field(description="the same for people")
    urgency: int = Field(description="0 is the most urgent")
    since: Time = None
    reason: str = Field("", description="why it is not listened to, or what is wrong with the sensor")
    score: float | None = None
    level_dbfs: float | None = None
    operating_state: str = ""
    zone: str | None = Field(None, description="of its velocity, by the limits of the configuration")
    band_hz: tuple[float, float] | None = Field(None, description="band that adds most to the score")
    coverage_10m: float | None = None
    warning: Level | None = Field(None, description="null where the machine cannot be listened to")
    alarm: Level | None = None
    device: str = ""
    capture: str = ""
    bank: str = ""
    sample_rate_hz: int | None = None


class Window(Model):
    """One scored window."""

    at_s: float = Field(description="Unix time of its end")
    score: float
    level_dbfs: float
    operating_state: str
    band_hz: tuple[float, float] | None = None


class Measure(Model):
    """What a calibrated sensor measures now, in a physical unit."""

    name: str
    text: str = Field(description="for people")
    value: float
    unit: str


class MachineDetail(Model):
    """One machine with its last ten minutes."""

    machine: Machine
    recent: list[Window]
    measured: list[Measure] = Field(description="of the newest window; empty of a sensor without calibration")
    limits_mm_s: list[float] = Field([], description="of its velocity, by the configuration; ascending")
    health: dict[str, Any] = Field(description="as `echo-stream status --json` gives it")


class Minute(Model):
    """A minute, or several as one, of the history."""

    at_s: float = Field(description="Unix time at which it begins")
    score_median: float
    score_max: float
    level_dbfs: float
    operating_state: str
    coverage: float
    over_alarm: float
    measured: dict[str, tuple[float, float]] = Field(description="median and maximum in physical units")


class History(Model):
    """The past of a machine."""

    machine: str
    step_s: float = Field(description="length of each piece")
    minutes: list[Minute]


class Trends(Model):
    """The last day of every machine, for the wall."""

    step_s: float
    machines: dict[str, list[tuple[float, float]]] = Field(
        description="(Unix time at which a piece begins, highest score)"
    )


class JournalItem(Model):
    """What happened, newest first."""

    number: int = Field(description="for `before`")
    kind: str = Field(description="event, sensor, drift, flood, evidence or answer")
    event: dict[str, Any] = Field(description="as it was sent over MQTT")


class Journal(Model):
    """A page of the journal."""

    items: list[JournalItem]


class Command(Model):
    """What an operator asks; the same as over MQTT."""

    command: Literal["ack", "shelve", "unshelve", "reset", "out_of_service", "in_service", "mark_normal"]
    level: Literal["warning", "alarm"] | None = Field(None, description="null: both")
    duration_s: int | None = Field(None, gt=0, le=MAX_SHELVE_S, description="of a shelving")
    by: str | None = Field(
        None, max_length=100, description="who; with passwords the name of the login counts"
    )
    reason: str | None = Field(None, max_length=500)


class Outcome(Model):
    """What came of a command."""

    ok: bool
    outcome: str = Field(description="for people: what was done, or why it was refused")


class Login(Model):
    """Name and password."""

    name: str = Field(max_length=100)
    password: str = Field(max_length=1000)


class Me(Model):
    """Who looks, and at what."""

    name: str | None = Field(description="null: nobody is logged in, or no login is needed")
    role: Literal["operator", "viewer", "nobody"]
    plant: bool = Field(False, description="it is the page of many nodes")
    login: bool = Field(description="a login exists here")
    node: str
    version: str
    listen: bool = Field(description="live listening is allowed")


class Band(Model):
    """A change of the spectrum."""

    change: str = Field(description="louder or quieter")
    by_db: float
    peak_hz: float
    low_hz: float
    high_hz: float


class NearestNormal(Model):
    """Kept normal sound of the same operating state that is most like an alarm."""

    version: str = Field(description="of the bank in whose enrolment it was heard")
    recording: str
    start_s: float = Field(description="where in that recording it begins")
    duration_s: float
    condition: str = Field(description="operating state")
    at_s: float = Field(description="seconds from its start to what is nearest")
    distance: float | None = Field(None, description="as the bank measures; null: it is any of them")
    full_scale: float = Field(description="what 1 in the file stands for")


class Evidence(Model):
    """What was kept of an alarm."""

    event_id: str
    machine: str
    at: Time
    event: dict[str, Any] = Field(description="as it was sent over MQTT")
    complete: bool = Field(description="the sound after the alarm is in it")
    clip: bool
    picture: bool
    alarm_s: float | None = Field(None, description="seconds from the clip's start to the alarm")
    onset_s: float | None = None
    duration_s: float | None = None
    bands: list[Band] = Field(description="which bands are louder or quieter, and by how much")
    lines: list[str] = Field(description="lines of shaft, gear and bearing that stand out, in words")
    speed: str = Field("", description="what a topic said of the machine's speed; empty: it has none")
    full_scale: float = Field(1.0, description="what 1 in the clip stands for")
    normal: NearestNormal | None = Field(None, description="null: no normal sound was kept")


class EvidenceList(Model):
    """The newest alarms of which something was kept."""

    items: list[Evidence]


class Answer(Model):
    """What a person says about an alarm."""

    answer: Literal["fault", "normal"]
    by: str | None = Field(None, max_length=100, description="as of a command")
    reason: str | None = Field(None, max_length=500)
    condition: str | None = Field(
        None, max_length=100, description="operating state, where the bank has several"
    )


class SpanAnswer(Answer):
    """What a person says about a stretch of history."""

    from_s: float = Field(ge=0, le=2**40, description="Unix time")
    to_s: float = Field(ge=0, le=2**40)


class Proposal(Model):
    """A version of a bank that was learnt from an answer, and what accepting it would change."""

    state: Literal["running", "ready", "failed"]
    event_id: str | None = Field(None, description="of the alarm that is called normal; null: what was heard")
    by: str
    said: str = Field(description="for people")
    bank_id: str | None = None
    base_id: str | None = Field(None, description="the version that it extends")
    verdict: str | None = Field(None, description="ok, warn or fail: the worst of the checks")
    checks: list[str] = Field([], description="what is not ok")
    alarm_before: float | None = Field(None, description="score at which an alarm is raised, now")
    alarm_after: float | None = None
    warning_before: float | None = None
    warning_after: float | None = None
    score_before: float | None = Field(None, description="highest score of the sound that was learnt, now")


class Episode(Model):
    """An alarm or warning that would have come, or may have."""

    from_s: float = Field(description="Unix time")
    to_s: float
    sure: bool = Field(description="false: it may have come; minutes do not say how long a score was held")
    highest: float
    operating_state: str


class WhatIf(Model):
    """What another trip level would have raised, by the minutes that were stored."""

    level: float = Field(description="the trip level that was tried")
    on_delay_s: float
    false_alarms_per_month: float | None = Field(None, description="that it stands for; null: it was given")
    since_s: float = Field(description="Unix time: not before the bank in use was accepted")
    minutes: int = Field(description="that were heard since")
    episodes: list[Episode]
    raised: list[JournalItem] = Field(description="alarms that were raised in this time, newest first")


class BankVersion(Model):
    """One version."""

    id: str
    made: Time
    accepted: bool = Field(description="in use")


class Bank(Model):
    """The versions of a machine's bank, oldest first."""

    versions: list[BankVersion]
    proposal: Proposal | None = None


class BankChange(Model):
    """Which version is to be used; `propose` makes one of what was heard."""

    do: Literal["accept", "rollback", "propose"]
    bank_id: str | None = Field(None, pattern=f"^{BANK_ID}$", description="of `accept`")
    anyway: bool = Field(False, description="of `accept`: though a confirmed fault is no longer found")
    by: str | None = Field(None, max_length=100, description="as of a command")


class EnrolmentFit(Model):
    """The bank version that came of the sound of one operating state."""

    condition: str
    bank: str = Field(description="its report: .../enrolment/report?bank=")
    verdict: str = Field(description="ok, warn or fail: the worst of the checks")


class EnrolmentState(Model):
    """How far the learning of a machine's normal sound is."""

    stage: Literal["listening", "paused", "fitting", "done", "failed"]
    progress: float = Field(description="of the listening, 0 to 1")
    heard_s: float
    left_s: float
    kept_s: float = Field(description="sound that will be learnt")
    lost_s: float
    minutes: float = Field(description="asked for")
    conditions: list[str] = Field(description="operating states")
    level_dbfs: float | None
    clipped: float = Field(description="share of the samples of the newest window at full scale")
    ever_clipped: bool
    hum: float = Field(description="share of the newest window's power that is hum of the mains, 0 to 1")
    rumble: float
    by: str
    began_at: str
    ended_at: str
    said: str = Field(description="for people: why it failed, or what holds it up")
    fits: list[EnrolmentFit]


class Enrolment(Model):
    """The newest enrolment of a machine; null where none was asked for."""

    enrolling: EnrolmentState | None
    known: list[str] = Field(description="operating states of the bank in use")


class EnrolmentCommand(Model):
    """What an operator asks of it; the same as MQTT's command `enrol`."""

    action: Literal["start", "pause", "resume", "finish", "cancel"]
    minutes: float | None = Field(None, ge=0.05, le=86_400, description="of `start`")
    condition: str | None = Field(None, min_length=1, max_length=100, description="of `start`")
    accept: bool | None = Field(None, description="of `start`")
    by: str | None = Field(None, max_length=100, description="as of a command")
    reason: str | None = Field(None, max_length=500)


class Comparison(Model):
    """Two versions of a bank beside each other, as `bank compare --json` gives them."""

    in_use: dict[str, Any]
    other: dict[str, Any]
    events: list[dict[str, Any]] = Field(description="past events and confirmed faults, by both")


class Health(Model):
    """How the daemon is."""

    overview: dict[str, Any] = Field(description="as `echo-stream status --json` gives it")
    parts: dict[str, Any] = Field(description="threads that were restarted, history, evidence, disk")
    versions: dict[str, str]
    config: str = Field(description="ok, or what `check-config` would say")


class Log(Model):
    """The last lines of the log."""

    lines: list[dict[str, Any]]


class LiveFigures(Model):
    """SSE `figures`: machines whose score is new."""

    machines: dict[str, tuple[float | None, float | None, float | None]] = Field(
        description="score, level in dBFS, coverage of ten minutes"
    )


class LiveColumns(Model):
    """SSE `columns`: the spectrogram of the machine that is watched."""

    at_s: float = Field(description="Unix time of the end of the last column")
    step_s: float
    low_hz: float
    high_hz: float
    rows: int
    data: str = Field(
        description="base64: one byte a row and column, column by column, lowest frequency first"
    )
    score: float
    level_dbfs: float
    operating_state: str
    band_hz: tuple[float, float] | None = None
