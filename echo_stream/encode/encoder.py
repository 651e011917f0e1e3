"""An encoder turns windows into features; it is made here from plain arguments.

An encoder of another kind is one more file and one more branch of `make_encoder`. A gated one computes ECHO's
features only where the spectral ones, which cost little, ask for them: a bank says whether those lie in the
middle of normal sound, and then ECHO may wait for a later hop (detect/encoder_gate.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import GATE_EVERY, EncoderIdentity, Features, Window

if TYPE_CHECKING:
    from echo_stream.encode.echo import EchoDimensions


class Encoder(Protocol):
    """Turns windows into features; pure, so that equal samples give equal features, live or from a file."""

    @property
    def identity(self) -> EncoderIdentity:
        """What a bank must agree with."""

    @property
    def computed_by(self) -> str:
        """Library and precision that it computes in here, such as `openvino float32`; not in the identity."""

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in order.

        Windows may differ in machine, sample rate and length. A window's features do not depend on what else
        is in the batch, up to float rounding.

        Raises:
            EncoderError: A sample is not finite, or a window is too short or too long.
        """


class EncoderByMachine:
    """Encodes the windows of some machines in their own way, and all others alike.

    Args:
        shared: Of all machines that are not in `own`.
        own: By machine id.
    """

    def __init__(self, shared: Encoder, own: Mapping[str, Encoder]) -> None:
        self._shared, self._own = shared, own
        self.identity, self.computed_by = shared.identity, shared.computed_by

    def of(self, machine: str) -> Encoder:
        """The encoder of one machine."""
        return self._own.get(machine, self._shared)

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in order, as its machine's encoder gives them."""
        found: dict[int, Features] = {}
        encoders = [self.of(window.machine) for window in windows]
        for encoder in {id(each): each for each in encoders}.values():
            mine = [i for i, each in enumerate(encoders) if each is encoder]
            found.update(zip(mine, encoder.encode([windows[i] for i in mine]), strict=True))
        return [found[i] for i in range(len(windows))]


def encoder_of(encoder: Encoder, machine: str) -> Encoder:
    """What encodes the windows of a machine."""
    return encoder.of(machine) if isinstance(encoder, EncoderByMachine) else encoder


def make_encoder(
    kind: str,
    *,
    window_s: float,
    low_lines: bool = False,
    weights: Path | None = None,
    size: str | EchoDimensions = "tiny",
    runtime: str = "auto",
    precision: str = "auto",
    cache: Path | None = None,
) -> Encoder:
    """The encoder of a kind.

    Args:
        kind: `spectral` (needs no weights) or `echo`.
        window_s: Length of the windows that will be encoded, in seconds.
        low_lines: Fine low lines join the features; the spectral encoder's alone.
        weights: safetensors file of ECHO; the rest is ECHO's alone, too.
        size: Published size, `tiny` or `small`, or dimensions of other weights.
        runtime: `auto` (the fastest here), `plain`, `torch`, `openvino` or `openvino-gpu`.
        precision: `auto`, `float32` or `bfloat16`.
        cache: JSON file that remembers what `auto` chose on this CPU, best in the state directory; without it
            each start measures, for about a second.

    Raises:
        EncoderError: No such kind, ECHO without weights, or a runtime that is not there.
        MissingExtra: ECHO without the extra that computes it.
        CheckpointError: The weights are missing, damaged or of another size.
    """
    # Each kind is imported where it is chosen: what one needs, the other does without.
    if kind == "spectral":
        from echo_stream.encode.spectral import SpectralEncoder  # noqa: PLC0415

        return SpectralEncoder(window_s, low_lines=low_lines)
    if kind == "echo":
        if weights is None:
            raise EncoderError(
                "encoder.weights is not set, and an encoder of kind echo needs a weights file",
                "Fetch one with `echo-stream fetch-model echo-tiny`, or use kind: spectral.",
            )
        from echo_stream.encode.echo_encoder import EchoEncoder  # noqa: PLC0415

        return EchoEncoder.from_checkpoint(weights, size, runtime, precision, cache)
    raise EncoderError(f"encoder.kind {kind!r} is unknown", "Use spectral or echo.")


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
