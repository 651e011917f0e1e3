"""What computes the net, and the threads that it runs in. Built at start, run from the pipeline.

A runtime is one callable with the arithmetic of `EchoModel.forward`. Work is cut into jobs of few bands, and
each job runs on one core from end to end: threads inside operations wait for each other at every one of two
hundred joints, and wait long where the cores have other work too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from echo_stream.core.errors import EncoderError
from echo_stream.encode.echo import EchoModel

CPUINFO = Path("/proc/cpuinfo")


def cpu() -> dict[str, str]:
    """Fields of the first processor, such as `model name`; empty where the system does not tell."""
    about: dict[str, str] = {}
    if CPUINFO.exists():
        pairs = (line.partition(":") for line in CPUINFO.read_text("utf-8").splitlines() if ":" in line)
        for name, _, value in pairs:
            about.setdefault(name.strip(), value.strip())
    return about


# What computes the net, and the threads that it runs in. Built at start, run from the pipeline.
#
# A runtime is one callable with the arithmetic of `EchoModel.forward`. Work is cut into jobs of few
# bands, and
# each job runs on one core from end to end: threads inside operations wait for each other at every one of two
# hundred joints, and wait long where the cores have other work too.

Item = TypeVar("Item")
Result = TypeVar("Result")

PROMISED_COSINE = {"float32": 0.999999, "bfloat16": 0.9995, "int8": 0.999}
"""Cosine similarity of every token to that of plain float32, at least, by precision."""
PROMISED_LIKENESS = 0.99
"""What `auto` asks for besides: cosine similarity of what tells windows of one machine from each other, their
features without the mean of them all. Rounding that is small beside a token can be large beside that: with
random weights bfloat16 keeps 0.9998 of the tokens and 0.87 of the differences, and a clip AUC moves by 0.03
(benchmarks/precision.py)."""
KNOWN = [("plain", "float32"), *((name, p) for name in ("torch", "openvino") for p in PROMISED_COSINE)]
"""Runtimes and precisions, the plainest and most exact first."""


class Runtime(Protocol):
    """The net in one library and one precision."""

    name: str
    precision: str
    job_rows: int
    """Bands that one call takes, at most."""
    fixed_rows: bool
    """A call costs the same however few bands it has."""

    def tokens(self, patches: Tensor, frequency: Tensor) -> Tensor:
        """As `EchoModel.forward`, float32; called from several threads at once, on one core each."""


class PlainRuntime:
    """`EchoModel` itself: what everything else is compared with."""

    name, precision = "plain", "float32"
    job_rows, fixed_rows = 40, False

    def __init__(self, model: EchoModel) -> None:
        self._model = model

    def tokens(self, patches: Tensor, frequency: Tensor) -> Tensor:
        """See `Runtime.tokens`."""
        return self._model(patches, frequency)  # type: ignore[no-any-return]


def build(model: EchoModel, name: str, precision: str) -> Runtime:
    """The runtime of that name.

    Raises:
        EncoderError: It is unknown, not installed, or this machine has not what it needs.
    """
    if (name, precision) not in KNOWN:
        raise EncoderError(
            f"encoder.runtime {name!r} with encoder.precision {precision!r} is unknown",
            f"Use one of {', '.join(' '.join(known) for known in KNOWN)}.",
        )
    if name == "plain":
        return PlainRuntime(model)
    if name == "torch":
        from echo_stream.encode.runtime_torch import TorchRuntime  # noqa: PLC0415

        return TorchRuntime(model, precision)
    try:
        from echo_stream.encode.runtime_openvino import OpenVinoRuntime  # noqa: PLC0415
    except ImportError as error:
        raise EncoderError(
            f"openvino is not installed: {error}",
            "pip install 'echo-stream[openvino]', or use encoder.runtime: auto.",
        ) from error
    return OpenVinoRuntime(model, precision)


class Workers:
    """One thread a core, each of which computes on that core alone.

    Threads inside operations are turned off for the whole process: those of the pipeline's own small
    operations spin for a while after each one and take the cores from the net (a third of its time).
    """

    def __init__(self) -> None:
        torch.set_num_threads(1)
        self.count = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(
            self.count, "echo-encode", initializer=torch.set_num_threads, initargs=(1,)
        )

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results in order, computed without gradients."""

        def job(item: Item) -> Result:
            with torch.inference_mode():  # a setting of each thread
                return function(item)

        return list(self._threads.map(job, items))

    def call(self, function: Callable[..., Result], *args: object) -> Result:
        """One call in one of the threads."""
        return self.map(lambda given: function(*given), [args])[0]

    def run(self, runtime: Runtime, patches: Tensor, frequency: Tensor) -> Tensor:
        """All bands through the net, in jobs.

        Args:
            runtime: What computes a job.
            patches: (n, patches, 512), n at least 1.
            frequency: (n, dim).

        Returns:
            (n, 1 + patches, dim) float32.
        """
        jobs = -(-len(patches) // runtime.job_rows)
        if not runtime.fixed_rows:  # fewer bands are less work then: give every core the same share
            jobs = min(len(patches), -(-jobs // self.count) * self.count)
        size = -(-len(patches) // jobs)
        parts = zip(torch.split(patches, size), torch.split(frequency, size), strict=True)
        return torch.cat(self.map(lambda part: runtime.tokens(*part), parts))
