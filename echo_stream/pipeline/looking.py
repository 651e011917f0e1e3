"""Looking at the windows of a round: features and sensor figures of each, in threads beside the pipeline's.

What is computed here depends on the window alone, in calls of numpy that are long enough to leave Python to
other threads; the pipeline's thread meanwhile scores and judges what is there. To score here too was slower:
its calls are short, and threads that make such calls wait for each other (docs/adr/0059). Batches do not
depend on the number of threads: neither do results, to the last bit.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Self, TypeVar

from echo_stream.alarm.sensor import SensorFigures
from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Features, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.encode.gated import GatedEncoder
from echo_stream.pipeline.station import sensor_figures

Result = TypeVar("Result")
Needs = Callable[[Window, Features], bool]

BATCH = 16
"""Windows that are encoded together: more are no faster, only later, and take more memory."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What a window is like."""

    window: Window
    features: Features
    """Where the encoder is gated and this window was left out: those of the gate."""
    encoded: bool
    figures: SensorFigures


Failed = tuple[Window, Exception]
"""A window that something raised at."""


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

    def look(self, windows: Sequence[Window], needs: Needs) -> Iterator[list[Looked | Failed]]:
        """Looks at the windows of a round, in order: batch by batch, as soon as a batch is there.

        Args:
            windows: of a round, at most one of each machine.
            needs: says by a window's spectral features whether it is to be encoded; asked in order, on this
                thread, and only where the encoder is gated.
        """
        if not isinstance(self._encoder, GatedEncoder):
            yield from self._map(partial(self._look_at, self._encoder), _batches(windows))
            return
        spectral = partial(self._look_at, self._encoder.spectral)
        first = [each for batch in self._map(spectral, _batches(windows)) for each in batch]
        wanted: list[Window] = []
        for i, each in enumerate(first):
            if isinstance(each, Looked):
                try:
                    wanted += [each.window] if needs(each.window, each.features) else []
                except Exception as error:  # noqa: BLE001 - one machine must not silence the others
                    first[i] = (each.window, error)
        echo = partial(_encoded, self._encoder.echo)
        later = (pair for batch in self._map(echo, _batches(wanted)) for pair in batch)
        chosen = {window.machine for window in wanted}
        for at in range(0, len(first), BATCH):
            yield [
                _completed(each, next(later))
                if isinstance(each, Looked) and each.window.machine in chosen
                else each
                for each in first[at : at + BATCH]
            ]

    def _map(
        self, work: Callable[[Sequence[Window]], Result], batches: Sequence[Sequence[Window]]
    ) -> Iterator[Result]:
        if len(batches) < 2:  # the wait for another thread is longer than the work of a few
            return map(work, batches)
        return self._threads.map(work, batches)

    def _look_at(self, encoder: Encoder, batch: Sequence[Window]) -> list[Looked | Failed]:
        encoded = not isinstance(self._encoder, GatedEncoder)
        return [_looked(window, found, encoded) for window, found in _encoded(encoder, batch)]


def _batches(windows: Sequence[Window]) -> list[Sequence[Window]]:
    return [windows[at : at + BATCH] for at in range(0, len(windows), BATCH)]


def _looked(window: Window, found: Features | EncoderError, encoded: bool) -> Looked | Failed:
    if isinstance(found, EncoderError):
        return window, found
    try:
        return Looked(window, found, encoded, sensor_figures(window, found.level_dbfs))
    except Exception as error:  # noqa: BLE001 - one machine must not silence the others
        return window, error


def _completed(looked: Looked, encoded: tuple[Window, Features | EncoderError]) -> Looked | Failed:
    window, features = encoded
    if isinstance(features, EncoderError):
        return window, features
    return replace(looked, features=replace(features, gate=looked.features), encoded=True)


def _encoded(encoder: Encoder, windows: Sequence[Window]) -> list[tuple[Window, Features | EncoderError]]:
    """Each window with its features; where a batch fails, one by one: only the bad one is left out."""
    try:
        return list(zip(windows, encoder.encode(windows), strict=True))
    except EncoderError:
        return [(window, _encoded_alone(encoder, window)) for window in windows]


def _encoded_alone(encoder: Encoder, window: Window) -> Features | EncoderError:
    try:
        return encoder.encode([window])[0]
    except EncoderError as error:
        return error
