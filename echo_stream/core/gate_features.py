"""Gate features are those of the encoder that says when ECHO is needed, beside ECHO's own, in a file.

Banks' enrolments, parts of archives and samples of what was heard keep them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import Features

PARTS = ("window", "segments", "bands_hz", "level_dbfs")


def gate_tensors(features: Sequence[Features]) -> dict[str, NDArray[Any]]:
    """The gate's features of windows, stacked, for a file; nothing where they have none."""
    gates = [each.gate for each in features if each.gate is not None]
    if not gates or len(gates) < len(features):
        return {}
    return {f"gate.{name}": np.stack([getattr(each, name) for each in gates]) for name in PARTS}


def with_gates(features: Sequence[Features], tensors: Mapping[str, NDArray[Any]]) -> list[Features]:
    """Features with what `gate_tensors` gave; as they are where it gave nothing.

    Raises:
        KeyError, ValueError: A part is missing.
    """
    if "gate.window" not in tensors:
        return list(features)
    parts = [tensors[f"gate.{name}"] for name in PARTS]
    return [
        replace(own, gate=Features(window, segments, bands_hz, float(level_dbfs)))
        for own, (window, segments, bands_hz, level_dbfs) in zip(
            features, zip(*parts, strict=True), strict=True
        )
    ]
