"""The gated encoder computes ECHO's features only where the spectral ones ask for them.

Every window has spectral features, which cost little; a bank says whether they lie in the middle of normal
sound, and then ECHO may wait for a later hop (detect/encoder_gate.py). To learn, both are computed of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
