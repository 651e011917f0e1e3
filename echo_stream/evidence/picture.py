"""The pictures of an alarm show its sound, what is normal, where they differ and which bands decided.

A large one for a screen, and a small one for a telephone, which is sent over MQTT.
Drawn by a short-lived process (`python -m echo_stream.evidence.picture EVENT.json`) that the evidence worker
starts: matplotlib takes a second of computing and 90 MB, which the process that listens never feels so.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from echo_stream.core.files import write_whole
from echo_stream.core.types import Float32, Float64
from echo_stream.evidence.lines import name_lines
from echo_stream.evidence.spectrum import (
    AlarmSpectrum,
    Change,
    change_text,
    changes,
    deciding_bands,
    joined,
    measure_alarm,
    smoothed_db,
)
from echo_stream.evidence.store import telephone_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours that people with any colour vision tell apart (Okabe and Ito, 2008).
NORMAL: Final = "#0072B2"
PRESENT: Final = "#D55E00"
DECIDING: Final = "#009E73"
INK: Final = "#222222"
TELEPHONE_BYTES: Final = 60_000
_LEAST_CHANGE_DB, _MOST_CHANGE_DB = 10.0, 30.0
"""Where the colours of the change end; in between, at what all but 1 % stay under."""


def png_of(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file, drawn once: `savefig` draws one with a layout twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415

    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out)  # type: ignore[no-untyped-call]
    return out.getvalue()


def alarm_figure(it: AlarmSpectrum) -> Figure:
    """Four fields on one axis of frequency: sound and its change over time, spectrum and score."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second to import, and only where one draws

    figure, title = Figure(figsize=(13, 8), dpi=100, facecolor="white"), _title(it)
    figure.suptitle(title, x=0.01, y=0.99, ha="left", va="top", fontsize=13, color=INK)
    # Given margins: a layout engine would measure every text twice to find them.
    upper_in = 0.45 + 0.22 * (title.count("\n") + 1)
    figure.subplots_adjust(
        left=0.05, right=0.942, bottom=0.065, top=1 - upper_in / 8, wspace=0.22, hspace=0.26
    )
    grid = figure.subplots(2, 2, sharey=True, width_ratios=[2.5, 1])
    low_db, high_db = np.quantile(it.levels_db, [0.05, 0.999])
    sound = _over_time(grid[0, 0], it, it.levels_db, cmap="magma", vmin=low_db, vmax=high_db)
    change_db = smoothed_db(it) - it.normal.median_db
    most_db = np.clip(np.quantile(np.abs(change_db), 0.99), _LEAST_CHANGE_DB, _MOST_CHANGE_DB)
    change = _over_time(grid[1, 0], it, change_db, cmap="RdBu_r", vmin=-most_db, vmax=most_db)
    grid[0, 0].set_title("Sound", loc="left")
    grid[1, 0].set_title(f"Change from {it.normal_is}: red is louder, blue quieter", loc="left")
    grid[1, 0].set_xlabel("seconds from the alarm")
    figure.colorbar(
        sound, ax=grid[0, 0], label="level in a twelfth of an octave (dBFS)", pad=0.01, fraction=0.025
    )
    figure.colorbar(change, ax=grid[1, 0], label="change (dB)", pad=0.01, fraction=0.025, extend="both")
    _spectra(grid[0, 1], it)
    _shares(grid[1, 1], it)
    return figure


def _title(it: AlarmSpectrum) -> str:
    event = it.document["event"]
    name, at = event["machine"], event["ts"][:19].replace("T", " ")
    line = f"{name}: {event['level']} at {at} UTC, score {event['score']:.2f} over {event['threshold']:.2f}"
    said = [change_text(it), "; ".join(each["text"] for each in it.document.get("lines", ()))]
    return "\n".join([line, *(text[0].upper() + text[1:] for text in said if text)])


def telephone_picture(it: AlarmSpectrum) -> bytes:
    """PNG of 800 by 600 pixels, below `TELEPHONE_BYTES`: the spectrum now over the normal one."""
    from matplotlib.figure import Figure  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    figure = Figure(figsize=(8, 6), dpi=100, facecolor="white")
    event, normal = it.document["event"], it.normal
    # The greatest rise alone: on a telephone more lines would leave no room for the picture.
    said = [change_text(it), *(each["text"] for each in it.document.get("lines", ())[:1])]
    text = f"{event['machine']}: {event['level']}"
    head = figure.suptitle(text, x=0.02, y=0.995, ha="left", va="top", fontsize=26, color=INK, weight="bold")
    head.set_fontsize(26 * min(1.0, 0.96 * figure.bbox.width / head.get_window_extent().width))
    title = "\n".join(fill(text[0].upper() + text[1:], 52) for text in said if text)
    upper_in = 0.53 + 0.32 * (title.count("\n") + 1)
    figure.subplots_adjust(left=0.12, right=0.99, bottom=0.11, top=1 - upper_in / 6)
    axes = figure.subplots()
    axes.set_title(title, y=1.0, loc="left", fontsize=19, color=INK)
    centres_hz = np.sqrt(it.edges_hz[1:] * it.edges_hz[:-1])
    for number, (low_hz, high_hz) in enumerate(joined(deciding_bands(it.document))):
        label = None if number else "decided it"
        axes.axvspan(max(low_hz, it.edges_hz[0]), high_hz, color=DECIDING, alpha=0.2, lw=0, label=label)
    axes.fill_between(
        centres_hz, normal.low_db, normal.high_db, color=NORMAL, alpha=0.4, lw=0, label=it.normal_is
    )
    axes.plot(centres_hz, it.present_db, color=PRESENT, lw=3, label="now")
    frequency_axis(axes, it.edges_hz[0], it.edges_hz[-1], across=True)
    axes.set_xlabel(f"frequency (Hz); {event['ts'][:19].replace('T', ' ')} UTC", fontsize=16)
    axes.set_ylabel("level (dBFS)", fontsize=16)
    axes.tick_params(labelsize=15)
    axes.legend(fontsize=16, loc="best", framealpha=0.8)
    axes.grid(visible=True, alpha=0.2)
    drawn = io.BytesIO(png_of(figure))
    for colours in (64, 16, 8):
        small = io.BytesIO()
        Image.open(drawn).convert("RGB").quantize(colours).save(small, format="png", optimize=True)
        if small.tell() < TELEPHONE_BYTES:
            break
    return small.getvalue()


def _over_time(axes: Axes, it: AlarmSpectrum, values_db: Float64, **colours: Any) -> Any:
    half_s = (it.times_s[1] - it.times_s[0]) / 2 if len(it.times_s) > 1 else 0.5
    time_edges_s = np.append(it.times_s - half_s, it.times_s[-1] + half_s)
    mesh = axes.pcolormesh(time_edges_s, it.edges_hz, values_db.T, rasterized=True, **colours)
    frequency_axis(axes, it.edges_hz[0], it.edges_hz[-1])
    axes.locator_params(axis="x", integer=True, nbins=12)
    axes.set_ylabel("frequency (Hz)")
    for at_s, style, word in ((it.onset_s, "--", "onset"), (0.0, "-", "alarm")):
        axes.axvline(at_s, color="white", lw=3.5, alpha=0.8)
        axes.axvline(at_s, color="black", lw=1.5, ls=style)
        axes.annotate(
            word,
            (at_s, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if word == "onset" else 4, -6),
            textcoords="offset points",
            ha="right" if word == "onset" else "left",
            va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        )
    _mark_deciding(axes, it)
    return mesh


def _mark_deciding(axes: Axes, it: AlarmSpectrum) -> None:
    """A green block at the right edge of the bands that carry the score, and lines along their edges."""
    for low_hz, high_hz in joined(deciding_bands(it.document)):
        low_high_hz = max(low_hz, it.edges_hz[0]), high_hz
        axes.hlines(low_high_hz, *axes.get_xlim(), color=DECIDING, lw=0.8, alpha=0.8)
        at_edge = axes.get_yaxis_transform()
        axes.fill_between([0.988, 1], *low_high_hz, transform=at_edge, color=DECIDING, lw=0)


def _spectra(axes: Axes, it: AlarmSpectrum) -> None:
    centres_hz = np.sqrt(it.edges_hz[1:] * it.edges_hz[:-1])
    normal = it.normal
    axes.fill_betweenx(
        centres_hz, normal.low_db, normal.high_db, color=NORMAL, alpha=0.3, lw=0, label=it.normal_is
    )
    axes.plot(normal.median_db, centres_hz, color=NORMAL, lw=1)
    axes.plot(it.present_db, centres_hz, color=PRESENT, lw=1.6, label="now (onset to alarm)")
    for nearest_db in (np.maximum(normal.high_db, it.present_db), np.minimum(normal.low_db, it.present_db)):
        edge_db = np.clip(nearest_db, normal.low_db, normal.high_db)
        axes.fill_betweenx(centres_hz, edge_db, nearest_db, color=PRESENT, alpha=0.45, lw=0)
    axes.set_xlabel("level (dBFS); filled orange: outside of normal")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.03, 1.0), ncols=2, frameon=False, fontsize=9.5)
    axes.grid(visible=True, alpha=0.2)
    axes.tick_params(labelleft=True)


def _shares(axes: Axes, it: AlarmSpectrum) -> None:
    """What each band adds to the score, as bars that are as high as the band is wide."""
    marked = set(deciding_bands(it.document))
    for low_hz, high_hz, share in it.document["bands_hz"]:
        colour = DECIDING if (low_hz, high_hz) in marked else "#BBBBBB"
        bottom_hz = max(low_hz, it.edges_hz[0])
        height_hz = high_hz - bottom_hz
        axes.barh(bottom_hz, share, height_hz, align="edge", color=colour, edgecolor="white", lw=0.5)
    axes.axvline(0, color=INK, lw=0.8)
    axes.set_title("What each band adds to the score", loc="left")
    axes.set_xlabel("part of the score (green: decided it)")
    axes.grid(visible=True, alpha=0.2)
    axes.tick_params(labelleft=True)


def frequency_axis(axes: Axes, low_hz: float, high_hz: float, *, across: bool = False) -> None:
    """A logarithmic axis with the numbers that people know: 50, 100, 200, ... 1k, 2k."""
    (axes.set_xscale if across else axes.set_yscale)("log")
    (axes.set_xlim if across else axes.set_ylim)(low_hz, high_hz)
    marks = [m * 10**k for k in range(1, 6) for m in (1, 2, 5) if low_hz <= m * 10**k <= high_hz]
    (axes.set_xticks if across else axes.set_yticks)(
        marks, [f"{m // 1000}k" if m >= 1000 else str(m) for m in marks]
    )
    axes.minorticks_off()


def draw(document_path: Path, *, telephone_only: bool = False) -> None:
    """Draw the pictures of an evidence document from the clip beside it; each whole or not at all.

    The document gets, with the large picture, what they show: `changes`, the bands that are louder or quieter
    than normal, and `lines`, those of shaft, gear and bearing that stand out.

    Args:
        document_path: As evidence wrote it.
        telephone_only: The sound after the alarm is still to come, and the large picture with it.

    Raises:
        OSError: a file cannot be read or written.
    """
    import soundfile  # noqa: PLC0415

    document = json.loads(document_path.read_text(encoding="utf-8"))
    samples, _ = soundfile.read(document_path.with_name(document["clip"]["file"]), dtype="float32")
    samples *= document["clip"].get("full_scale", 1.0)  # version 0.1 clipped
    measured = measure_alarm(document, samples)
    changed = changes(measured)
    document["changes"] = [asdict(change) for change in changed]
    document["lines"] = _named_lines(document, samples, changed)
    telephone = telephone_path(document_path)
    # It shows the sound up to the alarm, which does not change; but lines are named from all that there is.
    if document.get("lines_hz") or not telephone.exists():
        write_whole(telephone, telephone_picture(measured))
    if telephone_only:
        return
    write_whole(document_path, json.dumps(document, ensure_ascii=False).encode())
    write_whole(document_path.with_suffix(".png"), png_of(alarm_figure(measured)))


def _named_lines(
    document: Mapping[str, Any], samples: Float32, changed: Sequence[Change]
) -> list[dict[str, Any]]:
    import soundfile  # noqa: PLC0415

    expected_hz = document.get("lines_hz")
    if not expected_hz:
        return []
    normals, clip = [], document["clip"]
    for kept in document["normal_sound"]:
        with suppress(OSError, soundfile.LibsndfileError):  # a version that was removed, or is damaged
            sound, rate_hz = soundfile.read(kept["path"], dtype="float32")
            if rate_hz == clip["sample_rate_hz"]:
                normals.append(sound * np.float32(kept["full_scale"]))
    onset_s = clip["alarm_s"] if clip["onset_s"] is None else clip["onset_s"]
    present = samples[round(onset_s * clip["sample_rate_hz"]) :]
    louder = next(((each.low_hz, each.high_hz) for each in changed if each.change == "louder"), None)
    found = name_lines(present, normals, clip["sample_rate_hz"], expected_hz, louder)
    return [{**asdict(each), "text": each.to_text()} for each in found]


if __name__ == "__main__":
    with suppress(OSError):
        os.nice(5)  # scoring comes first, but a busy PC draws too
    draw(Path(sys.argv[1]), telephone_only="--telephone" in sys.argv[2:])
