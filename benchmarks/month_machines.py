"""The machines of a month in the plant: their hall, their sound in every combination, and what is learnt.

Sound is made, encoded and scored once for each combination of state, level, microphone, severity and noise,
other sound than what is learnt; a month of scores is put together from these.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.calibration import Calibration
from echo_stream.capture.simulator import FAULT_KINDS, Fault, Scenario, SimulatedMachine
from echo_stream.core.calibration import BankCalibration
from echo_stream.core.sequences import SPREAD_OF_DEVIATION
from echo_stream.core.types import OFF, Enrolled, Features, Float32, Score, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.rises import DEVIATIONS, LEAST_DB, Rise, band_levels_db
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.recorded import held_out_places

Float64 = NDArray[np.float64]
RATE_HZ, WINDOW_S, HOP_S = 8_000, 2.0, 2.0
HOP = round(HOP_S * RATE_HZ)
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
PASSING_A_DAY, KNOCKS_A_DAY, SHORTEST_S = 20, 10, 3.0
MACHINES, APART_M, BESIDE_M, REVERBERANT_M = 8, 5.0, 3.0, 5.0
"""In a row; the way along it; from where on reverberation is louder than what comes directly."""
PASSING_DB = 6.0
"""Level of a noise over the machine that it passes."""
NOISES_DB = (0.0, 2.0, 4.0, 6.0)
NOISES = ("rumble", "hiss")
ON_S, EVERY_S = 120.0, 1200.0
"""An intermittent fault: two minutes in twenty."""


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
    return nearest_of(PASSING_DB + 10 * float(np.log10(here / nearest)), NOISES_DB)


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
            Key(state, nearest_of(gain_db, GAINS_DB), moved)
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


NOW = datetime(2026, 1, 1, tzinfo=UTC)
Learnt = tuple[tuple[Key, int], ...]
"""Combinations with how many stretches of each, sorted."""


def _cut(sound: Float32) -> list[Window]:
    n = round(RATE_HZ * WINDOW_S)
    return [Window("m", sound[i : i + n], i, i + n, RATE_HZ, NOW) for i in range(0, len(sound) - n + 1, n)]


def nearest_of(value: float, among: Sequence[float]) -> float:
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
            key = Key(state, 0.0, moved, nearest_of(dithered, SEVERITIES))
            passing = hall.at(at_s + i * HOP_S) if state != OFF else None
            if passing is not None:
                key = key._replace(noise=passing[1], noise_db=noise_db(machine.seed, passing[0]))
            elif state != OFF:
                key = key._replace(gain_db=nearest_of(min(3.0, max(-3.0, gain_db + mix[0][i])), GAINS_DB))
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


@lru_cache(maxsize=MACHINES)
def machine_of(seed: int) -> Machine:
    """Shared by those whose neighbour it is: making its sound takes long."""
    return Machine(seed, FAULTS[seed % len(FAULTS)], SpectralEncoder(WINDOW_S))
