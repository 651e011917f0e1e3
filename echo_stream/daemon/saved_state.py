"""Saved state carries a machine's alarms over a restart; each value is validated before it is used.

A flipped bit on the disk damages one value. Its part alone is discarded, with a warning that names it, and
the rest is kept: damage of the warning is no reason to forget the alarm. Pipeline thread, or before it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.log import get_logger
from echo_stream.core.text import utc_text
from echo_stream.core.types import AlarmLevel, AlarmState
from echo_stream.mqtt.payloads import LevelState
from echo_stream.pipeline.station import Station

Levels = dict[AlarmLevel, LevelState]

_CLOCK_SET = datetime(2020, 1, 1, tzinfo=UTC)
"""A wall clock that says less was not set yet: many small PCs begin at 1970."""
_ULID = re.compile("[0-9A-Z]{26}")
_DAMAGE = (EchoStreamError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

log = get_logger()


def save_state(station: Station, levels: Levels, at: datetime) -> dict[str, Any]:
    """What `restore_state` needs, as JSON.

    Args:
        station: the machine's.
        levels: where its alarms stand, as they were announced.
        at: wall time.
    """
    return {
        "at": utc_text(at),
        "boot": _boot_id(),
        "boot_s": round(_boot_s(), 3),
        "alarms": {alarm.level.value: alarm.snapshot() for alarm in station.alarms},
        "levels": {level.value: _to_json(state) for level, state in levels.items()},
        "sensor": station.sensor.snapshot(),
        "bank": station.bank.sha256,
    }


def restore_state(station: Station, saved: Mapping[str, Any] | None) -> Levels:
    """Restores a station's alarms, and returns where they stand as they were announced.

    Each part that is damaged is discarded with a warning: that alarm is NORMAL, that sensor is well.
    """
    levels = {alarm.level: LevelState() for alarm in station.alarms}
    if saved is None:
        return levels

    def part(name: str, restore: Callable[[], None]) -> bool:
        try:
            restore()
            return True
        except _DAMAGE as error:
            log.warning(
                "a part of the saved alarm state is damaged and was discarded",
                machine=station.reader.machine,
                part=name,
                reason=str(error) or repr(error),
            )
            return False

    away_s = 0.0

    def restore_clock() -> None:
        nonlocal away_s
        away_s = seconds_away(saved, datetime.now(UTC))

    part("at", restore_clock)
    same_bank = saved.get("bank") == station.bank.sha256
    for alarm in station.alarms:
        name = alarm.level.value

        def restore_level(level: AlarmLevel = alarm.level, name: str = name) -> None:
            levels[level] = _from_json(saved["levels"][name])

        def restore_alarm(alarm: Any = alarm, name: str = name) -> None:
            damage = alarm.restore(saved["alarms"][name], away_s=away_s, same_bank=same_bank)
            if damage:
                log.warning(
                    "the saved past of a machine is damaged and was discarded",
                    machine=station.reader.machine,
                    part=f"alarms.{name}.condition",
                    reason=damage,
                )

        sound = [part(f"alarms.{name}", restore_alarm), part(f"levels.{name}", restore_level)]
        if not all(sound):  # what is published must be what the alarm does
            levels[alarm.level] = LevelState(alarm.state, alarm.active)
    part("sensor", lambda: station.sensor.restore(saved["sensor"]))
    station.drifting = station.ways.creeping is not None
    return levels


def seconds_away(saved: Mapping[str, Any], now: datetime) -> float:
    """Seconds from a saved state until now, at least 0.

    Within one boot the computer's monotonic clock says it, whatever happened to the wall clock. After another
    boot only the wall clock is left: where it was not set when the state was saved, or went back since,
    nothing is known, and 0 is the answer: a shelving then lasts longer rather than being forgotten.

    Raises:
        ValueError: the time is damaged.
    """
    boot_s = saved.get("boot_s")
    if saved.get("boot") == _boot_id() and isinstance(boot_s, int | float) and 0 <= boot_s <= _boot_s():
        return _boot_s() - boot_s
    at = _time(saved["at"])
    if at is None or at < _CLOCK_SET or now < at:
        return 0.0
    return (now - at).total_seconds()


@cache
def _boot_id() -> str:
    """Another one after each boot of the computer; empty where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _boot_s() -> float:
    """Seconds since the boot, also those asleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _to_json(state: LevelState) -> dict[str, Any]:
    return {
        "state": state.state.value,
        "active": state.active,
        "since": state.since and utc_text(state.since),
        "onset": state.onset and utc_text(state.onset),
        "event_id": state.event_id,
    }


def _from_json(saved: Mapping[str, Any]) -> LevelState:
    active, event_id = saved["active"], saved["event_id"]
    if not isinstance(active, bool):
        raise ValueError(f"active is {active!r}, expected true or false")  # noqa: TRY004 - damage, not a bug
    if event_id is not None and not (isinstance(event_id, str) and _ULID.fullmatch(event_id)):
        raise ValueError(f"event_id is {str(event_id)[:40]!r}, expected 26 letters and digits")
    since, onset = _time(saved["since"]), _time(saved["onset"])
    return LevelState(AlarmState(saved["state"]), active, since, onset, event_id)


def _time(saved: object) -> datetime | None:
    if saved is None:
        return None
    if not isinstance(saved, str):
        raise ValueError(f"time is {saved!r}, expected text")  # noqa: TRY004 - damage, not a bug
    found = datetime.fromisoformat(saved)
    if found.tzinfo is None:
        raise ValueError(f"time {saved} has no zone")
    return found.astimezone(UTC)
