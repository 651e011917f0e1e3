"""Where the CPU time of a machine and second goes, stage by stage, in one process and without a broker.

    python -m benchmarks.corridor_cost [--rate 16000] [--seconds 600] [--machines 20] [--banks FOLDER]

Machines take turns, so that no bank stays in the cache by itself. Of each stage the least time and the middle
one: the least hardly depends on what else the PC does. What a daemon does beside (publishing, history) is in
`python -m benchmarks.corridor`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks.looped import loop_simulated_sources
from benchmarks.plant import Machines, Settings, configure, prepare
from benchmarks.soak_scene import UNIT_SETS
from echo_stream.config.load import load
from echo_stream.core.types import Score, Window
from echo_stream.mqtt import payloads, state_payloads
from echo_stream.pipeline.factory import build_encoder, build_station
from echo_stream.pipeline.sources import open_sources
from echo_stream.pipeline.station import sensor_figures
from tests.support.broker import MosquittoBroker

Result = TypeVar("Result")


class Stopwatch:
    """Milliseconds of each stage, call by call."""

    def __init__(self) -> None:
        self.ms: dict[str, list[float]] = {}

    def time(self, stage: str, work: Callable[..., Result], *given: object) -> Result:
        """What `work` gives; how long it took is kept."""
        began_s = time.perf_counter()
        found = work(*given)
        self.ms.setdefault(stage, []).append(1e3 * (time.perf_counter() - began_s))
        return found


def measure(folder: Path, banks: Path | None, rate_hz: int, machines: int, seconds: int) -> Stopwatch:
    """Walks the corridor with so many machines, one window at a time."""
    settings = Settings(folder, banks=banks, source="pace: fast", own_banks=True)
    prepare(settings, [rate_hz])
    bank = folder / "banks" / f"{rate_hz}.safetensors"
    for name in Machines(machines, rate_hz).names():
        (bank.parent / f"{name}.safetensors").write_bytes(bank.read_bytes())
    configure(settings, Machines(machines, rate_hz), MosquittoBroker(folder))
    config = load(folder / "config.yaml")
    encoder = build_encoder(config)
    sources = open_sources(config.machines)
    stations = [build_station(config, each, sources[each.id], encoder) for each in config.machines]
    watch = Stopwatch()
    for _ in range(seconds):
        for station in stations:
            window = watch.time("cut a window (and the simulated sound)", station.reader.window)
            if window is None:
                continue
            (features,) = watch.time("encode", encoder.encode, [window])
            score = watch.time("score", station.scorer.score_one, features)
            watch.time("sensor figures", sensor_figures, window, score.level_dbfs)
            watch.time(
                "judge, with sensor figures", lambda own, *of: list(own.judge(of)), station, window, score
            )
            watch.time("payload of the score", _payload, score, window)
    return watch


def _payload(score: Score, window: Window) -> payloads.Payload:
    return state_payloads.score(
        score, node="n", machine="m", ts=window.captured_at, threshold=1.0, warning_threshold=1.0
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=int, default=16_000, metavar="HZ")
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--seconds", type=int, default=60, help="of sound of each machine")
    parser.add_argument("--banks", type=Path, help="folder that keeps the fitted bank for the next run")
    given = parser.parse_args()
    if {**os.environ, **UNIT_SETS} != dict(os.environ):  # memory is given back to the system otherwise
        os.execve(
            sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], {**os.environ, **UNIT_SETS}
        )
    loop_simulated_sources()
    with tempfile.TemporaryDirectory(prefix="cost-") as folder:
        watch = measure(Path(folder), given.banks, given.rate, given.machines, given.seconds)
    print(f"{'ms a window':42} least  middle")
    for stage, ms in watch.ms.items():
        print(f"{stage:42} {min(ms):5.3f}  {median(ms):5.3f}")


if __name__ == "__main__":
    main()
