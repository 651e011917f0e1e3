"""score compares recordings with the bank that is in use, window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echo_stream.alarm.calibration import Calibration
from echo_stream.capture.recording import find_recordings
from echo_stream.capture.source import AudioSource
from echo_stream.capture.table import Columns
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import BankMismatch, Failures, SourceError
from echo_stream.core.text import path_text
from echo_stream.core.types import AlarmLevel
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.listen import cut, recording_of
from echo_stream.pipeline.factory import build_encoder, load_bank, trip_levels
from echo_stream.pipeline.loop import encode_windows


def score_recordings(
    config: Config,
    machine: Machine,
    paths: Sequence[Path],
    *,
    strict: bool = False,
    columns: Columns | None = None,
) -> Iterator[dict[str, Any]]:
    """One JSON object a window: where it is, how far from normal, and why.

    Recordings that cannot be scored are left out, and named when all others are done.

    Args:
        config: the configuration.
        machine: whose bank.
        paths: files and folders.
        strict: the first bad recording ends the work.
        columns: of tables among them.

    Raises:
        BankError: no bank, or a damaged one.
        EchoStreamError: recordings are missing, damaged, shorter than a window, or of another rate than the
            bank's.
    """
    failures = Failures(strict)
    encoder, bank = build_encoder(config, machine), load_bank(machine)
    scorer = Scorer(bank)
    trip = trip_levels(machine, Calibration.of(bank.calibration))[AlarmLevel.ALARM].level
    for file in find_recordings(paths, columns):
        try:
            source = recording_of(machine, file, columns)
            yield from _score_one(
                config, machine, source, file, encoder=encoder, bank=bank, scorer=scorer, trip=trip
            )
        except (SourceError, BankMismatch) as error:
            failures.add(error)
    failures.raise_any()


def _score_one(
    config: Config,
    machine: Machine,
    source: AudioSource,
    file: Path,
    *,
    encoder: Encoder,
    bank: NormalBank,
    scorer: Scorer,
    trip: float,
) -> Iterator[dict[str, Any]]:
    with closing(source) as recording:
        rate = recording.sample_rate_hz
        try:
            bank.require(encoder.identity, rate, config.encoder.window_s, config.encoder.hop_s)
        except BankMismatch as error:
            raise BankMismatch(f"{path_text(file)}: {error.message}", error.hint) from None
        for window, features in encode_windows(encoder, cut(config, machine, recording)):
            score = scorer.score_one(features)
            yield {
                "file": path_text(file),
                "start_s": round(window.start / rate, 6),
                "end_s": round(window.end / rate, 6),
                "score": score.value,
                "p_value": score.p_value,
                "threshold": trip,
                "active": score.value > trip,
                "bands": [[b.low_hz, b.high_hz, b.contribution] for b in score.bands],
                "level_dbfs": score.level_dbfs,
                "level_delta_db": score.level_delta_db,
                "condition": score.condition,
                "nearest": [asdict(neighbour) for neighbour in score.nearest],
            }
