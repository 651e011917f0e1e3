"""ECHO behind its gate beside ECHO for every window: alarms lost, delay, work saved.

    python -m benchmarks.gated [DIR] [--only 'gearbox a1'] [--streams 3] [--simulated 2] [--weights FILE]

The streams of benchmarks.built_streams (DIR holds the recordings), and simulated machines with one fault each
(bearing, rattle, imbalance), 16 kHz. Each is enrolled and replayed twice through the product's own fit and
corridor. Without --weights the net is of the size tiny and random. Of normal sound, the share of windows that
ECHO encoded says how much work is saved.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import structlog

from benchmarks.built_streams import SETTLE_S, Built, built
from benchmarks.plant import write_weights
from benchmarks.replay import Replayed, Rig, join, recordings_folder
from echo_stream.capture.simulator import Simulated
from echo_stream.core.types import AlarmLevel

RATE_HZ = 16_000
ENROLLED_S, NORMAL_S, FAULT_S, AFTER_S = 300.0, 240.0, 60.0, 120.0
KINDS = ("bearing", "rattle", "imbalance")


@dataclass
class Sum:
    """Of several streams."""

    faults: int = 0
    heard: int = 0
    """By ECHO without a gate, as an alarm."""
    lost: int = 0
    gained: int = 0
    delays_s: list[float] = field(default_factory=list)
    """By how much later, of faults that both heard."""
    false: int = 0
    false_gated: int = 0
    normal: int = 0
    encoded: int = 0

    def add(self, faults: Sequence[tuple[float, float]], whole: Replayed, gated: Replayed) -> None:
        """One stream."""
        for begin_s, end_s in faults:
            a, b = (_first(each, begin_s, end_s) for each in (whole, gated))
            self.faults += 1
            self.heard += a is not None
            self.lost += a is not None and b is None
            self.gained += a is None and b is not None
            if a is not None and b is not None:
                self.delays_s.append(b - a)
        self.false += _false(whole, faults)
        self.false_gated += _false(gated, faults)
        held = np.diff(gated.scores) == 0  # two windows never score the same by themselves
        ends_s = gated.ends_s[1:]
        quiet = np.ones(len(ends_s), bool)
        for begin_s, end_s in faults:
            quiet &= (ends_s < begin_s) | (ends_s > end_s + SETTLE_S)
        self.normal += int(quiet.sum())
        self.encoded += int((quiet & ~held).sum())

    def text(self) -> str:
        """In a line."""
        late = ""
        if self.delays_s:
            late = f"later by {np.median(self.delays_s):.1f} s, {max(self.delays_s):.1f} at most; "
        less = self.normal / max(1, self.encoded)
        return (
            f"{self.faults} faults, ECHO heard {self.heard}; "
            f"with the gate {self.lost} lost, {self.gained} more; {late}"
            f"false {self.false} and {self.false_gated}; "
            f"{self.encoded} of {self.normal} normal windows encoded: {less:.1f} times less"
        )


def _first(replayed: Replayed, begin_s: float, end_s: float) -> float | None:
    return min((at for at, _ in replayed.announced if begin_s < at <= end_s + SETTLE_S), default=None)


def _false(replayed: Replayed, faults: Sequence[tuple[float, float]]) -> int:
    return sum(not any(a < at <= b + SETTLE_S for a, b in faults) for at, _ in replayed.announced)


def simulated(machines: int) -> Iterator[Built]:
    """Simulated machines, each with one fault of each kind."""
    for seed in range(1, machines + 1):
        for kind in KINDS:
            enrolled = _sound(seed, ENROLLED_S, start_s=0.0)
            fault_from, fault_to = NORMAL_S, NORMAL_S + FAULT_S
            begin = 3600.0
            faults = [(begin + fault_from, begin + fault_to, kind)]
            whole = _sound(seed, NORMAL_S + FAULT_S + AFTER_S, start_s=begin, faults=faults)
            at = [0, round(fault_from * RATE_HZ), round(fault_to * RATE_HZ), len(whole)]
            pieces = [whole[a:b] for a, b in pairwise(at)]
            parts = [(n == 1, [piece]) for n, piece in enumerate(pieces)]
            yield Built(f"simulated, {kind}", f"simulated{seed}", RATE_HZ, [enrolled], parts)


def _sound(seed: int, seconds: float, *, start_s: float, faults: Any = ()) -> Any:
    source = Simulated(seed, RATE_HZ, faults, pace="fast", duration_s=seconds, start_s=start_s)
    blocks = []
    while (block := source.read()) is not None:
        blocks.append(block.samples[:, 0])
    return np.concatenate(blocks)


def compare(streams: Sequence[Built], work: Path, encoder: dict[str, Any]) -> Sum:
    """Both ways for each stream."""
    found = Sum()
    rigs: dict[str, tuple[Rig, Rig]] = {}
    for number, each in enumerate(streams):
        sound, faults = each.sound()
        path = work / f"stream{number}.wav"
        soundfile.write(path, sound, each.rate_hz, subtype="FLOAT")
        if each.enrolment not in rigs:
            learnt = work / f"{each.enrolment}.wav"
            soundfile.write(learnt, join(each.enrolled, each.rate_hz), each.rate_hz, subtype="FLOAT")
            folders = [work / each.enrolment / way for way in ("whole", "gated")]
            for folder in folders:
                folder.mkdir(parents=True)
            whole, gated = (
                Rig(each.enrolment, [learnt], folder, path, encoder | own)
                for folder, own in zip(folders, ({}, {"gate": "auto"}), strict=True)
            )
            rigs[each.enrolment] = whole, gated
            for name, rig in zip(("whole", "gated"), rigs[each.enrolment], strict=True):
                trips = ", ".join(f"{level} {rig.levels[level].level:.1f}" for level in AlarmLevel)
                print(f"    {each.enrolment}, {name}: {trips}", flush=True)
        found.add(faults, *(rig.replay(path) for rig in rigs[each.enrolment]))
        path.unlink()
    return found


def main() -> None:
    """Print a line a group."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="holds the recordings")
    parser.add_argument("--only", default="", help="groups whose name begins so")
    parser.add_argument("--streams", type=int, default=1000, help="of each group at most")
    parser.add_argument("--simulated", type=int, default=2, metavar="MACHINES")
    parser.add_argument("--weights", type=Path, help="of ECHO tiny; default: random ones")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    streams = list(simulated(given.simulated))
    if given.folder or not given.simulated:
        streams += built(recordings_folder(given.folder))
    streams = [each for each in streams if each.group.startswith(given.only)]
    streams.sort(key=lambda each: each.group)
    for group, members in groupby(streams, key=lambda each: each.group):
        with tempfile.TemporaryDirectory() as work:
            weights = given.weights
            if weights is None:
                weights = Path(work) / "tiny.safetensors"
                write_weights(weights, "tiny")
            encoder = {"kind": "echo", "weights": str(weights), "precision": "float32"}
            print(
                f"{group}: {compare(list(members)[: given.streams], Path(work), encoder).text()}", flush=True
            )


if __name__ == "__main__":
    main()
