"""What the pictures of fit-normal's report share: size, colours, and the way into the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from echo_stream.deliver.pictures import INK, PRESENT
from echo_stream.types import AlarmLevel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEVEL_COLOURS: Final = {AlarmLevel.WARNING: "#B07A00", AlarmLevel.ALARM: PRESENT}
LEVEL_LINES: Final = {AlarmLevel.WARNING: "--", AlarmLevel.ALARM: "-"}
LEFT_OUT: Final = "#56B4E9"
_WIDTH_IN, _DPI = 9.6, 125


def new_figure(height_in: float, rows: int, columns: int = 1, **how: Any) -> tuple[Figure, Sequence[Any]]:
    """A figure of the page's width, and its axes row by row."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - a second to import, and only where one draws

    figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained", facecolor="white")
    sharex = how.pop("sharex", False)
    axes = figure.subplots(rows, columns, sharex=sharex, squeeze=False, gridspec_kw=how)
    return figure, axes.ravel().tolist()


def as_data(figure: Figure) -> str:
    """A figure as the data of an image that stands in the page itself."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DPI)
    return base64.b64encode(out.getvalue()).decode("ascii")


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
