"""Chooses the runtime that is fastest on this CPU, once, and remembers it. Runs at start, main thread."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
import torch
from torch import Tensor

from echo_stream.core.errors import EncoderError
from echo_stream.encode import spectrogram as front
from echo_stream.encode.echo import EchoModel
from echo_stream.encode.runtime import (
    KNOWN,
    PROMISED_COSINE,
    PROMISED_LIKENESS,
    PlainRuntime,
    Runtime,
    Workers,
    build,
    cpu,
)

_log = structlog.get_logger(__name__)

_WORTH_IT = 0.9
"""What is less plain or less exact must take less than this share of the time of what is more so."""
_ROUNDS = 7
_WINDOWS = 6


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and what was measured for it."""

    runtime: str
    precision: str
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    """Of the net for 2 s at 48 kHz, by runtime and precision; empty where there was nothing to choose."""


def choose(
    model: EchoModel, workers: Workers, runtime: str, precision: str, cache: Path | None
) -> tuple[Runtime, Choice]:
    """The fastest runtime that keeps its promise (`PROMISED_COSINE`) with these weights on this CPU.

    With `auto` twice plain float32 is among the candidates, so that the choice is never slower than it. A
    candidate that is not there, or less exact than promised, is left out; a precision that nobody asked for
    by name must also tell windows of one machine apart as float32 does (`PROMISED_LIKENESS`).

    Args:
        model: The net with its weights.
        workers: The threads that will run it.
        runtime: `auto`, or one by name.
        precision: `auto`, or one by name.
        cache: JSON file that remembers the choice for this CPU, these versions and weights; None: measure.

    Raises:
        EncoderError: What was asked for is not there, or less exact than promised.
    """
    asked = [(r, p) for r, p in KNOWN if runtime in (r, "auto") and precision in (p, "auto")]
    if "auto" not in (runtime, precision):
        return _Trial(model, workers).usable(runtime, precision), Choice(runtime, precision)
    key = _key(model, runtime, precision)
    known = _remembered(cache, key)
    if known is not None:
        return workers.call(build, model, known.runtime, known.precision), known
    trial = _Trial(model, workers)
    candidates: list[Runtime] = []
    for name, its_precision in asked:
        try:
            candidate = trial.usable(name, its_precision)
            if precision == "auto" and its_precision != "float32":
                trial.require_likeness(candidate)
            candidates.append(candidate)
        except EncoderError as error:
            _log.debug("runtime_left_out", runtime=name, precision=its_precision, reason=error.message)
    if not candidates:
        raise EncoderError(
            f"nothing here computes encoder.runtime {runtime!r} with encoder.precision {precision!r}",
            "Use auto for both.",
        )
    milliseconds = trial.milliseconds(candidates)
    best = candidates[0]
    for candidate in candidates[1:]:
        if milliseconds[_label(candidate)] < _WORTH_IT * milliseconds[_label(best)]:
            best = candidate
    choice = Choice(best.name, best.precision, milliseconds)
    _log.info("runtime_chosen", runtime=best.name, precision=best.precision, milliseconds=milliseconds)
    _remember(cache, key, choice)
    return best, choice


def _label(runtime: Runtime) -> str:
    return f"{runtime.name} {runtime.precision}"


class _Trial:
    """Some windows of hum, its harmonics and noise, 2 s at 48 kHz, on which runtimes are compared."""

    def __init__(self, model: EchoModel, workers: Workers) -> None:
        t = torch.arange(96000) / 48000
        hum = sum(0.1 / k * torch.sin(2 * torch.pi * 120 * k * t) for k in range(1, 6))
        noise = torch.randn(_WINDOWS, 96000, generator=torch.Generator().manual_seed(1))
        self._model, self._workers = model, workers
        self._patches = front.patches(front.log_spectrogram(hum + 0.02 * noise, 48000))
        self._frequency = front.frequency_embedding(48000, model.dimensions.embed_dim)
        plain = PlainRuntime(model)
        self._plain, self._plain_features = self._tokens(plain), self._features(plain)

    def _tokens(self, runtime: Runtime) -> Tensor:
        """Of the first window, (bands, tokens, dim)."""
        return self._workers.run(runtime, self._patches[0], self._frequency)

    def _features(self, runtime: Runtime) -> Tensor:
        """Of all windows, (windows, bands * dim)."""
        frequency = self._frequency.repeat(_WINDOWS, 1)
        tokens = self._workers.run(runtime, self._patches.flatten(0, 1), frequency)
        return tokens[:, 0].reshape(_WINDOWS, -1)

    def require_likeness(self, runtime: Runtime) -> None:
        """Raises EncoderError where windows of one machine differ otherwise than in float32."""
        mean = self._plain_features.mean(0)
        likeness = float(
            torch.cosine_similarity(self._features(runtime) - mean, self._plain_features - mean, dim=1).min()
        )
        if not likeness >= PROMISED_LIKENESS:
            raise EncoderError(
                f"{_label(runtime)} rounds away what tells windows apart with these weights: cosine "
                f"similarity {likeness:.4f}, promised {PROMISED_LIKENESS}",
                "Use encoder.precision: float32, or name the precision to take it all the same.",
            )

    def usable(self, name: str, precision: str) -> Runtime:
        """A runtime whose promise was tried with these weights on this CPU."""
        runtime = self._workers.call(build, self._model, name, precision)
        cosine = float(torch.cosine_similarity(self._tokens(runtime), self._plain, dim=-1).min())
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


def _key(model: EchoModel, runtime: str, precision: str) -> dict[str, object]:
    """All that a choice depends on."""
    about = cpu()
    flags = about.get("flags", about.get("Features", ""))
    return {
        "asked": [runtime, precision],
        "promised": [*PROMISED_COSINE.values(), PROMISED_LIKENESS],
        "cpu": about.get("model name", platform.machine()),
        "cpu_flags_sha256": hashlib.sha256(flags.encode()).hexdigest(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": {name: _version(name) for name in ("echo-stream", "torch", "openvino")},
        "weights_sha256": model.weights_sha256,
        "dimensions": asdict(model.dimensions),
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
        _log.warning("runtime_choice_unreadable", path=str(cache), reason=str(error))
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
        _log.warning("runtime_choice_not_kept", path=str(cache), reason=str(error))
