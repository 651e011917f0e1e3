"""What the parts of the corridor cost beside the encoders: `python -m benchmarks.corridor --scoring`.

Run as a program of its own it is the daemon with a meter round its encoder: what the process spends outside
`encode` is ring, windows, scorer, alarms, delivery, status and the simulated microphones.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.encode import alternate, windows_of
from benchmarks.looped import loop_simulated_sources
from benchmarks.plant import Machines, Settings, bank_path, plant, prepare
from echo_stream.cli.bench import of_size
from echo_stream.config.load import load
from echo_stream.core.types import EncoderIdentity, Features, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.factory import build_encoder

SETTLE_S, MEASURE_S = 15.0, 30.0
HOUR, CORESET = 3600, 2000
"""Windows that are kept of an hour: all of them, and as many as `fit-normal` keeps at most."""
FIGURES = "metered.json"


class Metered:
    """An encoder that writes down what it took, and what all else took."""

    def __init__(self, encoder: Encoder, path: Path) -> None:
        self._encoder, self._path = encoder, path
        self._begun: tuple[float, float] | None = None
        """Monotonic time and CPU time of the process."""
        self._first_s = time.monotonic()
        self._spent_s = 0.0
        self._windows = 0

    @property
    def identity(self) -> EncoderIdentity:
        """Of the encoder inside."""
        return self._encoder.identity

    @property
    def computed_by(self) -> str:
        """Of the encoder inside."""
        return self._encoder.computed_by

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Measured for `MEASURE_S` after the first `SETTLE_S`, and then written to the file once."""
        began_s, cpu_s = time.monotonic(), time.process_time()
        if self._begun is None and began_s - self._first_s > SETTLE_S:
            self._begun = began_s, cpu_s
        found = self._encoder.encode(windows)
        if self._begun is None:
            return found
        if began_s - self._begun[0] < MEASURE_S:
            self._spent_s += time.process_time() - cpu_s
            self._windows += len(windows)
        elif not self._path.exists():
            rest_s = cpu_s - self._begun[1] - self._spent_s
            new = self._path.with_suffix(".new")
            new.write_text(
                json.dumps(
                    {
                        "encode_cpu_ms": 1e3 * self._spent_s / self._windows,
                        "rest_cpu_ms": 1e3 * rest_s / self._windows,
                    }
                )
            )
            new.replace(self._path)
        return found


def measure(folder: Path, banks: Path | None, rate_hz: int, machines: int) -> dict[str, Any]:
    """Milliseconds of a window in each part, and the ratios that the corridor is to keep."""
    found: dict[str, Any] = {"rate_hz": rate_hz, "machines": machines}
    for encoder in ("echo-tiny", "spectral"):
        settings = Settings(folder / encoder, encoder, banks, daemon=(sys.executable, "-m", __name__))
        prepare(settings, [rate_hz])
        with plant(settings, Machines(machines, rate_hz)):
            metered = settings.folder / FIGURES
            while not metered.exists():
                time.sleep(1.0)
            for key, value in json.loads(metered.read_text()).items():
                found[f"{encoder} {key}"] = round(value, 3)
        found |= {f"{encoder} {key}": value for key, value in _alone(settings, rate_hz).items()}
    tiny_ms, tiny_cpu_ms = found["echo-tiny encode_one_ms"], found["echo-tiny encode_cpu_ms"]
    for encoder in ("echo-tiny", "spectral"):
        share = found[f"{encoder} score_{HOUR}_ms"] / tiny_ms
        found[f"{encoder} scoring an hour / ECHO tiny encoding"] = round(share, 3)
        share = found[f"{encoder} rest_cpu_ms"] / tiny_cpu_ms
        found[f"{encoder} rest of the corridor / ECHO tiny encoding"] = round(share, 3)
    return found


def _alone(settings: Settings, rate_hz: int) -> dict[str, float]:
    """Wall milliseconds of encoding and scoring one window, taking turns."""
    encoder = build_encoder(load(settings.folder / "config.yaml"))
    bank = NormalBank.load(bank_path(settings, rate_hz))
    windows = windows_of(rate_hz, 2.0, 16)
    features = encoder.encode(windows[:1])[0]
    scorers = {kept: Scorer(of_size(bank, kept)) for kept in (CORESET, HOUR)}
    ms = alternate(
        {
            "encode_one_ms": lambda: encoder.encode(windows[:1]),
            "encode_sixteen_ms": lambda: encoder.encode(windows),
            f"score_{CORESET}_ms": lambda: scorers[CORESET].score_one(features),
            f"score_{HOUR}_ms": lambda: scorers[HOUR].score_one(features),
        },
        rounds=15,
        calls=5,
    )
    ms["encode_sixteen_ms"] /= 16
    return {key.replace("sixteen", "one_of_16"): round(value, 3) for key, value in ms.items()}


def _run_metered() -> None:
    """The daemon of the folder where this is called."""
    from echo_stream.daemon import daemon  # noqa: PLC0415 - only the child is a daemon

    loop_simulated_sources()
    vars(daemon)["build_encoder"] = lambda config: Metered(build_encoder(config), Path(FIGURES))
    daemon.run_daemon()


if __name__ == "__main__":
    _run_metered()
