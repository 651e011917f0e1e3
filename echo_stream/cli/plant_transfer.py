"""Roll-outs bring a file to nodes in stages, and collect what nodes have: over the broker, signed.

One connection for all nodes; what each of them says decides what it gets next. Runs in the calling thread.
"""

from __future__ import annotations

import json
import math
import re
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from paho.mqtt.client import MQTTMessage

from echo_stream.cli.plant_broker import Plant
from echo_stream.config.values import NAME
from echo_stream.core.errors import CommandRefused, ConfigError, DeliveryError
from echo_stream.core.text import clean_lines, clean_text, utc_text
from echo_stream.mqtt.command_models import Manifest
from echo_stream.mqtt.connection import Connection
from echo_stream.mqtt.signed import sign
from echo_stream.mqtt.topics import Topics
from echo_stream.mqtt.transfer import MOST_BYTES, Incoming, from_chunk, pieces, sha256_of, to_chunk

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

ANSWER_S = 15.0
PATIENCE_S = 240.0
"""The check of a file, and a trial, may take so long until the node says more."""
AT_ONCE = 10
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_ENDS = ("done", "refused", "rolled_back")
_SILENT = (
    f"within {ANSWER_S:.0f} s; does it run (echo-stream plant list), has its configuration "
    "plant: {trust: [KEY]}, and may its user read its topic transfer?"
)

Kind = Literal["config", "bank", "banks", "evidence"]
Tell = Callable[[str], None]


@dataclass
class Target:
    """A node, or a machine of it, and how far it is."""

    node: str
    machine: str | None
    file: Path | None = None
    """What it gets."""
    state: str = "not begun"
    """Also: under way, no answer, failed; done, refused, rolled_back."""
    outcome: str = ""
    files: list[str] = field(default_factory=list)
    """What was collected."""

    @classmethod
    def parse(cls, text: str, machine: bool | None, file: str = "") -> Target:
        """NODE, or NODE/MACHINE where `machine` asks for it; None takes both.

        Raises:
            ConfigError: it is of another form.
        """
        node, slash, name = text.partition("/")
        if (
            not NAME.fullmatch(node)
            or (slash and not NAME.fullmatch(name))
            or machine not in (None, bool(slash))
        ):
            form = {True: "NODE/MACHINE, as pc7/pump3", False: "NODE, as pc7", None: "NODE or NODE/MACHINE"}
            raise ConfigError(f"{text}: expected {form[machine]}")
        path = Path(file.replace("{node}", node).replace("{machine}", name)) if file else None
        return cls(node, name or None, path)

    @property
    def title(self) -> str:
        """As it was written."""
        return f"{self.node}/{self.machine}" if self.machine else self.node

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "node": self.node,
            "machine": self.machine,
            "state": self.state,
            "outcome": self.outcome,
            **({"files": self.files} if self.files else {}),
        }


@dataclass
class _Talk:
    """What is under way with one target."""

    target: Target
    id: str
    until_s: float
    into: Path | None = None
    most: int = 0
    """Bytes that are collected at most."""
    incoming: Incoming | None = None
    first: int = 0
    """Number of the chunk with which the file begins."""
    label: str = ""


class RollOut:
    """Speaks with the nodes.

    Args:
        plant: the broker.
        key: the operator's.
        by: who asks.
        tell: gets a line as soon as something is decided.
    """

    def __init__(self, plant: Plant, key: Ed25519PrivateKey, by: str, tell: Tell) -> None:
        self._plant = plant
        self._key = key
        self._by = by
        self._tell = tell
        self._talks: dict[str, _Talk] = {}
        self._heard: deque[bytes] = deque()

    def push(self, kind: Kind, targets: Sequence[Target]) -> None:
        """One target, a tenth, all others; ends with the stage in which one refuses, rolls back or is silent.

        Raises:
            ConfigError: a file cannot be read.
            DeliveryError: the broker is away, or does not let us in; targets say how far they are.
        """
        for target in targets:
            _digest(kind, target)
        with self._connected(targets) as connection:
            for number, stage in enumerate(stages(targets), 1):
                self._tell(f"stage {number}: {', '.join(target.title for target in stage)}")
                self._run(connection, kind, stage, 0, None)
                if any(target.state != "done" for target in stage):
                    return

    def collect(self, kind: Kind, targets: Sequence[Target], into: Path, most_bytes: int) -> None:
        """What each target has, into folders INTO/NODE/MACHINE; one after the other.

        Raises:
            DeliveryError: the broker is away, or does not let us in.
        """
        with self._connected(targets) as connection:
            for target in targets:
                self._run(connection, kind, [target], most_bytes, into)

    def _connected(self, targets: Sequence[Target]) -> Any:
        topics = [f"{node}/transferred" for node in dict.fromkeys(target.node for target in targets)]
        return self._plant.connected(topics, self._receive)

    def _receive(self, message: MQTTMessage) -> None:
        self._heard.append(bytes(message.payload))

    def _run(
        self, connection: Connection, kind: Kind, targets: Sequence[Target], most: int, into: Path | None
    ) -> None:
        waiting = list(targets)
        try:
            while waiting or self._talks:
                if any(target.state not in ("done", "under way", "not begun") for target in targets):
                    waiting.clear()
                busy = {talk.target.node for talk in self._talks.values()}
                for target in waiting[:]:
                    if target.node not in busy and len(self._talks) < AT_ONCE:
                        waiting.remove(target)
                        busy.add(target.node)
                        self._begin(connection, kind, target, most, into)
                connection.step(0.1)
                self._require_allowed(connection)
                while self._heard:
                    self._take(connection, self._heard.popleft())
                for talk in list(self._talks.values()):
                    if time.monotonic() > talk.until_s:
                        self._end(talk, "no answer", talk.label or _SILENT)
        finally:
            for talk in list(self._talks.values()):
                self._end(talk, "no answer", "the connection to the broker ended before the node had decided")

    def _begin(
        self, connection: Connection, kind: Kind, target: Target, most: int, into: Path | None
    ) -> None:
        sha256, size = _digest(kind, target) if target.file else (None, most)
        manifest = Manifest(
            kind=kind,
            node=target.node,
            machine=target.machine,
            id=secrets.token_hex(16),
            created=utc_text(datetime.now(UTC)),
            by=self._by,
            sha256=sha256,
            size=size,
        )
        target.state = "under way"
        talk = _Talk(target, manifest.id, time.monotonic() + ANSWER_S, into, most)
        self._talks[talk.id] = talk
        connection.publish(self._topic(target), sign(manifest, self._key), qos=1, expiry_s=60)

    def _topic(self, target: Target) -> str:
        return Topics(self._plant.topic_root, target.node).transfer

    def _require_allowed(self, connection: Connection) -> None:
        refusal = next((why for _, why in connection.acknowledged if why is not None), None)
        connection.acknowledged.clear()
        if refusal is not None:
            root = self._plant.topic_root
            raise DeliveryError(
                f"the broker does not let this user publish to {root}/NODE/transfer: {refusal}",
                "contrib/mosquitto.acl has a user for this",
            )

    def _take(self, connection: Connection, payload: bytes) -> None:
        if (chunk := from_chunk(payload)) is not None:
            if (talk := self._talks.get(chunk[0])) is not None:
                self._guard(talk, partial(self._take_chunk, talk, *chunk[1:]))
            return
        said: Any = None
        with suppress(ValueError, RecursionError):
            said = json.loads(payload)
        talk = self._talks.get(str(said.get("id"))) if isinstance(said, dict) else None
        if talk is None or said.get("node") != talk.target.node:
            return
        talk.until_s = time.monotonic() + PATIENCE_S
        outcome = clean_lines(str(said.get("outcome")))
        talk.label = f"the node said last: {outcome}, and then nothing for {PATIENCE_S:.0f} s"
        if said.get("state") == "send":
            self._guard(talk, partial(self._send, connection, talk, said.get("chunk")))
        elif said.get("state") == "trial":
            self._tell(f"{talk.target.title}: {outcome}")
        elif said.get("state") == "file":
            self._guard(talk, partial(self._take_file, talk, said))
        elif said.get("state") in _ENDS:
            if talk.incoming is not None:
                self._end(talk, "failed", f"{talk.incoming.path.name} is not whole; collect again")
            else:
                self._end(talk, said["state"], outcome + (f"; in {talk.into}" if talk.target.files else ""))

    def _send(self, connection: Connection, talk: _Talk, number: object) -> None:
        file = talk.target.file
        if file is None or not isinstance(number, int) or not 0 <= number < 2**32:
            return
        try:
            data = next(pieces(file, number), b"")
        except OSError as error:
            raise CommandRefused(f"{file}: {error.strerror}") from None
        if data:
            connection.publish(self._topic(talk.target), to_chunk(talk.id, number, data), qos=1, expiry_s=60)

    def _guard(self, talk: _Talk, work: Callable[[], None]) -> None:
        """What a node sends that is not as announced ends its transfer, as a file that is gone by now."""
        try:
            work()
        except CommandRefused as error:
            self._end(talk, "failed", error.message)

    def _take_file(self, talk: _Talk, said: dict[str, Any]) -> None:
        machine, name, size, digest = (said.get(key) for key in ("machine", "name", "size", "sha256"))
        if talk.into is None or not (isinstance(machine, str) and NAME.fullmatch(machine)):
            raise CommandRefused(f"the node names a machine {clean_text(str(machine), 60)!r}: not written")
        if not (isinstance(name, str) and _FILE_NAME.fullmatch(name)):
            raise CommandRefused(f"the node names a file {clean_text(str(name), 60)!r}: not written")
        if not isinstance(size, int) or not 0 <= size <= talk.most:
            raise CommandRefused(f"{machine}/{name} has {size} bytes, at most {talk.most} are taken")
        if talk.incoming is not None:
            raise CommandRefused(f"{talk.incoming.path.name} is not whole; collect again")
        talk.most -= size
        talk.incoming = Incoming(talk.into / talk.target.node / machine / name, size, str(digest))
        self._keep_if_whole(talk)

    def _take_chunk(self, talk: _Talk, number: int, data: bytes) -> None:
        talk.until_s = time.monotonic() + PATIENCE_S
        if talk.incoming is not None:
            talk.incoming.add(number - talk.first, data)
            self._keep_if_whole(talk)
        elif number >= talk.first:
            raise CommandRefused(f"chunk {number} belongs to no file")

    def _keep_if_whole(self, talk: _Talk) -> None:
        if talk.incoming is not None and talk.incoming.whole:
            talk.first += talk.incoming.wanted
            path, talk.incoming = talk.incoming.keep(), None
            talk.target.files.append(str(path))

    def _end(self, talk: _Talk, state: str, outcome: str) -> None:
        del self._talks[talk.id]
        if talk.incoming is not None:
            talk.incoming.discard()
        talk.target.state, talk.target.outcome = state, outcome
        self._tell(f"{talk.target.title}: {state.replace('_', ' ')}: {outcome}")


def stages(targets: Sequence[Target]) -> list[Sequence[Target]]:
    """One, then a tenth, then all others."""
    tenth = math.ceil(len(targets) / 10)
    cuts = (targets[:1], targets[1 : 1 + tenth], targets[1 + tenth :])
    return [stage for stage in cuts if stage]


def _digest(kind: Kind, target: Target) -> tuple[str, int]:
    """SHA-256 and size of the file for a target, which is read in pieces.

    Raises:
        ConfigError: it cannot be read, is empty or too large.
    """
    file, most = target.file or Path(), MOST_BYTES[kind]
    try:
        sha256, size = sha256_of(file)
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}", f"it is for {target.title}") from None
    if not 0 < size <= most:
        why = f"has {size:,} bytes, expected at most {most:,}" if size else "is empty"
        raise ConfigError(f"{file}: {why}", f"it is for {target.title}")
    return sha256, size
