"""A month in the plant, accelerated: python -m benchmarks.month [--machines 8] [--days 30] [--per-month 1].

Eight simulated machines stand in one hall, on one PC. They run by shift and day in two operating states and
stand still at night and on Sundays. They warm up, the weather moves their level by 3 dB, somebody knocks on
them, once somebody moves the microphone. Each breaks once: suddenly (for a day), creeping over ten days, or
now and then (two minutes in twenty, for three days).

Twenty times a day a noise of 3 to 15 s passes along the hall: twice as loud as the machine at the one that it
passes, 6 dB weaker at the furthest one (distance and reverberation), so all of them hear it. What a machine's
own sound is like at its neighbours is left out.

A user does what the product asks for: the first bank is fitted on ten minutes; on days 1 and 3, and on the
day after the microphone was moved, what was heard until then is accepted as normal; a new steady state that
is no fault is learnt half an hour after it was announced, from half a minute, as the event's command does.

Sound is made, encoded and scored once for each combination of state, level, microphone, severity and noise,
other sound than what is learnt; a month of scores is put together from these and goes, window by window,
through the product's alarms: with each machine alone, and with the others of the PC as its reference
(`reference: auto`; only while a noise passes). Suppressed at rest, as the daemon does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import numpy as np
import structlog
from numpy.typing import NDArray

from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.calibration import Calibration
from echo_stream.alarm.condition import Condition
from echo_stream.capture.simulator import FAULT_KINDS, Fault, Scenario, SimulatedMachine
from echo_stream.config.schema import AlarmSettings, SimulatedSource
from echo_stream.config.schema import Machine as MachineSettings
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.spread import SPREAD_OF_DEVIATION
from echo_stream.core.types import OFF, AlarmState, Enrolled, Features, Float32, Score, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.rises import DEVIATIONS, LEAST_DB, Rise, band_levels_db, more_db
from echo_stream.detect.scorer import Scorer
from echo_stream.detect.steady import SteadyWatch
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.recorded import held_out_places
from echo_stream.pipeline.elsewhere import AUTO, ELSEWHERE
from echo_stream.pipeline.factory import REST_S, build_alarms, build_surroundings

Float64 = NDArray[np.float64]
RATE_HZ, WINDOW_S, HOP_S = 8_000, 2.0, 2.0
HOP = round(HOP_S * RATE_HZ)
DAY_S, HOUR_S, MINUTE_S = 86_400, 3600, 60
STRETCH, TO_LEARN, TO_HEAR = 8, 4, 5
"""Windows in a row, and how many such stretches of each combination are learnt and listened to."""
TOLD = 2
"""Stretches that the command of a new steady state learns."""
ANSWER_S = 1800.0
"""From such an event until somebody runs its command."""
HEARD = STRETCH * TO_HEAR
GAINS_DB = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
SEVERITIES = (0.0, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
WARM_UP_S = 1200.0
ACCEPTED_DAYS = (1, 3)
FAULTS = ("sudden", "creeping", "intermittent")
LASTS_DAYS = {"sudden": 1, "creeping": 10, "intermittent": 3}
PASSING_A_DAY, KNOCKS_A_DAY, SHORTEST_S = 20, 10, 3.0
MACHINES, APART_M, BESIDE_M, REVERBERANT_M = 8, 5.0, 3.0, 5.0
"""In a row; the way along it; from where on reverberation is louder than what comes directly."""
PASSING_DB = 6.0
"""Level of a noise over the machine that it passes."""
NOISES_DB = (0.0, 2.0, 4.0, 6.0)
NOISES = ("rumble", "hiss")
KNOCK = 40.0
"""What a knock on the sensor adds to the score of the window that holds it."""
ON_S, EVERY_S = 120.0, 1200.0
"""An intermittent fault: two minutes in twenty."""
GRACE_S = 1200.0
"""After the fault and after the bank was changed an alarm of then may still stand."""
VARIANTS = ("alone", "reference")


class Key(NamedTuple):
    """One combination."""

    state: str
    gain_db: float = 0.0
    moved: bool = False
    """The microphone."""
    severity: float = 0.0
    noise: str = ""
    noise_db: float = 0.0
    """Over the machine."""


@dataclass(frozen=True)
class Hall:
    """What passes along the machines; the same for all of them."""

    days: int
    longest_s: float = 15.0

    @cached_property
    def passing(self) -> Sequence[tuple[float, float, float, str]]:
        """Begin and end in seconds, place along the row in metres, noise; in order of time."""
        rng = np.random.default_rng(7)
        begins_s = np.sort(rng.uniform(0, self.days * DAY_S, rng.poisson(self.days * PASSING_A_DAY)))
        return [
            (
                begin_s,
                begin_s + rng.uniform(SHORTEST_S, self.longest_s),
                rng.uniform(0, APART_M * (MACHINES - 1)),
                str(rng.choice(NOISES)),
            )
            for begin_s in begins_s.tolist()
        ]

    def at(self, at_s: float) -> tuple[float, str] | None:
        """Place and noise of what passes in the middle of a window that begins then."""
        middle_s = at_s + WINDOW_S / 2
        before = int(np.searchsorted(self._begins_s, middle_s, side="right"))
        for begin_s, end_s, along_m, noise in self.passing[max(0, before - 3) : before]:
            if begin_s <= middle_s < end_s:
                return along_m, noise
        return None

    @cached_property
    def _begins_s(self) -> Float64:
        return np.array([each[0] for each in self.passing])


def noise_db(seed: int, along_m: float) -> float:
    """Level of a noise over a machine's own, one of NOISES_DB: of machines in a row, the first at 0 m."""
    away_m = np.hypot(BESIDE_M, along_m - APART_M * ((seed - 1) % MACHINES))
    nearest, here = (1 / m**2 + 1 / REVERBERANT_M**2 for m in (BESIDE_M, away_m))
    return _nearest(PASSING_DB + 10 * float(np.log10(here / nearest)), NOISES_DB)


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
        self._at_learnt: dict[Learnt, tuple[NormalBank, Scorer]] = {}
        self._scored: dict[tuple[Learnt, Key], list[Score]] = {}
        self._risen: dict[Key, list[Rise]] = {}
        self._noise = rng.normal(0, 1, (TO_LEARN + TO_HEAR) * samples).astype(np.float32)
        self._starts = np.sort(rng.integers(900, 2 * DAY_S, TO_LEARN + TO_HEAR)) * RATE_HZ
        rumble = np.convolve(self._noise, np.ones(40, np.float32) / np.sqrt(40), "same")
        self._rumble: Float32 = rumble.astype(np.float32)

    def learnt(self, key: Key, stretches: int) -> list[Enrolled]:
        """Windows of one combination that a bank may learn; other levels lie beside it."""
        offset_s = (GAINS_DB.index(key.gain_db) + len(GAINS_DB) * key.moved) * 1000.0
        return [
            Enrolled(features, f"{key.state} {number}", offset_s + i * HOP_S, key.state)
            for number, stretch in enumerate(self._stretches(key)[1::2][:stretches])
            for i, features in enumerate(stretch)
        ]

    def heard(self, key: Key) -> list[Features]:
        """Windows of one combination that are listened to; no bank learns them."""
        return [features for stretch in self._stretches(key)[::2] for features in stretch]

    def bank(self, learnt: Learnt) -> NormalBank:
        """Fitted on the first minutes and on what was learnt since."""
        return self._fitted(learnt)[0]

    def scores(self, learnt: Learnt, key: Key) -> list[Score]:
        """Of `HEARD` windows; computed when first asked for."""
        if (learnt, key) not in self._scored:
            found = self._fitted(learnt)[1].score(self.heard(key))
            plain = [replace(each, bands=(), nearest=()) for each in found]
            self._scored[learnt, key] = plain
        return self._scored[learnt, key]

    def _fitted(self, learnt: Learnt) -> tuple[NormalBank, Scorer]:
        if learnt not in self._at_learnt:
            enrolled = list(self._first_minutes)
            for key, stretches in learnt:
                enrolled += self.learnt(key, stretches)
            bank = _fit(self, enrolled)
            self._at_learnt[learnt] = bank, Scorer(bank)
        return self._at_learnt[learnt]

    def forget(self) -> None:
        """Free the memory of what only its own month needs."""
        self.features.clear()
        self._at_learnt.clear()
        self._scored.clear()

    def rises(self, key: Key) -> list[Rise]:
        """Of `HEARD` windows with a noise, over the same without it; computed when first asked for."""
        if key not in self._risen:
            self._risen[key] = self._rises(key)
        return self._risen[key]

    def _rises(self, key: Key) -> list[Rise]:
        quiet, now = (
            np.array([band_levels_db(window.samples, RATE_HZ) for window in self._heard_sound(each)])
            for each in (key._replace(noise="", noise_db=0.0), key)
        )
        middle = np.median(quiet, axis=0)
        certain = DEVIATIONS * SPREAD_OF_DEVIATION * np.median(np.abs(quiet - middle), axis=0)
        return [Rise(NOW, levels - middle, np.maximum(LEAST_DB, certain)) for levels in now]

    def _heard_sound(self, key: Key) -> list[Window]:
        windows = self._windows(key)
        cut = [windows[at : at + STRETCH] for at in range(0, len(windows), STRETCH)]
        return [window for stretch in cut[::2] for window in stretch]

    @cached_property
    def _first_minutes(self) -> list[Enrolled]:
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
        sound = self._sound(key.state, key.severity)
        if key.moved:  # duller and a little louder: part of each difference between neighbours is gone
            sound = 1.25 * sound
            sound[1:] -= 0.3 * (sound[1:] - sound[:-1])
        sound = sound * np.float32(10 ** (key.gain_db / 20))
        if key.noise:
            noise = self._rumble if key.noise == "rumble" else self._noise
            gain = 10 ** (key.noise_db / 20) * np.std(sound) / np.std(noise)
            sound = sound + np.float32(gain) * noise
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
            Key(state, _nearest(gain_db, GAINS_DB), moved)
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


Learnt = tuple[tuple[Key, int], ...]
"""Combinations with how many stretches of each, sorted."""
NOW, NO_SOUND = datetime(2026, 1, 1, tzinfo=UTC), np.empty(0, np.float32)


def _cut(sound: Float32) -> list[Window]:
    n = round(RATE_HZ * WINDOW_S)
    return [Window("m", sound[i : i + n], i, i + n, RATE_HZ, NOW) for i in range(0, len(sound) - n + 1, n)]


def _nearest(value: float, among: Sequence[float]) -> float:
    return min(among, key=lambda each: abs(each - value))


Heard = tuple[Key, int, bool]
"""A window: its combination, which of those that are listened to, and whether a knock is in it."""


def minutes_of(machine: Machine, hall: Hall) -> Iterator[tuple[float, list[Heard]]]:
    """Start and windows, minute by minute; the same at every call."""
    rng = np.random.default_rng(1000 + machine.seed)
    each = round(MINUTE_S / HOP_S)
    for at_s in np.arange(0.0, hall.days * DAY_S, MINUTE_S).tolist():
        state, gain_db, moved = machine.condition(at_s)
        gain_db += rng.normal(0, 0.3)
        severity = machine.severity(at_s) if state != OFF else 0.0
        knock = int(rng.integers(each)) if rng.random() < KNOCKS_A_DAY / 1440 else -1
        pieces = ((rng.integers(HEARD) + np.arange(each)) % HEARD).tolist()
        mix = rng.uniform(-0.5, 0.5, (2, each)).tolist()  # between two levels, or severities, some of each
        minute = []
        for i, piece in enumerate(pieces):
            dithered = 0.0 if severity == 0 else max(0.02, min(1.0, severity + 0.1 * mix[1][i]))
            key = Key(state, 0.0, moved, _nearest(dithered, SEVERITIES))
            passing = hall.at(at_s + i * HOP_S) if state != OFF else None
            if passing is not None:
                key = key._replace(noise=passing[1], noise_db=noise_db(machine.seed, passing[0]))
            elif state != OFF:
                key = key._replace(gain_db=_nearest(min(3.0, max(-3.0, gain_db + mix[0][i])), GAINS_DB))
            minute.append((key, piece, i == knock))
        yield at_s, minute


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
    """A machine as the product watches it: gets every window, notes what was raised."""

    def __init__(
        self, machine: Machine, hall: Hall, settings: MachineSettings, neighbours: Sequence[Machine]
    ) -> None:
        self._machine, self._hall, self._settings = machine, hall, settings
        self._neighbours = neighbours if settings.reference else ()
        self._rest = Condition(0.5, 0.25, on_delay=round(REST_S * RATE_HZ), off_delay=0)
        self._surroundings = build_surroundings(settings, HOP_S)
        self._steady = SteadyWatch(HOP_S)
        self._alarms: tuple[Alarm, Alarm] | None = None
        self._learnt: dict[Key, int] = {}
        self._bank: Learnt = ()
        self._scores: dict[Key, list[Score]] = {}
        """Of the bank in use."""
        self._to_learn: list[tuple[float, Key]] = []
        """What somebody is going to learn, and when in seconds."""
        self._accepted = 0
        self.raised: list[tuple[float, str, str, Key]] = []
        """When in seconds, level, way, and what was heard."""

    def hear(self, at_s: float, minute: Sequence[Heard]) -> None:
        """The next minute."""
        at = round(at_s * RATE_HZ)
        self._learn(at_s, at)
        for i, (key, piece, knock) in enumerate(minute):
            if key not in self._scores:
                self._scores[key] = self._machine.scores(self._bank, key)
            score = self._scores[key][piece]
            if knock:
                score = replace(score, value=score.value + KNOCK)
            self._step(score, key, piece, at + i * HOP)

    def _learn(self, at_s: float, at: int) -> None:
        """What a user does now."""
        machine, before = self._machine, dict(self._learnt)
        for key in [key for when_s, key in self._to_learn if at_s >= when_s]:
            self._learnt.setdefault(key, TOLD)
        self._to_learn = [each for each in self._to_learn if at_s < each[0]]
        while self._accepted < len(machine.accepted_s) and at_s >= machine.accepted_s[self._accepted]:
            self._learnt |= dict.fromkeys(machine.keys_until(machine.accepted_s[self._accepted]), TO_LEARN)
            self._accepted += 1
        if self._alarms is None or before != self._learnt:  # as the daemon takes another bank
            self._bank, self._scores = tuple(sorted(self._learnt.items())), {}
            (warning, alarm), _ = build_alarms(self._settings, machine.bank(self._bank))
            for fresh, old in zip((warning, alarm), self._alarms or (), strict=False):
                fresh.restore(old.snapshot(), at=at, same_bank=False)
            self._alarms = warning, alarm

    def _step(self, score: Score, key: Key, piece: int, start: int) -> None:
        assert self._alarms is not None
        warning, alarm = self._alarms
        end = start + HOP
        self._rest.step(float(score.condition == OFF), start, end)
        elsewhere = bool(self._neighbours) and self._comes_from_elsewhere(score, key, piece, start)
        for each in (alarm, warning):
            held = each is warning and self._surroundings.holds_warning and not each.active
            events = []
            for reason, holds in ((OFF, self._rest.active), (ELSEWHERE, held)):
                if holds != (reason in each.suppressed_by):
                    events += (each.suppress if holds else each.unsuppress)(end, reason)
            events += each.step(score.value, start, end, score.condition, counts=not elsewhere)
            for event in events:
                if event.after is AlarmState.UNACK and event.active:
                    path = event.path.value if event.path else ""
                    self.raised.append((end / RATE_HZ, event.level.value, path, key))
        if self._steady.step(score, changed=alarm.active and not alarm.suppressed_by) and not key.severity:
            plain = Key(key.state, key.gain_db, key.moved)
            self._to_learn.append((end / RATE_HZ + ANSWER_S, plain))

    def _comes_from_elsewhere(self, score: Score, key: Key, piece: int, start: int) -> bool:
        assert self._alarms is not None
        warning, louder = self._alarms[0], ("", 0.0)
        if key.noise and score.value > warning.clear:
            along_m, _ = self._hall.at(start / RATE_HZ) or (0.0, "")
            here = self._machine.rises(key._replace(gain_db=0.0, severity=0.0))[piece]
            found = []
            for each in self._neighbours:
                moved, level_db = start >= each.moved_s * RATE_HZ, noise_db(each.seed, along_m)
                there = each.rises(Key(key.state, moved=moved, noise=key.noise, noise_db=level_db))[piece]
                found.append((more_db(here, there), str(each.seed)))
            more, name = max(found)
            louder = (name, more) if more > 0 else louder
        window = Window("m", NO_SOUND, start, start + HOP, RATE_HZ, NOW)
        return self._surroundings.step(window, score, louder, trip=warning.trip, clear=warning.clear)


def month(seed: int, hall: Hall, per_month: float) -> dict[str, Any]:
    """One machine's month."""
    began_s = monotonic()
    machine = _machine(seed)
    others = [_machine(other) for other in range(1, MACHINES + 1) if other != seed]
    judges = {}
    for name in VARIANTS:
        settings = MachineSettings(
            id="m",
            source=SimulatedSource(kind="simulated"),
            bank=Path("bank"),
            alarm=AlarmSettings(false_alarms_per_month=per_month, warnings_per_week=per_month),
            reference=AUTO if name == "reference" else None,
        )
        judges[name] = Judge(machine, hall, settings, others)
    for at_s, minute in minutes_of(machine, hall):
        for judge in judges.values():
            judge.hear(at_s, minute)
    found = {name: judged(machine, judge.raised, hall.days) for name, judge in judges.items()}
    machine.forget()
    took_s = monotonic() - began_s
    return {"seed": seed, "kind": machine.kind, "fault": machine.fault_kind, "took_s": took_s, **found}


@lru_cache(maxsize=MACHINES)
def _machine(seed: int) -> Machine:
    """Shared by those whose neighbour it is: making its sound takes long."""
    return Machine(seed, FAULTS[seed % len(FAULTS)], SpectralEncoder(WINDOW_S))


def judged(machine: Machine, raised: Sequence[tuple[float, str, str, Key]], days: int) -> dict[str, Any]:
    """What was raised, sorted: false ones early and later, of the moved microphone, of the fault."""
    known_s = (machine.moved_s // DAY_S + 1) * DAY_S + GRACE_S

    def kind_of(at_s: float) -> str:
        if machine.begins_s <= at_s < machine.ends_s + GRACE_S:
            return "fault"
        if machine.moved_s <= at_s < known_s:
            return "microphone"
        return "first" if at_s < 3 * DAY_S else "later"

    alarms = [(kind_of(at_s), at_s, path, key) for at_s, level, path, key in raised if level == "alarm"]
    warned = Counter(kind_of(at_s) for at_s, level, *_ in raised if level == "warning")
    of_fault = [(at_s, path) for _, at_s, path, key in alarms if key.severity and not key.noise]
    false = [
        (kind, round(at_s), path, key.noise or key.state)
        for kind, at_s, path, key in alarms
        if kind in ("first", "later")
    ]
    return {
        **{name: Counter(kind for kind, *_ in alarms)[name] for name in ("first", "later", "microphone")},
        "of_noise": Counter(kind for kind, _, _, what in false if what in NOISES),
        "warnings": warned["first"] + warned["later"],
        "later_days": days - 3 - LASTS_DAYS[machine.kind] - 1,
        "false": false[:30],
        "found_s": of_fault[0][0] - machine.begins_s if of_fault else None,
        "path": of_fault[0][1] if of_fault else None,
    }


def summary(found: Sequence[Mapping[str, Any]], name: str, days: int) -> str:
    """One line of the table for people."""
    mine = [each[name] for each in found]
    later = 30 / sum(each["later_days"] for each in mine)
    of_noise = {kind: sum(each["of_noise"].get(kind, 0) for each in mine) for kind in ("first", "later")}
    warnings = sum(each["warnings"] for each in mine) / len(mine) / days * 30
    said = []
    for kind in FAULTS:
        ours = [each[name] for each in found if each["kind"] == kind]
        times = sorted(each["found_s"] for each in ours if each["found_s"] is not None)
        said.append(
            f"{kind} {len(times)} of {len(ours)}" + (f" ({', '.join(map(_time, times))})" if times else "")
        )
    first = sum(each["first"] for each in mine)
    return (
        f"{name}: false alarms a machine: {first / len(mine):.2f} in the first three days "
        f"({of_noise['first'] / len(mine):.2f} while a noise passed), then "
        f"{sum(each['later'] for each in mine) * later:.2f} a month ({of_noise['later'] * later:.2f} while a "
        f"noise passed); warnings {warnings:.1f} a month; found: {'; '.join(said)}"
    )


def _time(seconds: float) -> str:
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * HOUR_S else f"{seconds / DAY_S:.1f} d"


def main() -> None:
    """Prints one JSON line a machine and a summary."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, default=MACHINES, help="that are judged; all can be heard")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--per-month", type=float, default=1.0, help="the user's one knob")
    parser.add_argument("--longest-s", type=float, default=15.0, help="of a passing noise")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    hall = Hall(asked.days, asked.longest_s)
    with ProcessPoolExecutor(asked.workers) as pool:
        jobs = [pool.submit(month, seed, hall, asked.per_month) for seed in range(1, asked.machines + 1)]
        found = []
        for job in jobs:
            found.append(job.result())
            print(json.dumps(found[-1]), flush=True)
            for name in VARIANTS:
                print(summary(found, name, asked.days), flush=True)


if __name__ == "__main__":
    main()
