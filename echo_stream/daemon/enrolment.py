"""An enrolment keeps a machine's sound while the daemon listens, and says how far it is. One thread.

Its states: listening, paused, fitting, done, failed. What it must know after a restart stands in
`enrolment.json`, the sound beside it (capture/pieces.py), one folder an operating state. Of hours and days
parts are kept that are spread evenly over them, so that disk and work are bounded.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

import numpy as np

from echo_stream.capture.pieces import PieceWriter, SoundOrigin
from echo_stream.core.files import read_regular, write_whole
from echo_stream.core.log import get_logger
from echo_stream.core.text import utc_text
from echo_stream.core.types import Float32, Window
from echo_stream.pipeline.station import sensor_figures

FILE: Final = "enrolment.json"
KEPT_S: Final = 7200.0
"""So much sound is kept at most: more is not learnt (fit/archive.py) with most encoders."""
PART_S: Final = 300.0
"""What is kept in a row of an enrolment that is longer."""
SAMPLE_BYTES: Final = 3
SAVE_EVERY_S: Final = 60.0
MOST_BYTES: Final = 1 << 22

log = get_logger()


class Stage(StrEnum):
    """Where an enrolment stands."""

    LISTENING = "listening"
    PAUSED = "paused"
    FITTING = "fitting"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Sound:
    """What a machine was heard since the sound before."""

    machine: str
    samples: Float32
    lost: int
    """Samples missing before it."""
    begins: bool
    """It does not follow what was heard before: the source was opened anew."""
    sample_rate_hz: int
    full_scale: float
    device: str
    condition: str
    """Operating state that the daemon takes it for; empty without a bank."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of the sound of one operating state."""

    condition: str
    bank_id: str
    verdict: str
    text: str
    document: dict[str, Any]
    """What `fit-normal --json` says."""


@dataclass(slots=True)
class Record:
    """What a restart must know, as JSON."""

    machine: str
    minutes: float
    conditions: list[str]
    """Operating states to learn; of several each sound goes to the one that the daemon takes it for."""
    told_apart: bool
    """Only sound that the daemon takes for one of the states is kept."""
    accept: bool
    by: str
    source: str
    """Kind."""
    began_at: str
    stage: Stage = Stage.LISTENING
    device: str = ""
    sample_rate_hz: int = 0
    full_scale_is_one: bool = True
    passed_s: float = 0.0
    """Sound that came while it listened."""
    lost_s: float = 0.0
    said: str = ""
    """For people: why it failed, or what holds it up."""
    fits: list[Fit] = field(default_factory=list)
    ended_at: str = ""

    def save(self, folder: Path) -> None:
        """Writes it.

        Raises:
            OSError: it cannot be written.
        """
        write_whole(folder / FILE, json.dumps(asdict(self)).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads it.

        Raises:
            OSError: it cannot be read.
            ValueError: it is damaged.
        """
        try:
            plain = json.loads(read_regular(folder / FILE, MOST_BYTES))
            fits = [Fit(**each) for each in plain.pop("fits")]
            return cls(**{**plain, "stage": Stage(plain["stage"])}, fits=fits)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{folder / FILE}: damaged: {error!r}") from error


@dataclass(frozen=True, slots=True)
class Limits:
    """What an enrolment may take."""

    max_mb: float
    min_free_mb: float
    window_s: float

    def kept_s(self, sample_rate_hz: int) -> float:
        """How much sound of this rate is kept at most."""
        return min(KEPT_S, self.max_mb * 1e6 / (SAMPLE_BYTES * sample_rate_hz))


class Enrolment:
    """One enrolment. The thread of the enrolments.

    Args:
        folder: of this machine's enrolment.
        record: what is asked, or what an earlier run of the daemon left.
        limits: of disk, and the length of a window.
    """

    def __init__(self, folder: Path, record: Record, limits: Limits) -> None:
        self.folder, self.record = folder, record
        self._limits = limits
        self._writers: list[PieceWriter | None] = [None] * len(record.conditions)
        self._cut = [True] * len(record.conditions)
        """The next sound of a state begins another stretch."""
        self._recent = np.zeros(0, np.float32)
        self._level_dbfs: float | None = None
        self._clipped = self._hum = self._rumble = 0.0
        self._ever_clipped = False
        self._saved_s = record.passed_s

    @property
    def wanted_s(self) -> float:
        """How much sound was asked for."""
        return 60 * self.record.minutes

    @property
    def listening(self) -> bool:
        """Whether it takes sound."""
        return self.record.stage is Stage.LISTENING

    def sound_of(self, state: int) -> Path:
        """Where the sound of an operating state lies."""
        return self.folder / f"sound-{state}"

    def take(self, sound: Sound) -> None:
        """The next sound of the machine; what cannot be kept is counted as lost."""
        record = self.record
        if not self.listening or self._is_foreign(sound):
            return
        seconds, lost_s = (n / sound.sample_rate_hz for n in (len(sound.samples), sound.lost))
        self._measure(sound)
        if sound.begins:
            self._cut = [True] * len(self._cut)
        kept = self._state_of(sound) if self._keeps_now(sound.sample_rate_hz) else None
        for state in range(len(self._cut)):
            if state == kept:
                self._write(state, sound)
            elif not self._cut[state]:
                self._close(state)
                self._cut[state] = True
        record.passed_s += seconds + lost_s
        record.lost_s += lost_s
        if record.passed_s >= self.wanted_s:
            self.finish()
        elif record.passed_s - self._saved_s >= SAVE_EVERY_S:
            self._saved_s = record.passed_s
            self._save()

    def _is_foreign(self, sound: Sound) -> bool:
        """The first sound says what it is; what differs from it cannot be one enrolment with it."""
        record = self.record
        if not record.sample_rate_hz:
            record.sample_rate_hz, record.device = sound.sample_rate_hz, sound.device
            record.full_scale_is_one = sound.full_scale == 1
            self._save()
        now, before = (sound.sample_rate_hz, sound.device), (record.sample_rate_hz, record.device)
        if now == before:
            return False
        self.fail(
            f"the device changed: now {now[1]} with {now[0]} Hz, before {before[1]} with {before[0]} Hz"
        )
        return True

    def pause(self) -> None:
        """Keeps nothing until `resume`."""
        self.record.stage = Stage.PAUSED
        self._close_all()
        self._save()

    def resume(self) -> None:
        """Goes on."""
        self.record.stage = Stage.LISTENING
        self._save()

    def finish(self) -> None:
        """From now on what was kept is to be fitted."""
        self._close_all()
        self.record.stage, self.record.said = Stage.FITTING, ""
        self._save()

    def fail(self, said: str) -> None:
        """Ends it; the sound stays, to be fitted once more when what was wrong is mended."""
        self._close_all()
        self.record.stage, self.record.said, self.record.ended_at = Stage.FAILED, said, _now()
        self._save()

    def done(self) -> None:
        """Ends it well: the sound goes, the report stays."""
        self.record.stage, self.record.said, self.record.ended_at = Stage.DONE, "", _now()
        for state in range(len(self.record.conditions)):
            shutil.rmtree(self.sound_of(state), ignore_errors=True)
        self._save()

    def suspend(self) -> None:
        """The daemon ends: what is at hand is completed, for its next start."""
        self._close_all()
        self._save()

    def to_fit(self) -> list[int]:
        """Operating states of which sound was kept and that are not fitted yet."""
        fitted = {fit.condition for fit in self.record.fits}
        least = self.record.sample_rate_hz * self._limits.window_s
        return [
            state
            for state, condition in enumerate(self.record.conditions)
            if condition not in fitted and self._kept(state) >= max(1.0, least)
        ]

    def _kept(self, state: int) -> int:
        writer = self._writers[state]
        if writer is None and self.sound_of(state).is_dir() and self.record.sample_rate_hz:
            writer = self._open(state)
        return writer.samples if writer else 0

    def snapshot(self) -> dict[str, Any]:
        """How far it is, as plain JSON."""
        record = self.record
        rate = record.sample_rate_hz or 1
        kept_s = sum(self._kept(state) for state in range(len(self._writers))) / rate
        return {
            "stage": record.stage.value,
            "progress": round(min(1.0, record.passed_s / self.wanted_s), 4),
            "heard_s": round(record.passed_s, 1),
            "left_s": round(max(0.0, self.wanted_s - record.passed_s), 1),
            "kept_s": round(kept_s, 1),
            "lost_s": round(record.lost_s, 2),
            "minutes": record.minutes,
            "conditions": list(record.conditions),
            "level_dbfs": None
            if self._level_dbfs is None or not self.listening
            else round(self._level_dbfs, 1),
            "clipped": round(self._clipped, 5),
            "ever_clipped": self._ever_clipped,
            "hum": round(self._hum, 3),
            "rumble": round(self._rumble, 3),
            "by": record.by,
            "began_at": record.began_at,
            "ended_at": record.ended_at,
            "said": record.said,
            "fits": [
                {"condition": fit.condition, "bank": fit.bank_id, "verdict": fit.verdict}
                for fit in record.fits
            ],
        }

    def _measure(self, sound: Sound) -> None:
        """Level, clipping and hum of the newest window."""
        length = round(self._limits.window_s * sound.sample_rate_hz)
        before = self._recent if not (sound.lost or sound.begins) else self._recent[:0]
        self._recent = np.concatenate([before, sound.samples])[-length:]
        window = Window(
            sound.machine,
            self._recent,
            0,
            len(self._recent),
            sound.sample_rate_hz,
            datetime.now(UTC),
            sound.full_scale,
        )
        figures = sensor_figures(window)
        self._level_dbfs, self._clipped = float(figures.level_dbfs), float(figures.clipped_share)
        self._hum, self._rumble = float(figures.hum_share), float(figures.rumble_share)
        self._ever_clipped |= self._clipped > 0

    def _state_of(self, sound: Sound) -> int | None:
        record = self.record
        if not record.told_apart:
            return 0
        return record.conditions.index(sound.condition) if sound.condition in record.conditions else None

    def _keeps_now(self, rate: int) -> bool:
        """Of more than is kept, parts of PART_S, spread evenly."""
        most_s = self._limits.kept_s(rate)
        if self.wanted_s <= most_s:
            return True
        period_s = self.wanted_s / max(1, int(most_s / PART_S))
        return self.record.passed_s % period_s < min(PART_S, most_s)

    def _open(self, state: int) -> PieceWriter:
        record = self.record
        full_scale = 1.0 if record.full_scale_is_one else float("inf")
        writer = PieceWriter(self.sound_of(state), record.sample_rate_hz, full_scale)
        self._writers[state] = writer
        return writer

    def _write(self, state: int, sound: Sound) -> None:
        record = self.record
        samples = len(sound.samples)
        try:
            writer = self._writers[state] or self._open(state)
            if self._cut[state]:
                since = datetime.now(UTC) - datetime.fromisoformat(record.began_at)
                writer.begin(round(since.total_seconds() * record.sample_rate_hz))
                note = SoundOrigin(
                    record.source, record.device, record.sample_rate_hz, record.began_at, record.by
                )
                note.save(self.sound_of(state))
                self._cut[state] = False
            elif sound.lost:
                writer.lose(sound.lost)
            free_mb = shutil.disk_usage(self.folder).free / 1e6
            if free_mb < self._limits.min_free_mb:
                raise OSError(f"only {free_mb:.0f} MB are free, {self._limits.min_free_mb:g} MB stay free")  # noqa: TRY301
            writer.write(sound.samples)
        except OSError as error:
            self._trouble(str(error))
            record.lost_s += samples / sound.sample_rate_hz
            self._cut[state] = True
        else:
            if record.said:
                log.info("sound of an enrolment is kept again", machine=record.machine)
            record.said = ""

    def _trouble(self, said: str) -> None:
        if not self.record.said:
            log.warning("sound of an enrolment cannot be kept", machine=self.record.machine, reason=said)
        self.record.said = f"the sound cannot be kept: {said}"

    def _close(self, state: int) -> None:
        writer = self._writers[state]
        if writer is not None:
            try:
                writer.close()
            except OSError as error:
                self._trouble(str(error))

    def _close_all(self) -> None:
        for state in range(len(self._writers)):
            self._close(state)
            self._cut[state] = True

    def _save(self) -> None:
        try:
            self.record.save(self.folder)
        except OSError as error:
            self._trouble(str(error))


def _now() -> str:
    return utc_text(datetime.now(UTC))
