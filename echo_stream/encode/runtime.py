"""A runtime computes the net in one library and one precision; the fastest that is exact is chosen here.

Work is cut into jobs of few bands, and each job runs on one core from end to end: threads inside operations
wait for each other at every one of two hundred joints, and wait long where the cores have other work too.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from echo_stream.core.errors import EncoderError, MissingExtra
from echo_stream.core.log import get_logger
from echo_stream.core.types import Float32
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import EchoWeights

CPUINFO = Path("/proc/cpuinfo")

Item = TypeVar("Item")
Result = TypeVar("Result")

PROMISED_COSINE = {"float32": 0.999999, "bfloat16": 0.9995}
"""Cosine similarity of every token to that of float32, at least, by precision."""
PROMISED_LIKENESS = 0.99
"""What `auto` asks for besides: cosine similarity of what tells windows of one machine from each other, their
features without the mean of them all. Rounding that is small beside a token can be large beside that: with
random weights bfloat16 keeps 0.9998 of the tokens and 0.87 of the differences, and a clip AUC moves by 0.03
(benchmarks/precision.py)."""
GPU = "openvino-gpu"
"""OpenVINO on a GPU: only where it is asked for by name, as what it costs the rest of the PC is not known."""
KNOWN = [
    ("plain", "float32"),
    *((name, p) for name in ("torch", "openvino") for p in PROMISED_COSINE),
    (GPU, "float32"),
]
"""Runtimes and precisions, the most exact of each first."""
CPU_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that hide instructions of the CPU from torch and OpenVINO; the first that is set counts."""

_log = get_logger(__name__)
_WORTH_IT = 0.9
"""What is less exact must take less than this share of the time of what is more so."""
_ROUNDS = 7
_WINDOWS = 6


class Runtime(Protocol):
    """The net in one library and one precision."""

    name: str
    precision: str
    """In which it computes: a runtime refuses to be built, or to run, in another than was asked for."""
    job_rows: int
    """Bands that one call takes, at most."""
    fixed_rows: bool
    """A call costs the same however few bands it has."""

    def tokens(self, patches: Float32, frequency: Float32) -> Float32:
        """Tokens of bands, each band a sequence of its own; called from several threads, on one core each.

        Args:
            patches: (n, patches, 512) as `spectrogram.patches` cuts them; n bands of any windows.
            frequency: (n, dim), the frequency embedding of each band.

        Returns:
            (n, 1 + patches, dim) float32: the CLS token, then the patches.
        """


def build(weights: EchoWeights, name: str, precision: str) -> Runtime:
    """The runtime of that name.

    Raises:
        EncoderError: It is unknown, or this build of its library lacks what it needs.
        PrecisionUnavailable: This CPU does not compute in that precision.
        MissingExtra: Its library is not installed.
    """
    if (name, precision) not in KNOWN:
        raise EncoderError(
            f"encoder.runtime {name!r} with encoder.precision {precision!r} is unknown",
            f"Use one of {', '.join(' '.join(known) for known in KNOWN)}.",
        )
    try:
        if name == "plain":
            from echo_stream.encode.echo_torch import PlainRuntime  # noqa: PLC0415

            return PlainRuntime(weights)
        if name == "torch":
            from echo_stream.encode.runtime_torch import TorchRuntime  # noqa: PLC0415

            return TorchRuntime(weights, precision)
        from echo_stream.encode.runtime_openvino import OpenVinoRuntime  # noqa: PLC0415

        return OpenVinoRuntime(weights, precision, "GPU" if name == GPU else "CPU")
    except MissingExtra as error:
        raise MissingExtra(f"encoder.runtime {name!r}", error.extra) from error


class Workers:
    """One thread a core, each of which computes on that core alone."""

    def __init__(self) -> None:
        self.count = len(os.sched_getaffinity(0))
        self._threads = ThreadPoolExecutor(self.count, "echo-encode")

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """Results in order."""
        return list(self._threads.map(function, items))

    def call(self, function: Callable[..., Result], *args: object) -> Result:
        """One call in one of the threads."""
        return self._threads.submit(function, *args).result()

    def run(self, runtime: Runtime, patches: Float32, frequency: Float32) -> Float32:
        """All bands through the net, in jobs; arguments and result as of `Runtime.tokens`, n at least 1."""
        jobs = -(-len(patches) // runtime.job_rows)
        if not runtime.fixed_rows:  # fewer bands are less work then: give every core the same share
            jobs = min(len(patches), -(-jobs // self.count) * self.count)
        size = -(-len(patches) // jobs)
        parts = [(patches[at : at + size], frequency[at : at + size]) for at in range(0, len(patches), size)]
        return np.concatenate(self.map(lambda part: runtime.tokens(*part), parts))


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what was measured for it."""

    runtime: str
    precision: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Of the net for 2 s at 48 kHz, by runtime and precision; empty where there was nothing to choose."""


def choose(
    weights: EchoWeights, workers: Workers, runtime: str, precision: str, cache: Path | None
) -> tuple[Runtime, Choice]:
    """The fastest runtime that keeps its promise (`PROMISED_COSINE`) with these weights on this CPU.

    A candidate that is not there, or less exact than promised, is left out; a precision that nobody asked for
    by name must also tell windows of one machine apart as float32 does (`PROMISED_LIKENESS`).

    Args:
        weights: The net.
        workers: The threads that will run it.
        runtime: `auto`, or one by name.
        precision: `auto`, or one by name.
        cache: JSON file that remembers the choice for this CPU, these versions and weights; None: measure.

    Raises:
        EncoderError: What was asked for is not there, or less exact than promised.
        PrecisionUnavailable: This CPU does not compute in the precision that was asked for.
        MissingExtra: No library that could compute it is installed.
    """
    if "auto" not in (runtime, precision):
        return _Trial(weights, workers).usable(runtime, precision), Choice(runtime, precision)
    key = _key(weights, runtime, precision)
    known = _remembered(cache, key)
    if known is not None:
        return workers.call(build, weights, known.runtime, known.precision), known
    trial = _Trial(weights, workers)
    candidates = _candidates(trial, runtime, precision)
    milliseconds = trial.milliseconds(candidates)
    best = candidates[0]
    for candidate in candidates[1:]:
        margin = 1.0 if candidate.precision == best.precision else _WORTH_IT
        if milliseconds[_label(candidate)] < margin * milliseconds[_label(best)]:
            best = candidate
    choice = Choice(best.name, best.precision, milliseconds)
    _log.info(
        "the encoder's runtime was chosen",
        runtime=best.name,
        precision=best.precision,
        milliseconds=milliseconds,
    )
    _remember(cache, key, choice)
    return best, choice


def _candidates(trial: _Trial, runtime: str, precision: str) -> list[Runtime]:
    """Those of what was asked for that are usable, the most exact first; at least one.

    Raises:
        EncoderError: None is.
        MissingExtra: None is installed.
    """
    candidates: list[Runtime] = []
    refusals: list[EncoderError | MissingExtra] = []
    for name, its_precision in sorted(KNOWN, key=lambda known: list(PROMISED_COSINE).index(known[1])):
        asked = (name,) if name == GPU else (name, "auto")
        if runtime not in asked or precision not in (its_precision, "auto"):
            continue
        try:
            candidate = trial.usable(name, its_precision)
            if precision == "auto" and its_precision != "float32":
                trial.require_likeness(candidate)
            candidates.append(candidate)
        except (EncoderError, MissingExtra) as error:
            refusals.append(error)
            _log.debug("a runtime was left out", runtime=name, precision=its_precision, reason=error.message)
    if candidates:
        return candidates
    refusals.sort(key=lambda error: isinstance(error, MissingExtra))  # what is there and refused says more
    if refusals:
        raise refusals[0]
    raise EncoderError(
        f"no runtime on this PC computes encoder.runtime {runtime!r} with encoder.precision {precision!r}",
        "Use auto for both.",
    )


def _label(runtime: Runtime) -> str:
    return f"{runtime.name} {runtime.precision}"


class _Trial:
    """Some windows of hum, its harmonics and noise, 2 s at 48 kHz, on which runtimes are compared."""

    def __init__(self, weights: EchoWeights, workers: Workers) -> None:
        t = np.arange(96000) / 48000
        hum = sum(0.1 / k * np.sin(2 * np.pi * 120 * k * t) for k in range(1, 6))
        noise = np.random.default_rng(1).standard_normal((_WINDOWS, 96000))
        audio = (hum + 0.02 * noise).astype(np.float32)
        self._weights, self._workers = weights, workers
        self._patches = front.patches(front.log_spectrogram(audio, 48000))
        self._frequency = front.frequency_embedding(48000, weights.dimensions.embed_dim)
        self._exact_tokens = self._tokens(self._exact)

    @cached_property
    def _exact(self) -> Runtime:
        """What the others are compared with: the reference net where torch is there, else OpenVINO's."""
        try:
            return self._workers.call(build, self._weights, "plain", "float32")
        except MissingExtra:
            pass
        try:
            return self._workers.call(build, self._weights, "openvino", "float32")
        except MissingExtra as error:
            raise MissingExtra("encoder.kind 'echo'", "echo") from error

    @cached_property
    def _exact_features(self) -> Float32:
        """Of all windows: wanted only where nobody asked for a precision by name."""
        return self._features(self._exact)

    def _tokens(self, runtime: Runtime) -> Float32:
        """Of the first window, (bands, tokens, dim)."""
        return self._workers.run(runtime, self._patches[0], self._frequency)

    def _features(self, runtime: Runtime) -> Float32:
        """Of all windows, (windows, bands * dim)."""
        frequency = np.tile(self._frequency, (_WINDOWS, 1))
        tokens = self._workers.run(runtime, np.concatenate(self._patches), frequency)
        return tokens[:, 0].reshape(_WINDOWS, -1)

    def require_likeness(self, runtime: Runtime) -> None:
        """Raises EncoderError where windows of one machine differ otherwise than in float32."""
        mean = self._exact_features.mean(0)
        likeness = _least_cosine(self._features(runtime) - mean, self._exact_features - mean)
        if not likeness >= PROMISED_LIKENESS:
            raise EncoderError(
                f"{_label(runtime)} rounds away what tells windows apart with these weights: cosine "
                f"similarity {likeness:.4f}, promised {PROMISED_LIKENESS}",
                "Use encoder.precision: float32, or name the precision to take it all the same.",
            )

    def usable(self, name: str, precision: str) -> Runtime:
        """A runtime whose promise was tried with these weights on this CPU."""
        runtime = self._workers.call(build, self._weights, name, precision)
        cosine = _least_cosine(self._tokens(runtime), self._exact_tokens)
        if not cosine >= PROMISED_COSINE[precision]:
            raise EncoderError(
                f"{name} {precision} is too far from float32 with these weights: cosine similarity "
                f"{cosine:.6f}, promised {PROMISED_COSINE[precision]}",
                "Use encoder.precision: float32, or auto.",
            )
        return runtime

    def milliseconds(self, runtimes: list[Runtime]) -> dict[str, float]:
        """The best time of each in some rounds, in which all take their turn."""
        best = {_label(runtime): float("inf") for runtime in runtimes}
        for round_ in range(1 + _ROUNDS):
            for runtime in runtimes:
                started = time.perf_counter()  # a stopwatch: nothing that is scored depends on it
                self._tokens(runtime)
                took_ms = (time.perf_counter() - started) * 1e3
                if round_ > 0:  # the first one warms up
                    best[_label(runtime)] = min(best[_label(runtime)], took_ms)
        return {label: round(ms, 2) for label, ms in best.items()}


def _least_cosine(one: Float32, other: Float32) -> float:
    """The smallest cosine similarity of rows of the last axis."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    return float((np.sum(one * other, axis=-1, dtype=np.float64) / norms).min())


def cpu() -> dict[str, str]:
    """Fields of the first processor, such as `model name`; empty where the system does not tell."""
    about: dict[str, str] = {}
    if CPUINFO.exists():
        pairs = (line.partition(":") for line in CPUINFO.read_text("utf-8").splitlines() if ":" in line)
        for name, _, value in pairs:
            about.setdefault(name.strip(), value.strip())
    return about


def class_of(about: Mapping[str, str], machine: str) -> str:
    """The class of a PC by what its products can be computed with.

    Args:
        about: As of `cpu`.
        machine: As of `platform.machine`.
    """
    flags = about.get("flags", about.get("Features", "")).split()
    for flag, name in (("avx512_bf16", "AVX-512 + bf16"), ("avx512f", "AVX-512"), ("avx2", "AVX2")):
        if flag in flags:
            return name
    return machine


def _key(weights: EchoWeights, runtime: str, precision: str) -> dict[str, object]:
    """All that a choice depends on."""
    about = cpu()
    flags = about.get("flags", about.get("Features", ""))
    return {
        "asked": [runtime, precision],
        "promised": [*PROMISED_COSINE.values(), PROMISED_LIKENESS],
        "cpu": about.get("model name", platform.machine()),
        "cpu_flags_sha256": hashlib.sha256(flags.encode()).hexdigest(),
        "cpu_limits": [os.environ.get(name, "") for name in CPU_LIMITS],
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: _version(name) for name in ("echo-stream", "torch", "openvino")},
        "weights_sha256": weights.sha256,
        "dimensions": asdict(weights.dimensions),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _remembered(cache: Path | None, key: dict[str, object]) -> Choice | None:
    """The choice of an earlier start, if it was made under the same circumstances."""
    if cache is None or not cache.exists():
        return None
    try:
        kept = json.loads(cache.read_text("utf-8"))
        choice = Choice(**kept["choice"])
    except (OSError, ValueError, KeyError, TypeError) as error:  # lost, not needed: it is measured again
        _log.warning("the kept choice of a runtime cannot be read", path=str(cache), reason=str(error))
        return None
    return choice if kept["key"] == key and (choice.runtime, choice.precision) in KNOWN else None


def _remember(cache: Path | None, key: dict[str, object], choice: Choice) -> None:
    if cache is None:
        return
    new = cache.with_name(cache.name + ".new")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(json.dumps({"key": key, "choice": asdict(choice)}, indent=1) + "\n", "utf-8")
        new.replace(cache)
    except OSError as error:  # then the next start measures again
        _log.warning("the choice of a runtime could not be kept", path=str(cache), reason=str(error))
