"""A month in the plant, accelerated: python -m benchmarks.month [--machines 8] [--days 30] [--per-month 1].

Simulated machines run by shift and day in two operating states and stand still at night and on Sundays. They
warm up, the weather moves their level by 3 dB, passing noises and knocks come by, once somebody moves the
microphone. Each breaks once: suddenly (for a day), creeping over ten days, or now and then (two minutes in
twenty, for three days). The first bank is fitted on the first ten minutes; on days 1 and 3, and on the day
after the microphone was moved, a user accepts what was heard until then as normal, states and levels.

Sound is made, encoded and scored once for each combination of state, level, microphone and severity, other
sound than what is learnt; a month of scores is put together from these and goes, window by window, through
the level alone (the strong level of the bank for the on-delay, as before there were three ways) and through
the product's alarms. Suppressed at rest, as the daemon does.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.calibration import Calibration
from echo_stream.alarm.condition import Condition
from echo_stream.capture.simulator import FAULT_KINDS, Fault, Scenario, SimulatedMachine
from echo_stream.config.schema import AlarmSettings, SimulatedSource
from echo_stream.config.schema import Machine as MachineSettings
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.types import OFF, AlarmLevel, AlarmState, Enrolled, Features, Float32, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.recorded import held_out_places
from echo_stream.pipeline.factory import REST_S, build_alarms

Float64 = NDArray[np.float64]
RATE_HZ, WINDOW_S, HOP_S = 8_000, 2.0, 2.0
DAY_S, HOUR_S, MINUTE_S = 86_400, 3600, 60
STRETCH, TO_LEARN, TO_HEAR = 8, 4, 5
"""Windows in a row, and how many such stretches of each combination are learnt and listened to."""
HEARD = STRETCH * TO_HEAR
GAINS_DB = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
SEVERITIES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
WARM_UP_S = 1200.0
ACCEPTED_DAYS = (1, 3)
FAULTS = ("sudden", "creeping", "intermittent")
LASTS_DAYS = {"sudden": 1, "creeping": 10, "intermittent": 3}
PASSING_A_DAY, KNOCKS_A_DAY = 20, 10
KNOCK = 40.0
"""What a knock on the sensor adds to the score of the window that holds it."""
ON_S, EVERY_S = 120.0, 1200.0
"""An intermittent fault: two minutes in twenty."""
GRACE_S = 1200.0
"""After the fault and after the bank was changed an alarm of then may still stand."""

Key = tuple[str, float, bool, float, bool]
"""State, level in dB, microphone moved, severity, with a passing noise."""


@dataclass
class Machine:
    """One simulated machine: its sound in every combination, encoded once."""

    seed: int
    kind: str
    """How its fault comes: one of FAULTS."""
    encoder: SpectralEncoder
    features: dict[Key, list[Features]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.fault_kind = FAULT_KINDS[self.seed % len(FAULT_KINDS)]
        day = int(rng.integers(6, 17))
        day += day % 7 == 6  # a working day
        self.begins_s = day * DAY_S + 9.3 * HOUR_S
        self.ends_s = self.begins_s + LASTS_DAYS[self.kind] * DAY_S
        moved_day = int(rng.integers(4, 6) if rng.random() < 0.5 else rng.integers(28, 29))
        self.moved_s = moved_day * DAY_S + 10.6 * HOUR_S
        self.accepted_s = sorted([*(day * DAY_S for day in ACCEPTED_DAYS), (moved_day + 1) * DAY_S])
        self.weather_phase = float(rng.uniform(0, 2 * np.pi))
        load = SimulatedMachine(self.seed, RATE_HZ)
        self._machines = {"load": load, "idle": SimulatedMachine(self.seed, RATE_HZ, shaft_hz=14.0)}
        self._sounds: dict[tuple[str, float], Float32] = {}
        samples = round(WINDOW_S * STRETCH) * RATE_HZ
        self._noise = rng.normal(0, 1, (TO_LEARN + TO_HEAR) * samples).astype(np.float32)
        self._starts = np.sort(rng.integers(900, 2 * DAY_S, TO_LEARN + TO_HEAR)) * RATE_HZ
        rumble = np.convolve(self._noise, np.ones(40, np.float32) / np.sqrt(40), "same")
        self._rumble: Float32 = rumble.astype(np.float32)

    def learnt(self, key: Key) -> list[Enrolled]:
        """Windows of one combination that a bank may learn; other levels lie beside it."""
        stretches = self._stretches(key)[1::2]
        offset_s = (GAINS_DB.index(key[1]) + len(GAINS_DB) * key[2]) * 1000.0
        return [
            Enrolled(features, f"{key[0]} {number}", offset_s + i * HOP_S, key[0])
            for number, stretch in enumerate(stretches)
            for i, features in enumerate(stretch)
        ]

    def heard(self, key: Key) -> list[Features]:
        """Windows of one combination that are listened to; no bank learns them."""
        return [features for stretch in self._stretches(key)[::2] for features in stretch]

    def first_minutes(self) -> list[Enrolled]:
        """Ten minutes under load: what the first bank is fitted on."""
        windows = _cut(Scenario(self._machines["load"]).render(0, 600 * RATE_HZ))
        return [
            Enrolled(features, "first", i * HOP_S, "load")
            for i, features in enumerate(self.encoder.encode(windows))
        ]

    def _stretches(self, key: Key) -> list[list[Features]]:
        if key not in self.features:
            self.features[key] = self.encoder.encode(self._windows(key))
        found = self.features[key]
        return [found[at : at + STRETCH] for at in range(0, len(found), STRETCH)]

    def _windows(self, key: Key) -> list[Window]:
        state, gain_db, moved, severity, noisy = key
        sound = self._sound(state, severity)
        if moved:  # duller and a little louder: part of each difference between neighbours is gone
            sound = 1.25 * sound
            sound[1:] -= 0.3 * (sound[1:] - sound[:-1])
        sound = sound * np.float32(10 ** (gain_db / 20))
        if noisy:
            sound = sound + np.float32(2 * float(np.std(sound))) * self._rumble
        return _cut(sound.astype(np.float32))

    def _sound(self, state: str, severity: float) -> Float32:
        """Before level and microphone; simulating it takes longest."""
        if state == OFF:
            return np.asarray(0.0005 * self._noise, np.float32)
        if (state, severity) not in self._sounds:
            faults = [Fault(self.fault_kind, 0.0, severity=severity)] if severity > 0 else []
            scenario = Scenario(self._machines[state], faults)
            samples = len(self._noise) // len(self._starts)
            parts = [scenario.render(start, samples) for start in self._starts.tolist()]
            self._sounds[state, severity] = np.concatenate(parts)
        return self._sounds[state, severity]

    def keys_until(self, until_s: float) -> set[Key]:
        """Combinations of normal sound that were heard until then."""
        return {
            (state, _nearest(gain_db, GAINS_DB), moved, 0.0, False)
            for state, gain_db, moved in map(self.condition, np.arange(0, until_s, 600.0).tolist())
        }

    def condition(self, at_s: float) -> tuple[str, float, bool]:
        """Operating state, level in dB and whether the microphone was moved."""
        day, second = divmod(at_s, DAY_S)
        hour = second / HOUR_S
        if at_s < 900:
            return "load", 0.0, False
        working = 6 <= hour < 22 and int(day) % 7 != 6
        state = OFF if not working else ("idle" if int(hour) % 4 == 3 else "load")
        warm_s = second - 6 * HOUR_S
        cold_db = -2.0 * max(0.0, 1 - warm_s / WARM_UP_S) if working and warm_s >= 0 else 0.0
        swing = np.sin(2 * np.pi * at_s / (5 * DAY_S) + self.weather_phase)
        weather_db = 3.0 * swing * min(1.0, at_s / DAY_S) if state != OFF else 0.0
        return state, float(np.clip(weather_db + cold_db, -3, 3)), at_s >= self.moved_s

    def severity(self, at_s: float) -> float:
        """0 to 1, at a time."""
        since_s = at_s - self.begins_s
        if not 0 <= since_s < self.ends_s - self.begins_s:
            return 0.0
        if self.kind == "creeping":
            return since_s / (self.ends_s - self.begins_s)
        return 1.0 if self.kind == "sudden" or since_s % EVERY_S < ON_S else 0.0


def _cut(sound: Float32) -> list[Window]:
    n = round(RATE_HZ * WINDOW_S)
    now = datetime.now(UTC)
    return [Window("m", sound[i : i + n], i, i + n, RATE_HZ, now) for i in range(0, len(sound) - n + 1, n)]


def _nearest(value: float, among: Sequence[float]) -> float:
    return min(among, key=lambda each: abs(each - value))


class Scores:
    """Scores of a machine's combinations against its banks; each is computed when it is first asked for."""

    def __init__(self, machine: Machine, banks: Sequence[NormalBank]) -> None:
        self._machine = machine
        self._scorers = [Scorer(bank) for bank in banks]
        self._known: dict[tuple[int, Key], tuple[list[float], list[str]]] = {}

    def of(self, bank: int, key: Key) -> tuple[list[float], list[str]]:
        """Scores of `HEARD` windows, and the operating state that each is nearest to."""
        if (bank, key) not in self._known:
            found = self._scorers[bank].score(self._machine.heard(key))
            self._known[bank, key] = [one.value for one in found], [one.condition for one in found]
        return self._known[bank, key]


def minutes_of(
    machine: Machine, scores: Scores, days: int
) -> Iterator[tuple[float, int, list[tuple[float, str]]]]:
    """Start, bank, and scores with the nearest state, minute by minute; the same at every call."""
    rng = np.random.default_rng(1000 + machine.seed)
    passing_until_s = -10.0
    each = round(MINUTE_S / HOP_S)
    for at_s in np.arange(0.0, days * DAY_S, MINUTE_S).tolist():
        state, gain_db, moved = machine.condition(at_s)
        gain_db += rng.normal(0, 0.3)
        severity = machine.severity(at_s) if state != OFF else 0.0
        bank = sum(at_s >= accepted_s for accepted_s in machine.accepted_s)
        if rng.random() < PASSING_A_DAY / 1440:
            passing_until_s = at_s + rng.uniform(3, 15)
        knock = int(rng.integers(each)) if rng.random() < KNOCKS_A_DAY / 1440 else -1
        pieces = (rng.integers(HEARD) + np.arange(each)) % HEARD
        mix = rng.uniform(-0.5, 0.5, (2, each))  # between two levels, or severities, some windows of each
        minute = []
        for i in range(each):
            level_db = 0.0 if state == OFF else _nearest(float(np.clip(gain_db + mix[0, i], -3, 3)), GAINS_DB)
            noisy = at_s + i * HOP_S < passing_until_s and state != OFF
            dithered = 0.0 if severity == 0 else max(0.02, min(1.0, severity + 0.1 * float(mix[1, i])))
            key = (state, 0.0 if noisy else level_db, moved, _nearest(dithered, SEVERITIES), noisy)
            values, nearest = scores.of(bank, key)
            minute.append((values[pieces[i]] + (KNOCK if i == knock else 0.0), nearest[pieces[i]]))
        yield at_s, bank, minute


def banks_of(machine: Machine) -> list[NormalBank]:
    """The first bank, and each that was accepted."""
    enrolled = machine.first_minutes()
    banks = [_fit(machine, enrolled)]
    known: set[Key] = set()
    for accepted_s in machine.accepted_s:
        for key in sorted(machine.keys_until(accepted_s) - known):
            enrolled += machine.learnt(key)
            known.add(key)
        banks.append(_fit(machine, enrolled))
    return banks


def _fit(machine: Machine, enrolled: Sequence[Enrolled]) -> NormalBank:
    """With the calibration that fit-normal gives: of the states in which there can be an alarm."""
    bank = NormalBank.fit(
        enrolled, encoder=machine.encoder.identity, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=HOP_S
    )
    places = held_out_places(enrolled, window_s=WINDOW_S, hop_s=HOP_S)
    runs = [
        run.round(4)
        for run, members in zip(bank.held_out, places, strict=True)
        if enrolled[members[0]].condition != OFF
    ]
    return replace(bank, calibration=BankCalibration(HOP_S, tuple(Calibration.fit(runs, HOP_S).runs)))


class Judge:
    """A way of raising alarms: gets every window, notes when one was raised."""

    def __init__(self, machine: Machine, settings: MachineSettings, *, level_only: bool) -> None:
        self._machine, self._settings, self._level_only = machine, settings, level_only
        self._rest = Condition(0.5, 0.25, on_delay=round(REST_S * RATE_HZ), off_delay=0)
        self._alarms: tuple[Alarm, ...] = ()
        self.raised: list[tuple[float, str, str]] = []
        """When in seconds, level, way."""

    def take_bank(self, bank: NormalBank, at: int) -> None:
        """From now on that one, as the daemon does it."""
        (warning, alarm), ways = build_alarms(self._settings, bank)
        if self._level_only:
            calibration = Calibration.of(bank.calibration)
            own = self._settings.alarm
            trip = calibration.trip(own.false_alarms_per_month, on_delay_s=own.on_delay_s, off_delay_s=6.0)
            alarm = Alarm.at_level(
                "m",
                AlarmLevel.ALARM,
                sample_rate_hz=RATE_HZ,
                trip=trip.level,
                clear=trip.clear,
                on_delay_s=own.on_delay_s,
                off_delay_s=own.off_delay_s,
            )
        del ways
        new = (alarm,) if self._level_only else (alarm, warning)
        for fresh, old in zip(new, self._alarms, strict=False):
            fresh.restore(old.snapshot(), at=at, same_bank=False)
        self._alarms = new

    def hear(self, value: float, nearest: str, start: int, end: int) -> None:
        """The next window."""
        self._rest.step(float(nearest == OFF), start, end)
        for alarm in self._alarms:
            events = (alarm.suppress if self._rest.active else alarm.unsuppress)(end, OFF)
            for event in (*events, *alarm.step(value, start, end, nearest)):
                if event.after is AlarmState.UNACK and event.active:
                    path = event.path.value if event.path else ""
                    self.raised.append((end / RATE_HZ, event.level.value, path))


def month(seed: int, kind: str, days: int, per_month: float) -> dict[str, Any]:
    """One machine's month, judged both ways."""
    began_s = monotonic()
    machine = Machine(seed, kind, SpectralEncoder(WINDOW_S))
    banks = banks_of(machine)
    scores = Scores(machine, banks)
    settings = MachineSettings(
        id="m",
        source=SimulatedSource(kind="simulated"),
        bank=Path("bank"),
        alarm=AlarmSettings(false_alarms_per_month=per_month, warnings_per_week=per_month),
    )
    judges = {name: Judge(machine, settings, level_only=name == "level") for name in ("level", "ways")}
    hop, at, bank = round(HOP_S * RATE_HZ), 0, -1
    for _, newest, minute in minutes_of(machine, scores, days):
        if newest != bank:
            bank = newest
            for judge in judges.values():
                judge.take_bank(banks[bank], at)
        for value, nearest in minute:
            for judge in judges.values():
                judge.hear(value, nearest, at, at + hop)
            at += hop
    found = {name: judged(machine, judge.raised, days) for name, judge in judges.items()}
    return {"seed": seed, "kind": kind, "fault": machine.fault_kind, "took_s": monotonic() - began_s, **found}


def judged(machine: Machine, raised: Sequence[tuple[float, str, str]], days: int) -> dict[str, Any]:
    """What was raised, sorted: false ones early and later, of the moved microphone, of the fault."""
    alarms = [(at_s, path) for at_s, level, path in raised if level == "alarm"]
    known_s = (machine.moved_s // DAY_S + 1) * DAY_S + GRACE_S

    def kind_of(at_s: float) -> str:
        if machine.begins_s <= at_s < machine.ends_s + GRACE_S:
            return "fault"
        if machine.moved_s <= at_s < known_s:
            return "microphone"
        return "first" if at_s < 3 * DAY_S else "later"

    of_fault = [(at_s, path) for at_s, path in alarms if machine.begins_s <= at_s < machine.ends_s]
    later_days = days - 3 - LASTS_DAYS[machine.kind] - 1
    return {
        **{
            name: Counter(kind_of(at_s) for at_s, _ in alarms)[name]
            for name in ("first", "later", "microphone")
        },
        "warnings": sum(
            kind_of(at_s) in ("first", "later") for at_s, level, _ in raised if level == "warning"
        ),
        "later_days": later_days,
        "false": [(round(at_s), path) for at_s, path in alarms if kind_of(at_s) in ("first", "later")],
        "found_s": of_fault[0][0] - machine.begins_s if of_fault else None,
        "path": of_fault[0][1] if of_fault else None,
    }


def summary(found: Sequence[dict[str, Any]], name: str, days: int) -> str:
    """One line of the table for people."""
    mine = [each[name] for each in found]
    later = sum(each["later"] for each in mine) / sum(each["later_days"] for each in mine) * 30
    warnings = sum(each["warnings"] for each in mine) / len(mine) / days * 30
    worst_first = max(each["first"] for each in mine)
    said = []
    for kind in FAULTS:
        ours = [each[name] for each in found if each["kind"] == kind]
        times = sorted(each["found_s"] for each in ours if each["found_s"] is not None)
        said.append(
            f"{kind} {len(times)} of {len(ours)}" + (f" ({', '.join(map(_time, times))})" if times else "")
        )
    first = sum(each["first"] for each in mine) / len(mine)
    return (
        f"{name}: false alarms a machine: {first:.2f} in the first three days (at most {worst_first}), then "
        f"{later:.2f} a month; warnings {warnings:.1f} a month; found: {'; '.join(said)}"
    )


def _time(seconds: float) -> str:
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / DAY_S:.1f} d"


def main() -> None:
    """Prints one JSON line a machine and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, default=8)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--per-month", type=float, default=1.0, help="the user's one knob")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    with ProcessPoolExecutor(asked.workers) as pool:
        jobs = [
            pool.submit(month, seed, FAULTS[seed % len(FAULTS)], asked.days, asked.per_month)
            for seed in range(1, asked.machines + 1)
        ]
        found = []
        for job in jobs:
            found.append(job.result())
            print(json.dumps(found[-1]), flush=True)
            for name in ("level", "ways"):
                print(summary(found, name, asked.days), flush=True)


if __name__ == "__main__":
    main()
