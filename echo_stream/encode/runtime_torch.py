"""The net written for oneDNN, which torch brings along: packed weights, what can be fused is fused.

The same arithmetic as echo.py, in float32, bfloat16 or int8. Three things make it fast: oneDNN's packed
matrix products (twice as fast as MKL's on some CPUs), GELU and the residual sum inside them, and jobs small
enough for the cache. Runs in the encoder's worker threads, one core each.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from echo_stream.core.errors import EncoderError
from echo_stream.encode.echo import EchoModel, EncoderLayer

JOB_ROWS = 40
"""Bands in a job at most: about 500 tokens, whose activations stay in a core's cache."""
_BATCH_HINT = 512
"""Rows that weights are packed for; others work as well."""


class TorchRuntime:
    """The net in one of three precisions; LayerNorm and softmax are float32 inside in all of them."""

    name = "torch"
    job_rows = JOB_ROWS
    fixed_rows = False

    def __init__(self, model: EchoModel, precision: str) -> None:
        if not available(precision):
            raise EncoderError(
                f"this build of torch has no {precision} products of oneDNN", "Use encoder.runtime: auto."
            )
        self.precision = precision
        kinds: dict[str, type[_Linear]] = {"float32": _Float32, "bfloat16": _Bfloat16, "int8": _Int8}
        linear = kinds[precision]
        # The patches' and the output projection stay float32: small, and there int8 costs most exactness.
        careful = _Float32 if precision == "int8" else linear
        self._dim = model.dimensions.embed_dim
        self._embed = careful(*model.patch_embed.matrix())
        self._cls_token, self._pos_embed = model.cls_token[0], model.pos_embed
        self._layers = [_Layer(layer, linear, careful) for layer in model.layers]
        self._norm = (model.norm.weight, model.norm.bias, model.norm.eps)
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32

    def tokens(self, patches: Tensor, frequency: Tensor) -> Tensor:
        """As `EchoModel.forward`: (n, patches, 512) and (n, dim) to (n, 1 + patches, dim), float32."""
        n, times, values = patches.shape
        embedded = self._embed(patches.reshape(n * times, values).to(self._dtype)).float()
        x = torch.empty(n, 1 + times, self._dim)
        x[:, 0] = self._cls_token + frequency
        x[:, 1:] = embedded.view(n, times, -1) + self._pos_embed[:, 1 : 1 + times] + frequency[:, None]
        x = x.view(-1, self._dim).to(self._dtype)
        for layer in self._layers:
            x = layer(x, n)
        weight, bias, eps = self._norm
        return functional.layer_norm(x.float(), (self._dim,), weight, bias, eps).view(n, 1 + times, -1)


def available(precision: str) -> bool:
    """Whether this build of torch has the operators, and this CPU the instructions that make them pay."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_onednn or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if precision == "bfloat16":
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return precision != "int8" or hasattr(torch.ops.onednn, "qlinear_pointwise")


class _Linear(Protocol):
    """x @ weight.T + bias, alone or with what follows it; x is (rows, inputs)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None: ...
    def __call__(self, x: Tensor) -> Tensor: ...
    def gelu(self, x: Tensor) -> Tensor: ...
    def add(self, x: Tensor, residual: Tensor) -> Tensor: ...


class _Layer:
    """`echo.EncoderLayer` over tokens of all sequences in one matrix."""

    def __init__(self, layer: EncoderLayer, linear: type[_Linear], careful: type[_Linear]) -> None:
        attention = layer.self_attn
        self._heads = attention.heads
        dim = attention.out_proj.in_features
        # The scale of the scores, 1 / sqrt(dim of a head), goes into the projection of the queries.
        scale = torch.ones(3 * dim, 1)
        scale[:dim] = (dim // attention.heads) ** -0.5
        self._qkv = linear(attention.in_proj_weight * scale, attention.in_proj_bias * scale[:, 0])
        self._out = careful(attention.out_proj.weight, attention.out_proj.bias)
        self._up = linear(layer.linear1.weight, layer.linear1.bias)
        self._down = linear(layer.linear2.weight, layer.linear2.bias)
        self._norm1, self._norm2 = layer.norm1, layer.norm2

    def __call__(self, x: Tensor, sequences: int) -> Tensor:
        """(sequences * tokens, dim) to the same."""
        x = _norm(self._out.add(self._mixed(self._qkv(x), sequences), x), self._norm1)
        return _norm(self._down.add(self._up.gelu(x), x), self._norm2)

    def _mixed(self, qkv: Tensor, sequences: int) -> Tensor:
        """Values mixed by attention: (sequences * tokens, 3 * dim) to (sequences * tokens, dim)."""
        rows, width = qkv.shape
        q, k, v = qkv.view(sequences, rows // sequences, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
        if qkv.dtype == torch.float32:
            mixed = functional.scaled_dot_product_attention(q, k, v, scale=1.0)
        else:
            # Sequences are short: a softmax of whole-array operations beats the fused kernel's small ones.
            shape = (sequences * self._heads, rows // sequences, -1)
            scores = torch.bmm(q.reshape(shape), k.reshape(shape).transpose(1, 2)).float()
            weights = scores.sub_(scores.amax(-1, keepdim=True)).exp_()
            weights /= weights.sum(-1, keepdim=True)
            mixed = torch.bmm(weights.to(v.dtype), v.reshape(shape)).view(q.shape)
        return mixed.transpose(1, 2).reshape(rows, width // 3)


def _norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    return functional.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class _OneDnn:
    """Packed weights of one floating-point type."""

    dtype: torch.dtype

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(self.dtype), _BATCH_HINT)
        self._bias = bias.to(self.dtype)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y

    def gelu(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "gelu", [], "none")
        return y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
        return y


class _Float32(_OneDnn):
    dtype = torch.float32


class _Bfloat16(_OneDnn):
    dtype = torch.bfloat16


class _Int8:
    """Weights in int8 with a scale for each output, inputs with a scale for each token.

    A scale of a whole batch would make a window's features depend on its company.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        scale = weight.abs().amax(1).clamp_min(1e-12) / 127
        quantised = (weight / scale[:, None]).round_().to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(quantised, None)
        self._scale = scale
        self._zeros = torch.zeros(len(scale), dtype=torch.int64)
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        scale = x.abs().amax(1, keepdim=True).clamp_min_(1e-12).div_(127)
        # uint8 around 128 and not int8: older CPUs multiply unsigned by signed only.
        quantised = torch.div(x, scale).round_().add_(128).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            quantised, 1.0, 128, self._weight, self._scale, self._zeros, None, 1.0, 0, x.dtype, "none", [], ""
        )
        return torch.addcmul(self._bias, y, scale)

    def gelu(self, x: Tensor) -> Tensor:
        return functional.gelu(self(x))

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        return self(x).add_(residual)
