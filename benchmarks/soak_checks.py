"""What must hold of a soak, computed from what was recorded. Pure functions of the record; no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.soak_faults import Happened
from benchmarks.soak_scene import GUEST, Heard
from benchmarks.soak_watch import Record, Sample

DAY_S = 86_400.0
SLACK_S = 5.0
"""A hop, two seconds of patience, and the time between two looks that status answers."""
RETURN_S = 10.0
"""A device that is there again is heard within this time."""
MEMORY_MB_A_DAY = 1.0
Line = Mapping[str, Any]


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    held: bool
    figures: str


def events_arrived(log: Sequence[Line], heard: Sequence[Mapping[str, Any]], dropped: int) -> Check:
    """Every transition that the log names was heard; sequence numbers have no hole; ids are unique."""
    logged = [line["event_id"] for line in log if "event_id" in line and "->" in line["event"]]
    by_id = {event["event_id"]: event for event in heard}
    holes = {}
    for machine in {event["machine"] for event in by_id.values()}:
        numbers = sorted(event["seq"] for event in by_id.values() if event["machine"] == machine)
        if numbers != list(range(1, len(numbers) + 1)):
            holes[machine] = sorted(set(range(1, numbers[-1] + 1)) - set(numbers)) or "doubles"
    missing = sorted(set(logged) - set(by_id))
    held = (
        bool(logged) and not (holes or missing or dropped) and len(logged) == len(set(logged)) == len(by_id)
    )
    delayed = sum(event["delayed"] for event in by_id.values())
    said = f"{len(logged)} transitions logged, {len(by_id)} heard, {len(heard) - len(by_id)} more than once, "
    said += f"{delayed} delayed, {dropped} dropped"
    said += f"; holes {holes}" if holes else ""
    return Check("no event lost", held, said + (f"; missing {missing[:5]}" if missing else ""))


def faults_found(log: Sequence[Line], machines: Iterable[Heard], until_s: float) -> Check:
    """Every fault of a simulated machine became an active alarm or warning while it lasted."""
    found, missed = 0, []
    for machine in machines:
        at_s = [
            line["at_s"]
            for line in log
            if line.get("machine") == machine.name and "->" in line["event"] and line["level"] == "warning"
        ]
        for start_s, end_s, kind in machine.faults:
            if end_s > until_s:
                continue
            if any(start_s < s < end_s + 2 for s in at_s):
                found += 1
            else:
                missed.append(f"{machine.name} {kind} at {start_s:.0f} s")
    said = f"{found} of {found + len(missed)}" + (f"; not {', '.join(missed[:5])}" if missed else "")
    return Check("machine faults found", not missed and found > 0, said)


def time_accounted(record: Record, machines: Sequence[Heard], faults: Sequence[Happened]) -> Iterator[Check]:
    """Seconds are scored, lost, skipped or unheard; elapsed is real time; outages are what was injected."""
    known = {machine.name: machine for machine in machines}
    for name in [*known, GUEST.name]:
        stays = [list(stay) for stay in _stays(record, name)]
        if not stays:
            continue
        worst_s = max(_off_s(stay) for stay in stays)
        over_s = max(_more_than_elapsed_s(status) for stay in stays for _, status in stay)
        last = stays[-1][-1][1]
        unsaid_s = abs(_more_than_elapsed_s(last) + last["unheard_s"])
        said = ", ".join(
            f"{last[key]:.1f} {key[:-2]}"
            for key in ("elapsed_s", "scored_s", "lost_s", "skipped_s", "unheard_s")
        )
        said += f" s; clock off by {worst_s:.1f} s at most"
        # A loss is counted when sound is back, the time that passed with the first window afterwards.
        held = worst_s < SLACK_S and over_s < SLACK_S and unsaid_s < 0.1
        away_s = last["lost_s"] + last["unheard_s"]
        if name in known and known[name].microphone:
            least_s, most_s = _outages_s(name, faults)
            said += f"; away {away_s:.0f} s, injected {least_s:.0f} to {most_s:.0f} s"
            held = held and least_s <= away_s <= most_s
        elif name in known:
            held = held and away_s < SLACK_S
        yield Check(f"time accounted for, {name}", held, said)


def memory(samples: Sequence[Sample], warm_s: float, *, trend: bool) -> Check:
    """Heap and stacks do not grow: by their trend where there is time for one, by two means where not."""
    warm = [sample for sample in samples if sample.at_s >= warm_s]
    minutes = _minutes(warm)
    if not trend or len(minutes) < 15:
        values = [sample.anonymous_mb for sample in warm]
        quarter = max(1, len(values) // 4)
        grown_mb = float(np.median(values[-quarter:]) - np.median(values[:quarter]))
        return Check("memory flat", grown_mb < 15, f"{grown_mb:+.1f} MB after warm-up; too short for a trend")
    slope, error = slope_a_day(minutes)
    grown_mb = float(np.median(minutes[-5:]) - np.median(minutes[:5]))
    said = f"{slope:+.1f} +- {error:.1f} MB a day (95 %), {grown_mb:+.2f} MB in {len(minutes)} min; "
    said += (
        f"RSS {samples[0].rss_mb:.0f} MB at first, {warm[0].rss_mb:.0f} warm, {warm[-1].rss_mb:.0f} at last"
    )
    return Check("memory flat", slope - error < MEMORY_MB_A_DAY and grown_mb < 4, said)


def slope_a_day(minutes: Sequence[float]) -> tuple[float, float]:
    """Slope in MB a day of values a minute apart, and half of its 95 % interval; residuals may be AR(1)."""
    at = np.arange(len(minutes), dtype=float)
    line = np.polyfit(at, minutes, 1)
    residuals = np.asarray(minutes) - np.polyval(line, at)
    power = float(residuals @ residuals)
    memory = float(residuals[1:] @ residuals[:-1]) / power if power > 0 else 0.0
    memory = min(max(memory, 0.0), 0.95)
    error = np.sqrt(power / (len(minutes) - 2) / float(((at - at.mean()) ** 2).sum()))
    return float(line[0]) * 1440, float(1.96 * error * np.sqrt((1 + memory) / (1 - memory))) * 1440


def handles(record: Record, warm_s: float) -> Iterator[Check]:
    """File descriptors and threads at the end are those after warm-up, and never far above."""
    well = {at_s for at_s, status in record.statuses if _is_well(status)}
    warm = [sample for sample in record.samples if sample.at_s >= warm_s]
    for name in ("files", "threads"):
        values = [getattr(sample, name) for sample in warm if sample.at_s in well]
        third = max(1, len(values) // 3)
        first, last = np.median(values[:third]), np.median(values[-third:])
        most = max(getattr(sample, name) for sample in warm)
        said = f"{first:.0f} after warm-up, {last:.0f} at the end, {most} at most"
        yield Check(f"{name} constant", bool(abs(last - first) <= 2 and most <= first + 15), said)


def _is_well(status: Mapping[str, Any]) -> bool:
    running = all(machine["capture"] == "running" for machine in status["machines"])
    return bool(running and status["broker"]["connected"])


def log_bounded(log: Sequence[Line], faults: Sequence[Happened], machines: int, minutes: float) -> Check:
    """Each condition is said when it begins and when it ends, not again and again; no tracebacks."""
    told = [line for line in log if "->" not in line["event"]]
    counts = Counter((line["event"], line.get("machine", "")) for line in told)
    by_design = minutes + 2
    loud = {
        said: count
        for said, count in counts.items()
        if count > (by_design if said[0] == "summary" else len(faults) + 2)
    }
    rest = sum(count for (event, _), count in counts.items() if event != "summary")
    traced = [line["event"] for line in log if "exception" in line or line["level"] == "critical"]
    a_fault = rest / max(1, len(faults))
    said = f"{len(log)} lines, {rest} of them neither transition nor summary: {a_fault:.1f} a fault; "
    said += f"most often {counts.most_common(3)}"
    said += f"; tracebacks {traced[:3]}" if traced else ""
    return Check(
        "no log flood",
        not loud and not traced and a_fault < 2 * machines,
        said + (f"; {loud}" if loud else ""),
    )


def answers(record: Record, longest_silence_s: float) -> Check:
    """`status` always answered, it was alive all the time, and WATCHDOG=1 came in time."""
    dead = [at_s for at_s, status in record.statuses if not status["alive"]]
    said = f"status asked {len(record.statuses) + len(record.unanswered)} times, {len(record.unanswered)} "
    said += f"unanswered {record.unanswered[:2]}, {len(dead)} times not alive; "
    said += f"{longest_silence_s:.1f} s at most between two WATCHDOG=1"
    return Check("alive all the time", not (dead or record.unanswered) and longest_silence_s < 30, said)


def _stays(record: Record, name: str) -> Iterator[list[tuple[float, dict[str, Any]]]]:
    """What status said of a machine, for each time that it was there."""
    stay: list[tuple[float, dict[str, Any]]] = []
    for at_s, status in record.statuses:
        found = next((machine for machine in status["machines"] if machine["machine"] == name), None)
        if stay and (found is None or found["windows_scored"] < stay[-1][1]["windows_scored"]):
            yield stay
            stay = []
        if found is not None:
            stay.append((at_s, found))
    if stay:
        yield stay


def _off_s(stay: Sequence[tuple[float, Mapping[str, Any]]]) -> float:
    """How far elapsed_s and real time come apart at most."""
    apart = [float(status["elapsed_s"]) - at_s for at_s, status in stay]
    return max(apart) - min(apart)


def _more_than_elapsed_s(status: Mapping[str, Any]) -> float:
    scored_s, lost_s, skipped_s, elapsed_s = (
        float(status[key]) for key in ("scored_s", "lost_s", "skipped_s", "elapsed_s")
    )
    return scored_s + lost_s + skipped_s - elapsed_s


def _outages_s(name: str, faults: Iterable[Happened]) -> tuple[float, float]:
    """How long a microphone was away, at least and at most."""
    least_s, most_s = 0.0, 2 * SLACK_S
    for fault in faults:
        if fault.lane == "sound" and fault.kind.split()[0] in ("sound", name) and "faulty" not in fault.kind:
            lasted_s = fault.end_s - fault.start_s
            least_s += max(0.0, lasted_s - 3)
            most_s += lasted_s + RETURN_S + 2  # and the window that fills anew
    return least_s, most_s


def _minutes(samples: Sequence[Sample]) -> list[float]:
    """The least of each minute: what is held, without what comes and goes."""
    least: dict[int, float] = {}
    for sample in samples:
        minute = int((sample.at_s - samples[0].at_s) / 60)
        least[minute] = min(least.get(minute, np.inf), sample.anonymous_mb)
    return list(least.values())
