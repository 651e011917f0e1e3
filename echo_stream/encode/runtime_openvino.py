"""The net as a graph for OpenVINO, an optional extra. Runs in the encoder's worker threads.

The graph is written here, operation by operation, from the loaded weights: nothing has to be traced.
Its shapes are fixed, as OpenVINO is a fifth faster with them: a job has always the same number of bands, of
whatever machines, and what is missing to it is padding.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import opset13 as op
from torch import Tensor

from echo_stream.encode.echo import EchoModel, EncoderLayer

JOB_ROWS = 10
"""Bands in a job: half a window of 48 kHz, so that two cores share even a single one."""
_GROUP = 64
"""Inputs that share a scale in int8."""


class OpenVinoRuntime:
    """The net compiled for this CPU; one request a thread, all on the same weights."""

    name = "openvino"
    job_rows = JOB_ROWS
    fixed_rows = True

    def __init__(self, model: EchoModel, precision: str) -> None:
        self._core = openvino.Core()
        self.precision = precision
        self._model = model
        self._properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP if precision == "int8" else 0,
            "NUM_STREAMS": len(os.sched_getaffinity(0)),
            "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
            "ENABLE_CPU_PINNING": False,  # a core may be busy with something else: let the kernel choose
        }
        self._compiled: dict[int, Any] = {}  # by the number of patches
        self._preparing = threading.Lock()
        self._local = threading.local()

    def tokens(self, patches: Tensor, frequency: Tensor) -> Tensor:
        """As `EchoModel.forward`, for at most `job_rows` bands."""
        rows, times, _ = patches.shape
        requests: dict[int, Any] = self._local.__dict__.setdefault("requests", {})
        if times not in requests:
            requests[times] = self._request(times)
        request = requests[times]
        request.get_input_tensor(0).data[:rows] = patches.numpy()
        request.get_input_tensor(1).data[:rows] = frequency.numpy()
        request.infer()
        return torch.from_numpy(request.get_output_tensor(0).data[:rows].copy())

    def _request(self, times: int) -> Any:
        # One thread at a time, to the end of a first inference: where two threads touch a tensor of OpenVINO
        # for the first time in a process, each waits for ever for what the other holds (found with 2026.4).
        with self._preparing:
            if times not in self._compiled:
                graph = _graph(self._model, times, int8=self.precision == "int8")
                self._compiled[times] = self._core.compile_model(graph, "CPU", self._properties)
            request = self._compiled[times].create_infer_request()
            for i in (0, 1):
                request.get_input_tensor(i).data[:] = 0.0
            request.infer()
            request.get_output_tensor(0).data.copy()
            return request


def _graph(model: EchoModel, times: int, *, int8: bool) -> Any:
    """`EchoModel.forward` for `JOB_ROWS` bands of so many patches."""
    dim = model.dimensions.embed_dim
    embed, bias = model.patch_embed.matrix()
    patches = op.parameter([JOB_ROWS, times, embed.shape[1]], np.float32, "patches")
    frequency = op.parameter([JOB_ROWS, dim], np.float32, "frequency")
    placed = op.unsqueeze(frequency, _ints(1))
    tokens = op.add(_linear(patches, embed, bias), _array(model.pos_embed[:, 1 : 1 + times]))
    x = op.concat([op.add(placed, _array(model.cls_token)), op.add(tokens, placed)], 1)
    for layer in model.layers:
        x = _layer(x, layer, int8=int8)
    return openvino.Model([_norm(x, model.norm)], [patches, frequency], "echo")


def _layer(x: Any, layer: EncoderLayer, *, int8: bool) -> Any:
    attention = layer.self_attn
    dim = attention.out_proj.in_features
    head = dim // attention.heads
    qkv = _linear(x, attention.in_proj_weight, attention.in_proj_bias, int8=int8)
    parts = op.split(op.reshape(qkv, _ints(0, 0, 3 * attention.heads, head), True), _ints(2)[0], 3)
    q, k, v = (op.transpose(part, _ints(0, 2, 1, 3)) for part in parts.outputs())
    mixed = op.transpose(op.scaled_dot_product_attention(q, k, v), _ints(0, 2, 1, 3))
    mixed = op.reshape(
        mixed, _ints(0, 0, dim), True
    )  # its projection stays exact: it is small, and int8 shows
    x = _norm(op.add(x, _linear(mixed, attention.out_proj.weight, attention.out_proj.bias)), layer.norm1)
    up = op.gelu(_linear(x, layer.linear1.weight, layer.linear1.bias, int8=int8), "erf")
    return _norm(op.add(x, _linear(up, layer.linear2.weight, layer.linear2.bias, int8=int8)), layer.norm2)


def _linear(x: Any, weight: Tensor, bias: Tensor, *, int8: bool = False) -> Any:
    """A dense layer; in int8 its weights carry a scale for each output, its inputs one for 64 of them."""
    matrix: Any = _array(weight)
    if int8:
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        quantised = (weight / scale).round().to(torch.int8)
        matrix = op.multiply(op.convert(op.constant(quantised.numpy()), "f32"), _array(scale))
    return op.add(op.matmul(x, matrix, False, True), _array(bias))


def _norm(x: Any, norm: torch.nn.LayerNorm) -> Any:
    normal = op.mvn(x, _ints(-1), True, norm.eps, "inside_sqrt")
    return op.add(op.multiply(normal, _array(norm.weight)), _array(norm.bias))


def _array(tensor: Tensor) -> Any:
    """A constant that shares the tensor's memory: a copy of all weights would be 23 MB for tiny."""
    return op.constant(tensor.detach().contiguous().numpy(), shared_memory=True)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
