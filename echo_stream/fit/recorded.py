"""Recordings hold normal sound window by window: features, sensor figures, and slices for a picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import pairwise
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.sensor import CLIPPED_SHARE, SensorFigures
from echo_stream.core.calibration import NormalSpectrum, SensorLimits
from echo_stream.core.checks import Check
from echo_stream.core.sequences import Thinned
from echo_stream.core.types import Enrolled, Float32, Float64, Window
from echo_stream.detect.folds import folds_of, runs_of
from echo_stream.evidence.normal_sound import ClipsOf, no_clips
from echo_stream.evidence.spectrum import band_levels_over_time_db
from echo_stream.fit.checks import Signal

COLUMN_S = 0.25
"""Of the report's spectrogram; the loudest frame of 128 ms counts, so that a knock stays visible."""
FRAME_HOP_S = 0.064
PROBES = 16
"""Windows of an enrolment whose samples are kept while a bank is fitted."""
NUMBERS = re.compile(r"\d+")
MOST_JUMP_DB = 3.0
"""Between the end of a clip and the next: a steady machine stays well within it."""
_METER_LOWEST_DBFS, _METER_CELLS = -80.0, 12


@dataclass(frozen=True, slots=True)
class Probe:
    """A window of normal sound with its samples, kept while a bank is fitted."""

    recording: str
    window: Window

    @property
    def start_s(self) -> float:
        """Where in the recording it starts."""
        return self.window.start / self.window.sample_rate_hz


class ProbeCollector:
    """Keeps a spread sample of the windows of a recording whose length is not known before its end.

    Args:
        recording: Name of the recording.
        most: Windows that are kept at most.
    """

    def __init__(self, recording: str, most: int = PROBES) -> None:
        self._recording = recording
        self._kept: Thinned[Probe] = Thinned(most)

    @property
    def probes(self) -> list[Probe]:
        """Those that are kept."""
        return self._kept.items

    def add(self, window: Window) -> None:
        """The next window."""
        self._kept.add(lambda: Probe(self._recording, replace(window, samples=window.samples.copy())))


@dataclass(frozen=True, slots=True)
class SpectrogramSlice:
    """The start of a window as a picture shows it."""

    start_s: float
    end_s: float
    columns_db: Float32
    """(columns, bands) equally wide; the level of the loudest frame in each."""
    mean_db: Float64
    """(bands,) mean level."""


@dataclass(slots=True)
class Segment:
    """One recording, or one stretch of listening."""

    name: str
    enrolled: list[Enrolled] = field(default_factory=list)
    figures: list[SensorFigures] = field(default_factory=list)
    """Of each window."""
    slices: list[SpectrogramSlice] = field(default_factory=list)
    """For pictures; one after the other, without overlap."""
    resumed: list[int] = field(default_factory=list)
    """Places of windows before which sound was passed over on purpose: not lost, and not looked at."""

    @property
    def signals(self) -> list[Signal]:
        """What the sensor delivered, in pieces between which sound was passed over."""
        figures = [(figure.level_dbfs, figure.clipped_share) for figure in self.figures]
        level_dbfs, clipped_share = np.array(figures, np.float64).reshape(-1, 2).T
        columns = np.array([item.start_s for item in self.enrolled]), level_dbfs, clipped_share
        pieces = zip(*(np.split(column, self.resumed) for column in columns), strict=True)
        return [Signal(self.name, *piece) for piece in pieces]

    @property
    def slice_runs(self) -> list[list[SpectrogramSlice]]:
        """Slices, cut where sound is missing."""
        later = enumerate(pairwise(self.slices), start=1)
        cuts = [i for i, (before, after) in later if after.start_s > before.end_s + COLUMN_S]
        return [self.slices[first:end] for first, end in pairwise([0, *cuts, len(self.slices)])]


@dataclass(frozen=True, slots=True)
class Recordings:
    """Normal sound of one operating state."""

    source: str
    device: str
    sample_rate_hz: int
    heard_at: datetime
    segments: tuple[Segment, ...]
    notes: tuple[Check, ...] = ()
    """What there is to say about how they came about."""
    probes: tuple[Probe, ...] = ()
    """Some of the windows with their samples."""
    clips: ClipsOf = no_clips
    """Sound that is kept beside the bank, to be heard."""
    by: str = ""
    """Who asked for it; empty: who runs this."""

    @property
    def enrolled(self) -> list[Enrolled]:
        """All windows, segment by segment."""
        return [item for segment in self.segments for item in segment.enrolled]

    @property
    def spectrum(self) -> NormalSpectrum:
        """What was usual in each narrow band, for pictures."""
        means_db = [each.mean_db for segment in self.segments for each in segment.slices]
        return NormalSpectrum.fit(self.sample_rate_hz, means_db)

    def sensor_limits(self, kept: Sequence[int]) -> SensorLimits:
        """What the sensor does when all is well, from the windows that were learnt."""
        figures = [figure for segment in self.segments for figure in segment.figures]
        mine = [figures[i] for i in kept]
        return SensorLimits.fit(
            [f.level_dbfs for f in mine], [f.hum_share for f in mine], [f.rumble_share for f in mine]
        )


def look_at(window: Window, slices: list[SpectrogramSlice], length_s: float) -> None:
    """Add what no slice covers yet of a window, in pieces of `length_s`."""
    rate, length = window.sample_rate_hz, round(length_s * window.sample_rate_hz)
    begin = max(window.start, round(slices[-1].end_s * rate)) if slices else window.start
    for start in range(begin, window.end - length + 1, length):
        samples = window.samples[start - window.start :][:length]
        frames_db = band_levels_over_time_db(samples, rate, FRAME_HOP_S)
        columns = min(len(frames_db), max(1, round(length_s / COLUMN_S)))
        loudest_db = [part.max(axis=0) for part in np.array_split(frames_db, columns)]
        mean_db = 10 * np.log10((10 ** (frames_db / 10)).mean(axis=0))
        end_s = (start + length) / rate
        slices.append(SpectrogramSlice(start / rate, end_s, np.stack(loudest_db).astype(np.float32), mean_db))


def level_meter(figures: SensorFigures) -> str:
    """A live level for a terminal: a bar, the figure, and a word where it is clipped."""
    height = (figures.level_dbfs - _METER_LOWEST_DBFS) / -_METER_LOWEST_DBFS
    cells = round(min(max(height, 0.0), 1.0) * _METER_CELLS)
    clipped = " CLIPPED" if figures.clipped_share > CLIPPED_SHARE / 1000 else ""
    return f"{'█' * cells}{'░' * (_METER_CELLS - cells)} {figures.level_dbfs:4.0f} dBFS{clipped}"


# How windows lie in time: where a held-out score belongs, what follows what, how much sound it is.


def minutes_of(enrolled: Sequence[Enrolled], window_s: float) -> float:
    """How much sound windows hold, recording by recording in time order; what overlaps counts once."""
    seconds = 0.0
    before: Enrolled | None = None
    for item in enrolled:
        follows = before is not None and before.recording == item.recording
        seconds += min(window_s, item.start_s - before.start_s) if before and follows else window_s
        before = item
    return seconds / 60


def held_out_places(enrolled: Sequence[Enrolled], *, window_s: float, hop_s: float) -> list[NDArray[np.intp]]:
    """Which of the enrolled windows each score of each run of `NormalBank.held_out` belongs to."""
    places = []
    for condition in sorted({item.condition for item in enrolled}):
        members = np.array([i for i, item in enumerate(enrolled) if item.condition == condition], np.intp)
        items = [enrolled[i] for i in members]
        for fold in folds_of(items, window_s=window_s, hop_s=hop_s):
            places += [members[run] for run in runs_of(items, fold, hop_s=hop_s)]
    return places


@dataclass(frozen=True, slots=True)
class Joined:
    """Held-out scores of clips, put together."""

    runs: tuple[Float64, ...]
    by_name_alone: int
    """Clips that are too short to stand alone, and of which nobody knows whether they follow each other."""


def joined_clips(
    runs: Sequence[Float64],
    places: Sequence[NDArray[np.intp]],
    enrolled: Sequence[Enrolled],
    *,
    window_s: float,
    hop_s: float,
    held_hops: int,
) -> Joined:
    """Held-out scores of clips of one series, as one run.

    A clip of one window shows an odd moment, and not how soon it passes; the clip after it does. Clips are a
    series where their names differ by numbers only, and their level goes on: it jumps by no more than
    `MOST_JUMP_DB` from most of them to the next. Those that are long enough by themselves are joined where
    the last number is one higher (`pump_007.wav`, `pump_008.wav`); shorter ones in the order of all numbers.
    Windows that would straddle two clips are taken to be as strange as the stranger of their neighbours.

    Args:
        runs: Contiguous scores.
        places: Which of the enrolled windows each score of each run belongs to.
        enrolled: All windows.
        window_s: Length of a window; at the end of a clip less than a hop is taken to be left over.
        hop_s: Between the starts of two windows.
        held_hops: Windows in a row that an alarm takes.
    """

    def in_order(i: int) -> tuple[str, str, tuple[int, ...], float]:
        first = enrolled[places[i][0]]
        return (first.condition, *numbered(first.recording), first.start_s)

    order = sorted(range(len(runs)), key=in_order)
    pairs: list[bool | None] = [
        _follows(in_order(a)[:3], in_order(b)[:3], short=2 * min(len(runs[a]), len(runs[b])) < held_hops)
        if enrolled[places[b][0]].start_s < hop_s
        else None
        for a, b in pairwise(order)
    ]
    jumps_db: dict[tuple[str, str], list[float]] = {}
    for pair, (a, b) in zip(pairs, pairwise(order), strict=True):
        if pair is not None:
            before, after = enrolled[places[a][-1]].features, enrolled[places[b][0]].features
            jumps_db.setdefault(in_order(b)[:2], []).append(abs(after.level_dbfs - before.level_dbfs))
    straddling = max(0, round(window_s / hop_s) - 1)
    joined = [np.asarray(runs[i], np.float64) for i in order[:1]]
    by_name_alone = 0
    for pair, after in zip(pairs, order[1:], strict=True):
        run = np.asarray(runs[after], np.float64)
        if pair is None or np.median(jumps_db[in_order(after)[:2]]) > MOST_JUMP_DB:
            joined.append(run)
            continue
        between = np.full(straddling, max(joined[-1][-1], run[0]))
        joined[-1] = np.concatenate([joined[-1], between, run])
        by_name_alone += not pair
    return Joined(tuple(joined), by_name_alone)


def numbered(recording: str) -> tuple[str, tuple[int, ...]]:
    """A name without its numbers, and these; the ending keeps its own."""
    path = PurePath(recording)
    name = str(path.with_suffix(""))
    return NUMBERS.sub("#", name) + path.suffix, tuple(int(each) for each in NUMBERS.findall(name))


def _follows(
    before: tuple[str, str, tuple[int, ...]], after: tuple[str, str, tuple[int, ...]], *, short: bool
) -> bool | None:
    """The number says so; False: not known, of short clips of one series; None: it does not."""
    if before[:2] != after[:2] or not after[2] or before[2] == after[2]:
        return None
    if (*before[2][:-1], before[2][-1] + 1) == after[2]:
        return True
    return False if short else None


def in_runs(enrolled: Sequence[Enrolled], values: Float64, hop_s: float) -> list[Float64]:
    """Values of windows, cut wherever the next window does not follow at hop spacing."""
    follows = [
        after.recording == before.recording and after.start_s - before.start_s < 1.5 * hop_s
        for before, after in pairwise(enrolled)
    ]
    return np.split(values, np.flatnonzero(~np.array(follows, dtype=bool)) + 1)
