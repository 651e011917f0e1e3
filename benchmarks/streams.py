"""Faults in continuous sound, from fit to alarm: python -m benchmarks.streams [DIR] [--picture PNG].

DIR holds `streams/`: recordings, and `labels.csv`, which says what each stretch of them is. `X_enroll_*` is
what machine X is fitted on; every other `X_*` is replayed through the corridor as the daemon runs it, with
the default configuration.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.labels import ANOMALY, NORMAL, Judged, Stretch, judge, machines_in, read_labels
from benchmarks.replay import Replayed, Rig, recordings_folder
from echo_stream.core.types import AlarmLevel


def stretch_lines(rig: Rig, replayed: Replayed, stretches: Sequence[Stretch]) -> Iterator[str]:
    """Each stretch with its scores and with what was raised in it."""
    yield (
        f"  {'from':>6s} {'to':>6s}  {'':24s} {'median':>7s} {'largest':>7s} {'holds':>7s}  "
        "(holds: the trip level up to which an alarm would come)"
    )
    for s in stretches:
        ends_s, window_s = replayed.ends_s, rig.window_s
        if s.label == ANOMALY:
            inside = (ends_s > s.start_s) & (ends_s - window_s < s.end_s)
        else:  # a window that straddles the end of a fault is neither
            inside = (ends_s - window_s >= s.start_s) & (ends_s <= s.end_s)
        own = replayed.scores[inside]
        if len(own):
            own_sorted = sorted(own.tolist())
            figures = f"{own_sorted[len(own) // 2]:7.1f} {own_sorted[-1]:7.1f} {rig.holds(own):7.1f}"
            yield f"  {s.start_s:6.1f} {s.end_s:6.1f}  {s.label + ' ' + s.kind:24s} {figures}"


def event_lines(replayed: Replayed) -> Iterator[str]:
    """Warnings and alarms in the order in which they came."""
    times = [(r.raised_s, level, r) for level in AlarmLevel for r in replayed.raised[level]]
    for raised_s, level, r in sorted(times, key=lambda item: (item[0], item[1])):
        cleared = "stands at the end" if r.cleared_s is None else f"cleared at {r.cleared_s:.1f} s"
        yield f"  {level} at {raised_s:.1f} s (since {r.onset_s:.1f} s), {cleared}"
    for at_s, state in replayed.sensor:
        yield f"  sensor at {at_s:.1f} s: {state}"


@dataclass(frozen=True, slots=True)
class Stream:
    """All there is to say of one stream."""

    path: Path
    rig: Rig
    replayed: Replayed
    judged: Judged

    def lines(self) -> Iterator[str]:
        """The report."""
        yield f"\n{self.path.name}"
        yield from stretch_lines(self.rig, self.replayed, self.judged.stretches)
        yield from event_lines(self.replayed)
        if others := {s.kind for s in self.judged.stretches if s.label not in (NORMAL, ANOMALY)}:
            yield f"  neither normal nor fault ({', '.join(others)}): {len(self.judged.elsewhere)} alarms"
        for good, what in self.judged.verdicts():
            yield f"  {'ok  ' if good else 'FAIL'} {what}"


def replay_all(folder: Path, work: Path) -> Iterator[Stream]:
    """Fits every machine of a folder of streams and replays its other streams.

    Args:
        folder: holds the recordings and labels.csv.
        work: where banks go.
    """
    labels = read_labels(folder / "labels.csv")
    for machine, enrolment, streams in machines_in(labels):
        rig = Rig(machine, [folder / enrolment], work, folder / streams[0])
        for name in streams:
            replayed = rig.replay(folder / name)
            judged = judge(replayed, labels[name], settle_s=rig.settle_s)
            yield Stream(folder / name, rig, replayed, judged)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="holds streams/")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        streams: list[Stream] = []
        for stream in replay_all(recordings_folder(args.folder) / "streams", Path(work)):
            if not streams or stream.rig is not streams[-1].rig:
                print("", *stream.rig.calibration_lines(), sep="\n")
            print(*stream.lines(), sep="\n")
            streams.append(stream)
    if args.picture:
        from benchmarks.streams_picture import draw  # noqa: PLC0415 - matplotlib, only where one draws

        draw(streams, args.picture)


if __name__ == "__main__":
    main()
