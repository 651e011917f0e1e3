"""The picture of replayed streams: sound over score, with labels, trip levels, warnings and alarms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import soundfile

from benchmarks.labels import ANOMALY, NORMAL
from benchmarks.streams import Stream
from echo_stream.core.types import AlarmLevel
from echo_stream.evidence.picture import INK, frequency_axis
from echo_stream.evidence.picture import NORMAL as BLUE
from echo_stream.evidence.picture import PRESENT as ORANGE
from echo_stream.evidence.spectrum import FRAME_S, band_edges_hz, band_levels_over_time_db

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS: Final = 2
RED: Final = "#C1272D"
GREY: Final = "#999999"
YELLOW: Final = "#E69F00"
_HOP_S: Final = 0.1
_LOWEST_SHOWN_HZ: Final = 40.0
_LINEAR_TO: Final = 3.0
"""The score's axis is linear about 0 and logarithmic far from it."""
_MARKS: Final = (0, 3, 10, 30, 100, 300, 1000, 3000, 10_000)


def draw(streams: Sequence[Stream], path: Path) -> None:
    """Draw all streams on one sheet and write it as PNG."""
    figure_of(streams).savefig(path, format="png")


def figure_of(streams: Sequence[Stream]) -> Figure:
    """Two streams a row, each with its sound, its labels and its score."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - slow to import

    rows = -(-len(streams) // COLUMNS)
    figure = Figure(figsize=(15, 5.6 * rows), dpi=90, layout="constrained", facecolor="white")
    parts = figure.subfigures(rows, COLUMNS, squeeze=False, wspace=0.03, hspace=0.03).ravel()
    shown: dict[str, Artist] = {}
    for part, stream in zip(parts, streams, strict=False):
        sound, labels, score = part.subplots(3, 1, sharex=True, height_ratios=[1, 0.16, 1.1])
        samples, rate = soundfile.read(stream.path, dtype="float32", always_2d=True)
        good = all(fine for fine, _ in stream.judged.verdicts())
        part.suptitle(
            f"{stream.path.stem}: {'all that was asked' if good else 'not all that was asked'}",
            x=0.01,
            ha="left",
            fontsize=12,
            color=INK if good else RED,
        )
        _sound(sound, samples[:, 0], rate)
        _labels(labels, stream)
        _score(score, stream)
        shown.update(dict(zip(*reversed(score.get_legend_handles_labels()), strict=True)))
        score.set_xlim(0, len(samples) / rate)
        score.set_xlabel("seconds of the stream")
    figure.legend(
        list(shown.values()), list(shown), loc="outside lower center", ncols=len(shown), frameon=False
    )
    return figure


def _sound(axes: Axes, samples: np.ndarray[tuple[int], np.dtype[np.float32]], sample_rate_hz: int) -> None:
    levels_db = band_levels_over_time_db(samples, sample_rate_hz, _HOP_S)
    edges_hz = band_edges_hz(sample_rate_hz)
    times_s = (np.arange(len(levels_db) + 1) - 0.5) * _HOP_S + FRAME_S / 2
    low_db, high_db = np.quantile(levels_db, [0.05, 0.999])
    axes.pcolormesh(times_s, edges_hz, levels_db.T, cmap="magma", vmin=low_db, vmax=high_db, rasterized=True)
    frequency_axis(axes, _LOWEST_SHOWN_HZ, edges_hz[-1])
    axes.set_ylabel("frequency (Hz)")


def _labels(axes: Axes, stream: Stream) -> None:
    colours = {NORMAL: "#CFE3F1", ANOMALY: "#F6C7A8"}
    for s in stream.judged.stretches:
        width_s, colour = s.end_s - s.start_s, colours.get(s.label, "#DDDDDD")
        axes.barh(0, width_s, 1, s.start_s, color=colour, edgecolor="white", lw=1.5)
        axes.vlines(s.joins_s, -0.5, 0.5, color=BLUE, lw=1, ls=":")
        axes.text(
            s.start_s + width_s / 2,
            0,
            "normal" if s.label == NORMAL else s.kind,
            ha="center",
            va="center",
            color=INK,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1},
        )
    axes.set_ylim(-0.5, 0.5)
    axes.set_yticks([0], ["label"])
    axes.tick_params(left=False, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)


def _score(axes: Axes, stream: Stream) -> None:
    ends_s, scores = stream.replayed.ends_s, stream.replayed.scores
    trips = {level: trip.level for level, trip in stream.rig.levels.items()}
    for s in stream.judged.stretches:
        if s.label == ANOMALY:
            axes.axvspan(s.start_s, s.end_s, color="#F6C7A8", alpha=0.4, lw=0)
    axes.plot(ends_s, scores, color=ORANGE, lw=1.2, marker="o", ms=2.5, label="anomaly score", zorder=3)
    for level, colour, side in ((AlarmLevel.ALARM, RED, "bottom"), (AlarmLevel.WARNING, YELLOW, "top")):
        axes.axhline(trips[level], color=colour, lw=1.3, ls="--", label=f"trip level of the {level}")
        axes.annotate(
            f"{trips[level]:.1f}",
            (1, trips[level]),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            va=side,
            fontsize=9,
            color=colour,
        )
    most = float(stream.rig.held_out.max())
    axes.axhline(most, color=GREY, lw=1.2, ls=":", label="largest held-out score of the enrolment")
    top, bottom = max(float(scores.max()), trips[AlarmLevel.ALARM]), min(float(scores.min()), 0.0)
    axes.set_yscale("asinh", linear_width=_LINEAR_TO)
    axes.set_ylim(bottom - 4, top * 1.6)
    axes.set_yticks(marks := [mark for mark in _MARKS if bottom <= mark <= top], [str(m) for m in marks])
    axes.minorticks_off()
    _standing(axes, stream, float(ends_s[-1]))
    axes.set_ylabel("anomaly score")
    axes.grid(visible=True, alpha=0.25)


def _standing(axes: Axes, stream: Stream, end_s: float) -> None:
    """Bars along the lower edge: as long as a warning or an alarm stands."""
    at_edge = axes.get_xaxis_transform()
    for low, level, colour in ((0.01, AlarmLevel.WARNING, YELLOW), (0.05, AlarmLevel.ALARM, RED)):
        for raised in stream.replayed.raised[level]:
            until_s = end_s if raised.cleared_s is None else raised.cleared_s
            axes.fill_between(
                [raised.raised_s, until_s],
                low,
                low + 0.035,
                transform=at_edge,
                color=colour,
                lw=0,
                label=f"{level} stands",
            )
            if level is AlarmLevel.ALARM:
                axes.axvline(raised.raised_s, color=RED, lw=1)
                late = raised.raised_s > 0.85 * end_s
                axes.annotate(
                    f"alarm {raised.raised_s:.0f} s",
                    (raised.raised_s, 0.1),
                    xycoords=("data", "axes fraction"),
                    xytext=(-3 if late else 3, 0),
                    textcoords="offset points",
                    ha="right" if late else "left",
                    fontsize=8.5,
                    color=RED,
                    bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
                )
