"""Archive jobs encode part by part on all cores, with progress, resumable, few parts in memory at a time.

`encode_parts` runs in the caller's thread, its workers are processes or an engine's (`cluster`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import asdict, astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

import echo_stream
from echo_stream.alarm.sensor import SensorFigures
from echo_stream.capture.stored import located, state_of
from echo_stream.core.errors import EncoderError, Failures, SourceError
from echo_stream.core.files import require_writable
from echo_stream.core.gate_features import gate_tensors, with_gates
from echo_stream.core.text import Progress
from echo_stream.core.types import Features, Window
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.archive import Part, Tensors, keep, kept, place, source_of, too_short
from echo_stream.fit.recorded import COLUMN_S, SpectrogramSlice, look_at
from echo_stream.pipeline.loop import encode_windows, read_windows
from echo_stream.pipeline.station import sensor_figures


@dataclass(frozen=True, slots=True)
class Encoded:
    """A part with its features."""

    windows: list[tuple[float, Features]]
    """Start in seconds of each, and its features."""
    figures: list[SensorFigures]
    """Of each window, where details were asked for."""
    slices: list[SpectrogramSlice]
    """The same."""
    failed: bool = False
    """Its recording is damaged there: all of that is to be left out."""

    @classmethod
    def of(cls, tensors: Tensors) -> Self:
        """Of what `encode` gave: views of it."""
        rows = zip(tensors["window"], tensors["segments"], tensors["level_dbfs"].tolist(), strict=True)
        features = [
            Features(window, segments, tensors["bands_hz"], level) for window, segments, level in rows
        ]
        windows = list(zip(tensors["start_s"].tolist(), with_gates(features, tensors), strict=True))
        if "figures" not in tensors:
            return cls(windows, [], [])
        figures = [
            SensorFigures(level, clipped, bool(dead), bool(stuck), hum, rumble)
            for level, clipped, dead, stuck, hum, rumble in tensors["figures"].tolist()
        ]
        slices = [
            SpectrogramSlice(start_s, end_s, columns, mean)
            for (start_s, end_s), columns, mean in zip(
                tensors["seen_s"].tolist(), tensors["seen_columns"], tensors["seen_mean"], strict=True
            )
        ]
        return cls(windows, figures, slices)


def encode(part: Part, encoder: Encoder, advance: Callable[[float], None]) -> Tensors:
    """All windows of a part.

    Args:
        part: which.
        encoder: makes the features.
        advance: called with the seconds of each piece of sound that is done; may raise, to end the work.

    Raises:
        SourceError: the recording cannot be read, or is shorter than a window.
        EncoderError: a window cannot be encoded.
    """
    figures: list[SensorFigures] = []
    slices: list[SpectrogramSlice] = []
    look_s = min(max(part.hop_s, COLUMN_S), part.window_s)

    def cut() -> Iterator[Window]:
        with closing(source_of(part)) as source:
            windows = read_windows(source, window_s=part.window_s, hop_s=part.hop_s)
            for window in windows if part.last else islice(windows, part.windows):
                advance(part.hop_s)
                if part.details:
                    figures.append(sensor_figures(window))
                    look_at(window, slices, look_s)
                yield window

    found = [(w.start / w.sample_rate_hz, features) for w, features in encode_windows(encoder, cut())]
    if not found:  # the header promised more than there is
        raise too_short(part.path, part.window_s)
    tensors = {
        "start_s": np.array([start_s for start_s, _ in found]),
        "level_dbfs": np.array([features.level_dbfs for _, features in found]),
        "window": np.stack([features.window for _, features in found]),
        "segments": np.stack([features.segments for _, features in found]),
        "bands_hz": found[0][1].bands_hz,
        **gate_tensors([features for _, features in found]),
    }
    if part.details:
        tensors["figures"] = np.array([astuple(each) for each in figures], np.float64)
        tensors["seen_s"] = np.array([(each.start_s, each.end_s) for each in slices])
        tensors["seen_columns"] = np.stack([each.columns_db for each in slices])
        tensors["seen_mean"] = np.stack([each.mean_db for each in slices])
    # safetensors writes memory as it lies, and numpy stacks in the order of what it is given.
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def encode_or_say(
    part: Part, encoder: Encoder, advance: Callable[[float], None] = lambda _: None
) -> Tensors | SourceError:
    """The same; why the recording cannot be read is a value: those that follow are done all the same."""
    try:
        return encode(part, encoder, advance)
    except SourceError as error:
        return error.with_traceback(None)


class Engine(Protocol):
    """Computes parts somewhere else than on this PC's cores."""

    def compute(
        self, parts: Sequence[Part], encoder: Encoder, tell: Callable[[float], None]
    ) -> Generator[Tensors | SourceError]:
        """What `encode_or_say` gives for each part, in their order; tells the seconds that are done."""


ALONE_S = 600.0
"""So little sound is done before other processes have started."""
OWN_THREADS = ("echo",)
"""Kinds of encoder that use all cores by themselves."""
_POLL_S = 0.2
_RESUME_LEAST_BYTES = 10_000_000


def encode_parts(
    parts: Sequence[Part],
    encoder: Encoder,
    *,
    progress: Progress = lambda *_: None,
    resume: Path | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    failures: Failures | None = None,
) -> Generator[Encoded]:
    """Features of parts, in their order; only few of them are in memory at a time.

    Args:
        parts: what to encode.
        encoder: for all of them; sent to the workers, unless it uses all cores by itself.
        progress: called with seconds done, seconds in all, and a text.
        resume: folder that keeps finished parts, and has those of an interrupted run.
        workers: processes; None: one a core where that is worth it.
        engine: computes in place of processes here what `resume` does not have.
        failures: takes the first error of each recording that turns out to be damaged; its parts are empty
            then. None: the first such error ends the work.

    Raises:
        SourceError: `resume` cannot be written, or `failures` does not take a recording's error.
        EncoderError: a window cannot be encoded, or a worker was ended from outside.
        ClusterError, ConfigError: the engine's.
    """
    if resume is not None:
        try:
            require_writable(resume, _RESUME_LEAST_BYTES)
        except OSError as error:
            raise SourceError(
                f"--resume {resume}: cannot be written: {error.strerror}",
                "Make room, give yourself the rights, or name another folder.",
            ) from error
    total_s, path_parts = sum(part.seconds for part in parts), Counter(part.path for part in parts)
    files = len(path_parts)

    def tell(done_s: float) -> None:
        whole = files - sum(count > 0 for count in path_parts.values())
        at = f"{whole} of {files} recordings, {done_s / 3600:.1f} of {total_s / 3600:.1f} h"
        progress(min(done_s, total_s), total_s, at)

    if workers is None:
        alone = encoder.identity.kind in OWN_THREADS or total_s < ALONE_S
        workers = 1 if alone else min(len(os.sched_getaffinity(0)), len(parts))
    if engine is not None:
        computed = _by_engine(parts, encoder, resume, engine, tell)
    elif workers == 1:
        computed = _alone(parts, encoder, resume, tell)
    else:
        computed = _in_workers(parts, encoder, resume, workers, tell)
    failures = Failures(strict=True) if failures is None else failures
    failed: set[Path] = set()
    for part, found in zip(parts, computed, strict=True):
        path_parts[part.path] -= 1
        if not isinstance(found, SourceError):
            yield Encoded.of(found)
            continue
        if part.path not in failed:
            failures.add(found)
        failed.add(part.path)
        yield Encoded([], [], [], failed=True)


def _alone(
    parts: Sequence[Part], encoder: Encoder, resume: Path | None, tell: Callable[[float], None]
) -> Iterator[Tensors | SourceError]:
    done_s = 0.0

    def advance(seconds: float) -> None:
        nonlocal done_s
        done_s += seconds
        tell(done_s)

    for part in parts:
        yield _Worker(encoder, resume, advance).part(part)


def _by_engine(
    parts: Sequence[Part],
    encoder: Encoder,
    resume: Path | None,
    engine: Engine,
    tell: Callable[[float], None],
) -> Iterator[Tensors | SourceError]:
    """Only this PC reads and writes what is kept."""
    keeper = _Worker(encoder, resume, lambda _: None)
    known_s, missing = 0.0, set[Part]()
    for part in parts:
        if resume is not None and place_of(part, encoder, resume).is_file():
            known_s += part.seconds
        else:
            missing.add(part)
    computed = engine.compute(
        [part for part in parts if part in missing], encoder, lambda done_s: tell(known_s + done_s)
    )
    with closing(computed):
        for part in parts:
            if part not in missing:
                yield keeper.part(part)  # a damaged one is computed here
                continue
            found = next(computed)
            keeper.keep(part, found)
            yield found


def _in_workers(
    parts: Sequence[Part], encoder: Encoder, resume: Path | None, workers: int, tell: Callable[[float], None]
) -> Iterator[Tensors | SourceError]:
    # Spawned, not forked: a fork copies locks that another thread holds.
    processes = multiprocessing.get_context("spawn")
    done_s, stop = processes.Value("d", 0.0), processes.Event()
    todo = iter(parts)
    with ProcessPoolExecutor(workers, processes, _begin, (encoder, resume, done_s, stop)) as pool:
        try:
            waiting = deque(pool.submit(_work, part) for part in islice(todo, 2 * workers))
            while waiting:
                yield _result(waiting.popleft(), lambda: tell(done_s.value))
                waiting.extend(pool.submit(_work, part) for part in islice(todo, 1))
        finally:  # an error, Ctrl-C, or a caller who wants no more
            stop.set()
            pool.shutdown(cancel_futures=True)


def _result(future: Future[Tensors | SourceError], tell: Callable[[], None]) -> Tensors | SourceError:
    while not wait([future], timeout=_POLL_S).done:
        tell()
    tell()
    try:
        return future.result()
    except BrokenProcessPool as error:
        raise EncoderError(
            "an encoding process was ended by the system",
            "Too little memory? Run it again; with --resume FOLDER it goes on where it was.",
        ) from error


class _Stopped(Exception):
    """Nobody wants the rest."""


_worker: _Worker


def _begin(encoder: Encoder, resume: Path | None, done_s: Any, stop: Any) -> None:
    """What a worker does first."""
    global _worker  # noqa: PLW0603 - a pool hands a worker's state to its work in no other way
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all of us: the caller says what comes of it
    threading.Thread(target=_end_with_caller, daemon=True).start()

    def advance(seconds: float) -> None:
        if stop.is_set():
            raise _Stopped
        with done_s.get_lock():
            done_s.value += seconds

    _worker = _Worker(encoder, resume, advance)


def _end_with_caller() -> None:
    """A caller that is killed cannot stop its workers: they would wait for ever."""
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def _work(part: Part) -> Tensors | SourceError:
    return _worker.part(part)


@dataclass(frozen=True, slots=True)
class _Worker:
    """Encodes part by part in one process."""

    encoder: Encoder
    resume: Path | None
    advance: Callable[[float], None]
    """Called with the seconds of each piece of sound that is done; may raise, to end the work."""

    def part(self, part: Part) -> Tensors | SourceError:
        """What was kept of it, or what is computed now, or why its recording cannot be read."""
        known = None if self.resume is None else kept(place_of(part, self.encoder, self.resume))
        if known is not None:
            self.advance(part.seconds)
            return known
        found = encode_or_say(part, self.encoder, self.advance)
        self.keep(part, found)
        return found

    def keep(self, part: Part, found: Tensors | SourceError) -> None:
        """Write what was computed, where that is wanted."""
        if self.resume is not None and not isinstance(found, SourceError):
            keep(place_of(part, self.encoder, self.resume), found)


def place_of(part: Part, encoder: Encoder, resume: Path) -> Path:
    """Where the features of a part are kept; the name has all that they depend on."""
    size, modified_ns = state_of(part.path)
    about = {
        **asdict(part),
        "path": str(located(part.path)),
        "bytes": size,
        "modified_ns": modified_ns,
        "encoder": asdict(encoder.identity),
        "computed_by": encoder.computed_by,  # a resumed run is exactly the same
        "version": echo_stream.__version__,
    }
    return place(resume, about)
