"""The picture of a whole demonstration: spectrogram over score, with fault and alarm marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from echo_stream.core.types import Float32
from echo_stream.evidence.picture import INK, NORMAL, PRESENT
from echo_stream.evidence.spectrum import FRAME_S, band_edges_hz, band_levels_over_time_db

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

ALARM: Final = "#CC79A7"
_HOP_S: Final = 0.08


@dataclass(frozen=True, slots=True)
class Run:
    """What happened, all times in seconds of the stream."""

    samples: Float32
    """(n,) what the daemon heard."""
    sample_rate_hz: int
    fault: str
    fault_start_s: float
    fault_end_s: float
    raised_s: float
    """The alarm was raised."""
    cleared_s: float
    """It was cleared again."""
    scores: Sequence[tuple[float, float, float]]
    """(end of the window, score, threshold) of each score message."""


def draw_run(run: Run, path: Path) -> None:
    """Draw it and write it as PNG."""
    run_figure(run).savefig(path, format="png")


def run_figure(run: Run) -> Figure:
    """Sound above, score below, on one axis of time."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), dpi=120, layout="constrained", facecolor="white")
    sound, score = figure.subplots(2, 1, sharex=True, height_ratios=[1.25, 1])
    mesh = _sound(sound, run)
    _score(score, run)
    figure.colorbar(mesh, ax=sound, label="level per 1/12 octave (dBFS)", pad=0.01, aspect=25)
    for axes in (sound, score):
        axes.axvline(run.raised_s, color=INK if axes is score else "white", lw=1.6)
        axes.axvline(run.cleared_s, color=INK if axes is score else "white", lw=1.6, ls=":")
    score.set_xlim(0, len(run.samples) / run.sample_rate_hz - FRAME_S)
    score.set_xlabel("time since the daemon began to listen (s)")
    delay_s = run.raised_s - run.fault_start_s
    figure.suptitle(
        f"A {run.fault} fault comes at {run.fault_start_s:.0f} s; the alarm reaches the subscriber "
        f"{delay_s:.1f} s later",
        x=0.01,
        ha="left",
        fontsize=12.5,
        color=INK,
    )
    return figure


def _sound(axes: Axes, run: Run) -> QuadMesh:
    levels_db = band_levels_over_time_db(run.samples, run.sample_rate_hz, _HOP_S)
    edges_khz = band_edges_hz(run.sample_rate_hz) / 1000
    time_edges_s = (np.arange(len(levels_db) + 1) - 0.5) * _HOP_S + FRAME_S / 2
    time_edges_s[0] = 0
    low_db, high_db = np.quantile(levels_db, [0.02, 0.999])
    mesh = axes.pcolormesh(
        time_edges_s, edges_khz, levels_db.T, cmap="magma", vmin=low_db, vmax=high_db, rasterized=True
    )
    axes.set_yscale("log")
    axes.set_ylim(0.05, edges_khz[-1])
    axes.set_yticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
    axes.minorticks_off()
    axes.set_ylabel("frequency (kHz)")
    for at_s in (run.fault_start_s, run.fault_end_s):
        axes.axvline(at_s, color="#56B4E9", lw=1.6, ls="--")
    axes.annotate(
        f"{run.fault} fault",
        ((run.fault_start_s + run.fault_end_s) / 2, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="center",
        va="bottom",
        color=NORMAL,
    )
    axes.annotate(
        "",
        (run.fault_start_s, 1.005),
        (run.fault_end_s, 1.005),
        xycoords=("data", "axes fraction"),
        arrowprops={"arrowstyle": "<->", "color": NORMAL, "lw": 1.5},
    )
    return mesh


def _score(axes: Axes, run: Run) -> None:
    times_s, scores, thresholds = np.array(run.scores).T
    axes.axvspan(
        run.fault_start_s, run.fault_end_s, color="#56B4E9", alpha=0.25, lw=0, label=f"{run.fault} fault"
    )
    axes.plot(times_s, thresholds, color=INK, lw=1.3, ls="--", label="threshold")
    over = scores > thresholds
    axes.fill_between(
        times_s, thresholds, scores, where=over, interpolate=True, color=PRESENT, alpha=0.35, lw=0
    )
    axes.plot(times_s, scores, color=PRESENT, lw=1.6, marker="o", ms=3.5, label="anomaly score")
    top = max(scores.max(), thresholds.max())
    bottom = min(scores.min(), 0.0)
    axes.set_ylim(bottom - 0.06 * (top - bottom), top + 0.28 * (top - bottom))
    for at_s, word, side in ((run.raised_s, "alarm raised", 1), (run.cleared_s, "alarm cleared", -1)):
        axes.annotate(
            f"{word}\n{at_s:.1f} s",
            (at_s, 0.97),
            xycoords=("data", "axes fraction"),
            xytext=(5 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="top",
            color=INK,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )
    axes.set_ylabel("anomaly score")
    axes.legend(loc="upper left", frameon=False, ncols=1)
    axes.grid(visible=True, alpha=0.25)
