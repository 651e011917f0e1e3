"""An ECHO net is its dimensions and its weights, as numpy arrays; runtimes compute it.

After arXiv 2508.14689 and the authors' published code, with their names of weights and of dimensions, so that
their files load. Only the encoder of the masked autoencoder: a decoder is never needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from echo_stream.core.errors import CheckpointError
from echo_stream.core.types import Float32
from echo_stream.encode import spectrogram as front
from echo_stream.encode.weights import read_tensors

LAYER_EPS = 1e-6
"""Of the LayerNorms inside the layers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoDimensions:
    """Sizes of the net, named as published. The weights do not show the number of heads: it must be said."""

    embed_dim: int
    encoder_depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    spec_len: int = 2000
    """Frames that `pos_embed` reaches: 20 s."""
    norm_eps: float = 1e-5
    """Of the last LayerNorm, as the model card builds it; those of the layers have 1e-6."""

    @property
    def mlp_dim(self) -> int:
        """Width inside the feed-forward part of a layer."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def max_patches(self) -> int:
        """Patches in time that `pos_embed` reaches."""
        return -(-self.spec_len // front.PATCH_FRAMES)

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor that a weights file must hold, by its published name."""
        d, mlp = self.embed_dim, self.mlp_dim
        layer: dict[str, tuple[int, ...]] = {
            "self_attn.in_proj_weight": (3 * d, d),
            "self_attn.in_proj_bias": (3 * d,),
            "self_attn.out_proj.weight": (d, d),
            "self_attn.out_proj.bias": (d,),
            "linear1.weight": (mlp, d),
            "linear1.bias": (mlp,),
            "linear2.weight": (d, mlp),
            "linear2.bias": (d,),
            "norm1.weight": (d,),
            "norm1.bias": (d,),
            "norm2.weight": (d,),
            "norm2.bias": (d,),
        }
        return {
            "cls_token": (1, 1, d),
            "pos_embed": (1, 1 + self.max_patches, d),
            "patch_embed.proj.weight": (d, 1, front.BAND_BINS, front.PATCH_FRAMES),
            "patch_embed.proj.bias": (d,),
            **{
                f"encoder.layers.{i}.{name}": shape
                for i in range(self.encoder_depth)
                for name, shape in layer.items()
            },
            "norm.weight": (d,),
            "norm.bias": (d,),
        }


SIZES = {
    "tiny": EchoDimensions(embed_dim=192, encoder_depth=12, num_heads=3),
    "small": EchoDimensions(embed_dim=384, encoder_depth=12, num_heads=6),
}


@dataclass(frozen=True, slots=True)
class EchoWeights:
    """The net as data: every runtime is built from it."""

    dimensions: EchoDimensions
    tensors: Mapping[str, Float32]
    """By published name, in the shapes of `EchoDimensions.tensor_shapes`."""
    sha256: str = ""
    """Of the file that they were read from, in hexadecimal; empty for weights of no file."""

    @classmethod
    def from_checkpoint(cls, path: Path | str, size: str | EchoDimensions = "tiny") -> Self:
        """The weights of a safetensors file.

        Args:
            path: The file.
            size: `tiny`, `small`, or dimensions of one's own.

        Raises:
            CheckpointError: No such size, or a file that lacks a tensor, has it in another shape, is damaged,
                or is no safetensors file.
        """
        dimensions = dimensions_of(size)
        tensors, sha256 = read_tensors(Path(path), dimensions.tensor_shapes())
        return cls(dimensions, tensors, sha256)

    @classmethod
    def random(cls, size: str | EchoDimensions, seed: int = 1) -> Self:
        """Random weights, the same for a seed: speed does not depend on what the weights are."""
        dimensions = dimensions_of(size)
        generator = np.random.default_rng(seed)
        tensors = {}
        for name, shape in dimensions.tensor_shapes().items():
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 and name not in _EMBEDDINGS else 2500
            offset = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            drawn = generator.standard_normal(shape, np.float32)
            tensors[name] = (offset + drawn * fan_in**-0.5).astype(np.float32)
        return cls(dimensions, tensors)

    def layer(self, index: int) -> dict[str, Float32]:
        """Tensors of one layer of the encoder, by the last part of their names."""
        start = f"encoder.layers.{index}."
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}

    def patch_matrix(self) -> tuple[Float32, Float32]:
        """The patches' convolution as a matrix (dim, 512) for `spectrogram.patches`, and its bias."""
        kernel = self.tensors["patch_embed.proj.weight"][:, 0].transpose(0, 2, 1)
        matrix = np.ascontiguousarray(kernel.reshape(len(kernel), -1))
        return matrix, self.tensors["patch_embed.proj.bias"]


_EMBEDDINGS = ("cls_token", "pos_embed")


def dimensions_of(size: str | EchoDimensions) -> EchoDimensions:
    """Dimensions of a published size; those of one's own pass.

    Raises:
        CheckpointError: No such size.
    """
    if not isinstance(size, str):
        return size
    if size not in SIZES:
        raise CheckpointError(f"there is no ECHO of size {size!r}", f"Use one of {', '.join(SIZES)}.")
    return SIZES[size]
