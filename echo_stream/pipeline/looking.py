"""Looking at the windows of a round: features of each, batch by batch.

What is computed here depends on the window alone. It is computed on the pipeline's thread: threads beside it
took a third more CPU for the same windows (docs/adr/0059).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Features, Window
from echo_stream.encode.encoder import Encoder, GatedEncoder

Item = TypeVar("Item")
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


Failed = tuple[Window, Exception]
"""A window that something raised at."""


def look(encoder: Encoder, windows: Sequence[Window], needs: Needs) -> Iterator[list[Looked | Failed]]:
    """Looks at the windows of a round, a batch at a time, in order; behind a gate what it leaves out first.

    Args:
        encoder: turns windows into features.
        windows: of a round, at most one of each machine.
        needs: says by a window's spectral features whether it is to be encoded; asked only where the encoder
            is gated.
    """
    if not isinstance(encoder, GatedEncoder):
        for batch in _batches(windows):
            yield [_looked(window, found, encoded=True) for window, found in _encoded(encoder, batch)]
        return
    first = [
        _looked(window, found, encoded=False)
        for batch in _batches(windows)
        for window, found in _encoded(encoder.spectral, batch)
    ]
    spectral: list[Looked] = []
    left_out: list[Looked | Failed] = []
    for each in first:
        if not isinstance(each, Looked):
            left_out.append(each)
            continue
        try:
            wanted = needs(each.window, each.features)
        except Exception as error:  # noqa: BLE001 - one machine must not silence the others
            left_out.append((each.window, error))
        else:
            (spectral if wanted else left_out).append(each)
    yield from map(list, _batches(left_out))  # they wait for nobody's ECHO
    for found in _batches(spectral):
        encoded = _encoded(encoder.echo, [each.window for each in found])
        yield [_completed(*pair) for pair in zip(found, encoded, strict=True)]


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[at : at + BATCH] for at in range(0, len(items), BATCH)]


def _looked(window: Window, found: Features | EncoderError, *, encoded: bool) -> Looked | Failed:
    return (window, found) if isinstance(found, EncoderError) else Looked(window, found, encoded)


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
