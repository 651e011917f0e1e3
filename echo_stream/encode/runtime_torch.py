"""The torch runtime computes the net by oneDNN, which torch brings: packed weights, fused operations.

The same arithmetic as echo_torch.py, in float32 or bfloat16; extra `torch`. Three things make it fast:
oneDNN's packed matrix products (twice as fast as MKL's on some CPUs), GELU and the residual sum inside them,
and jobs small enough for the cache.
"""

from __future__ import annotations

from collections.abc import Mapping

from echo_stream.core.errors import EncoderError, PrecisionUnavailable, of_extra
from echo_stream.core.types import Float32
from echo_stream.encode.echo import LAYER_EPS, EchoDimensions, EchoWeights
from echo_stream.encode.echo_torch import compute_on_one_core

with of_extra("encoder.runtime 'torch'", "torch"):
    import torch
    from torch import Tensor
    from torch.nn import functional

JOB_ROWS = 40
"""Bands in a job at most: about 500 tokens, whose activations stay in a core's cache."""
_BATCH_HINT = 512
"""Rows that weights are packed for; others work as well."""


class TorchRuntime:
    """The net in one of two precisions; LayerNorm and softmax are float32 inside in both."""

    name = "torch"
    job_rows = JOB_ROWS
    fixed_rows = False

    def __init__(self, weights: EchoWeights, precision: str) -> None:
        if not available("float32"):
            raise EncoderError("this build of torch has no products of oneDNN", "Use encoder.runtime: auto.")
        if not available(precision):
            raise PrecisionUnavailable("torch", precision, ["float32"])
        self.precision = precision
        d, tensors = weights.dimensions, {n: torch.from_numpy(t) for n, t in weights.tensors.items()}
        self._dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        matrix, bias = weights.patch_matrix()
        self._dim = d.embed_dim
        self._embed = _Linear(torch.from_numpy(matrix), torch.from_numpy(bias), self._dtype)
        self._cls_token, self._pos_embed = tensors["cls_token"][0], tensors["pos_embed"]
        self._layers = [_Layer(d, weights.layer(i), self._dtype) for i in range(d.encoder_depth)]
        self._norm = (tensors["norm.weight"], tensors["norm.bias"], d.norm_eps)

    def tokens(self, patches: Float32, frequency: Float32) -> Float32:
        """See `Runtime.tokens`."""
        compute_on_one_core()
        with torch.inference_mode():
            found: Float32 = self._tokens(torch.from_numpy(patches), torch.from_numpy(frequency)).numpy()
        return found

    def _tokens(self, patches: Tensor, frequency: Tensor) -> Tensor:
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
    return precision != "bfloat16" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class _Layer:
    """`echo_torch.EncoderLayer` over tokens of all sequences in one matrix."""

    def __init__(self, d: EchoDimensions, weights: Mapping[str, Float32], dtype: torch.dtype) -> None:
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        self._heads, dim = d.num_heads, d.embed_dim
        # The scale of the scores, 1 / sqrt(dim of a head), goes into the projection of the queries.
        scale = torch.ones(3 * dim, 1)
        scale[:dim] = (dim // self._heads) ** -0.5
        in_weight, in_bias = tensors["self_attn.in_proj_weight"], tensors["self_attn.in_proj_bias"]
        self._qkv = _Linear(in_weight * scale, in_bias * scale[:, 0], dtype)
        self._out, self._up, self._down = (
            _Linear(tensors[f"{name}.weight"], tensors[f"{name}.bias"], dtype)
            for name in ("self_attn.out_proj", "linear1", "linear2")
        )
        self._norm1, self._norm2 = (
            (tensors[f"{name}.weight"], tensors[f"{name}.bias"]) for name in ("norm1", "norm2")
        )

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


def _norm(x: Tensor, norm: tuple[Tensor, Tensor]) -> Tensor:
    return functional.layer_norm(x, norm[0].shape, *norm, LAYER_EPS)


class _Linear:
    """x @ weight.T + bias of packed weights, alone or with what follows it; x is (rows, inputs)."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype), _BATCH_HINT)
        self._bias = bias.to(dtype)

    def __call__(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return y

    def gelu(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "gelu", [], "none")
        return y

    def add(self, x: Tensor, residual: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, residual, self._weight, self._bias, "add")
        return y
