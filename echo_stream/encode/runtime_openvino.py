"""The OpenVINO runtime compiles the net as a graph for this CPU; it needs no torch. Extra `echo`.

The graph is written here, operation by operation, from the weights: nothing has to be traced.
Its shapes are fixed, as OpenVINO is a fifth faster with them: a job has always the same number of bands, of
whatever machines, and what is missing to it is padding.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.errors import EncoderError, PrecisionUnavailable, of_extra
from echo_stream.core.types import Float32
from echo_stream.encode.echo import LAYER_EPS, EchoDimensions, EchoWeights
from echo_stream.encode.runtime import CPU_LIMITS, cpu

with of_extra("encoder.runtime 'openvino'", "echo"):
    import openvino
    from openvino import opset13 as op

JOB_ROWS = 10
"""Bands in a job: half a window of 48 kHz, so that two cores share even a single one."""
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
_PRECISIONS = {hint: precision for precision, hint in _HINTS.items()}
_LEVELS = {"SSE41": 0, "AVX": 1, "AVX2": 2, "AVX2_VNNI": 2, "AVX2_VNNI_2": 2}
"""Values of `CPU_LIMITS` that hide AVX, AVX2 and AVX-512; others hide nothing of these."""


class OpenVinoRuntime:
    """The net compiled for this CPU, or its GPU; one request a thread, all on the same weights.

    Raises:
        EncoderError: OpenVINO finds no such device, or a variable hides instructions of this CPU from it.
    """

    job_rows = JOB_ROWS
    fixed_rows = True

    def __init__(self, weights: EchoWeights, precision: str, device: str = "CPU") -> None:
        self._core = openvino.Core()
        self.name = "openvino" if device == "CPU" else f"openvino-{device.lower()}"
        self.precision = precision
        self._device = device
        self._weights = weights
        require_device(device, devices())
        if device == "CPU":
            require_whole_cpu(os.environ, cpu())
        self._properties: dict[str, object] = {"INFERENCE_PRECISION_HINT": _HINTS[precision]}
        if device != "CPU":
            self._properties["NUM_STREAMS"] = len(os.sched_getaffinity(0))
        else:
            self._properties |= {
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # with a group, products may be quantised unasked
                "NUM_STREAMS": len(os.sched_getaffinity(0)),
                "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0)),
                "ENABLE_CPU_PINNING": False,  # a core may be busy with something else: let the kernel choose
            }
        self._compiled: dict[int, Any] = {}  # by the number of patches
        self._preparing = threading.Lock()
        self._local = threading.local()

    def tokens(self, patches: Float32, frequency: Float32) -> Float32:
        """See `Runtime.tokens`; at most `job_rows` bands.

        Raises:
            PrecisionUnavailable: OpenVINO compiled the net in another precision than was asked for.
        """
        rows, times, _ = patches.shape
        requests: dict[int, Any] = self._local.__dict__.setdefault("requests", {})
        if times not in requests:
            requests[times] = self._request(times)
        request = requests[times]
        request.get_input_tensor(0).data[:rows] = patches
        request.get_input_tensor(1).data[:rows] = frequency
        request.infer()
        found: Float32 = request.get_output_tensor(0).data[:rows].copy()
        return found

    def _request(self, times: int) -> Any:
        # One thread at a time, to the end of a first inference: where two threads touch a tensor of OpenVINO
        # for the first time in a process, each waits for ever for what the other holds (found with 2026.4).
        with self._preparing:
            if times not in self._compiled:
                graph = _graph(self._weights, times)
                compiled = self._core.compile_model(graph, self._device, self._properties)
                # A GPU names its operations otherwise; there the trial of its features alone tells.
                computed = _computed_precision(compiled) if self._device == "CPU" else self.precision
                if computed != self.precision:
                    raise PrecisionUnavailable("openvino", self.precision, [computed])
                self._compiled[times] = compiled
            request = self._compiled[times].create_infer_request()
            for i in (0, 1):
                request.get_input_tensor(i).data[:] = 0.0
            request.infer()
            request.get_output_tensor(0).data.copy()
            return request


def devices() -> list[str]:
    """Those that OpenVINO finds here, such as CPU and GPU."""
    return list(openvino.Core().available_devices)


def require_device(device: str, found: Sequence[str]) -> None:
    """Raises EncoderError where a device is not among those found; of several GPUs the first is GPU.0."""
    if not any(each == device or each.startswith(f"{device}.") for each in found):
        raise EncoderError(
            f"encoder.runtime 'openvino-{device.lower()}': OpenVINO finds no {device} here, only "
            f"{', '.join(found) or 'nothing'}",
            "Use encoder.runtime: auto; `echo-stream bench` names what is found.",
        )


def require_whole_cpu(environment: Mapping[str, str], about: Mapping[str, str]) -> None:
    """Raises EncoderError where a variable of oneDNN hides instructions that the CPU has.

    OpenVINO's products obey it, the code that it writes itself does not, and the process dies of a
    segmentation fault (found with 2026.4: AVX2 on a CPU with AVX-512).

    Args:
        environment: Of this process.
        about: The CPU, as of `runtime.cpu`.
    """
    has = [flag for flag in ("avx", "avx2", "avx512f") if flag in about.get("flags", "").split()]
    name = next((name for name in CPU_LIMITS if environment.get(name)), None)
    if name and _LEVELS.get(environment[name].upper(), len(has)) < len(has):
        raise EncoderError(
            f"encoder.runtime 'openvino': {name}={environment[name]} hides what this CPU has ({has[-1]}) "
            "from a part of OpenVINO only, which then crashes",
            "Unset it, or use another runtime: pip install 'echo-stream[torch]' and encoder.runtime: torch.",
        )


def _computed_precision(compiled: Any) -> str:
    """In which its matrix products are computed: the hint that it reports back may be what was asked for."""
    found = set()
    for operation in compiled.get_runtime_model().get_ops():
        about = operation.get_rt_info()
        if about["layerType"].astype(str) in {"FullyConnected", "MatMul"}:
            found.add(about["runtimePrecision"].astype(str))
    [precision] = found  # a net without products, or with several precisions, is not what was built here
    return str(_PRECISIONS.get(precision, precision))


def _graph(weights: EchoWeights, times: int) -> Any:
    """The net for `JOB_ROWS` bands of so many patches, as `Runtime.tokens` says."""
    d, tensors = weights.dimensions, weights.tensors
    embed, bias = weights.patch_matrix()
    patches = op.parameter([JOB_ROWS, times, embed.shape[1]], np.float32, "patches")
    frequency = op.parameter([JOB_ROWS, d.embed_dim], np.float32, "frequency")
    placed = op.unsqueeze(frequency, _ints(1))
    tokens = op.add(_linear(patches, embed, bias), _constant(tensors["pos_embed"][:, 1 : 1 + times]))
    x = op.concat([op.add(placed, _constant(tensors["cls_token"])), op.add(tokens, placed)], 1)
    for i in range(d.encoder_depth):
        x = _layer(x, d, weights.layer(i))
    x = _norm(x, tensors["norm.weight"], tensors["norm.bias"], d.norm_eps)
    return openvino.Model([x], [patches, frequency], "echo")


def _layer(x: Any, d: EchoDimensions, tensors: Mapping[str, Float32]) -> Any:
    """A post-norm transformer layer: attention, then feed-forward, each added and then normalised."""

    def linear(y: Any, name: str) -> Any:
        return _linear(y, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    def norm(y: Any, name: str) -> Any:
        return _norm(y, tensors[f"{name}.weight"], tensors[f"{name}.bias"], LAYER_EPS)

    head = d.embed_dim // d.num_heads
    qkv = _linear(x, tensors["self_attn.in_proj_weight"], tensors["self_attn.in_proj_bias"])
    parts = op.split(op.reshape(qkv, _ints(0, 0, 3 * d.num_heads, head), True), _ints(2)[0], 3)
    q, k, v = (op.transpose(part, _ints(0, 2, 1, 3)) for part in parts.outputs())
    mixed = op.transpose(op.scaled_dot_product_attention(q, k, v), _ints(0, 2, 1, 3))
    mixed = op.reshape(mixed, _ints(0, 0, d.embed_dim), True)
    x = norm(op.add(x, linear(mixed, "self_attn.out_proj")), "norm1")
    up = op.gelu(linear(x, "linear1"), "erf")
    return norm(op.add(x, linear(up, "linear2")), "norm2")


def _linear(x: Any, weight: Float32, bias: Float32) -> Any:
    return op.add(op.matmul(x, _constant(weight), False, True), _constant(bias))


def _norm(x: Any, weight: Float32, bias: Float32, eps: float) -> Any:
    normal = op.mvn(x, _ints(-1), True, eps, "inside_sqrt")
    return op.add(op.multiply(normal, _constant(weight)), _constant(bias))


def _constant(array: Float32) -> Any:
    """A constant that shares the array's memory: a copy of all weights would be 23 MB for tiny."""
    return op.constant(np.ascontiguousarray(array), shared_memory=True)


def _ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)
