"""Commands are what operators may ask of a machine's alarm: from an MQTT payload to a checked Command.

The rules stand in command_models.Command, from which the schema is made. Pure; any thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from echo_stream.core.errors import CommandRefused
from echo_stream.core.text import clean_text
from echo_stream.core.types import AlarmLevel
from echo_stream.mqtt import command_models

MAX_PAYLOAD_BYTES = 4096


class Verb(StrEnum):
    """What can be asked."""

    ACK = "ack"
    RESET = "reset"
    SHELVE = "shelve"
    UNSHELVE = "unshelve"
    OUT_OF_SERVICE = "out_of_service"
    IN_SERVICE = "in_service"
    MARK_NORMAL = "mark_normal"
    ENROL = "enrol"
    ACCEPT_BANK = "accept_bank"


class EnrolAction(StrEnum):
    """What can be asked of an enrolment."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Enrol:
    """What is asked of the enrolment of a machine; all but the action is of `start` alone."""

    action: EnrolAction = EnrolAction.START
    minutes: float = 10.0
    condition: str | None = None
    """Operating state; None: those that the bank knows."""
    accept: bool | None = None
    """Use the bank at once; None: only where there was none."""


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
    enrol: Enrol | None = None
    """Of an enrolment, otherwise None."""
    bank: str | None = None
    """Of `accept_bank`: which version; None: the one that is proposed."""
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
    """A command from the payload of a message on `.../cmd`; texts of people come out clean.

    Raises:
        CommandRefused: It is not what schemas/command.json says.
    """
    asked = _object(payload)
    try:
        fields = command_models.Command.model_validate(asked).model_dump(exclude_unset=True)
    except ValidationError as error:
        raise CommandRefused(_reason(error)) from None
    verb = Verb(fields["command"])
    if (verb is Verb.SHELVE) != ("duration_s" in fields):
        needs = "needs" if verb is Verb.SHELVE else "takes no"
        raise CommandRefused(f"{verb} {needs} duration_s")
    if verb is not Verb.ACCEPT_BANK and "bank" in fields:
        raise CommandRefused(f"{verb} takes no bank")
    _refuse_foreign(verb, fields)
    enrol = {name: fields[name] for name in command_models.ENROL_FIELDS if name in fields}
    if "condition" in enrol:
        enrol["condition"] = clean_text(enrol["condition"], 100)
    if "action" in enrol:
        enrol["action"] = EnrolAction(enrol["action"])
    return Command(
        machine=machine,
        verb=verb,
        reply_to=reply_to,
        level=AlarmLevel(fields["level"]) if "level" in fields else None,
        duration_s=fields.get("duration_s"),
        enrol=Enrol(**enrol) if verb is Verb.ENROL else None,
        bank=fields.get("bank"),
        by=_clean(fields.get("by")),
        reason=_clean(fields.get("reason")),
        id=fields.get("id"),
        sender=sender,
    )


def _refuse_foreign(verb: Verb, fields: Mapping[str, Any]) -> None:
    """Refuses fields of another verb, or of another action."""
    if verb is not Verb.ENROL:
        foreign = [name for name in command_models.ENROL_FIELDS if name in fields]
        what = str(verb)
    else:
        starts = fields.get("action", EnrolAction.START) == EnrolAction.START
        only_start = () if starts else command_models.START_FIELDS
        foreign = [name for name in ("level", *only_start) if name in fields]
        what = f"{verb} {'' if starts else fields['action']}".strip()
    if foreign:
        raise CommandRefused(f"{what} takes no {foreign[0]}")


def tokens(payload: bytes) -> tuple[str | None, str | None]:
    """Command and id of a payload that was refused, as far as they can be read, for the reply."""
    try:
        asked = _object(payload)
    except CommandRefused:
        return None, None
    found: list[str | None] = []
    for name in ("command", "id"):
        try:
            # Each by itself, with a command that is right where it is the id that is asked for.
            one = command_models.Command.model_validate({"command": "ack", name: asked[name]})
            found.append(str(getattr(one, name)))
        except (KeyError, ValidationError):
            found.append(None)
    return found[0], found[1]


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


def _reason(error: ValidationError) -> str:
    """The first thing that is wrong, in a sentence for the reply."""
    first = error.errors(include_url=False, include_context=False)[0]
    name = clean_text(".".join(str(part) for part in first["loc"]), 100)
    if first["type"] == "missing":
        return f"the field {name!r} is missing"
    if first["type"] == "extra_forbidden":
        return f"unknown field {name!r}; known: {', '.join(command_models.Command.model_fields)}"
    expected = first["msg"].replace("Input should be", "expected", 1)
    return f"{name}: {expected}; found {clean_text(str(first['input']), 100)!r}"


def _clean(text: str | None) -> str | None:
    return None if text is None else clean_text(text, 500)
