"""Sounds that are no faults, from fit to alarm: python -m benchmarks.disturbances [DIR].

DIR holds sets of recordings, and `streams/` as for benchmarks.streams. Every machine is fitted and replayed
with the default configuration. Two questions: does a machine's own normal sound of later, or of another day,
raise an alarm; and do sounds from around it, mixed over its own for some seconds?

Each disturbance is also heard by a microphone in the hall, as loud as at the machine; that hears the machine
12 dB weaker and, as its own noise, another stretch of it 15 dB weaker. So many warnings are left with it
as the machine's reference.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import soundfile

from benchmarks.labels import ANOMALY, NORMAL, machines_in, read_labels
from benchmarks.replay import Replayed, Rig, join, recordings_folder
from echo_stream.alarm.condition import Condition
from echo_stream.core.types import AlarmLevel, Float32, Score, Window
from echo_stream.detect.rises import Rises
from echo_stream.pipeline.elsewhere import Surroundings, louder_at, take_rises

LEVELS_DB = (0.0, 3.0, 6.0)
"""Of a disturbance over the machine, both as root mean square over the disturbance's time."""
ALLOWED = 0.1
"""Share of disturbances that may become an alarm."""
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
BEFORE_S, LONG_S = 8.0, 25.0
"""Of each trial: normal sound before the disturbance, and all together."""
NO_DISTURBANCE = "none"
PAST_S = 36.0
"""Of normal sound before each trial, that machine and hall know it."""
HALL_DB, NOISE_DB = -12.0, -15.0
"""Level of the machine in the hall, and of the hall's own noise, over the machine at its own microphone."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One disturbance over one machine."""

    machine: str
    kind: str
    level_db: float | None
    """None: nothing was mixed in."""
    alarm: bool
    warning: bool
    with_reference: bool
    """It would be a warning all the same with a microphone in the hall as reference."""
    holds: float
    """The trip level up to which it would be an alarm."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A fitted machine and normal sound of it that the bank did not see."""

    rig: Rig
    normal: Float32
    """(n,) at the machine's rate."""


# A machine's own normal sound.


def stationary_compressor(folder: Path, work: Path) -> tuple[Subject, list[str]]:
    """Fits on the first half of the days at rest, in order of time, and listens to the second."""
    clips = sorted((folder / "aircomp_normal").glob("*/train/*"))
    first, second = clips[: len(clips) // 2], clips[len(clips) // 2 :]
    rate = soundfile.info(clips[0]).samplerate
    halves = [join([_read(clip) for clip in half], rate) for half in (first, second)]
    paths = [work / "aircomp_first.wav", work / "aircomp_second.wav"]
    for path, samples in zip(paths, halves, strict=True):
        soundfile.write(path, samples, rate, subtype="FLOAT")
    rig = Rig("aircomp", first, work, paths[1])
    each = np.concatenate([rig.replay(clip).scores for clip in second])
    lines = rig.calibration_lines()
    above = {level: int((each > trip.level).sum()) for level, trip in rig.levels.items()}
    lines.append(
        f"  second half clip by clip: {above[AlarmLevel.ALARM]} above the alarm's level, "
        f"{above[AlarmLevel.WARNING]} above the warning's; median {np.median(each):.1f}, "
        f"largest {each.max():.1f}"
    )
    lines.append("  second half joined: " + _counted(rig.replay(paths[1])))
    stream_rig = Rig("aircomp_stream", paths[:1], work, paths[1])
    lines += [
        *stream_rig.calibration_lines(),
        "  second half joined: " + _counted(stream_rig.replay(paths[1])),
    ]
    return Subject(stream_rig, halves[1]), lines  # whose level is the lower one, so that it is tried harder


def streaming_machines(folder: Path, work: Path) -> Iterator[tuple[Subject, list[str]]]:
    """The machines of `streams/`, with the normal parts of the streams that have faults."""
    labels = read_labels(folder / "labels.csv")
    for machine, enrolment, others in machines_in(labels):
        faulty = [n for n in others if any(s.label == ANOMALY for s in labels[n])]
        if not faulty:
            continue
        rig = Rig(machine, [folder / enrolment], work, folder / faulty[0])
        rate = rig.sample_rate_hz
        parts = [
            _read(folder / name)[round(s.start_s * rate) : round(s.end_s * rate)]
            for name in faulty
            for s in labels[name]
            if s.label == NORMAL
        ]
        lines = rig.calibration_lines()
        lines += [f"  {n}: {_counted(rig.replay(folder / n))}" for n in others if n not in faulty]
        yield Subject(rig, join(parts, rate)), lines


def _counted(replayed: Replayed) -> str:
    raised = {level: len(replayed.raised[level]) for level in AlarmLevel}
    verdict = "FAIL" if raised[AlarmLevel.ALARM] or raised[AlarmLevel.WARNING] > 1 else "ok"
    return (
        f"{verdict}: {raised[AlarmLevel.ALARM]} alarms, {raised[AlarmLevel.WARNING]} warnings in "
        f"{replayed.ends_s[-1]:.0f} s; scores: median {np.median(replayed.scores):.1f}, "
        f"largest {replayed.scores.max():.1f}"
    )


# Sounds from around it.


def mixed(normal: Float32, disturbance: Float32, at: int, level_db: float) -> Float32:
    """Normal sound with a disturbance over it.

    Args:
        normal: (n,)
        disturbance: (m,) at the same rate, not silent; what does not fit is left out.
        at: Sample at which it begins.
        level_db: Its level over that of the normal sound under it.
    """
    over = disturbance[: len(normal) - at].astype(np.float64)
    under = normal[at : at + len(over)].astype(np.float64)
    gain = 10 ** (level_db / 20) * np.sqrt(np.mean(under**2) / np.mean(over**2))
    sum_ = normal.copy()
    sum_[at : at + len(over)] += (gain * over).astype(np.float32)
    return sum_


def trials(subject: Subject, clips: Sequence[Path], work: Path) -> Iterator[Trial]:
    """Every disturbance at every level over its own part of the machine's sound, and that part alone."""
    rig, rate = subject.rig, subject.rig.sample_rate_hz
    long = round(LONG_S * rate)
    places = np.linspace(0, len(subject.normal) - long, len(clips)).astype(int)
    path = work / "trial.wav"
    for i, (clip, place) in enumerate(zip(clips, places, strict=True)):
        normal = subject.normal[place : place + long]
        at = round((BEFORE_S + i % 5 / 5) * rate)  # anywhere between two hops
        disturbance = _at_rate(clip, rate)
        for level_db in (None, *LEVELS_DB):
            sound = normal if level_db is None else mixed(normal, disturbance, at, level_db)
            soundfile.write(path, sound, rate, subtype="FLOAT")
            heard = rig.replay(path)
            after = heard.scores[heard.ends_s > at / rate]
            yield Trial(
                rig.machine,
                kind_of(clip),
                level_db,
                alarm=any(r.raised_s > at / rate for r in heard.raised[AlarmLevel.ALARM]),
                warning=any(r.raised_s > at / rate for r in heard.raised[AlarmLevel.WARNING]),
                with_reference=warns_with_reference(subject, normal, sound - normal, heard),
                holds=rig.holds(after),
            )


def warns_with_reference(subject: Subject, normal: Float32, disturbance: Float32, heard: Replayed) -> bool:
    """Whether a warning is left, with a microphone in the hall as the machine's reference.

    Args:
        subject: The machine.
        normal: (n,) its sound in the trial.
        disturbance: (n,) what is heard over it.
        heard: What came of both together, without a reference.
    """
    rig, rate = subject.rig, subject.rig.sample_rate_hz
    past = np.resize(subject.normal, round(PAST_S * rate))
    machine = join([past, normal], rate)[-(len(past) + len(normal)) :]
    over = np.zeros_like(machine)
    over[len(machine) - len(disturbance) :] = disturbance
    noise = np.roll(machine, len(machine) // 3)[::-1] * np.float32(10 ** (NOISE_DB / 20))
    hall = machine * np.float32(10 ** (HALL_DB / 20)) + noise + over
    trip = rig.levels[AlarmLevel.WARNING]
    delay_s = rig.alarm.on_delays_s[AlarmLevel.WARNING]
    places = {
        "machine": Surroundings(Rises(rig.hop_s), delay_s, "hall"),
        "hall": Surroundings(Rises(rig.hop_s), delay_s),
    }
    delays = {"on_delay": round(delay_s * rate), "off_delay": round(rig.alarm.off_delay_s * rate)}
    warning = Condition(trip.level, trip.clear, **delays)
    scores = {round(end_s * rate): score for end_s, score in zip(heard.ends_s, heard.scores, strict=True)}
    before = len(machine) - len(disturbance)
    length, hop = round(rig.window_s * rate), round(rig.hop_s * rate)
    for end in range(before % hop + length, len(machine) + 1, hop):
        windows = [
            Window(
                name,
                sound[end - length : end],
                end - length,
                end,
                rate,
                MIDNIGHT + timedelta(seconds=end / rate),
            )
            for name, sound in (("machine", machine + over), ("hall", hall))
        ]
        take_rises(windows, places)
        score = scores.get(end - before)
        if score is None:
            continue
        louder = louder_at(windows[0], places) if score > trip.clear else ("", 0.0)
        found = Score(score, 1.0, (), (), 0.0, 0.0, "normal")
        if places["machine"].step(windows[0], found, louder, trip=trip.level, clear=trip.clear):
            warning.skip(end)
        else:
            warning.step(score, end - length, end)
        if warning.active:
            return True
    return False


def kind_of(clip: Path) -> str:
    """`dog-bark` of disturbance_dog-bark_2-114280-A.flac."""
    return clip.stem.split("_")[1]


def machine_lines(found: Sequence[Trial]) -> Iterator[str]:
    """A row for each machine and level."""
    yield "\nDisturbances, share that becomes an alarm, a warning; trip levels up to which they would alarm"
    yield (
        f"  {'machine':14s} {'over it':>10s} {'alarms':>14s} {'warnings':>14s} {'with reference':>14s} "
        f"{'half':>7s} {'9 of 10':>7s}"
    )
    for machine in [*dict.fromkeys(t.machine for t in found), "all"]:
        for level_db in (None, *LEVELS_DB):
            own = [t for t in found if machine in (t.machine, "all") and t.level_db == level_db]
            half, nine = np.quantile([t.holds for t in own], [0.5, 0.9])
            held = sum(t.with_reference for t in own)
            alarms, warnings = sum(t.alarm for t in own), sum(t.warning for t in own)
            over = NO_DISTURBANCE if level_db is None else f"{level_db:.0f} dB"
            verdict = "ok" if alarms <= ALLOWED * len(own) else "FAIL"
            yield (
                f"  {machine:14s} {over:>10s} {_share(alarms, len(own)):>14s} "
                f"{_share(warnings, len(own)):>14s} {_share(held, len(own)):>14s} "
                f"{half:7.1f} {nine:7.1f}  {verdict}"
            )


def kind_lines(found: Sequence[Trial]) -> Iterator[str]:
    """A row for each kind of disturbance: how many of all machines' trials are alarms / warnings."""
    yield "\nBy kind, all machines together: alarms / warnings of trials"
    yield f"  {'kind':16s}" + "".join(f"{f'{level_db:.0f} dB':>16s}" for level_db in LEVELS_DB)
    for kind in sorted({t.kind for t in found}):
        cells = []
        for level_db in LEVELS_DB:
            own = [t for t in found if t.kind == kind and t.level_db == level_db]
            cells.append(f"{sum(t.alarm for t in own)} / {sum(t.warning for t in own)} of {len(own)}")
        yield f"  {kind:16s}" + "".join(f"{cell:>16s}" for cell in cells)


def _share(count: int, total: int) -> str:
    return f"{count} of {total}"


def _read(path: Path) -> Float32:
    samples: Float32 = soundfile.read(path, dtype="float32", always_2d=True)[0][:, 0]
    return samples


def _at_rate(path: Path, sample_rate_hz: int) -> Float32:
    import soxr  # noqa: PLC0415 - only here does a rate have to change

    resampled: Float32 = soxr.resample(_read(path), soundfile.info(path).samplerate, sample_rate_hz)
    return resampled


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, nargs="?", help="holds aircomp_normal/, disturbances_esc10/, streams/"
    )
    folder = recordings_folder(parser.parse_args(arguments).folder)
    clips = sorted((folder / "disturbances_esc10").glob("*/clips/*"))
    found: list[Trial] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        print("Normal sound that the bank did not see")
        for subject, lines in [
            stationary_compressor(folder, work),
            *streaming_machines(folder / "streams", work),
        ]:
            print(*lines, sep="\n", flush=True)
            found += trials(subject, clips, work)
    print(*machine_lines(found), *kind_lines(found), sep="\n")


if __name__ == "__main__":
    main()
