"""Normal sound in, features and figures out: what fit-normal and `bank extend` listen with.

The first lines of the corridor, with recordings or a stretch of listening as the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.capture.source import AudioSource, SharedSource
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Enrolled, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.archive import PART_S, Part, most_windows, parts_of, spread
from echo_stream.fit.archive_jobs import Encoded, encode_parts
from echo_stream.fit.checks import OFF, SILENCE_DBFS, Check, Verdict
from echo_stream.fit.recorded import COLUMN_S, Heard, Stretch, level_meter, look_at
from echo_stream.fit.session import MICROPHONE, Session
from echo_stream.pipeline.factory import sources_of
from echo_stream.pipeline.loop import features_of, windows_of
from echo_stream.pipeline.station import figures_of

Say = Callable[[float, float, str], None]
"""How far it is: done and total in one unit, and what is at hand."""


def hear_recordings(
    config: Config,
    machine: Machine,
    paths: Sequence[Path],
    *,
    encoder: Encoder,
    condition: str,
    others: Sequence[Session],
    say: Say,
    resume: Path | None = None,
) -> Heard:
    """Features of files and folders of normal sound; of more than `MOST_WINDOWS`, of pieces of it.

    Args:
        config: The configuration.
        machine: Whose sound.
        paths: Files and folders.
        encoder: Makes the features.
        condition: The operating state that is heard.
        others: What the bank was learnt from so far.
        say: Progress.
        resume: Folder that keeps what is finished, to go on after an interruption.

    Raises:
        SourceError: a file is missing, damaged, silent, shorter than a window, of another rate than the
            machine's, or of another than what `others` were heard with.
    """
    files = find_recordings(paths)
    for file in files:  # first all headers: a wrong rate shows before the work is done
        with closing(Recording(file, pace="fast")) as recording:
            rate = recording.sample_rate_hz
        _check_rate(machine, file, rate, others)
    cut, channel = config.encoder, machine.source.channel
    parts = [
        part
        for file in files
        for part in parts_of(file, window_s=cut.window_s, hop_s=cut.hop_s, channel=channel, details=True)
    ]
    taken = spread(parts, most_windows(encoder, parts[0]))
    stretches = _gather(taken, encode_parts(taken, encoder, say=say, resume=resume), condition)
    names = f"{len(files)} recordings" if len(files) > 1 else str(files[0])
    notes = _passed_over(parts, taken)
    return Heard("recordings", names, rate, datetime.now(UTC), stretches, notes)


def _gather(parts: Sequence[Part], encoded: Iterable[Encoded], condition: str) -> tuple[Stretch, ...]:
    """Parts of recordings, recording by recording."""
    stretches: list[Stretch] = []
    before: Part | None = None
    for part, heard in zip(parts, encoded, strict=True):
        if before is None or before.path != part.path:
            stretches.append(Stretch(str(part.path)))
        elif before.first + before.windows < part.first:
            stretches[-1].resumed.append(len(stretches[-1].enrolled))
        _take(stretches[-1], heard, condition)
        before = part
    for stretch in stretches:
        _refuse_silence(stretch, condition)
    return tuple(stretches)


def _take(stretch: Stretch, heard: Encoded, condition: str) -> None:
    """Add a part of a recording to what was heard of it."""
    name = stretch.name
    stretch.enrolled += [Enrolled(features, name, start_s, condition) for start_s, features in heard.windows]
    stretch.figures += heard.figures
    end_s = stretch.seen[-1].end_s if stretch.seen else 0.0
    stretch.seen += [seen for seen in heard.seen if seen.start_s > end_s - COLUMN_S / 2]  # parts overlap


def _passed_over(parts: Sequence[Part], taken: Sequence[Part]) -> tuple[Check, ...]:
    if len(taken) == len(parts):
        return ()
    all_h, taken_h = (sum(part.seconds for part in some) / 3600 for some in (parts, taken))
    windows, all_windows = (sum(part.windows for part in some) for some in (taken, parts))
    finding = (
        f"{windows} of {all_windows} windows were taken ({taken_h:.1f} of {all_h:.1f} h), in pieces of "
        f"{PART_S / 60:.0f} min that are spread evenly over all recordings"
    )
    return (Check("Amount", Verdict.GOOD, finding),)


def hear_source(
    config: Config,
    machine: Machine,
    minutes: float,
    *,
    encoder: Encoder,
    condition: str,
    others: Sequence[Session],
    say: Say,
) -> Heard:
    """Listen to the machine's own source.

    Raises:
        SourceError: there is no source, it gives silence or too little, or `others` were heard with another
            device or rate.
    """
    wanted_s = minutes * 60

    def heard(window: Window, level: str) -> bool:
        done_s = window.end / window.sample_rate_hz
        say(min(done_s, wanted_s), wanted_s, level)
        return done_s <= wanted_s

    with closing(sources_of([machine], patient=False)[machine.id]) as source:
        _check_device(machine, source, others)
        began = datetime.now(UTC)
        name = f"{source.description} {began:%Y-%m-%dT%H:%M:%SZ}"
        stretch = _hear(config, machine, source, encoder=encoder, name=name, condition=condition, go_on=heard)
        return Heard(machine.source.kind, source.description, source.sample_rate_hz, began, (stretch,))


def recording_of(machine: Machine, file: Path) -> AudioSource:
    """A file, as fast as possible, with the machine's channel; of a file of one channel, that one."""
    recording = Recording(file, pace="fast")
    return SharedSource(recording).view(min(machine.source.channel, recording.channels - 1))


def cut(config: Config, machine: Machine, source: AudioSource) -> Iterator[Window]:
    """Windows of a source, cut as the daemon will cut them.

    Raises:
        SourceError: there is not one.
    """
    window_s, hop_s = config.encoder.window_s, config.encoder.hop_s
    none = True
    for window in windows_of(source, machine=machine.id, window_s=window_s, hop_s=hop_s):
        none = False
        yield window
    if none:
        raise SourceError(
            f"{source.description}: shorter than one window of {window_s:g} s",
            "give longer recordings, or set a shorter encoder.window_s",
        )


def _hear(
    config: Config,
    machine: Machine,
    source: AudioSource,
    *,
    encoder: Encoder,
    name: str,
    condition: str,
    go_on: Callable[[Window, str], bool],
) -> Stretch:
    """All windows of one source, until it ends or `go_on` says no."""
    look_s = min(max(config.encoder.hop_s, COLUMN_S), config.encoder.window_s)
    stretch = Stretch(name)

    def heard() -> Iterator[Window]:
        for window in cut(config, machine, source):
            figures = figures_of(window)
            if not go_on(window, level_meter(figures)):
                break
            stretch.figures.append(figures)
            look_at(window, stretch.seen, look_s)
            yield window

    for window, features in features_of(encoder, heard()):
        start_s = window.start / window.sample_rate_hz
        stretch.enrolled.append(Enrolled(features, name, start_s, condition))
    _refuse_silence(stretch, condition)
    return stretch


def _refuse_silence(stretch: Stretch, condition: str) -> None:
    if condition != OFF and max((f.level_dbfs for f in stretch.figures), default=0.0) <= SILENCE_DBFS:
        raise SourceError(
            f"{stretch.name}: silent: no window is over {SILENCE_DBFS:.0f} dBFS",
            f"check the cable and the input's level; a machine at rest is enrolled with --condition {OFF}",
        )


def _check_rate(machine: Machine, file: Path, sample_rate_hz: int, others: Sequence[Session]) -> None:
    expected = machine.source.fixed_rate_hz or sample_rate_hz
    if sample_rate_hz != expected:
        raise SourceError(
            f"{file}: has {sample_rate_hz} Hz, machine {machine.id} listens at {expected} Hz",
            "enrol recordings of the machine's own rate, or change source.sample_rate_hz",
        )
    _check_same_rate(str(file), sample_rate_hz, others)


def _check_same_rate(what: str, sample_rate_hz: int, others: Sequence[Session]) -> None:
    for session in others:
        if session.sample_rate_hz != sample_rate_hz:
            raise SourceError(
                f"{what}: has {sample_rate_hz} Hz, condition {session.condition!r} of this bank was "
                f"learnt at {session.sample_rate_hz} Hz",
                "one bank holds one sample rate: enrol sound of that rate, or begin anew with --fresh",
            )


def _check_device(machine: Machine, source: AudioSource, others: Sequence[Session]) -> None:
    _check_same_rate(source.description, source.sample_rate_hz, others)
    for session in others:
        if machine.source.kind == session.source == MICROPHONE and session.device != source.description:
            raise SourceError(
                f"the device changed: now {source.description}, condition {session.condition!r} of this bank "
                f"was learnt with {session.device}",
                "another microphone or channel makes another sound: listen with that one, or begin anew with "
                "--fresh",
            )
