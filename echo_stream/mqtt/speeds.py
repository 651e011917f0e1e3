"""Speeds are what other programs publish of how fast a machine's shaft turns: the newest value, and its age.

The publisher's thread receives; any thread asks. A value that is too old, or whose age nobody knows, is none:
lines named by a wrong speed would send a mechanic to the wrong part.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from paho.mqtt.client import MQTTMessage

from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.text import clean_text, duration_text

_MOST_BYTES: Final = 4096
_MOST_RPM: Final = 1e6
_RETAINED: Final = "it is retained, nobody knows how old it is"

log = get_logger()


@dataclass(frozen=True, slots=True)
class SpeedTopic:
    """Where the speed of a machine is published."""

    topic: str
    key: str | None = None
    """Of a JSON object, levels parted by dots; None: the payload is the number."""
    max_age_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Speed:
    """What is known of a machine's speed at a moment."""

    topic: str
    rpm: float | None
    """The newest value, whatever its age; None: none came."""
    age_s: float | None
    usable: bool
    """It is young enough, and the shaft turns."""
    bad: int
    """Messages that could not be read, since the start."""
    text: str
    """The same for people."""

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


class _Newest:
    """What came for one machine; written by the publisher's thread alone."""

    def __init__(self, machine: str, given: SpeedTopic) -> None:
        self.machine = machine
        self.given = given
        self.value: tuple[float, float] | None = None
        """Turns in a minute, and the monotonic time at which they came."""
        self.bad = 0
        self.trouble = ""
        """Why the newest message was not taken; empty where it was."""
        self.is_said = False
        """The log says that messages cannot be read."""

    def speed(self) -> Speed:
        given, value, now_s = self.given, self.value, time.monotonic()
        rpm, age_s = (None, None) if value is None else (value[0], round(now_s - value[1], 1))
        usable = False
        if rpm is None or age_s is None:
            said = f"not known: no value came on {given.topic}"
        elif age_s > given.max_age_s:
            said = (
                f"not known: the newest value of {given.topic} is {duration_text(age_s)} old, "
                f"max_age_s is {given.max_age_s:g}"
            )
        else:
            usable = rpm > 0
            said = f"{rpm:.5g} rpm, {duration_text(age_s)} old" if usable else "the shaft stands still"
        text = (
            said if usable or not self.trouble else f"{said}; the last message was left out: {self.trouble}"
        )
        return Speed(given.topic, rpm, age_s, usable, self.bad, text)


class Speeds:
    """The newest speed of each machine that has a topic for it."""

    def __init__(self, topics: Mapping[str, SpeedTopic]) -> None:
        self._of: dict[str, _Newest] = {}
        self._by_topic: dict[str, list[_Newest]] = {}
        self._may_log = LogLimit("speeds that cannot be read").admits
        self.set(topics)

    def set(self, topics: Mapping[str, SpeedTopic]) -> None:
        """Other topics by machine id from now on; what came on those that stay is kept."""
        before = self._of
        same = {machine: each for machine, each in before.items() if topics.get(machine) == each.given}
        self._of = {
            machine: same.get(machine) or _Newest(machine, given) for machine, given in topics.items()
        }
        by_topic: dict[str, list[_Newest]] = {}
        for newest in self._of.values():
            by_topic.setdefault(newest.given.topic, []).append(newest)
        self._by_topic = by_topic

    @property
    def topics(self) -> list[str]:
        """What to subscribe to."""
        return list(self._by_topic)

    def of(self, machine: str) -> Speed | None:
        """What is known now of a machine's speed; None where it has no topic for it."""
        newest = self._of.get(machine)
        return None if newest is None else newest.speed()

    def receive(self, message: MQTTMessage) -> None:
        """A message on one of the topics; what is on another one was asked for before a reload."""
        for newest in self._by_topic.get(message.topic, ()):
            if message.retain:
                newest.trouble = _RETAINED
            else:
                self._take(newest, bytes(message.payload))

    def _take(self, newest: _Newest, payload: bytes) -> None:
        where = {"machine": newest.machine, "topic": newest.given.topic}
        try:
            newest.value = read_rpm(payload, newest.given.key), time.monotonic()
        except ValueError as error:
            newest.bad += 1
            newest.trouble = str(error)
            if not newest.is_said and self._may_log():
                newest.is_said = True
                log.warning("a speed cannot be read and is not used", **where, reason=newest.trouble)
            return
        newest.trouble = ""
        if newest.is_said:
            newest.is_said = False
            log.info("speeds are read again", **where, bad=newest.bad)


def read_rpm(payload: bytes, key: str | None) -> float:
    """Turns in a minute from a message; a negative speed is that of the other direction.

    Args:
        payload: a number as text, or a JSON object that holds one (as text, too).
        key: where in the object, levels parted by dots; None: the payload is the number.

    Raises:
        ValueError: it cannot be read; in words.
    """
    if len(payload) > _MOST_BYTES:
        raise ValueError(f"it has {len(payload)} bytes, at most {_MOST_BYTES} are read")
    text = payload.decode("utf-8", "replace")
    found: Any = text
    if key is not None:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError(f"expected JSON with the key {key}, found {clean_text(text, 60)!r}") from None
        for level in key.split("."):
            if not isinstance(found, dict) or level not in found:
                raise ValueError(f"it has no key {key}: {clean_text(text, 60)!r}")
            found = found[level]
    try:
        rpm = math.nan if isinstance(found, bool) else abs(float(found))
    except (TypeError, ValueError, OverflowError):
        rpm = math.nan
    if not rpm <= _MOST_RPM:  # NaN too
        hint = "; of JSON, name the key: rpm.key" if key is None and text.lstrip().startswith("{") else ""
        raise ValueError(
            f"expected a number of at most {_MOST_RPM:,.0f}, found {clean_text(str(found), 60)!r}{hint}"
        )
    return rpm
