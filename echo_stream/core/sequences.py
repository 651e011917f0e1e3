"""Sequences are thinned evenly, and summed up by their commonest value or their robust spread. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from statistics import median
from typing import Generic, TypeVar

T = TypeVar("T")


class Thinned(Generic[T]):
    """Keeps a spread sample of items whose number is not known before.

    When there are too many, every second one goes, and from then on only half as many are taken.

    Args:
        most: So many are kept at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._every, self._seen = 1, 0
        self.items: list[T] = []

    @property
    def takes_next(self) -> bool:
        """Whether the next item will be kept."""
        return self._seen % self._every == 0

    def add(self, make: Callable[[], T]) -> None:
        """The next item; made only where it is kept."""
        if self.takes_next:
            self.items.append(make())
        self._seen += 1
        if len(self.items) > self._most:
            self.items, self._every = self.items[::2], 2 * self._every


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
