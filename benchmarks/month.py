"""A month in the plant, accelerated: python -m benchmarks.month [--seeds 1 2] [--days 30] [--per-month 1].

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

A month of scores, put together as month_machines.py says, goes, window by window, through the product's
alarms: with each machine alone, and with the others of the PC as its reference (`reference: auto`; only while
a noise passes). Suppressed at rest, as the daemon does.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import structlog

from benchmarks.month_machines import (
    DAY_S,
    FAULTS,
    HOP,
    HOP_S,
    HOUR_S,
    LASTS_DAYS,
    MACHINES,
    MINUTE_S,
    NOISES,
    NOW,
    RATE_HZ,
    TO_LEARN,
    Hall,
    Heard,
    Key,
    Learnt,
    Machine,
    machine_of,
    minutes_of,
    noise_db,
)
from echo_stream.alarm.alarm import Alarm
from echo_stream.alarm.condition import Condition
from echo_stream.config.schema import AlarmSettings
from echo_stream.config.schema import Machine as MachineSettings
from echo_stream.config.sources import SimulatedSource
from echo_stream.core.types import OFF, AlarmState, Score, Window
from echo_stream.detect.rises import more_db
from echo_stream.detect.steady import SteadyWatch
from echo_stream.pipeline.elsewhere import AUTO, ELSEWHERE
from echo_stream.pipeline.factory import REST_S, build_alarms, build_surroundings

TOLD = 2
"""Stretches that the command of a new steady state learns."""
ANSWER_S = 1800.0
"""From such an event until somebody runs its command."""
KNOCK = 40.0
"""What a knock on the sensor adds to the score of the window that holds it."""
GRACE_S = 1200.0
"""After the fault and after the bank was changed an alarm of then may still stand."""
VARIANTS = ("alone", "reference")
NO_SOUND = np.empty(0, np.float32)


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
    machine = machine_of(seed)
    others = [machine_of(other) for other in range(1, MACHINES + 1) if other != seed]
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
    seeds = range(1, MACHINES + 1)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds, help="of the machines that are judged")
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--per-month", type=float, default=1.0, help="the user's one knob")
    parser.add_argument("--longest-s", type=float, default=15.0, help="of a passing noise")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    hall = Hall(asked.days, asked.longest_s)
    with ProcessPoolExecutor(asked.workers) as pool:
        jobs = [pool.submit(month, seed, hall, asked.per_month) for seed in asked.seeds]
        found = []
        for job in jobs:
            found.append(job.result())
            print(json.dumps(found[-1]), flush=True)
            for name in VARIANTS:
                print(summary(found, name, asked.days), flush=True)


if __name__ == "__main__":
    main()
