"""ECHO, the whole net: band-split spectrogram in, one CLS token a band and one token a patch out.

After arXiv 2508.14689 and the authors' published code, with their names of weights and of dimensions, so that
their files load and their calls work. Only the encoder of the masked autoencoder: a decoder is never needed.
Pure at inference; runs in the pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from echo_stream.core.errors import CheckpointError, EncoderError
from echo_stream.encode import spectrogram as front
from echo_stream.encode.weights import read_tensors


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


SIZES = {
    "tiny": EchoDimensions(embed_dim=192, encoder_depth=12, num_heads=3),
    "small": EchoDimensions(embed_dim=384, encoder_depth=12, num_heads=6),
}


class PatchEmbed(nn.Module):
    """Conv2d whose kernel is its stride: a matrix product over patches that are cut already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel_size=(front.BAND_BINS, front.PATCH_FRAMES))

    def matrix(self) -> tuple[Tensor, Tensor]:
        """The kernel as (dim, 512), frame by frame as `spectrogram.patches` lays them, and its bias."""
        return self.proj.weight[:, 0].transpose(1, 2).flatten(1), cast("Tensor", self.proj.bias)

    def forward(self, patches: Tensor) -> Tensor:
        """(..., 512) to (..., dim)."""
        return functional.linear(patches, *self.matrix())


class Attention(nn.Module):
    """Softmax attention among the tokens of one sequence, q, k and v in one projection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * dim))
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same."""
        qkv = functional.linear(x, self.in_proj_weight, self.in_proj_bias)
        qkv = qkv.view(*x.shape[:2], 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, dim / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class EncoderLayer(nn.Module):
    """A post-norm transformer layer: attention, then feed-forward, each added and then normalised."""

    def __init__(self, d: EchoDimensions) -> None:
        super().__init__()
        self.self_attn = Attention(d.embed_dim, d.num_heads)
        self.linear1 = nn.Linear(d.embed_dim, d.mlp_dim)
        self.linear2 = nn.Linear(d.mlp_dim, d.embed_dim)
        self.norm1 = nn.LayerNorm(d.embed_dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(d.embed_dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(n, tokens, dim) to the same."""
        x = self.norm1(x + self.self_attn(x))
        return self.norm2(x + self.linear2(functional.gelu(self.linear1(x))))  # type: ignore[no-any-return]


class EchoModel(nn.Module):
    """The published net and the calls of its model card.

    A model made by hand has random weights; `from_checkpoint` loads real ones.
    """

    def __init__(self, dimensions: EchoDimensions) -> None:
        super().__init__()
        d = self.dimensions = dimensions
        self.weights_sha256 = ""
        self.patch_embed = PatchEmbed(d.embed_dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, d.embed_dim))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + d.max_patches, d.embed_dim))  # entry 0 is unused
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList(EncoderLayer(d) for _ in range(d.encoder_depth))}
        )
        self.norm = nn.LayerNorm(d.embed_dim, eps=d.norm_eps)

    @property
    def layers(self) -> list[EncoderLayer]:
        """The layers of the encoder, first to last."""
        return list(cast("nn.ModuleList", self.encoder["layers"]))  # type: ignore[arg-type]

    @classmethod
    def from_checkpoint(cls, path: Path | str, size: str | EchoDimensions = "tiny") -> Self:
        """The net with the weights of a safetensors file, ready for inference.

        Args:
            path: The file.
            size: `tiny`, `small`, or dimensions of one's own.

        Raises:
            CheckpointError: No such size, or a file that lacks a tensor, has it in another shape, is damaged,
                or is no safetensors file.
        """
        if isinstance(size, str) and size not in SIZES:
            raise CheckpointError(f"there is no ECHO of size {size!r}", f"Use one of {', '.join(SIZES)}.")
        with torch.device("meta"):  # shapes only: nothing is allocated that the file then replaces
            model = cls(SIZES[size] if isinstance(size, str) else size)
        shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        tensors, model.weights_sha256 = read_tensors(Path(path), shapes)
        model.load_state_dict(tensors, assign=True)
        return model.eval().requires_grad_(False)

    def forward(self, patches: Tensor, frequency: Tensor) -> Tensor:
        """Tokens of bands, each band a sequence of its own.

        Args:
            patches: (n, patches, 512) as `spectrogram.patches` cuts them; n bands of any windows.
            frequency: (n, dim), the frequency embedding of each band.

        Returns:
            (n, 1 + patches, dim): the CLS token, then the patches.
        """
        frequency = frequency[:, None]
        tokens = self.patch_embed(patches) + self.pos_embed[:, 1 : 1 + patches.shape[1]] + frequency
        x = torch.cat([self.cls_token + frequency, tokens], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)  # type: ignore[no-any-return]

    @torch.inference_mode()
    def preprocess_audio_to_spectrogram(self, audio_signal: Tensor, sample_rate: int) -> Tensor:
        """(1, samples) or (samples,) to (bins, frames), on the scale of the net.

        Raises:
            EncoderError: More than one channel, or too few samples for one frame.
        """
        audio = audio_signal.squeeze(0)
        if audio.ndim != 1 or not front.frame_count(len(audio), sample_rate):
            raise EncoderError(
                f"audio of shape {tuple(audio_signal.shape)} at {sample_rate} Hz, expected (1, samples) with "
                f"at least {front.fft_samples(sample_rate)} samples",
                "Pass one channel, and 25 ms or more of it.",
            )
        return front.log_spectrogram(audio.float()[None], sample_rate)[0]

    @torch.inference_mode()
    def extract_features(self, spec: Tensor, sample_rate: int) -> tuple[Tensor, Tensor]:
        """Features of a spectrogram of at most `spec_len` frames.

        Args:
            spec: (bins, frames).
            sample_rate: Of the audio that it was made from.

        Returns:
            Utterance-level feature (bands * dim,) and segment-level features (patches, bands * dim).

        Raises:
            EncoderError: Too many frames, or bins that are not those of this sample rate.
        """
        d = self.dimensions
        bins = front.fft_samples(sample_rate) // 2 + 1
        if spec.ndim != 2 or spec.shape[0] != bins or not 0 < spec.shape[1] <= d.spec_len:
            raise EncoderError(
                f"spectrogram of shape {tuple(spec.shape)}, expected ({bins}, 1 to {d.spec_len}) "
                f"at {sample_rate} Hz",
                "Longer audio goes through extract_features_from_audio, which cuts it.",
            )
        tokens = self(front.patches(spec[None])[0], front.frequency_embedding(sample_rate, d.embed_dim))
        return tokens[:, 0].flatten(), tokens[:, 1:].transpose(0, 1).flatten(1)

    @torch.inference_mode()
    def extract_features_from_audio(
        self, audio_signal: Tensor, sample_rate: int = 16000
    ) -> tuple[Tensor, Tensor]:
        """Features of audio of any length, as the model card computes them.

        What is longer than `spec_len` frames is cut into pieces of so many; a remainder is replaced by the
        last `spec_len` frames, which overlap the piece before. Utterance-level features are averaged over the
        pieces, segment-level ones stacked.

        Args:
            audio_signal: (1, samples) or (samples,), full scale is -1 to 1.
            sample_rate: In Hz.

        Returns:
            Utterance-level feature (bands * dim,) and segment-level features (patches, bands * dim).

        Raises:
            EncoderError: More than one channel, or too few samples for one frame.
        """
        spec = self.preprocess_audio_to_spectrogram(audio_signal, sample_rate)
        length = self.dimensions.spec_len
        pieces = [spec[:, at : at + length] for at in range(0, spec.shape[1] - length + 1, length)]
        if spec.shape[1] % length:
            pieces.append(spec[:, -length:])
        utterances, segments = zip(
            *(self.extract_features(piece, sample_rate) for piece in pieces), strict=True
        )
        return torch.stack(utterances).mean(0), torch.cat(segments)
