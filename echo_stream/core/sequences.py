"""Sequences are thinned evenly and summed up by their commonest value in one way. Pure."""

from __future__ import annotations

from collections.abc import Sequence
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
