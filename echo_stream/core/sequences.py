"""Sequences are thinned evenly, and summed up by their commonest value or their robust spread. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")


def evenly_chosen(items: Sequence[T], count: int) -> list[T]:
    """So many of the items, evenly spread, beginning with the first.

    Args:
        items: at least `count`.
        count: 1 or more.
    """
    return [items[i * len(items) // count] for i in range(count)]


def commonest(names: Sequence[str]) -> str:
    """The name that occurs most often; of several the first in the alphabet, so that it is always the same.

    Args:
        names: at least one.
    """
    return max(sorted(set(names)), key=names.count)


SPREAD_OF_DEVIATION = 1.4826
"""Standard deviation of a normal variable over its median absolute deviation."""


def spread(values: Collection[float], middle: float) -> float:
    """As a standard deviation, through the median absolute deviation: a few far values hardly move it.

    Args:
        values: At least one; soonest where they are sorted.
        middle: Their median.
    """
    return SPREAD_OF_DEVIATION * median([abs(value - middle) for value in values])
