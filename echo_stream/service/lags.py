"""How late scores come, over the last ten minutes, in little memory. Used under health's lock."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_SHORTEST_S: Final = 1e-3
_STEP: Final = math.log(1.05)
"""A class is 5 % wide, so that a quantile is at most so much too high."""
_CLASSES: Final = 320
"""Up to an hour and a half; what is longer counts there."""
_SPAN_S: Final = 60.0
_SPANS: Final = 10


@dataclass(slots=True)
class _Span:
    number: int
    counts: Counter[int] = field(default_factory=Counter)
    longest_s: float = 0.0


class Lags:
    """Times from a window's last sample to its score, counted in classes; a minute goes at a time."""

    def __init__(self) -> None:
        self._spans: deque[_Span] = deque()

    def add(self, lag_s: float, now_s: float) -> None:
        """One more, at a monotonic time; a wall clock that was set back gives a negative one, which is 0."""
        number = int(now_s // _SPAN_S)
        if not self._spans or self._spans[-1].number != number:
            self._spans.append(_Span(number))
            self._forget(now_s)
        span = self._spans[-1]
        span.counts[_class_of(lag_s)] += 1
        span.longest_s = max(span.longest_s, lag_s)

    def snapshot(self, now_s: float) -> dict[str, float | None]:
        """lag_p50_s, lag_p99_s and lag_max_s of the last ten minutes in seconds; None where there is none."""
        self._forget(now_s)
        counts = Counter[int]()
        for span in self._spans:
            counts.update(span.counts)
        if not counts:
            return dict.fromkeys(("lag_p50_s", "lag_p99_s", "lag_max_s"))
        longest_s = max(span.longest_s for span in self._spans)
        found = [min(edge, longest_s) for edge in _quantiles(counts, (0.5, 0.99))]
        return {
            "lag_p50_s": round(found[0], 4),
            "lag_p99_s": round(found[1], 4),
            "lag_max_s": round(longest_s, 4),
        }

    def _forget(self, now_s: float) -> None:
        while self._spans and self._spans[0].number <= now_s // _SPAN_S - _SPANS:
            self._spans.popleft()


def _class_of(lag_s: float) -> int:
    return min(_CLASSES, math.ceil(math.log(lag_s / _SHORTEST_S) / _STEP)) if lag_s > _SHORTEST_S else 0


def _quantiles(counts: Counter[int], shares: tuple[float, ...]) -> Iterator[float]:
    """Upper edge in seconds of the class that each share of the lags does not exceed."""
    for share in shares:
        wanted, seen = share * counts.total(), 0
        for number in sorted(counts):
            seen += counts[number]
            if seen >= wanted:
                yield _SHORTEST_S * math.exp(number * _STEP)
                break
