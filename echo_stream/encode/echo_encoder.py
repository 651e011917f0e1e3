"""The ECHO encoder turns windows of any machines into features, all of them in one batch through the net.

The work itself is done by `Workers`, one thread a core; the pipeline waits for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np

from echo_stream.core.level import check_window, level_dbfs
from echo_stream.core.log import get_logger
from echo_stream.core.types import EncoderIdentity, Features, Float32, Window
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import EchoDimensions, EchoWeights
from echo_stream.encode.runtime import Workers, choose

_log = get_logger(__name__)


class EchoEncoder:
    """Encodes windows of at most 20 s with one net that all machines share.

    Runtime and precision are no part of the identity: features of each are as near to those of float32 as
    `runtime.PROMISED_COSINE` says, and a bank must survive a move to another PC.
    """

    def __init__(
        self, weights: EchoWeights, runtime: str = "auto", precision: str = "auto", cache: Path | None = None
    ) -> None:
        """Chooses how to compute the net; `choice` says what was chosen.

        Args:
            weights: The net.
            runtime: `auto`, `plain`, `torch` or `openvino`.
            precision: `auto`, `float32` or `bfloat16`.
            cache: File that remembers what `auto` chose; None measures at each start, for about a second.

        Raises:
            EncoderError: What was asked for by name is not there, or not exact enough.
            MissingExtra: A library that it needs is not installed.
        """
        d = weights.dimensions
        self.identity = EncoderIdentity(
            kind="echo",
            version=1,
            weights_sha256=weights.sha256,
            dimensions={
                "embed_dim": d.embed_dim,
                "encoder_depth": d.encoder_depth,
                "num_heads": d.num_heads,
                "norm_eps": d.norm_eps,
            },
        )
        self._dimensions = d
        self._weights: Callable[[], EchoWeights] = lambda: weights
        self._workers = Workers()
        self._runtime, self.choice = choose(weights, self._workers, runtime, precision, cache)
        self.computed_by = f"{self._runtime.name} {self._runtime.precision}"
        _log.info("the encoder runs", runtime=self._runtime.name, precision=self._runtime.precision)

    @classmethod
    def from_checkpoint(
        cls,
        weights: Path,
        size: str | EchoDimensions = "tiny",
        runtime: str = "auto",
        precision: str = "auto",
        cache: Path | None = None,
    ) -> Self:
        """An encoder with the weights of a safetensors file; the arguments are those of `__init__`.

        Raises:
            CheckpointError: See `EchoWeights.from_checkpoint`.
            EncoderError: What was asked for by name is not there, or not exact enough.
            MissingExtra: A library that it needs is not installed.
        """
        encoder = cls(EchoWeights.from_checkpoint(weights, size), runtime, precision, cache)
        # A runtime has them in its own form: read again where they are wanted, rather than kept twice.
        encoder._weights = partial(EchoWeights.from_checkpoint, weights, size)
        return encoder

    def __reduce__(self) -> tuple[type[Self], tuple[EchoWeights, str, str]]:
        """To another process go weights, runtime and precision: threads and compiled nets are made there."""
        return type(self), (self._weights(), self._runtime.name, self._runtime.precision)

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in order; all bands with the same number of patches are one batch.

        Raises:
            EncoderError: A sample is not finite, or a window is shorter than one frame or longer than 20 s.
        """
        for window in windows:
            length, hop = front.fft_samples(window.sample_rate_hz), front.hop_samples(window.sample_rate_hz)
            check_window(window, shortest=length, longest=length + self._dimensions.spec_len * hop - 1)
        cut = [one for part in self._workers.map(_cut, self._parts(windows)) for one in part]
        batches: dict[int, list[_Cut]] = {}  # by the number of patches
        for one in cut:
            batches.setdefault(one.patches.shape[1], []).append(one)
        features = {id(one.window): f for batch in batches.values() for one, f in self._encode_batch(batch)}
        return [features[id(window)] for window in windows]

    def _parts(self, windows: Sequence[Window]) -> list[list[Window]]:
        """Windows of one rate and length together, for one FFT, and those shared out among the workers."""
        alike: dict[tuple[int, int], list[Window]] = {}
        for window in windows:
            alike.setdefault((window.sample_rate_hz, len(window.samples)), []).append(window)
        share = [-(-len(group) // self._workers.count) for group in alike.values()]
        return [
            group[at : at + size]
            for group, size in zip(alike.values(), share, strict=True)
            for at in range(0, len(group), size)
        ]

    def _encode_batch(self, batch: list[_Cut]) -> list[tuple[_Cut, Features]]:
        """Windows with the same number of patches, all their bands through the net together."""
        dim = self._dimensions.embed_dim
        embeddings = [front.frequency_embedding(one.window.sample_rate_hz, dim) for one in batch]
        patches = np.concatenate([one.patches for one in batch])
        tokens = self._workers.run(self._runtime, patches, np.concatenate(embeddings))
        parts = np.split(tokens, np.cumsum([len(one.patches) for one in batch])[:-1])
        return [(one, _features(one, part)) for one, part in zip(batch, parts, strict=True)]


class _Cut(NamedTuple):
    """A window after the front end."""

    window: Window
    patches: Float32
    """(bands, patches, 512)."""
    level_dbfs: float


def _cut(windows: list[Window]) -> list[_Cut]:
    """The front end for windows of one rate and length."""
    audio = np.stack([window.samples for window in windows], dtype=np.float32)
    cut = front.patches(front.log_spectrogram(audio, windows[0].sample_rate_hz))
    return [
        _Cut(window, patches, level_dbfs(window.samples))
        for window, patches in zip(windows, cut, strict=True)
    ]


def _features(cut: _Cut, tokens: Float32) -> Features:
    """Takes a window's tokens (bands, 1 + patches, dim) apart; copies, so that no batch is kept in memory."""
    return Features(
        window=tokens[:, 0].copy(),
        segments=tokens[:, 1:].transpose(1, 0, 2).copy(),
        bands_hz=front.band_edges_hz(cut.window.sample_rate_hz).copy(),
        level_dbfs=cut.level_dbfs,
    )
