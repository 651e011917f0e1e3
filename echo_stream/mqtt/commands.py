"""What operators may ask of a machine's alarm: from an MQTT payload to a checked Command. Pure; any thread.

The rules are those of schemas/command.json, written out because jsonschema is no dependency of the daemon; a
test holds the two against each other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from echo_stream.core.errors import DeliveryError
from echo_stream.core.types import AlarmLevel

MAX_PAYLOAD_BYTES = 4096
MAX_SHELVE_S = 7 * 86_400


class Verb(StrEnum):
    """What can be asked."""

    ACK = "ack"
    RESET = "reset"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    OUT_OF_SERVICE = "out_of_service"
    IN_SERVICE = "in_service"
    MARK_NORMAL = "mark_normal"


class CommandRefused(DeliveryError):
    """A command that is malformed; the message says why, for the reply."""


@dataclass(frozen=True, slots=True)
class ReplyTo:
    """Where the sender waits for the outcome."""

    topic: str | None
    """None: where the sender named a topic that we do not publish replies to."""
    correlation: bytes | None = None
    """MQTT 5 correlation data, given back as it came."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command that is well-formed; whether the alarm can follow it is for the alarm to say."""

    machine: str
    verb: Verb
    reply_to: ReplyTo
    level: AlarmLevel | None = None
    """None: both."""
    duration_s: float | None = None
    """Of a shelving, otherwise None."""
    by: str | None = None
    """Who asks, as the sender says."""
    reason: str | None = None
    id: str | None = None
    """Comes back in the reply."""
    sender: Mapping[str, str] | None = None
    """MQTT 5 user properties of the message: some brokers name the client here."""


def parse(
    machine: str, payload: bytes, reply_to: ReplyTo, sender: Mapping[str, str] | None = None
) -> Command:
    """A command from the payload of a message on `.../cmd`.

    Raises:
        CommandRefused: It is not what schemas/command.json says.
    """
    asked = _object(payload)
    unknown = sorted(set(asked) - set(_FIELDS))
    if unknown:
        raise CommandRefused(f"unknown field {unknown[0]!r}; known: {', '.join(_FIELDS)}")
    if "command" not in asked:
        raise CommandRefused("the field 'command' is missing")
    for name, value in asked.items():
        expected, fits = _FIELDS[name]
        if not fits(value):
            raise CommandRefused(f"{name}: expected {expected}, found {str(value)[:100]!r}")
    verb = Verb(asked["command"])
    if (verb is Verb.SHELVE) != ("duration_s" in asked):
        needs = "needs" if verb is Verb.SHELVE else "takes no"
        raise CommandRefused(f"{verb} {needs} duration_s")
    return Command(
        machine=machine,
        verb=verb,
        reply_to=reply_to,
        level=AlarmLevel(asked["level"]) if "level" in asked else None,
        duration_s=float(asked["duration_s"]) if "duration_s" in asked else None,
        by=asked.get("by"),
        reason=asked.get("reason"),
        id=asked.get("id"),
        sender=sender,
    )


def tokens(payload: bytes) -> tuple[str | None, str | None]:
    """Command and id of a payload that was refused, as far as they can be read, for the reply."""
    try:
        asked = _object(payload)
    except CommandRefused:
        return None, None
    command, token = asked.get("command"), asked.get("id")
    known = command if isinstance(command, str) and command in list(Verb) else None
    return known, token if _FIELDS["id"][1](token) else None


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise CommandRefused(f"longer than {MAX_PAYLOAD_BYTES} bytes")
    try:
        asked = json.loads(payload, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise CommandRefused("not JSON") from None
    if not isinstance(asked, dict):
        raise CommandRefused("not a JSON object")
    return asked


def _no_constant(name: str) -> None:
    raise ValueError(name)  # Python's parser takes NaN and Infinity, JSON does not


def _text(least: int, most: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and least <= len(value) <= most


def _duration(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SHELVE_S


_FIELDS: dict[str, tuple[str, Callable[[object], bool]]] = {
    "command": (f"one of {', '.join(Verb)}", lambda value: value in list(Verb)),
    "level": ("alarm or warning", lambda value: value in list(AlarmLevel)),
    "duration_s": (f"seconds above 0, at most {MAX_SHELVE_S}", _duration),
    "by": ("a text of 1 to 100 characters", _text(1, 100)),
    "reason": ("a text of at most 500 characters", _text(0, 500)),
    "id": ("a text of at most 100 characters", _text(0, 100)),
}
