"""The status of a machine says in one word how it is, and how urgent that is. Pure.

One table, so that the wall, its order and its colours never disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class LevelFacts:
    """Where a level stands."""

    state: str
    active: bool
    since: str | None


WORDS: Final = {
    "alarm": "ALARM",
    "not-heard": "not heard",
    "no-bank": "not learnt yet",
    "sensor-fault": "sensor fault",
    "alarm-over": "alarm ended, not acknowledged",
    "warning": "warning",
    "acknowledged": "alarm, acknowledged",
    "warning-over": "warning ended, not acknowledged",
    "warning-acknowledged": "warning, acknowledged",
    "shelved": "shelved",
    "out-of-service": "out of service",
    "off": "machine off",
    "normal": "normal",
}
"""By status, the most urgent first."""
URGENCY: Final = {status: n for n, status in enumerate(WORDS)}

_OF_ALARM: Final = {
    "UNACK": "alarm",
    "LATCHED_UNACK": "alarm",
    "ACKED": "acknowledged",
    "LATCHED_ACKED": "acknowledged",
    "RTN_UNACK": "alarm-over",
}
_OF_WARNING: Final = {
    "UNACK": "warning",
    "LATCHED_UNACK": "warning",
    "ACKED": "warning-acknowledged",
    "LATCHED_ACKED": "warning-acknowledged",
    "RTN_UNACK": "warning-over",
}
_ASIDE: Final = {"SHELVED": "shelved", "OUT_OF_SERVICE": "out-of-service"}


def status_of(
    alarm: LevelFacts, warning: LevelFacts, *, listening: bool, sensor_fault: str | None, at_rest: bool
) -> tuple[str, str | None]:
    """The status that matters most, and since when it is so (None: unknown).

    An alarm that somebody set aside says so, even while nothing is heard: else nobody sees why it is silent.
    """
    found: list[tuple[str, str | None]] = []
    for level, words in ((alarm, _OF_ALARM), (warning, _OF_WARNING)):
        if level.state in words:
            found.append((words[level.state], level.since))
    if not listening:
        found.append(("not-heard", None))
    if sensor_fault is not None:
        found.append(("sensor-fault", alarm.since if alarm.state == "SUPPRESSED" else None))
    if alarm.state in _ASIDE:
        aside = _ASIDE[alarm.state], alarm.since
        # Nobody is called for a machine that was set aside, but for what was not set aside of it.
        found = [aside, *(each for each in found if each[0].startswith("warning"))]
    if found:
        return min(found, key=lambda each: URGENCY[each[0]])
    if at_rest:
        return "off", alarm.since if alarm.state == "SUPPRESSED" else None
    return "normal", max(filter(None, (alarm.since, warning.since)), default=None)
