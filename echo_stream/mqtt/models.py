"""The models describe every payload; schemas/*.json and docs/mqtt.md are made from them, commands checked.

Here is what they have in common; event_models.py, state_models.py and command_models.py hold them. What the
daemon sends is built as plain dicts by payloads.py, because a thousand machines send a score each second, and
because an alarm must go out even where a value is unforeseen; the tests hold every builder against its model.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from echo_stream.core.types import AlarmLevel

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
