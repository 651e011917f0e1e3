"""ECHO as an encoder: windows of any machines in, one batch through the net. Runs in the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import EchoDimensions, EchoModel
from echo_stream.encode.level import check_window, level_dbfs
from echo_stream.types import EncoderIdentity, Features, Window


class EchoEncoder:
    """Encodes windows of at most 20 s with one net that all machines share."""

    def __init__(self, model: EchoModel) -> None:
        self._model = model
        d = model.dimensions
        self.identity = EncoderIdentity(
            kind="echo",
            version=1,
            weights_sha256=model.weights_sha256,
            dimensions={
                "embed_dim": d.embed_dim,
                "encoder_depth": d.encoder_depth,
                "num_heads": d.num_heads,
                "norm_eps": d.norm_eps,
            },
        )

    @classmethod
    def from_checkpoint(cls, weights: Path, size: str | EchoDimensions = "tiny") -> Self:
        """An encoder with the weights of a safetensors file.

        Raises:
            CheckpointError: See `EchoModel.from_checkpoint`.
        """
        return cls(EchoModel.from_checkpoint(weights, size))

    @torch.inference_mode()
    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in order; all bands with the same number of patches are one batch.

        Raises:
            EncoderError: A sample is not finite, or a window is shorter than one frame or longer than 20 s.
        """
        alike: dict[tuple[int, int], list[int]] = {}  # one FFT for all windows of a rate and length
        for i, window in enumerate(windows):
            rate = window.sample_rate_hz
            longest = front.fft_samples(rate) + self._model.dimensions.spec_len * front.hop_samples(rate) - 1
            check_window(window, shortest=front.fft_samples(rate), longest=longest)
            alike.setdefault((rate, len(window.samples)), []).append(i)
        batches: dict[int, list[tuple[int, int, Tensor]]] = {}  # by length: window, rate, its patches
        for (rate, _), members in alike.items():
            audio = np.stack([windows[i].samples for i in members], dtype=np.float32)
            cut = front.patches(front.log_spectrogram(torch.from_numpy(audio), rate))
            batch = batches.setdefault(cut.shape[2], [])
            batch.extend((i, rate, patches) for i, patches in zip(members, cut, strict=True))
        tokens = {i: part for batch in batches.values() for i, part in self._tokens(batch)}
        return [_features(window, tokens[i]) for i, window in enumerate(windows)]

    def _tokens(self, batch: list[tuple[int, int, Tensor]]) -> list[tuple[int, Tensor]]:
        """Each window's number with its (bands, 1 + patches, dim); one call of the net."""
        dim = self._model.dimensions.embed_dim
        tokens = self._model(
            torch.cat([patches for _, _, patches in batch]),
            torch.cat([front.frequency_embedding(rate, dim) for _, rate, _ in batch]),
        )
        parts = tokens.split([len(patches) for _, _, patches in batch])
        return [(i, part) for (i, _, _), part in zip(batch, parts, strict=True)]


def _features(window: Window, tokens: Tensor) -> Features:
    """Takes a window's tokens (bands, 1 + patches, dim) apart."""
    array = tokens.numpy()
    return Features(
        window=array[:, 0].copy(),  # a view would keep the whole batch in memory for as long as it is kept
        segments=array[:, 1:].transpose(1, 0, 2).copy(),
        bands_hz=front.band_edges_hz(window.sample_rate_hz).numpy(),
        level_dbfs=level_dbfs(window.samples),
    )
