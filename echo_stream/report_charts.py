"""The charts of fit-normal's report: how normal scores spread, which rates follow, how normal sounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from echo_stream.deliver.pictures import DECIDING, INK, NORMAL
from echo_stream.deliver.spectra import NormalSpectrum, band_edges_hz
from echo_stream.detect.calibration import MONTH_H, TripLevel
from echo_stream.report_style import LEFT_OUT, LEVEL_COLOURS, LEVEL_LINES, new_figure, word_over
from echo_stream.types import AlarmLevel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Float64 = NDArray[np.float64]

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
    figure, (spread, rate) = new_figure(3.9, 1, 2, width_ratios=[1, 1])
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
    spread.set_title("How the scores spread", loc="left", fontsize=11)
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
    rate.set_title("How often normal sound would raise an alarm", loc="left", fontsize=11)
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
    figure, (axes,) = new_figure(3.6, 1)
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
