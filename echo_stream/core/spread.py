"""The spread of values is robust: a few that lie far away hardly move it. Pure."""

from __future__ import annotations

from collections.abc import Collection
from statistics import median

SPREAD_OF_DEVIATION = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


def spread(values: Collection[float], middle: float) -> float:
    """As a standard deviation, through the median of the absolute deviations.

    Args:
        values: At least one.
        middle: Their median.
    """
    return SPREAD_OF_DEVIATION * median(abs(value - middle) for value in values)
