"""What the daemon heard for an enrolment is learnt as if fit-normal had listened itself.

The daemon keeps the sound of an enrolment in a folder (capture/pieces.py); the child that fits it reads it as
one recording: windows, checks, figures and probes come about as they do from the machine's own source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from itertools import islice
from pathlib import Path

from echo_stream.capture.pieces import Piece, PieceSource, SoundOrigin, stretches_in
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Check, Verdict
from echo_stream.core.errors import SourceError
from echo_stream.core.sequences import evenly_chosen
from echo_stream.core.text import Progress, duration_text
from echo_stream.core.types import Window
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.normal_sound import ClipCollector
from echo_stream.fit.archive import MOST_BYTES, MOST_WINDOWS, PART_S
from echo_stream.fit.listen import check_device, cut, record_into, refuse_silence
from echo_stream.fit.recorded import ProbeCollector, Recordings, Segment
from echo_stream.fit.session import Session

Stretch = Sequence[Piece]


def read_pieces(
    config: Config,
    machine: Machine,
    folder: Path,
    *,
    encoder: Encoder,
    condition: str,
    others: Sequence[Session],
    progress: Progress,
) -> Recordings:
    """The sound that a daemon kept; of more than is learnt at most, parts that are spread evenly over it.

    Args:
        config: The configuration.
        machine: Whose sound.
        folder: Where it lies.
        encoder: Makes the features.
        condition: The operating state of the sound.
        others: What the bank was learnt from so far.
        progress: How far it is.

    Raises:
        SourceError: there is too little, it is damaged or silent, or `others` came from another device.
    """
    about = SoundOrigin.load(folder)
    rate, began = about.sample_rate_hz, datetime.fromisoformat(about.began_at)
    window_s = config.encoder.window_s
    found = [each for each in stretches_in(folder) if _seconds(each, rate) >= window_s]
    if not found:
        raise SourceError(f"{about.device}: shorter than one window of {window_s:g} s", "listen for longer")
    with closing(PieceSource(found[0], about.device, began)) as source:
        check_device(machine, source, others)
        (features,) = encoder.encode(list(islice(cut(config, machine, source), 1)))
    most = min(MOST_WINDOWS, max(1, int(MOST_BYTES / (features.window.nbytes + features.segments.nbytes))))
    chosen = _chosen(found, most * config.encoder.hop_s, rate)
    name = f"{about.device} {began:%Y-%m-%dT%H:%M:%SZ}"
    segment, collector = Segment(name), ProbeCollector(name)
    clips = ClipCollector(name, condition, config.evidence.normal_s)
    total_s = sum(_seconds(each, rate) for each in chosen)
    done_s = 0.0
    for pieces in chosen:
        if segment.enrolled:
            segment.resumed.append(len(segment.enrolled))
        with closing(PieceSource(pieces, about.device, began)) as source:
            windows = cut(config, machine, source)
            go_on = _telling(progress, pieces[0].start, done_s, total_s)
            record_into(
                segment, collector, clips, windows, config, encoder=encoder, condition=condition, go_on=go_on
            )
        done_s += _seconds(pieces, rate)
    clips.finish(rate)
    refuse_silence(segment, condition)
    return Recordings(
        source=about.source,
        device=about.device,
        sample_rate_hz=rate,
        heard_at=began,
        segments=(segment,),
        notes=_passed_over(found, len(chosen), total_s, rate),
        probes=tuple(collector.probes),
        clips=clips.clips,
        by=about.by,
    )


def _seconds(pieces: Stretch, rate: int) -> float:
    return (pieces[-1].end - pieces[0].start) / rate


def _telling(progress: Progress, first: int, done_s: float, total_s: float) -> Callable[[Window, str], bool]:
    def go_on(window: Window, level: str) -> bool:
        progress(done_s + (window.end - first) / window.sample_rate_hz, total_s, level)
        return True

    return go_on


def _chosen(stretches: Sequence[Stretch], most_s: float, rate: int) -> Sequence[Stretch]:
    """All of them; where that is too much, parts of them, as many as are learnt."""
    seconds = sum(_seconds(pieces, rate) for pieces in stretches)
    if seconds <= most_s:
        return stretches
    parts = [part for pieces in stretches for part in _parts(pieces, rate)]
    count = max(1, int(len(parts) * most_s / seconds))
    return evenly_chosen(parts, count)


def _parts(pieces: Stretch, rate: int) -> list[list[Piece]]:
    """Runs of files of about PART_S."""
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        if parts[-1] and _seconds(parts[-1], rate) >= PART_S:
            parts.append([])
        parts[-1].append(piece)
    return parts


def _passed_over(found: Sequence[Stretch], stretches: int, taken_s: float, rate: int) -> tuple[Check, ...]:
    """What there is to say where sound was passed over on purpose."""
    if stretches == 1:
        return ()
    span = duration_text((found[-1][-1].end - found[0][0].start) / rate)
    finding = f"{duration_text(taken_s)} were taken out of {span}, in {stretches} stretches"
    return (Check("Amount", Verdict.OK, finding),)
