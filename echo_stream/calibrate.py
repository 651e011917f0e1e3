"""fit-normal and score: the corridor with a recording, or a stretch of listening, as its source."""

from __future__ import annotations

import getpass
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from echo_stream.build import bank_of, encoder_of, sources_of, trip_levels
from echo_stream.capture.recordings import Recording, find_recordings
from echo_stream.capture.sanity import inspect
from echo_stream.capture.shared import Shared
from echo_stream.capture.sources import AudioSource
from echo_stream.config import Config, Machine
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.calibration import Calibration, TripLevel
from echo_stream.detect.scorer import Scorer
from echo_stream.detect.versions import BankVersions
from echo_stream.encode.encoder import Encoder
from echo_stream.errors import SourceError
from echo_stream.pipeline import features_of, windows_of
from echo_stream.types import AlarmLevel, Enrolled, Window

SILENCE_DBFS = -120.0
"""Under the noise of any converter: the last bit of 24 is at -144, of 16 at -96."""
OFF = "off"
"""The condition of a machine at rest."""

Say = Callable[[float, float, str], None]
"""How far it is: done and total in one unit, and what is at hand."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """What fit-normal has to tell."""

    machine: str
    bank_id: str
    path: Path
    accepted: bool
    windows: int
    minutes: float
    conditions: tuple[str, ...]
    levels: dict[AlarmLevel, TripLevel]
    minutes_needed: float

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "machine": self.machine,
            "bank": {"id": self.bank_id, "path": str(self.path), "accepted": self.accepted},
            "windows": self.windows,
            "minutes": round(self.minutes, 2),
            "conditions": list(self.conditions),
            "levels": {
                level.value: {
                    "trip": trip.level,
                    "expected_per_month": trip.expected_per_month,
                    "upper95_per_month": trip.upper95_per_month,
                }
                for level, trip in self.levels.items()
            },
            "minutes_needed": round(self.minutes_needed, 1),
        }

    def in_words(self) -> str:
        """For people."""
        alarm, warning = self.levels[AlarmLevel.ALARM], self.levels[AlarmLevel.WARNING]
        lines = [
            f"{self.machine}: bank {self.bank_id} fitted on {self.windows} windows, "
            f"{self.minutes:.1f} minutes of normal sound ({', '.join(self.conditions)})",
            f"  alarm at a score of {alarm.level:.2f}: {alarm.expected_per_month:.2g} false alarms a month "
            f"expected, with 95 % certainty at most {alarm.upper95_per_month:.2g}",
            f"  warning at {warning.level:.2f}: {warning.expected_per_month * 7 / 30:.2g} a week expected, "
            f"with 95 % certainty at most {warning.upper95_per_month * 7 / 30:.2g}",
        ]
        if self.minutes_needed > 0:
            lines.append(
                f"  {self.minutes_needed:.0f} more minutes of normal sound would make that bound good"
            )
        use = (
            "in use"
            if self.accepted
            else f"not in use: echo-stream bank accept -m {self.machine} {self.bank_id}"
        )
        return "\n".join([*lines, f"  {self.path} ({use})"])


def fit_from_recordings(
    config: Config, machine: Machine, paths: Sequence[Path], *, condition: str, accept: bool, say: Say
) -> Fitted:
    """Fit a bank on files and folders of normal sound.

    Raises:
        SourceError: a file is missing, damaged, silent, too short or of another rate than the machine's.
        BankError: there is too little of it.
    """
    encoder = encoder_of(config)
    files = find_recordings(paths)
    enrolled: list[Enrolled] = []
    for n, file in enumerate(files):
        say(n, len(files), file.name)
        recording = _recording(machine, file)
        _check_rate(machine, file, recording.sample_rate_hz)
        enrolled += _enrol(config, machine, encoder, recording, name=str(file), condition=condition)
    return _fit(config, machine, encoder, enrolled, sample_rate_hz=recording.sample_rate_hz, accept=accept)


def fit_from_source(
    config: Config, machine: Machine, minutes: float, *, condition: str, accept: bool, say: Say
) -> Fitted:
    """Listen to the machine's own source and fit a bank on what was heard.

    Raises:
        SourceError: the source gives no sound, silence, or too little.
        BankError: there is too little of it.
    """
    encoder = encoder_of(config)
    source = sources_of([machine])[machine.id]
    wanted_s = minutes * 60

    def heard(window: Window) -> bool:
        done_s = window.end / window.sample_rate_hz
        say(min(done_s, wanted_s), wanted_s, f"{inspect(window.samples).level_dbfs:.0f} dBFS")
        return done_s <= wanted_s

    name = f"{source.description} {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    enrolled = _enrol(config, machine, encoder, source, name=name, condition=condition, go_on=heard)
    return _fit(config, machine, encoder, enrolled, sample_rate_hz=source.sample_rate_hz, accept=accept)


def score_recordings(config: Config, machine: Machine, paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """One JSON object a window: where it is, how far from normal, and why.

    Raises:
        BankError, BankMismatch: no bank, a damaged one, or one for another encoder, rate or window.
        SourceError: a recording is missing, damaged or shorter than a window.
    """
    encoder, bank, cut = encoder_of(config), bank_of(machine), config.encoder
    scorer = Scorer(bank)
    trip = trip_levels(machine, Calibration.from_json(bank.calibration))[AlarmLevel.ALARM].level
    for file in find_recordings(paths):
        with closing(_recording(machine, file)) as recording:
            rate = recording.sample_rate_hz
            bank.require(encoder.identity, rate, cut.window_s, cut.hop_s)
            windows = _windows(config, machine, recording)
            for window, features in features_of(encoder, windows):
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


def _recording(machine: Machine, file: Path) -> AudioSource:
    """A file, as fast as possible, with the machine's channel; of a file of one channel, that one."""
    recording = Recording(file, pace="fast")
    return Shared(recording).view(min(getattr(machine.source, "channel", 0), recording.channels - 1))


def _windows(config: Config, machine: Machine, source: AudioSource) -> Iterator[Window]:
    """Windows of a source, cut as the daemon will cut them; a SourceError where there is not one."""
    cut = config.encoder
    none = True
    for window in windows_of(
        source,
        machine=machine.id,
        window_s=cut.window_s,
        hop_s=cut.hop_s,
    ):
        none = False
        yield window
    if none:
        raise SourceError(
            f"{source.description}: shorter than one window of {cut.window_s:g} s",
            "give longer recordings, or set a shorter encoder.window_s",
        )


def _enrol(
    config: Config,
    machine: Machine,
    encoder: Encoder,
    source: AudioSource,
    *,
    name: str,
    condition: str,
    go_on: Callable[[Window], bool] = lambda _: True,
) -> list[Enrolled]:
    """Features of all windows of one source, until it ends or `go_on` says no; the source is closed."""
    levels_dbfs: list[float] = []

    def heard() -> Iterator[Window]:
        for window in _windows(config, machine, source):
            if not go_on(window):
                return
            levels_dbfs.append(inspect(window.samples).level_dbfs)
            yield window

    with closing(source):
        enrolled = [
            Enrolled(features, name, window.start / window.sample_rate_hz, condition)
            for window, features in features_of(encoder, heard())
        ]
    if max(levels_dbfs, default=SILENCE_DBFS) <= SILENCE_DBFS and condition != OFF:
        raise SourceError(
            f"{source.description}: silent: no window is over {SILENCE_DBFS:.0f} dBFS",
            f"check the cable and the input's level; a machine at rest is enrolled with --condition {OFF}",
        )
    return enrolled


def _check_rate(machine: Machine, file: Path, sample_rate_hz: int) -> None:
    expected = getattr(machine.source, "sample_rate_hz", sample_rate_hz)
    if sample_rate_hz != expected:
        raise SourceError(
            f"{file}: has {sample_rate_hz} Hz, machine {machine.id} listens at {expected} Hz",
            "enrol recordings of the machine's own rate, or change source.sample_rate_hz",
        )


def _fit(
    config: Config,
    machine: Machine,
    encoder: Encoder,
    enrolled: Sequence[Enrolled],
    *,
    sample_rate_hz: int,
    accept: bool,
) -> Fitted:
    """Bank and calibration of what was enrolled, saved as a new version."""
    cut = config.encoder
    bank = NormalBank.fit(
        enrolled,
        encoder=encoder.identity,
        sample_rate_hz=sample_rate_hz,
        window_s=cut.window_s,
        hop_s=cut.hop_s,
        provenance={"machine": machine.id, "by": getpass.getuser(), "on": platform.node()},
    )
    calibration = Calibration.fit(bank.held_out, cut.hop_s)
    levels = trip_levels(machine, calibration)
    versions = BankVersions(machine.bank)
    bank_id = versions.add(bank.with_calibration(calibration.to_json()))
    if accept:
        versions.accept(bank_id, at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return Fitted(
        machine=machine.id,
        bank_id=bank_id,
        path=machine.bank,
        accepted=accept,
        windows=len(enrolled),
        minutes=len(enrolled) * cut.hop_s / 60,
        conditions=bank.conditions,
        levels=levels,
        minutes_needed=levels[AlarmLevel.ALARM].minutes_needed,
    )
