"""score: recordings against the bank that is in use, window by window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from echo_stream.alarm.calibration import Calibration
from echo_stream.capture.recording import find_recordings
from echo_stream.config.schema import Config, Machine
from echo_stream.core.types import AlarmLevel
from echo_stream.detect.scorer import Scorer
from echo_stream.fit.listen import cut, recording_of
from echo_stream.pipeline.factory import build_encoder, load_bank, trip_levels
from echo_stream.pipeline.loop import encode_windows


def score_recordings(config: Config, machine: Machine, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """One JSON object a window: where it is, how far from normal, and why.

    Raises:
        BankError, BankMismatch: no bank, a damaged one, or one for another encoder, rate or window.
        SourceError: a recording is missing, damaged or shorter than a window.
    """
    encoder, bank = build_encoder(config), load_bank(machine)
    scorer = Scorer(bank)
    trip = trip_levels(machine, Calibration.of(bank.calibration))[AlarmLevel.ALARM].level
    for file in find_recordings(paths):
        with closing(recording_of(machine, file)) as recording:
            rate = recording.sample_rate_hz
            bank.require(encoder.identity, rate, config.encoder.window_s, config.encoder.hop_s)
            for window, features in encode_windows(encoder, cut(config, machine, recording)):
                score = scorer.score_one(features)
                yield {
                    "file": str(file),
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
