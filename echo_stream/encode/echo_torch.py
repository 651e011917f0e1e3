"""The reference net computes ECHO in torch with the calls of its published model card.

It is what the runtimes are held against, and the runtime `plain`. Needs the extra `torch`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self, cast

from echo_stream.core.errors import EncoderError, of_extra
from echo_stream.core.types import Float32
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import LAYER_EPS, EchoDimensions, EchoWeights

with of_extra("encoder.runtime 'plain'", "torch"):
    import torch
    from torch import Tensor, nn
    from torch.nn import functional

_of_thread = threading.local()


def compute_on_one_core() -> None:
    """Turns torch's threads inside operations off, once in each thread that calls.

    Those of the pipeline's own small operations spin for a while after each one and take the cores from the
    net: a third of its time.
    """
    if not getattr(_of_thread, "one_core", False):
        torch.set_num_threads(1)
        _of_thread.one_core = True


class PatchEmbed(nn.Module):
    """Conv2d whose kernel is its stride: a matrix product over patches that are cut already."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel_size=(front.BAND_BINS, front.PATCH_FRAMES))

    def forward(self, patches: Tensor) -> Tensor:
        """(..., 512) to (..., dim); a patch lies frame by frame as `spectrogram.patches` cuts it."""
        kernel = self.proj.weight[:, 0].transpose(1, 2).flatten(1)
        return functional.linear(patches, kernel, self.proj.bias)


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
        self.norm1 = nn.LayerNorm(d.embed_dim, eps=LAYER_EPS)
        self.norm2 = nn.LayerNorm(d.embed_dim, eps=LAYER_EPS)

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
            CheckpointError: See `EchoWeights.from_checkpoint`.
        """
        return cls.from_weights(EchoWeights.from_checkpoint(path, size))

    @classmethod
    def from_weights(cls, weights: EchoWeights) -> Self:
        """The net with these weights, whose memory it shares, ready for inference."""
        with torch.device("meta"):  # shapes only: nothing is allocated that the weights then replace
            model = cls(weights.dimensions)
        tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
        model.load_state_dict(tensors, assign=True)
        model.weights_sha256 = weights.sha256
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
        length, hop = front.fft_samples(sample_rate), front.hop_samples(sample_rate)
        centred = audio.float() - audio.mean(dtype=torch.float64).float()
        magnitude = torch.fft.rfft(centred.unfold(-1, length, hop) * torch.hann_window(length)).abs()
        return ((torch.log(magnitude + front.FLOOR) - front.MEAN) / front.SPREAD).T

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
        patches = torch.from_numpy(front.patches(spec[None].numpy())[0])
        frequency = torch.from_numpy(front.frequency_embedding(sample_rate, d.embed_dim))
        tokens = self(patches, frequency)
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


class PlainRuntime:
    """`EchoModel` itself: what everything else is compared with."""

    name, precision = "plain", "float32"
    job_rows, fixed_rows = 40, False

    def __init__(self, weights: EchoWeights) -> None:
        self._model = EchoModel.from_weights(weights)

    def tokens(self, patches: Float32, frequency: Float32) -> Float32:
        """See `Runtime.tokens`."""
        compute_on_one_core()
        with torch.inference_mode():
            found: Float32 = self._model(torch.from_numpy(patches), torch.from_numpy(frequency)).numpy()
        return found
