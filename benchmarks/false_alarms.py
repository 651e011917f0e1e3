"""What the alarm promises and what simulated machines then do: python -m benchmarks.false_alarms.

Every machine has scores of one kind of normal sound. It is enrolled for some minutes (in ten stretches, as
a bank leaves out blocks), then days of its scores go through the three ways to an alarm as the daemon runs
them. With --levels, the trip levels by themselves: what each promises, and how often scores are held over it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import Pool

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.calibration import Calibration, TripLevel
from echo_stream.alarm.condition import hops_in, rises
from echo_stream.config.schema import AlarmSettings, Machine
from echo_stream.core.text import MONTH_H
from echo_stream.core.types import AlarmPath
from echo_stream.pipeline.factory import build_ways

Float64 = NDArray[np.float64]
Rng = np.random.Generator
HOP_S, RATE_HZ = 1.0, 1000
ALARM = AlarmSettings()
"""As the daemon has it by default."""
DAY = 86_400
STRETCHES = 10


def smoothed(noise: Float64, memory: float) -> Float64:
    """AR(1) along the last axis, without its first 500 values (it has forgotten its start)."""
    from scipy.signal import lfilter  # noqa: PLC0415  slow to import

    return np.asarray(lfilter([1.0], [1.0, -memory], noise, axis=-1)[..., 500:])


def overlapped(noise: Float64) -> Float64:
    """What windows of twice the hop do to sound that is new at every sample."""
    return np.asarray(noise[..., 501:] + noise[..., 500:-1])


def _knocks(rng: Rng, shape: tuple[int, int]) -> Float64:
    knock = (rng.random(shape) < 1 / 300) * rng.exponential(10.0, shape)
    return overlapped(rng.standard_normal(shape) + knock)


KINDS: dict[str, Callable[[Rng, tuple[int, int]], Float64]] = {
    "normal, independent": lambda rng, shape: rng.standard_normal(shape)[..., 500:],
    "normal, overlapping": lambda rng, shape: overlapped(rng.standard_normal(shape)),
    "normal, AR 0.9": lambda rng, shape: smoothed(rng.standard_normal(shape), 0.9),
    "normal, AR 0.98": lambda rng, shape: smoothed(rng.standard_normal(shape), 0.98),
    "gamma, overlapping": lambda rng, shape: overlapped(rng.gamma(2.0, 1.0, shape)),
    "gamma, AR 0.8": lambda rng, shape: smoothed(rng.gamma(0.4, 1.0, shape), 0.8),
    "Student t4, overlapping": lambda rng, shape: overlapped(rng.standard_t(4, shape)),
    "Student t4, AR 0.8": lambda rng, shape: smoothed(rng.standard_t(4, shape), 0.8),
    "log-normal, AR 0.9": lambda rng, shape: np.exp(0.22 * smoothed(rng.standard_normal(shape), 0.9)),
    "knocks, overlapping": _knocks,
}


def scores(kind: str, rng: Rng, rows: int, windows: int) -> Float64:
    """(rows, windows) of normal scores, each row a contiguous run; median about 0, spread about 1."""
    raw = KINDS[kind](rng, (rows, windows + 501))[..., :windows]
    reference = KINDS[kind](np.random.default_rng(0), (1, 50_000))
    median = np.median(reference)
    return np.asarray((raw - median) / (1.4826 * np.median(np.abs(reference - median))))


@dataclass(frozen=True)
class Outcome:
    """One machine: what was promised and what happened."""

    trip: TripLevel
    observed_per_month: float

    @property
    def within(self) -> bool:
        """The observed rate is within the stated bound."""
        return self.observed_per_month <= self.trip.upper95_per_month


def simulate(
    kind: str,
    seed: int,
    minutes: float,
    asked_per_month: float,
    hours: float = 24,
    on_delay_s: float = ALARM.on_delay_s,
) -> Outcome:
    """Enrol one machine, then listen to it."""
    rng = np.random.default_rng(seed)
    enrolled = scores(kind, rng, STRETCHES, round(minutes * 60 / STRETCHES / HOP_S))
    trip = Calibration.fit(list(enrolled), HOP_S).trip_level(
        asked_per_month, on_delay_s=on_delay_s, off_delay_s=ALARM.off_delay_s, dead_band=ALARM.dead_band
    )
    listened = scores(kind, rng, 1, round(hours * 3600 / HOP_S))
    events = rises(
        listened,
        trip=trip.level,
        clear=trip.clear,
        on_hops=hops_in(on_delay_s, HOP_S),
        off_hops=hops_in(ALARM.off_delay_s, HOP_S),
    ).sum()
    return Outcome(trip, float(events) / hours * MONTH_H)


@dataclass(frozen=True)
class Lived:
    """One machine that was listened to: how often each way raised an alarm, while nothing was wrong."""

    first_hour: dict[AlarmPath, int]
    later: dict[AlarmPath, int]
    slow_width_min: int
    """Minutes that a value of the slow way has come to take."""


def live(kind: str, seed: int, minutes: float, hours: float, per_month: float = 1.0) -> Lived:
    """Enrol one machine, then listen to it by all three ways.

    Args:
        kind: Of `KINDS`.
        seed: Of the scores.
        minutes: Of enrolment.
        hours: Of listening.
        per_month: False alarms that the user accepts.
    """
    rng = np.random.default_rng(seed)
    stretches = min(STRETCHES, max(5, round(2 * minutes)))
    enrolled = scores(kind, rng, stretches, round(minutes * 60 / stretches / HOP_S))
    machine = Machine.model_validate(
        {
            "id": "m",
            "source": {"kind": "simulated"},
            "bank": "b",
            "alarm": {"false_alarms_per_month": per_month},
        }
    )
    ways = build_ways(machine, Calibration.fit(list(enrolled), HOP_S), RATE_HZ)
    hop, window = round(HOP_S * RATE_HZ), round(2 * HOP_S * RATE_HZ)
    first_hour = dict(ways.raised)
    for i, score in enumerate(_days(kind, rng, hours)):
        ways.step(score, i * hop, i * hop + window)
        if (i + 1) * HOP_S <= 3600:
            first_hour = dict(ways.raised)
    later = {path: ways.raised[path] - first_hour[path] for path in AlarmPath}
    return Lived(first_hour, later, ways.slow_way.width)


def _days(kind: str, rng: Rng, hours: float) -> Iterator[float]:
    """Scores of so many hours, day by day: a month of them need not be in memory."""
    left = round(hours * 3600 / HOP_S)
    while left > 0:
        yield from scores(kind, rng, 1, min(left, DAY))[0].tolist()
        left -= DAY


def _lives(args: argparse.Namespace) -> None:
    print(f"false alarms: strong + step + slow, of {args.machines} machines together")
    print(
        f"{'kind':24s} {'enrolled':>8s} {'first hour':>16s} {'later':>16s}  a machine and month of the later"
    )
    jobs = [
        (kind, minutes, seed) for minutes in args.minutes for kind in KINDS for seed in range(args.machines)
    ]
    with Pool(args.processes) as pool:
        found = pool.imap(_life, [(k, s, m, 24 * args.days, args.asked[0]) for k, m, s in jobs])
        for first in range(0, len(jobs), args.machines):
            kind, minutes, _ = jobs[first]
            lives = [next(found) for _ in range(args.machines)]
            counts = [
                [sum(getattr(each, part)[path] for each in lives) for path in AlarmPath]
                for part in ("first_hour", "later")
            ]
            rate = sum(counts[1]) / len(lives) / (24 * args.days - 1) * MONTH_H
            early, late = (" + ".join(map(str, count)) for count in counts)
            print(f"{kind:24s} {minutes:4g} min {early:>16s} {late:>16s}  {rate:5.1f}", flush=True)


def _life(arguments: tuple[str, int, float, float, float]) -> Lived:
    return live(*arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", type=int, default=30)
    parser.add_argument("--days", type=float, default=30, help="of listening, by all three ways")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--levels", action="store_true", help="the trip levels by themselves, for a day")
    parser.add_argument("--asked", type=float, nargs="+", default=[1.0, 100.0], help="a month")
    parser.add_argument("--minutes", type=float, nargs="+", default=[2.0, 10.0, 60.0, 600.0])
    parser.add_argument("--on-delay", type=float, default=ALARM.on_delay_s, help="seconds; a warning has 3")
    args = parser.parse_args()
    if args.levels:
        _levels(args)
    else:
        _lives(args)


def _levels(args: argparse.Namespace) -> None:
    print("rates a month; trip: 10 to 90 % of the machines; within: observed rate within the stated bound")
    print(f"{'kind':24s} {'asked':>6s} {'enrolled':>9s} {'trip':>17s} {'bound':>8s} {'observed':>9s}")
    for asked in args.asked:
        for minutes in args.minutes:
            for kind in KINDS:
                seen = [
                    simulate(kind, seed, minutes, asked, on_delay_s=args.on_delay)
                    for seed in range(args.machines)
                ]
                low, high = np.quantile([o.trip.level for o in seen], [0.1, 0.9])
                bound = np.median([o.trip.upper95_per_month for o in seen])
                observed = np.mean([o.observed_per_month for o in seen])
                more_h = np.median([o.trip.minutes_needed for o in seen]) / 60
                within = f"{sum(o.within for o in seen)} of {len(seen)} within, {more_h:.1f} h more needed"
                trips = f"{low:8.1f} {high:8.1f}"
                print(
                    f"{kind:24s} {asked:6g} {minutes:5g} min {trips} {bound:8.0f} {observed:9.1f}  {within}"
                )


if __name__ == "__main__":
    main()
