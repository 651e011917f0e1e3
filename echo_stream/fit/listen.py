"""Recording reads normal sound and gives features and figures, for fit-normal and `bank extend`.

The first lines of the corridor, with recordings or the machine's own source as the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from echo_stream.capture.recording import Recording, find_recordings
from echo_stream.capture.source import AudioSource, SharedSource
from echo_stream.capture.table import Columns
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Check, Verdict
from echo_stream.core.errors import Failures, SourceError
from echo_stream.core.text import Progress, path_text
from echo_stream.core.types import OFF, Enrolled, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.normal_sound import ClipCollector
from echo_stream.fit.archive import PART_S, Part, clips_of, most_windows, parts_of, spread, windows_of
from echo_stream.fit.archive_jobs import Encoded, Engine, encode_parts
from echo_stream.fit.checks import SILENCE_DBFS
from echo_stream.fit.recorded import (
    COLUMN_S,
    PROBES,
    Probe,
    ProbeCollector,
    Recordings,
    Segment,
    level_meter,
    look_at,
)
from echo_stream.fit.session import MICROPHONE, Session
from echo_stream.fit.shard import Shard
from echo_stream.pipeline.loop import encode_windows, read_windows
from echo_stream.pipeline.sources import open_sources
from echo_stream.pipeline.station import sensor_figures

LEVEL_OF_UNUSED_BITS_DBFS = -48.0


def read_recordings(
    config: Config,
    machine: Machine,
    paths: Sequence[Path],
    *,
    encoder: Encoder,
    condition: str,
    others: Sequence[Session],
    progress: Progress,
    resume: Path | None = None,
    engine: Engine | None = None,
    shard: Shard | None = None,
    failures: Failures | None = None,
    columns: Columns | None = None,
) -> Recordings:
    """Features of files and folders of normal sound; of more than `MOST_WINDOWS`, of pieces of it.

    Args:
        config: The configuration.
        machine: Whose sound.
        paths: Files and folders.
        encoder: Makes the features.
        condition: The operating state of the sound.
        others: What the bank was learnt from so far.
        progress: how far it is.
        resume: Folder that keeps what is finished, to go on after an interruption.
        engine: Computes in place of this PC's cores.
        shard: Computed first: this PC's share, into the same folder.
        failures: Takes the errors of recordings that are left out; None: the first one ends the work.
        columns: Of tables among them.

    Raises:
        ShardDone: parts of other shards are missing.
        SourceError: no recording is left, or `failures` does not take the error of one that is missing,
            damaged, silent, shorter than a window, of another rate than the machine's, or of another than
            what `others` were recorded with.
    """
    failures = Failures(strict=True) if failures is None else failures
    files = find_recordings(paths, columns)
    cut, channel, rate_hz = config.encoder, machine.source.channel, machine.source.fixed_rate_hz
    parts: list[Part] = []
    too_quiet: list[str] = []
    for file in files:  # first all headers: what is wrong shows before the work is done
        try:
            with closing(Recording(file, pace="fast", columns=columns)) as recording:
                rate, subtype = recording.sample_rate_hz, recording.subtype
            _check_rate(machine, file, rate, rate_hz, others)
            parts += parts_of(
                file,
                window_s=cut.window_s,
                hop_s=cut.hop_s,
                channel=channel,
                details=True,
                columns=columns,
            )
        except SourceError as error:
            failures.add(error)
        else:
            rate_hz = rate
            too_quiet += [path_text(file)] * (subtype == "PCM_32")
    if not parts or rate_hz is None:
        failures.raise_any()
        raise SourceError("no recording is left", "Name others.")
    taken = spread(parts, most_windows(encoder, parts))
    if shard is not None:
        shard.compute(taken, encoder, progress)
    encoded = encode_parts(taken, encoder, progress=progress, resume=resume, engine=engine, failures=failures)
    segments = _gather(taken, encoded, condition, failures)
    if not segments:
        failures.raise_any()
    taken_names = {segment.name for segment in segments}
    probes = _probes([part for part in taken if path_text(part.path) in taken_names])
    names = f"{len(files)} recordings" if len(files) > 1 else path_text(files[0])
    notes = (
        *_passed_over(parts, taken),
        *_left_out(failures.count, len(files)),
        *_unused_bits(segments, too_quiet),
    )
    clips = clips_of(
        [part for part in taken if path_text(part.path) in taken_names], condition, config.evidence.normal_s
    )
    return Recordings("recordings", names, rate_hz, datetime.now(UTC), segments, notes, probes, clips)


def _probes(parts: Sequence[Part]) -> tuple[Probe, ...]:
    """Windows spread evenly over the parts, read again."""
    windows = sum(part.windows for part in parts)
    wanted = {(2 * i + 1) * windows // (2 * PROBES) for i in range(PROBES)}
    found, before = [], 0
    for part in parts:
        inside = {number - before for number in wanted if 0 <= number - before < part.windows}
        before += part.windows
        found += [Probe(path_text(part.path), window) for window in windows_of(part, inside)]
    return tuple(found)


def _left_out(bad: int, files: int) -> tuple[Check, ...]:
    if not bad:
        return ()
    advice = "see what is wrong with each, on standard error; --strict learns nothing then"
    return (Check("Recordings", Verdict.WARN, f"{bad} of {files} were left out", advice),)


def _unused_bits(segments: Sequence[Segment], names: Sequence[str]) -> tuple[Check, ...]:
    """`arecord -f S24_LE` leaves the upper 8 of 32 bits empty: 48 dB below what the microphone gave."""
    quiet = [
        segment.name
        for segment in segments
        if segment.name in names and max(f.level_dbfs for f in segment.figures) < LEVEL_OF_UNUSED_BITS_DBFS
    ]
    if not quiet:
        return ()
    finding = (
        f"{quiet[0]}: 32-bit samples of which the upper 8 bits are not used ({len(quiet)} such recordings)"
    )
    advice = "made by arecord -f S24_LE? Its levels are 48 dB too low: record with S24_3LE or S32_LE"
    return (Check("Level", Verdict.WARN, finding, advice),)


def _gather(
    parts: Sequence[Part], encoded: Iterable[Encoded], condition: str, failures: Failures
) -> tuple[Segment, ...]:
    """Parts of recordings, recording by recording; without those that are damaged or silent."""
    segments: list[Segment] = []
    failed: set[str] = set()
    before: Part | None = None
    for part, found in zip(parts, encoded, strict=True):
        failed |= {path_text(part.path)} if found.failed else set()
        if before is None or before.path != part.path:
            segments.append(Segment(path_text(part.path)))
        elif before.first + before.windows < part.first:
            segments[-1].resumed.append(len(segments[-1].enrolled))
        _take(segments[-1], found, condition)
        before = part
    kept = []
    for segment in segments:
        if segment.name in failed:
            continue
        try:
            refuse_silence(segment, condition)
        except SourceError as error:
            failures.add(error)
        else:
            kept.append(segment)
    return tuple(kept)


def _take(segment: Segment, found: Encoded, condition: str) -> None:
    """Add a part of a recording to its segment."""
    name = segment.name
    segment.enrolled += [Enrolled(features, name, start_s, condition) for start_s, features in found.windows]
    segment.figures += found.figures
    end_s = segment.slices[-1].end_s if segment.slices else 0.0
    segment.slices += [each for each in found.slices if each.start_s > end_s - COLUMN_S / 2]  # parts overlap


def _passed_over(parts: Sequence[Part], taken: Sequence[Part]) -> tuple[Check, ...]:
    if len(taken) == len(parts):
        return ()
    all_h, taken_h = (sum(part.seconds for part in some) / 3600 for some in (parts, taken))
    windows, all_windows = (sum(part.windows for part in some) for some in (taken, parts))
    finding = (
        f"{windows} of {all_windows} windows were taken ({taken_h:.1f} of {all_h:.1f} h), in pieces of "
        f"{PART_S / 60:.0f} min that are spread evenly over all recordings"
    )
    return (Check("Amount", Verdict.OK, finding),)


def record_source(
    config: Config,
    machine: Machine,
    minutes: float,
    *,
    encoder: Encoder,
    condition: str,
    others: Sequence[Session],
    progress: Progress,
) -> Recordings:
    """Listen to the machine's own source.

    Raises:
        SourceError: there is no source, it gives silence or too little, or `others` came from another
            device or rate.
    """
    wanted_s = minutes * 60

    def go_on(window: Window, level: str) -> bool:
        done_s = window.end / window.sample_rate_hz
        progress(min(done_s, wanted_s), wanted_s, level)
        return done_s <= wanted_s

    with closing(open_sources([machine], patient=False)[machine.id]) as source:
        check_device(machine, source, others)
        began = datetime.now(UTC)
        name = f"{source.description} {began:%Y-%m-%dT%H:%M:%SZ}"
        segment, collector = Segment(name), ProbeCollector(name)
        clips = ClipCollector(name, condition, config.evidence.normal_s)
        windows = cut(config, machine, source)
        record_into(
            segment, collector, clips, windows, config, encoder=encoder, condition=condition, go_on=go_on
        )
        clips.finish(source.sample_rate_hz)
        refuse_silence(segment, condition)
        return Recordings(
            machine.source.kind,
            source.description,
            source.sample_rate_hz,
            began,
            (segment,),
            probes=tuple(collector.probes),
            clips=clips.clips,
        )


def recording_of(machine: Machine, file: Path, columns: Columns | None = None) -> AudioSource:
    """A file, as fast as possible, with the machine's channel; of a file of one channel, that one."""
    recording = Recording(file, pace="fast", columns=columns)
    return SharedSource(recording).view(min(machine.source.channel, recording.channels - 1))


def cut(config: Config, machine: Machine, source: AudioSource) -> Iterator[Window]:
    """Windows of a source, cut as the daemon will cut them.

    Raises:
        SourceError: there is not one.
    """
    window_s, hop_s = config.encoder.window_s, config.encoder.hop_s
    none = True
    for window in read_windows(source, machine=machine.id, window_s=window_s, hop_s=hop_s):
        none = False
        yield window
    if none:
        raise SourceError(
            f"{source.description}: shorter than one window of {window_s:g} s",
            "give longer recordings, or set a shorter encoder.window_s",
        )


def record_into(
    segment: Segment,
    collector: ProbeCollector,
    clips: ClipCollector,
    windows: Iterable[Window],
    config: Config,
    *,
    encoder: Encoder,
    condition: str,
    go_on: Callable[[Window, str], bool],
) -> None:
    """Add windows of one source to a segment, until they end or `go_on` (window, level) says no."""
    look_s = min(max(config.encoder.hop_s, COLUMN_S), config.encoder.window_s)

    def looked_at() -> Iterator[Window]:
        for window in windows:
            figures = sensor_figures(window)
            if not go_on(window, level_meter(figures)):
                break
            segment.figures.append(figures)
            look_at(window, segment.slices, look_s)
            collector.add(window)
            clips.add(window)
            yield window

    for window, features in encode_windows(encoder, looked_at()):
        start_s = window.start / window.sample_rate_hz
        segment.enrolled.append(Enrolled(features, segment.name, start_s, condition))


def refuse_silence(segment: Segment, condition: str) -> None:
    """Raise a SourceError where a running machine gave no sound at all."""
    if condition != OFF and max((f.level_dbfs for f in segment.figures), default=0.0) <= SILENCE_DBFS:
        raise SourceError(
            f"{segment.name}: silent: no window is over {SILENCE_DBFS:.0f} dBFS",
            f"check the cable and the input's level; a machine at rest is enrolled with --condition {OFF}",
        )


def _check_rate(
    machine: Machine, file: Path, sample_rate_hz: int, expected_hz: int | None, others: Sequence[Session]
) -> None:
    name = path_text(file)
    if machine.source.fixed_rate_hz not in {None, sample_rate_hz}:
        raise SourceError(
            f"{name}: has {sample_rate_hz} Hz, machine {machine.id} listens at {expected_hz} Hz",
            "enrol recordings of the machine's own rate, or change source.sample_rate_hz",
        )
    if expected_hz not in {None, sample_rate_hz}:
        raise SourceError(
            f"{name}: has {sample_rate_hz} Hz, the recordings before it {expected_hz} Hz",
            "one bank holds one sample rate: give recordings of one rate",
        )
    _check_same_rate(name, sample_rate_hz, others)


def _check_same_rate(what: str, sample_rate_hz: int, others: Sequence[Session]) -> None:
    for session in others:
        if session.sample_rate_hz != sample_rate_hz:
            raise SourceError(
                f"{what}: has {sample_rate_hz} Hz, condition {session.condition!r} of this bank was "
                f"learnt at {session.sample_rate_hz} Hz",
                "one bank holds one sample rate: enrol sound of that rate, or begin anew with --fresh",
            )


def check_device(machine: Machine, source: AudioSource, others: Sequence[Session]) -> None:
    """Raise a SourceError where `others` came from another device or rate."""
    _check_same_rate(source.description, source.sample_rate_hz, others)
    for session in others:
        if machine.source.kind == session.source == MICROPHONE and session.device != source.description:
            raise SourceError(
                f"the device changed: now {source.description}, condition {session.condition!r} of this bank "
                f"was learnt with {session.device}",
                "another microphone or channel makes another sound: listen with that one, or begin anew with "
                "--fresh",
            )
