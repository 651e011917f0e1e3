"""The models of files that an operator sends to a node or asks of it."""

# ruff: noqa: E501 - descriptions are lines of docs/mqtt.md

from __future__ import annotations

from typing import Literal

from pydantic import Field

from echo_stream.mqtt.models import Model, Payload, Timestamp

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
