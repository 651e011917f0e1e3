"""An hour of trouble: python -m benchmarks.soak --minutes 60 --seed 1. Needs root for the full disk.

The real daemon listens to simulated machines, and to PortAudio microphones on null sinks where PulseAudio is
installed, while faults of every kind come by a schedule that the seed decides. Beside it runs a subscriber.
Afterwards soak_checks.py says whether anything was lost, grew or got loud; exit code 1 where something was.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks import soak_checks as checks
from benchmarks.soak_faults import Happened, Lanes, machine_faults
from benchmarks.soak_scene import PASSWORD, Heard, Scene, scene
from benchmarks.soak_watch import Listener, Notifications, Record
from tests.support import daemon as daemons
from tests.support.daemon import daemon, wait_for

SHORT_S = 300.0  # below it the schedule is a dense one, and all machines sound alike
ENROLLED_S, SHORTLY_ENROLLED_S = 180, 90
QUIET_S = 20.0  # without faults at the end: everything arrives
STOP_S = 5.0


@dataclass
class Outcome:
    """What came of a soak."""

    minutes: float
    seed: int
    checks: list[checks.Check]
    faults: list[Happened]
    without: list[str]
    """What could not be tried here, and why."""
    figures: dict[str, Any]

    @property
    def held(self) -> bool:
        """Every check held."""
        return all(check.held for check in self.checks)

    def report(self) -> str:
        """The outcome for people."""
        count = Counter(f"{fault.lane}: {fault.kind}" for fault in self.faults)
        lines = [f"soak of {self.minutes:.1f} minutes, seed {self.seed}, {len(self.faults)} faults injected"]
        lines += [f"  {number:3} x {kind}" for kind, number in sorted(count.items())]
        lines += [f"  NOT TRIED: {what}" for what in self.without]
        lines += [f"  {name}: {value}" for name, value in self.figures.items()]
        lines += [
            f"{'ok  ' if check.held else 'FAIL'} {check.name}: {check.figures}" for check in self.checks
        ]
        return "\n".join(lines)


def machines_of(seed: int, seconds: float) -> list[Heard]:
    """Three simulated machines with faults, two microphones."""
    rng = random.Random(f"{seed} machines")
    sounds = [(1, 16_000), (2, 16_000), (3, 8_000), (11, 48_000), (12, 16_000)]
    if seconds < SHORT_S:
        sounds = [(5, 8_000)] * len(sounds)
    simulated = [
        Heard(f"sim{n}", *sound, faults=machine_faults(rng, 12, seconds - QUIET_S))
        for n, sound in enumerate(sounds[:3], 1)
    ]
    return [*simulated, *(Heard(f"mic{n}", *sound, True) for n, sound in enumerate(sounds[3:], 1))]


def soak(folder: Path, *, minutes: float, seed: int) -> Outcome:
    """Runs it in an empty folder with a short path (of Unix sockets), and checks what was seen."""
    seconds = minutes * 60
    enrolled_s = ENROLLED_S if seconds >= SHORT_S else SHORTLY_ENROLLED_S
    with scene(folder, machines_of(seed, seconds), enrolled_s) as set_up:
        listener, notifications = Listener(set_up.broker), Notifications(folder / "notify")
        with daemon(folder, **set_up.environment, **notifications.environment) as process:
            wait_for(lambda: notifications.ready_s, 60, f"READY=1; {_tail(folder)}")
            lanes = Lanes(set_up, lambda: process.send_signal(signal.SIGHUP), seed)
            record = Record(time.monotonic(), folder / "samples.csv")
            watched = psutil.Process(process.pid)
            lanes.start(10.0, seconds - QUIET_S)
            try:
                _look_until(record.began_s + seconds, record, watched, set_up)
            finally:
                lanes.stop()
            _settle(record, watched, set_up)
            arguments = " ".join(watched.cmdline())
            code, stopped_s = _stop(process.send_signal, process.wait)
            time.sleep(2)
        listener.close()
        text = (folder / "log").read_text()
        log = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        warm_s = record.began_s + (min(900.0, seconds / 4) if seconds >= SHORT_S else seconds / 3)
        dropped = record.statuses[-1][1]["outbox"]["dropped"]
        machines = set_up.machines
        done = [
            checks.events_arrived(log, listener.events, dropped),
            checks.faults_found(log, machines, seconds - QUIET_S),
            *checks.time_accounted(record, machines, lanes.happened),
            checks.memory(record.samples, warm_s, trend=seconds >= SHORT_S),
            *checks.handles(record, warm_s),
            checks.log_bounded(log, lanes.happened, len(machines), minutes),
            checks.answers(record, notifications.longest_silence_s),
            _no_secret(text, record, listener, arguments),
            _clean_stop(code, stopped_s, listener.node),
            _foreign_lines(text, log, lanes.happened),
            _all_injected(lanes.happened),
        ]
        figures = _figures(record, listener, set_up)
        return Outcome(minutes, seed, done, lanes.happened, set_up.without, figures)


def _look_until(end_s: float, record: Record, watched: psutil.Process, set_up: Scene) -> None:
    every_s = 2.0 if end_s - record.began_s < SHORT_S else 5.0
    while time.monotonic() < end_s:
        if not watched.is_running() or watched.status() == psutil.STATUS_ZOMBIE:
            raise SystemExit(f"the daemon ended: {_tail(set_up.folder)}")
        record.look(watched, set_up.state / "status.sock")
        time.sleep(every_s)


def _settle(record: Record, watched: psutil.Process, set_up: Scene) -> None:
    """Until nothing waits any more; an outbox that does not empty is found as lost events."""
    end_s = time.monotonic() + 60
    while time.monotonic() < end_s:
        time.sleep(2)
        record.look(watched, set_up.state / "status.sock")
        if record.statuses[-1][1]["outbox"]["depth"] == 0:
            return


def _stop(send: Any, wait: Any) -> tuple[int | None, float]:
    began_s = time.monotonic()
    send(signal.SIGTERM)
    try:
        return wait(timeout=30), time.monotonic() - began_s
    except Exception:  # noqa: BLE001 - it hangs: the check says so
        return None, time.monotonic() - began_s


def _clean_stop(code: int | None, stopped_s: float, node: list[str]) -> checks.Check:
    held = code == 0 and stopped_s < STOP_S and node[-1:] == ["offline"]
    return checks.Check(
        "clean stop", held, f"exit code {code} after {stopped_s:.1f} s, last said {node[-1:]}"
    )


def _no_secret(log: str, record: Record, listener: Listener, arguments: str) -> checks.Check:
    places = {"log": log, "status": json.dumps(record.statuses), "arguments": arguments}
    found = [place for place, text in places.items() if PASSWORD in text]
    found += ["messages"] if listener.secrets else []
    return checks.Check("no secret told", not found, f"the broker's password is in {found or 'none of them'}")


def _foreign_lines(text: str, log: list[Any], faults: list[Happened]) -> checks.Check:
    """PortAudio says itself, past the log, what fails in it; at most a few lines for each fault of sound."""
    other = [line for line in text.splitlines() if not line.startswith("{")]
    held = len(other) <= 8 * sum(fault.lane == "sound" for fault in faults)
    return checks.Check(
        "lines past the log bounded", held, f"{len(log)} log lines, {len(other)} others {other[:1]}"
    )


def _all_injected(faults: list[Happened]) -> checks.Check:
    failed = [f"{fault.kind}: {fault.error}" for fault in faults if fault.error]
    return checks.Check(
        "the soak itself", bool(faults) and not failed, "; ".join(failed) or "all faults came"
    )


def _figures(record: Record, listener: Listener, set_up: Scene) -> dict[str, Any]:
    first, last = record.samples[0], record.samples[-1]
    factors = {m["machine"]: m["real_time_factor"] for m in record.statuses[-1][1]["machines"]}
    return {
        "machines": ", ".join(f"{m.name} at {m.rate} Hz" for m in set_up.machines),
        "messages": listener.counts,
        "real-time factors": factors,
        "CPU": f"{(last.cpu_s - first.cpu_s) / (last.at_s - first.at_s):.1%} of one core",
        "coverage": {m["machine"]: m["coverage"] for m in record.statuses[-1][1]["machines"]},
    }


def _tail(folder: Path) -> str:
    return (folder / "log").read_text()[-2000:]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the outcome there")
    parser.add_argument("--keep", action="store_true", help="keep the folder: the daemon's log, samples.csv")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # takes down what it set up
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    daemons.FITTED = folder / "fits"
    try:
        outcome = soak(folder, minutes=given.minutes, seed=given.seed)
    finally:
        if given.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(outcome.report())
    if given.json:
        given.json.write_text(json.dumps({**asdict(outcome), "held": outcome.held}, indent=1))
    sys.exit(0 if outcome.held else 1)


if __name__ == "__main__":
    main()
