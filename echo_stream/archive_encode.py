"""From a part of a recording to features, and to what the sensor delivered: the first lines of the corridor.

Runs in any process; arrays come out, which can be kept in a file or sent to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import astuple, dataclass
from itertools import islice
from typing import Self

import numpy as np

from echo_stream.archive import Part, source_of, too_short
from echo_stream.archive_kept import Tensors
from echo_stream.calibrate_heard import COLUMN_S, Seen, look_at
from echo_stream.detect.sensor import SensorFigures
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline import features_of, figures_of, windows_of
from echo_stream.types import Features, Window


@dataclass(frozen=True, slots=True)
class Encoded:
    """A part that was heard."""

    windows: list[tuple[float, Features]]
    """Start in seconds of each, and its features."""
    figures: list[SensorFigures]
    """Of each window, where details were asked for."""
    seen: list[Seen]
    """The same."""

    @classmethod
    def of(cls, tensors: Tensors) -> Self:
        """Of what `encode` gave: views of it."""
        rows = zip(tensors["window"], tensors["segments"], tensors["level_dbfs"].tolist(), strict=True)
        features = [
            Features(window, segments, tensors["bands_hz"], level) for window, segments, level in rows
        ]
        windows = list(zip(tensors["start_s"].tolist(), features, strict=True))
        if "figures" not in tensors:
            return cls(windows, [], [])
        figures = [
            SensorFigures(level, clipped, bool(dead), bool(stuck), hum, rumble)
            for level, clipped, dead, stuck, hum, rumble in tensors["figures"].tolist()
        ]
        seen = [
            Seen(start_s, end_s, columns, mean)
            for (start_s, end_s), columns, mean in zip(
                tensors["seen_s"].tolist(), tensors["seen_columns"], tensors["seen_mean"], strict=True
            )
        ]
        return cls(windows, figures, seen)


def encode(part: Part, encoder: Encoder, heard: Callable[[float], None]) -> Tensors:
    """All windows of a part.

    Args:
        part: which.
        encoder: makes the features.
        heard: told of each piece of sound that is done, in seconds; may raise, to end the work.

    Raises:
        SourceError: the recording cannot be read, or is shorter than a window.
        EncoderError: a window cannot be encoded.
    """
    figures: list[SensorFigures] = []
    seen: list[Seen] = []
    look_s = min(max(part.hop_s, COLUMN_S), part.window_s)

    def cut() -> Iterator[Window]:
        with closing(source_of(part)) as source:
            windows = windows_of(source, window_s=part.window_s, hop_s=part.hop_s)
            for window in windows if part.last else islice(windows, part.windows):
                heard(part.hop_s)
                if part.details:
                    figures.append(figures_of(window))
                    look_at(window, seen, look_s)
                yield window

    found = [(w.start / w.sample_rate_hz, features) for w, features in features_of(encoder, cut())]
    if not found:  # the header promised more than there is
        raise too_short(part.path, part.window_s)
    tensors = {
        "start_s": np.array([start_s for start_s, _ in found]),
        "level_dbfs": np.array([features.level_dbfs for _, features in found]),
        "window": np.stack([features.window for _, features in found]),
        "segments": np.stack([features.segments for _, features in found]),
        "bands_hz": found[0][1].bands_hz,
    }
    if part.details:
        tensors["figures"] = np.array([astuple(each) for each in figures], np.float64)
        tensors["seen_s"] = np.array([(each.start_s, each.end_s) for each in seen])
        tensors["seen_columns"] = np.stack([each.columns_db for each in seen])
        tensors["seen_mean"] = np.stack([each.mean_db for each in seen])
    # safetensors writes memory as it lies, and numpy stacks in the order of what it is given.
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
