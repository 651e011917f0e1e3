"""Charts of a fit's report show scores, rates and spectra, and the recordings on one axis of time."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from echo_stream.alarm.calibration import TripLevel
from echo_stream.core.calibration import NormalSpectrum
from echo_stream.core.sensitivity import BLIND_DB, Sensitivity
from echo_stream.core.text import MONTH_H, clock, duration_text
from echo_stream.core.types import AlarmLevel, AlarmPath, Float64
from echo_stream.evidence.picture import DECIDING, INK, NORMAL, PRESENT, frequency_axis, png_of
from echo_stream.evidence.spectrum import band_edges_hz
from echo_stream.fit.recorded import Recordings
from echo_stream.fit.trimming import Trimming

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL_COLOURS: Final = {AlarmLevel.WARNING: "#B07A00", AlarmLevel.ALARM: PRESENT}
LEVEL_LINES: Final = {AlarmLevel.WARNING: "--", AlarmLevel.ALARM: "-"}
LEFT_OUT: Final = "#56B4E9"
_WIDTH_IN, _DPI = 9.6, 125


def new_figure(
    height_in: float,
    rows: int,
    columns: int = 1,
    *,
    around_in: tuple[float, float, float, float],
    between_in: float = 0.0,
    **how: Any,
) -> tuple[Figure, Sequence[Any]]:
    """A figure of the page's width, and its axes row by row.

    A layout engine would measure every text twice to find the same places, for half the time of drawing.

    Args:
        height_in: Height in inches.
        rows: Of axes.
        columns: Of axes.
        around_in: Left, right, upper and lower margin in inches.
        between_in: Between two axes, in inches.
        how: For the grid of the axes, and whether they share their time.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second to import, and only where one draws

    figure = Figure(figsize=(_WIDTH_IN, height_in), dpi=_DPI, facecolor="white")
    left_in, right_in, upper_in, lower_in = around_in
    # matplotlib has what lies between in widths and heights of the average axes
    each_in = (_WIDTH_IN - left_in - right_in - (columns - 1) * between_in) / columns
    high_in = (height_in - upper_in - lower_in - (rows - 1) * between_in) / rows
    figure.subplots_adjust(
        left=left_in / _WIDTH_IN,
        right=1 - right_in / _WIDTH_IN,
        bottom=lower_in / height_in,
        top=1 - upper_in / height_in,
        wspace=between_in / each_in,
        hspace=between_in / high_in,
    )
    sharex = how.pop("sharex", False)
    axes = figure.subplots(rows, columns, sharex=sharex, squeeze=False, gridspec_kw=how)
    return figure, axes.ravel().tolist()


def as_data(figure: Figure) -> str:
    """A figure as the data of an image that stands in the page itself."""
    return base64.b64encode(png_of(figure)).decode("ascii")


def word_over(axes: Axes, x: float, word: str) -> None:
    """A word above the upper edge, at x."""
    axes.annotate(
        word,
        (x, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        color=INK,
        fontweight="bold",
    )


# The charts of fit-normal's report: how normal scores spread, which rates follow, how normal sounds.

CONDITION_COLOURS: Final = (NORMAL, DECIDING, "#CC79A7", "#E69F00", "#7F7F7F")
RATES: Final = np.geomspace(0.01, 3000, 12)
"""Events a month at which the tail is drawn, times what was asked for."""
OFTEN: Final = {
    "10 an hour": 7200,
    "1 an hour": 720,
    "1 a day": 30,
    "1 a week": 30 / 7,
    "1 a month": 1,
    "1 a year": 1 / 12,
}
"""Rates that people can picture, a month."""


def scores_figure(
    held_out: Float64,
    left_out: Float64,
    levels: Mapping[AlarmLevel, TripLevel],
    trip_level: Callable[[float], TripLevel],
) -> Figure:
    """How normal scores spread, and how often a month each level would be passed.

    Args:
        held_out: (windows,) all scores of normal sound that the bank did not see.
        left_out: (windows,) scores of disturbances.
        levels: Where warning and alarm begin.
        trip_level: Of the calibration: the level for so many alarms a month, with the alarm's on-delay.
    """
    figure, (spread, rate) = new_figure(3.9, 1, 2, around_in=(0.65, 0.08, 0.25, 1.03), between_in=1.15)
    right = 1.25 * max(trip.level for trip in levels.values())
    left = min(float(held_out.min()), -2.0) - 0.5
    bins = np.linspace(left, right, 50).tolist()
    spread.hist(np.clip(held_out, left, right), bins, color=NORMAL, label="normal sound")
    if len(left_out):
        label = "left out" + (" (some are beyond the edge)" if left_out.max() > right else "")
        spread.hist(np.clip(left_out, left, 0.999 * right), bins, color=INK, label=label)
    spread.set_yscale("log")
    spread.set_ylim(0.7, None)
    spread.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    spread.set_ylabel("windows with that score")
    spread.set_title("How the scores spread", loc="left", fontsize=11, y=1.0)
    found = [trip_level(asked) for asked in RATES * levels[AlarmLevel.ALARM].asked_per_month]
    at = [trip.level for trip in found]
    expected = [trip.expected_per_month for trip in found]
    most = [trip.upper95_per_month for trip in found]
    rate.fill_between(
        at, expected, most, color=NORMAL, alpha=0.18, lw=0, label="up to here with 95 % certainty"
    )
    rate.plot(at, expected, color=NORMAL, lw=1.8, label="expected")
    counted = [(t.level, t.measured_events / t.measured_hours * MONTH_H) for t in found if t.measured_events]
    if shown := [(level, monthly) for level, monthly in counted if monthly < 2 * max(OFTEN.values())]:
        rate.plot(*zip(*shown, strict=True), "o", ms=5, color=INK, label="counted")
    rate.set_yscale("log")
    rate.set_ylim(min(OFTEN.values()) / 2, max(OFTEN.values()) * 2)
    rate.set_yticks(list(OFTEN.values()), list(OFTEN))
    rate.minorticks_off()
    rate.set_title("How often normal sound would raise an alarm", loc="left", fontsize=11, y=1.0)
    for axes in (spread, rate):
        axes.set_xlim(left, right)
        axes.grid(visible=True, alpha=0.25)
        for level, trip in levels.items():
            if axes is rate and level is not AlarmLevel.ALARM:
                continue  # its rate is another: it comes sooner
            colour, style = LEVEL_COLOURS[level], LEVEL_LINES[level]
            axes.axvline(trip.level, color=colour, lw=1.6, ls=style, label=f"{level.value} level")
    spread.set_xlabel("score")
    rate.set_xlabel("score at which the alarm is set")
    spread.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    rate.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
    return figure


PATH_COLOURS: Final = {AlarmPath.STRONG: PRESENT, AlarmPath.STEP: DECIDING, AlarmPath.SLOW: NORMAL}
SHOWN_DB: Final = 33.0
"""Where a third stands that no rise raises an alarm in; the largest that is tried is 30 dB."""


def sensitivity_figure(found: Sensitivity) -> Figure:
    """The rise that raises an alarm, third by third of an octave, as steps: one line for each way."""
    figure, panels = new_figure(3.6, 1, 2, around_in=(0.95, 0.08, 0.25, 1.13), between_in=1.0)
    edges_hz = [fault.low_hz for fault in found.faults] + [found.faults[-1].high_hz]
    for axes, title in zip(panels, ("steady", "as impacts"), strict=True):
        for path in reversed(found.paths):
            gains = [f.steady_db if title == "steady" else f.impacts_db for f in found.faults]
            rises_db = [SHOWN_DB if (gain := each.get(path)) is None else gain for each in gains]
            label = f"after {duration_text(found.after_s[path])} ({path.value})"
            axes.stairs(rises_db, edges_hz, color=PATH_COLOURS[path], lw=2.0, label=label, baseline=None)
        axes.axhspan(BLIND_DB, SHOWN_DB + 1, color="#999999", alpha=0.1, lw=0)
        axes.set_xscale("log")
        axes.set_xlim(edges_hz[0], edges_hz[-1])
        axes.set_ylim(0, SHOWN_DB + 1)
        axes.set_yticks([0, 6, 12, 18, 24, 30, SHOWN_DB], ["0", "6", "12", "18", "24", "30", "not at all"])
        marks = [m * 10**k for k in range(1, 6) for m in (1, 2, 5)]
        marks = [mark for mark in marks if edges_hz[0] <= mark <= edges_hz[-1]]
        axes.set_xticks(marks, [f"{m // 1000}k" if m >= 1000 else str(m) for m in marks])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.25)
        axes.set_title(title, loc="left", fontsize=11, y=1.0)
        axes.set_xlabel("frequency (Hz)")
        axes.set_ylabel("louder by (dB)")
        axes.legend(frameon=False, fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return figure


def bands_figure(
    spectra: Sequence[tuple[str, NormalSpectrum]],
    bands_hz: Float64,
    marked: Sequence[tuple[str, tuple[float, float]]],
) -> Figure:
    """Normal levels over frequency, by operating state, and the bands that are scored one by one.

    Args:
        spectra: Operating state and what was usual in it.
        bands_hz: (bands, 2) of the encoder.
        marked: A word for, and the edges of, the band that stood out in each disturbance.
    """
    figure, (axes,) = new_figure(3.6, 1, around_in=(0.7, 0.08, 0.2, 0.5))
    conditions = list(dict.fromkeys(condition for condition, _ in spectra))
    for condition, spectrum in spectra:
        edges_hz = band_edges_hz(spectrum.sample_rate_hz)
        centres_hz = np.sqrt(edges_hz[1:] * edges_hz[:-1])
        colour = CONDITION_COLOURS[conditions.index(condition) % len(CONDITION_COLOURS)]
        fresh = condition not in axes.get_legend_handles_labels()[1]
        axes.fill_between(centres_hz, spectrum.low_db, spectrum.high_db, color=colour, alpha=0.3, lw=0)
        axes.plot(centres_hz, spectrum.median_db, color=colour, lw=1.5, label=condition if fresh else None)
    low_hz, high_hz = max(float(bands_hz[0, 0]), edges_hz[0]), float(bands_hz[-1, 1])
    for edge_hz in np.unique(bands_hz):
        axes.axvline(edge_hz, color="#999999", lw=0.6, zorder=0)
    for word, (band_low_hz, band_high_hz) in marked:
        axes.axvspan(band_low_hz, band_high_hz, color=LEFT_OUT, alpha=0.25, lw=0, zorder=0)
        word_over(axes, float(np.sqrt(max(band_low_hz, low_hz) * band_high_hz)), word)
    axes.set_xscale("log")
    axes.set_xlim(low_hz, high_hz)
    marks = [m * 10**k for k in range(1, 6) for m in (1, 2, 5) if low_hz <= m * 10**k <= high_hz]
    axes.set_xticks(marks, [f"{m // 1000}k" if m >= 1000 else str(m) for m in marks])
    axes.minorticks_off()
    axes.set_xlabel("frequency (Hz); grey lines: edges of the bands that are scored")
    axes.set_ylabel("level (dBFS)")
    axes.legend(frameon=False, fontsize=9, loc="best")
    return figure


# The picture of the recordings in fit-normal's report: sound, level and score on one axis of time.

MOST_BORDERS: Final = 30
"""Of recordings; more would hide the picture."""
MOST_COLUMNS: Final = 1200
"""Of a picture; several columns of a longer enrolment become one, of which the loudest counts."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """All recordings, on one axis of seconds: one recording after the other."""

    starts_s: Mapping[str, float]
    """Where each recording begins."""
    length_s: float
    window_s: float

    @classmethod
    def of(cls, recordings: Recordings, window_s: float) -> Timeline:
        """Recordings in the order of the enrolment."""
        starts_s, end_s = {}, 0.0
        for segment in recordings.segments:
            starts_s[segment.name] = end_s
            end_s += segment.enrolled[-1].start_s + window_s
        return cls(starts_s, end_s, window_s)


def recordings_figure(
    recordings: Recordings,
    trimming: Trimming,
    scores: Float64,
    levels: Mapping[AlarmLevel, TripLevel],
    window_s: float,
) -> Figure:
    """Sound, level and score over time, with what was left out marked in all three."""
    figure, axes = new_figure(
        7.2, 3, around_in=(0.9, 0.68, 0.2, 0.5), between_in=0.15, height_ratios=[2.2, 0.8, 1.5], sharex=True
    )
    sound, level, score = axes
    line = Timeline.of(recordings, window_s)
    _draw_sound(sound, recordings, line)
    at_s = np.array(
        [line.starts_s[item.recording] + item.start_s + window_s / 2 for item in recordings.enrolled]
    )
    cut = np.flatnonzero(np.diff(at_s) > 1.5 * window_s) + 1
    levels_dbfs = np.array([item.features.level_dbfs for item in recordings.enrolled])
    level.plot(np.insert(at_s, cut, np.nan), np.insert(levels_dbfs, cut, np.nan), color=NORMAL, lw=1.2)
    level.set_ylabel("level\n(dBFS)")
    middle = float(np.median(levels_dbfs))
    level.set_ylim(
        min(float(levels_dbfs.min()), middle - 5) - 1, max(float(levels_dbfs.max()), middle + 5) + 1
    )
    _draw_scores(score, at_s, scores, trimming, levels)
    for number, segment in enumerate(trimming.trimmed, start=1):
        begin = line.starts_s[segment.recording]
        _mark(axes, begin + segment.start_s, begin + segment.end_s, str(number))
    for segment in trimming.kept_outliers:
        begin = line.starts_s[segment.recording]
        sound.axvspan(begin + segment.start_s, begin + segment.end_s, fill=False, ec="white", ls=":", lw=1.5)
    for begin in list(line.starts_s.values())[1:] if len(line.starts_s) <= MOST_BORDERS else []:
        for each in axes:
            each.axvline(begin, color="white" if each is sound else "#999999", lw=0.7, ls="-")
    score.set_xlim(0, line.length_s)
    _time_axis(score, line.length_s)
    return figure


def _draw_sound(axes: Axes, recordings: Recordings, line: Timeline) -> None:
    parts = [(line.starts_s[s.name], each) for s in recordings.segments for each in s.slices]
    every = -(-sum(len(each.columns_db) for _, each in parts) // MOST_COLUMNS)
    edges_hz = band_edges_hz(recordings.sample_rate_hz)
    all_db = np.concatenate([each.columns_db for _, each in parts])
    low_db, high_db = np.quantile(all_db, [0.02, 0.998])
    for begin, run in ((line.starts_s[s.name], run) for s in recordings.segments for run in s.slice_runs):
        columns_db = np.concatenate([each.columns_db for each in run])
        edges_s = np.concatenate(
            [np.linspace(each.start_s, each.end_s, len(each.columns_db) + 1)[:-1] for each in run]
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
