"""The gated encoder computes ECHO's features only where the spectral ones ask for them.

Every window has spectral features, which cost little; a bank says whether they lie in the middle of normal
sound, and then ECHO may wait for a later hop (detect/encoder_gate.py). To learn, both are computed of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import GATE_EVERY, EncoderIdentity, Features, Window
from echo_stream.encode.encoder import Encoder


class GatedEncoder:
    """ECHO, and the spectral encoder that says when it is needed.

    Args:
        echo: Whose features are scored.
        spectral: Whose features open the gate.
        every: Of normal sound ECHO encodes each so many-th window.
    """

    def __init__(self, echo: Encoder, spectral: Encoder, every: int) -> None:
        self.echo, self.spectral = echo, spectral
        self.computed_by = echo.computed_by
        gate = spectral.identity
        self.identity: EncoderIdentity = replace(
            echo.identity,
            dimensions={
                **echo.identity.dimensions,
                GATE_EVERY: every,
                "gate_version": gate.version,
                **{f"gate_{name}": value for name, value in gate.dimensions.items()},
            },
        )

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Both features of each window, in order: ECHO's, with the spectral ones as their `gate`."""
        pairs = zip(self.echo.encode(windows), self.spectral.encode(windows), strict=True)
        return [replace(own, gate=gate) for own, gate in pairs]


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
