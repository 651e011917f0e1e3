"""The picture of what was heard in fit-normal's report: sound, level and score on one axis of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from echo_stream.calibrate_heard import Heard
from echo_stream.deliver.pictures import INK, NORMAL, frequency_axis
from echo_stream.deliver.spectra import band_edges_hz
from echo_stream.detect.calibration import TripLevel
from echo_stream.detect.trimming import Trimming
from echo_stream.detect.words import clock
from echo_stream.report_style import LEFT_OUT, LEVEL_COLOURS, LEVEL_LINES, new_figure, word_over
from echo_stream.types import AlarmLevel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Float64 = NDArray[np.float64]

MOST_BORDERS: Final = 30
"""Of recordings; more would hide the picture."""
MOST_COLUMNS: Final = 1200
"""Of a picture; several columns of a longer enrolment become one, of which the loudest counts."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """All that was heard, on one axis of seconds: one recording after the other."""

    starts_s: Mapping[str, float]
    """Where each recording begins."""
    length_s: float
    window_s: float

    @classmethod
    def of(cls, heard: Heard, window_s: float) -> Timeline:
        """Recordings in the order in which they were heard."""
        starts_s, end_s = {}, 0.0
        for stretch in heard.stretches:
            starts_s[stretch.name] = end_s
            end_s += stretch.enrolled[-1].start_s + window_s
        return cls(starts_s, end_s, window_s)


def heard_figure(
    heard: Heard,
    trimming: Trimming,
    scores: Float64,
    levels: Mapping[AlarmLevel, TripLevel],
    window_s: float,
) -> Figure:
    """Sound, level and score over time, with what was left out marked in all three."""
    figure, axes = new_figure(7.2, 3, height_ratios=[2.2, 0.8, 1.5], sharex=True)
    sound, level, score = axes
    line = Timeline.of(heard, window_s)
    _draw_sound(sound, heard, line)
    at_s = np.array([line.starts_s[item.recording] + item.start_s + window_s / 2 for item in heard.enrolled])
    cut = np.flatnonzero(np.diff(at_s) > 1.5 * window_s) + 1
    levels_dbfs = np.array([item.features.level_dbfs for item in heard.enrolled])
    level.plot(np.insert(at_s, cut, np.nan), np.insert(levels_dbfs, cut, np.nan), color=NORMAL, lw=1.2)
    level.set_ylabel("level\n(dBFS)")
    middle = float(np.median(levels_dbfs))
    level.set_ylim(
        min(float(levels_dbfs.min()), middle - 5) - 1, max(float(levels_dbfs.max()), middle + 5) + 1
    )
    _draw_scores(score, at_s, scores, trimming, levels)
    for number, stretch in enumerate(trimming.trimmed, start=1):
        begin = line.starts_s[stretch.recording]
        _mark(axes, begin + stretch.start_s, begin + stretch.end_s, str(number))
    for stretch in trimming.spared:
        begin = line.starts_s[stretch.recording]
        sound.axvspan(begin + stretch.start_s, begin + stretch.end_s, fill=False, ec="white", ls=":", lw=1.5)
    for begin in list(line.starts_s.values())[1:] if len(line.starts_s) <= MOST_BORDERS else []:
        for each in axes:
            each.axvline(begin, color="white" if each is sound else "#999999", lw=0.7, ls="-")
    score.set_xlim(0, line.length_s)
    _time_axis(score, line.length_s)
    return figure


def _draw_sound(axes: Axes, heard: Heard, line: Timeline) -> None:
    parts = [(line.starts_s[s.name], seen) for s in heard.stretches for seen in s.seen]
    every = -(-sum(len(seen.columns_db) for _, seen in parts) // MOST_COLUMNS)
    edges_hz = band_edges_hz(heard.sample_rate_hz)
    all_db = np.concatenate([seen.columns_db for _, seen in parts])
    low_db, high_db = np.quantile(all_db, [0.02, 0.998])
    for begin, run in ((line.starts_s[s.name], run) for s in heard.stretches for run in s.seen_runs):
        columns_db = np.concatenate([seen.columns_db for seen in run])
        edges_s = np.concatenate(
            [np.linspace(seen.start_s, seen.end_s, len(seen.columns_db) + 1)[:-1] for seen in run]
        )
        columns_db = np.maximum.reduceat(columns_db, np.arange(0, len(columns_db), every), axis=0)
        edges_s = np.append(edges_s[::every], run[-1].end_s)
        axes.pcolormesh(
            begin + edges_s,
            edges_hz,
            columns_db.T,
            cmap="magma",
            vmin=low_db,
            vmax=max(high_db, low_db + 1),
            rasterized=True,
        )
    frequency_axis(axes, edges_hz[0], edges_hz[-1])
    axes.set_facecolor("black")
    axes.set_ylabel("frequency (Hz)\nbright: loud")


def _draw_scores(
    axes: Axes,
    at_s: Float64,
    scores: Float64,
    trimming: Trimming,
    levels: Mapping[AlarmLevel, TripLevel],
) -> None:
    kept = trimming.kept
    left_out = np.setdiff1d(np.arange(len(scores)), kept)
    top = 1.35 * max(trip.level for trip in levels.values())
    bottom = min(float(scores.min()), -2.0) - 0.5
    axes.plot(
        at_s[kept], np.minimum(scores[kept], 0.97 * top), ".", ms=4, color=NORMAL, label="learnt as normal"
    )
    if len(left_out):
        shown = np.minimum(scores[left_out], 0.97 * top)
        axes.plot(at_s[left_out], shown, "x", ms=7, mew=2, color=INK, label="left out")
    for level, trip in levels.items():
        axes.axhline(trip.level, color=LEVEL_COLOURS[level], lw=1.6, ls=LEVEL_LINES[level])
        axes.annotate(
            level.value,
            (1, trip.level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            color=LEVEL_COLOURS[level],
            va="bottom" if level is AlarmLevel.ALARM else "top",  # the two levels can be one
        )
    axes.set_ylim(bottom, top)
    axes.set_ylabel("score\nhigh: unusual")
    axes.grid(visible=True, alpha=0.25)


def _mark(axes: Sequence[Axes], start_s: float, end_s: float, word: str) -> None:
    for i, each in enumerate(axes):
        each.axvspan(start_s, end_s, color=LEFT_OUT, alpha=0.35 if i else 0.25, lw=0)
        if i == 0:
            each.axvspan(start_s, end_s, fill=False, ec=LEFT_OUT, lw=1.5)
    word_over(axes[0], (start_s + end_s) / 2, word)


def _time_axis(axes: Axes, length_s: float) -> None:
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 4 * 3600)
    step = next((s for s in steps if length_s / s <= 13), 12 * 3600)
    marks = np.arange(0, length_s + 1e-9, step)
    axes.set_xticks(marks, [clock(mark) for mark in marks])
    axes.set_xlabel("time (minutes:seconds)")
