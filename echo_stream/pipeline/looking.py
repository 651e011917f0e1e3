"""Looking at the windows of a round: features and sensor figures of each, in threads beside the pipeline's.

What is computed here depends on the window alone, in calls of numpy that are long enough to leave Python to
other threads; the pipeline's thread meanwhile scores and judges what is there. To score here too was slower:
its calls are short, and threads that make such calls wait for each other (docs/adr/0059). Batches do not
depend on the number of threads: neither do results, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from echo_stream.alarm.sensor import SensorFigures
from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Features, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.station import sensor_figures

BATCH = 16
"""Windows that are encoded together: more are no faster, only later, and take more memory."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a window is like."""

    window: Window
    features: Features
    figures: SensorFigures


Failed = tuple[Window, EncoderError]
"""A window that cannot be encoded."""


class Lookers:
    """Threads that look at windows, one a core. Use as a context manager.

    Args:
        encoder: turns windows into features; called from several threads.
        threads: how many; None: as many as there are cores.
    """

    def __init__(self, encoder: Encoder, threads: int | None = None) -> None:
        self._encoder = encoder
        self._threads = ThreadPoolExecutor(threads or len(os.sched_getaffinity(0)), "looking")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown(cancel_futures=True)

    def look(self, windows: Sequence[Window]) -> Iterator[list[Looked | Failed]]:
        """Looks at the windows of a round, in order: batch by batch, as soon as a batch is there."""
        batches = [windows[at : at + BATCH] for at in range(0, len(windows), BATCH)]
        if len(batches) < 2:  # the wait for another thread is longer than the work of a few
            yield from map(self._look_at, batches)
        else:
            yield from self._threads.map(self._look_at, batches)

    def _look_at(self, batch: Sequence[Window]) -> list[Looked | Failed]:
        return [
            (window, found)
            if isinstance(found, EncoderError)
            else Looked(window, found, sensor_figures(window, found.level_dbfs))
            for window, found in zip(batch, self._encoded(batch), strict=True)
        ]

    def _encoded(self, windows: Sequence[Window]) -> Sequence[Features | EncoderError]:
        """Features of each window; where a batch fails, one by one: only the bad one is left out."""
        try:
            return self._encoder.encode(windows)
        except EncoderError:
            return [self._encoded_alone(window) for window in windows]

    def _encoded_alone(self, window: Window) -> Features | EncoderError:
        try:
            return self._encoder.encode([window])[0]
        except EncoderError as error:
            return error
