"""Faults in streams that are built from clips, beside 24 lines: python -m benchmarks.built_streams [DIR].

DIR holds fan_sensiml, gearbox_sq and motor_classes_unknown, each with its manifest. Normal takes of 30, 60
and 120 s are enrolled (gearboxes: 30 and 54), the others are joined to streams normal, fault, normal, which
go through the product's own fit and corridor. With --past-minutes and --fault-minutes the takes before the
fault, and the fault's own, are repeated for so long, for the slow way. The competitor, in the same run: log
bands of each window (and level-free), distance to the nearest enrolled window, over the largest held-out
distance for 7 s.
"""

from __future__ import annotations

import argparse
import csv
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from benchmarks.detection import log_bands
from benchmarks.replay import CROSSFADE_S, Rig, join, recordings_folder
from echo_stream.core.types import AlarmPath, Enrolled, Features
from echo_stream.detect.folds import folds_of

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
WINDOW_S, HOP_S = 2.0, 1.0
HELD = 8
"""Windows in a row: 7 s at a hop of 1 s."""
SETTLE_S = 9.0
"""What is announced so soon after a fault's end is still of the fault: window and on-delay."""
WAYS = ("echo-stream", "log bands", "level-free")


@dataclass(frozen=True)
class Built:
    """A stream, and what it is enrolled on."""

    group: str
    """Machine and seconds of enrolment."""
    enrolment: str
    """Names what is enrolled; several streams share it."""
    rate_hz: int
    enrolled: Sequence[Float32]
    parts: Sequence[tuple[bool, Sequence[Float32]]]
    """Whether it is a fault, and its takes."""

    def lengthened(self, past_s: float, fault_s: float) -> Built:
        """With at least so much normal sound before the fault, and so much of the fault: takes in turn."""
        (normal, past), (fault, broken), *rest = self.parts
        parts = (normal, self._repeated(past, past_s)), (fault, self._repeated(broken, fault_s)), *rest
        return replace(self, parts=parts)

    def _repeated(self, takes: Sequence[Float32], seconds: float) -> Sequence[Float32]:
        once_s = sum(len(take) / self.rate_hz - CROSSFADE_S for take in takes)
        return list(takes) * max(1, math.ceil(seconds / once_s))

    def sound(self) -> tuple[Float32, list[tuple[float, float]]]:
        """The stream, and where its faults are, in seconds."""
        takes, faults, at = list[Float32](), list[tuple[float, float]](), 0
        for is_fault, part in self.parts:
            take = join(part, self.rate_hz)
            begin, at = at, at + len(take) - (round(CROSSFADE_S * self.rate_hz) if at else 0)
            takes.append(take)
            if is_fault:
                faults.append((begin / self.rate_hz, at / self.rate_hz))
        return join(takes, self.rate_hz), faults


@dataclass
class Tally:
    """What one way did with the streams of a group."""

    faults: int = 0
    announced: int = 0
    false: int = 0
    delays_s: list[float] = field(default_factory=list)
    by_path: dict[AlarmPath | None, int] = field(default_factory=lambda: defaultdict(int))

    def count(
        self, faults: Sequence[tuple[float, float]], raised: Sequence[tuple[float, AlarmPath | None]]
    ) -> None:
        """Whose each announcement is: a fault's, or nobody's."""
        for begin_s, end_s in faults:
            own = [each for each in raised if begin_s < each[0] <= end_s + SETTLE_S]
            self.faults += 1
            if own:
                self.announced += 1
                self.delays_s.append(own[0][0] - begin_s)
                self.by_path[own[0][1]] += 1
        self.false += sum(not any(a < at <= b + SETTLE_S for a, b in faults) for at, _ in raised)

    def text(self) -> str:
        """Announced of faults, false alarms, median and largest delay."""
        if not self.delays_s:
            return f"{self.announced:3d} of {self.faults:3d}, {self.false:2d} false"
        delays = f"{np.median(self.delays_s):3.0f} to {max(self.delays_s):3.0f} s"
        paths = " ".join(f"{path}:{n}" for path, n in sorted(self.by_path.items(), key=str) if path)
        return f"{self.announced:3d} of {self.faults:3d}, {self.false:2d} false, {delays} {paths}"


def built(folder: Path) -> Iterator[Built]:
    """All streams of the shared sets."""
    yield from _fan(folder / "fan_sensiml")
    for axis in range(1, 5):
        yield from _gearbox(folder / "gearbox_sq", f"a{axis}")
    yield from _motors(folder / "motor_classes_unknown")


Takes = Mapping[tuple[str, str, str, str, str], Float32]
"""By split, label, kind, domain and recording."""


def _takes(folder: Path, machine: str = "") -> tuple[Takes, int]:
    """Whole recordings, put together from their clips."""
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as lines:
        rows = [row for row in csv.DictReader(lines) if machine in {"", row["machine"]}]

    def key(row: dict[str, str]) -> tuple[str, str, str, str, str]:
        return row["split"], row["label"], row["kind"], row["domain"], row["recording_id"]

    takes: dict[tuple[str, str, str, str, str], Float32] = {}
    rate_hz = 0
    for found, clips in groupby(sorted(rows, key=key), key):
        sounds = []
        for row in sorted(clips, key=lambda row: float(row["offset_s"])):
            sound, rate_hz = soundfile.read(folder / row["path"], dtype="float32", always_2d=True)
            sounds.append(sound[:, 0])
        takes[found] = np.concatenate(sounds)
    return takes, rate_hz


def _fan(folder: Path) -> Iterator[Built]:
    takes, rate_hz = _takes(folder)
    normal = [x for (_, _, kind, day, _), x in takes.items() if kind == "on" and day == "2020-03-18"]
    faults = {k: [x for key, x in takes.items() if key[2] == k] for k in ("bladefault", "tapping")}
    for seconds, choices in {
        30: [[0], [2], [5]],
        60: [[0, 1], [3, 4]],
        120: [[0, 1, 2, 3], [2, 3, 4, 5]],
    }.items():
        for choice in choices:
            rest = [take for i, take in enumerate(normal) if i not in choice]
            half = len(rest) // 2 + 1
            enrolled = [normal[i] for i in choice]
            for found in faults.values():
                for fault in ([found[0]], [found[1]], [found[2]], found):
                    parts = [(False, rest[:half]), (True, fault), (False, rest[half:] or rest[:1])]
                    name = f"fan{seconds}{choice[0]}"
                    yield Built(f"fan, {seconds} s", name, rate_hz, enrolled, parts)


def _gearbox(folder: Path, axis: str) -> Iterator[Built]:
    takes, rate_hz = _takes(folder, f"gearbox_{axis}")
    well, broken = (
        {int(key[3].removeprefix("load")): x for key, x in takes.items() if key[1] == label}
        for label in ("normal", "anomaly")
    )
    even, odd = [0, 20, 40, 60, 80], [10, 30, 50, 70, 90]
    for learnt, other in ((even, odd), (odd, even)):
        for loads in (even, odd):
            normal = [well[load] for load in other]
            parts = [(False, normal), (True, [broken[load] for load in loads]), (False, normal)]
            enrolled = [well[load] for load in learnt]
            yield Built(f"gearbox {axis}, 30 s", f"{axis}{learnt[0]}", rate_hz, enrolled, parts)
    for load in (10, 50, 90):
        enrolled = [well[x] for x in (*even, 30, 70, *(x for x in (10, 50, 90) if x != load))]
        parts = [(False, [well[load]] * 5), (True, [broken[load]] * 5), (False, [well[load]] * 3)]
        yield Built(f"gearbox {axis}, 54 s", f"{axis}without{load}", rate_hz, enrolled, parts)


def _motors(folder: Path) -> Iterator[Built]:
    takes, rate_hz = _takes(folder)
    train = [x for key, x in takes.items() if key[0] == "train"]
    test = [x for key, x in takes.items() if key[:2] == ("test", "normal")]
    faults: dict[str, list[Float32]] = defaultdict(list)
    for key, x in takes.items():
        if key[1] == "anomaly":
            faults[key[2] + key[3][0]].append(x)
    for seconds, count in {30: 5, 60: 10, 120: 20}.items():
        for i in range(2):
            enrolled = train[i::2][:count] if count <= 10 else train[4 * i : 4 * i + count]
            for fault in faults.values():
                parts = [(False, test[:10]), (True, fault[:12]), (False, test[10:])]
                yield Built(f"motors, {seconds} s", f"motors{seconds}{i}", rate_hz, enrolled, parts)


def competitor(enrolled: Float32, stream: Float32, rate_hz: int, *, level_free: bool) -> list[float]:
    """When 24 lines raise an alarm, in seconds of the stream."""
    known, asked = (_windows(sound, rate_hz, level_free=level_free) for sound in (enrolled, stream))
    nothing = Features(
        np.zeros((1, 1), np.float32), np.zeros((1, 1, 1), np.float32), np.zeros((1, 2), np.float32), 0
    )
    places = [Enrolled(nothing, "enrolment", i * HOP_S) for i in range(len(known))]
    held_out = [
        _nearest(known[fold.kept], known[fold.left_out])
        for fold in folds_of(places, window_s=WINDOW_S, hop_s=HOP_S)
    ]
    level = float(np.concatenate(held_out).max())
    raised: list[float] = []
    over = 0
    for i, distance in enumerate(_nearest(known, asked)):
        over = over + 1 if distance > level else 0
        if over == HELD:
            raised.append(i * HOP_S + WINDOW_S)
    return raised


def _windows(sound: Float32, rate_hz: int, *, level_free: bool) -> Float64:
    length, hop = round(WINDOW_S * rate_hz), round(HOP_S * rate_hz)
    cuts = [sound[at : at + length].astype(np.float64) for at in range(0, len(sound) - length + 1, hop)]
    return np.stack([log_bands(x / (np.std(x) + 1e-12) if level_free else x, rate_hz) for x in cuts])


def _nearest(known: Float64, asked: Float64) -> Float64:
    mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-9
    known, asked = (known - mean) / deviation, (asked - mean) / deviation
    return np.asarray([np.linalg.norm(known - each, axis=1).min() for each in asked])


def compare(streams: Sequence[Built], work: Path) -> dict[str, dict[str, Tally]]:
    """By group, then by way."""
    tallies: dict[str, dict[str, Tally]] = {}
    rigs: dict[str, Rig] = {}
    for number, each in enumerate(streams):
        sound, faults = each.sound()
        enrolled = join(each.enrolled, each.rate_hz)
        own = tallies.setdefault(each.group, {way: Tally() for way in WAYS})
        path = work / f"stream{number}.wav"
        soundfile.write(path, sound, each.rate_hz, subtype="FLOAT")
        if each.enrolment not in rigs:
            learnt = work / f"{each.enrolment}.wav"
            soundfile.write(learnt, enrolled, each.rate_hz, subtype="FLOAT")
            rigs[each.enrolment] = Rig(each.enrolment, [learnt], work, path)
        own["echo-stream"].count(faults, rigs[each.enrolment].replay(path).announced)
        for way in WAYS[1:]:
            raised = competitor(enrolled, sound, each.rate_hz, level_free=way == "level-free")
            own[way].count(faults, [(at_s, None) for at_s in raised])
        path.unlink()
    return tallies


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="holds the sets")
    parser.add_argument("--only", default="", help="groups whose name begins so")
    parser.add_argument("--past-minutes", type=float, default=0.0, help="of normal sound before the fault")
    parser.add_argument("--fault-minutes", type=float, default=0.0, help="of the fault")
    args = parser.parse_args(arguments)
    streams = [
        each.lengthened(60 * args.past_minutes, 60 * args.fault_minutes)
        for each in built(recordings_folder(args.folder))
        if each.group.startswith(args.only)
    ]
    for _, group in groupby(streams, key=lambda each: each.group):
        with tempfile.TemporaryDirectory() as work:
            for name, ways in compare(list(group), Path(work)).items():
                print(
                    name,
                    *(f"  {way:12s} {tally.text()}" for way, tally in ways.items()),
                    sep="\n",
                    flush=True,
                )


if __name__ == "__main__":
    main()
