"""The models of what operators ask: a command to a machine, a file for a node, and what became of it."""

# ruff: noqa: E501 - descriptions are lines of docs/mqtt.md

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field

from echo_stream.core.types import BANK_ID, MAX_SHELVE_S
from echo_stream.mqtt.models import Model, Payload, Timestamp

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
START_FIELDS = ("minutes", "condition", "accept")
ENROL_FIELDS = ("action", *START_FIELDS)
"""Of a command `enrol` only; the last three of its `start` only."""


def _shelving(schema: dict[str, Any]) -> None:
    """What a field alone cannot say, for those who read the schema; `commands.parse` holds it too."""
    schema["allOf"] = [
        {
            "if": {"properties": {"command": {"const": "shelve"}}, "required": ["command"]},
            "then": {"required": ["duration_s"]},
            "else": {"properties": {"duration_s": False}},
        }
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
        pattern=f"^{BANK_ID}$",
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

    ts: Timestamp = Field(description="When it was decided (UTC).")
    machine: str = Field(description="Id of the machine that is watched.")
    command: str | None = Field(description="The command; null where it could not be read.")
    id: str | None = Field(description="As it was sent.")
    ok: bool = Field(description="It was carried out.")
    outcome: str = Field(description="What was done, or why not.")


LONGEST_BY = 100


class Transfer(Model):
    """What an operator asks of a node by a signed manifest (`plant push`, `plant collect`). Taken only where `plant.trust` in the node's configuration lists the key. The bytes of a file follow on the same topic, each chunk when the node asks for it: one byte 0, the 16 bytes of the manifest's `id`, its number as 4 bytes (big-endian, from 0), then 65,536 bytes of the file (the last chunk: what is left)."""

    manifest: str = Field(max_length=4096, description="The text of a [manifest](#manifest), JSON.")
    key: str = Field(max_length=100, description="The operator's public key.")
    signature: str = Field(
        max_length=100,
        description="Base64 of the Ed25519 signature of `echo-stream transfer 1`, a line feed, and the manifest as it stands there.",
    )


class Manifest(Model):
    """What is transferred; the text in `manifest` of a [transfer](#transfer). A node takes each `id` once, and none that is older than ten minutes by its clock."""

    kind: Literal["config", "bank", "banks", "evidence"] = Field(
        description="`config`, `bank`: a file for the node. `banks`, `evidence`: the node shall send its own."
    )
    node: str = Field(max_length=100, description="Which node it is for; others refuse it.")
    machine: str | None = Field(
        None, max_length=100, description="Of a bank: whose. Of what is collected: null for all machines."
    )
    id: str = Field(pattern="^[0-9a-f]{32}$", description="Random.")
    created: Timestamp = Field(description="When it was signed (UTC).")
    by: str = Field(min_length=1, max_length=LONGEST_BY, description="Who asks, for the log.")
    sha256: str | None = Field(
        None, pattern="^[0-9a-f]{64}$", description="Of the file; null where none is sent."
    )
    size: int | None = Field(
        None, ge=1, description="Bytes of the file; of what is collected: how many are sent at most."
    )


class Transferred(Payload):
    """What a node says of a transfer. What it sends itself (`collect`) comes on the same topic: `file` names each file, its chunks follow as in a [transfer](#transfer)."""

    ts: Timestamp = Field(description="When it was said (UTC).")
    id: str | None = Field(description="Of the manifest; null where it could not be read.")
    state: Literal["send", "checking", "trial", "file", "done", "refused", "rolled_back"] = Field(
        description="`send`: the node waits for chunk number `chunk`. `checking`: all is there. `trial`: it is in use, and the node looks whether it listens as before. `file`: what follows. The others are the end: `done`; `refused`: nothing has changed; `rolled_back`: what was in use before is in use again. Where it cannot be put back, `outcome` and the health of the node say so."
    )
    outcome: str = Field(description="What was done, or why not.")
    chunk: int | None = Field(None, ge=0, description="Of `send`.")
    machine: str | None = Field(None, description="Of `file`: whose.")
    name: str | None = Field(None, description="Of `file`: its name.")
    size: int | None = Field(None, ge=0, description="Of `file`: bytes.")
    sha256: str | None = Field(None, description="Of `file`.")
