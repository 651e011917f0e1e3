"""A bank's sensitivity is how much louder each third of an octave must become until an alarm follows.

fit-normal measures it on the enrolment, the bank keeps it, report and `bank show` say it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from echo_stream.core.errors import FIT_AGAIN, BankError
from echo_stream.core.types import AlarmPath

BLIND_DB = 12.0
"""A bank that announces nothing under this is said to be blind."""

Gains = Mapping[AlarmPath, float | None]
"""By way to an alarm: the smallest rise in dB that it, or a faster way, announces; None: none that was
tried."""


@dataclass(frozen=True, slots=True)
class SmallestFault:
    """What raises an alarm in one third of an octave."""

    low_hz: float
    high_hz: float
    steady_db: Gains
    """Everything in the band becomes louder."""
    impacts_db: Gains
    """Blows of 10 ms, ten a second; the level within the blow is meant."""


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """What a bank announces, as far as its enrolment shows."""

    faults: tuple[SmallestFault, ...]
    """One a third of an octave, upwards; every third of them where the encoder is slow."""
    after_s: Mapping[AlarmPath, float]
    """How long each way takes for the smallest rise that it announces; one that announces none is missing."""
    windows: int
    """Held-out windows that each was tried on."""

    @property
    def paths(self) -> list[AlarmPath]:
        """Ways that announce anything, the fastest first."""
        return [path for path in AlarmPath if path in self.after_s]

    def first(self, gains: Gains) -> tuple[float, AlarmPath] | None:
        """The smallest rise that is announced, and by which way; of equal ones the fastest."""
        found = [(gain, path) for path in AlarmPath if (gain := gains.get(path)) is not None]
        return min(found, key=lambda each: each[0]) if found else None

    @property
    def smallest_db(self) -> float | None:
        """The smallest rise that is announced anywhere, by any way; None: none that was tried."""
        firsts = [self.first(gains) for fault in self.faults for gains in (fault.steady_db, fault.impacts_db)]
        return min((first[0] for first in firsts if first), default=None)

    @property
    def blind(self) -> bool:
        """Nothing under `BLIND_DB` is announced."""
        smallest_db = self.smallest_db
        return smallest_db is None or smallest_db >= BLIND_DB

    def middle_db(self, path: AlarmPath, *, impacts: bool) -> float | None:
        """The rise from which on half of all thirds are announced by a way; None: fewer than half are."""
        each = [fault.impacts_db if impacts else fault.steady_db for fault in self.faults]
        reached = sorted(gain for gains in each if (gain := gains.get(path)) is not None)
        half = (len(self.faults) + 1) // 2
        return reached[half - 1] if 0 < half <= len(reached) else None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, for a bank's metadata and for programs."""
        return {
            "windows": self.windows,
            "after_s": {path.value: round(seconds, 1) for path, seconds in self.after_s.items()},
            "thirds": [
                {
                    "low_hz": round(fault.low_hz, 2),
                    "high_hz": round(fault.high_hz, 2),
                    "steady_db": _plain(fault.steady_db),
                    "impacts_db": _plain(fault.impacts_db),
                }
                for fault in self.faults
            ],
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> Self:
        """Read what `to_json` wrote.

        Raises:
            BankError: It is damaged.
        """
        try:
            faults = tuple(
                SmallestFault(
                    _number(each["low_hz"]),
                    _number(each["high_hz"]),
                    _gains(each["steady_db"]),
                    _gains(each["impacts_db"]),
                )
                for each in saved["thirds"]
            )
            after_s = {AlarmPath(path): _number(seconds) for path, seconds in saved["after_s"].items()}
            return cls(faults, after_s, int(saved["windows"]))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise BankError(f"the bank's smallest faults are damaged: {error!r}", FIT_AGAIN) from error


def middle_hz(fault: SmallestFault) -> float:
    """The geometric middle of its band."""
    return math.sqrt(fault.low_hz * fault.high_hz)


def _plain(gains: Gains) -> dict[str, float | None]:
    return {path.value: gain for path, gain in gains.items()}


_PATHS = {path.value: path for path in AlarmPath}
"""A bank has a thousand of them, and to ask the enumeration for each takes ten times as long."""


def _gains(saved: Mapping[str, Any]) -> dict[AlarmPath, float | None]:
    return {_PATHS[path]: None if gain is None else _number(gain) for path, gain in saved.items()}


def _number(value: Any) -> float:
    number = float(value)
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{value!r} is no finite number of 0 or more")
    return number
