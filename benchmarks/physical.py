"""Physical figures are timed, a window of 2 s at a time: `python -m benchmarks.physical`.

Prints the median and the fastest of many runs in ms; the fastest is what a PC that does nothing else takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np

from echo_stream.capture.physical import Meter, envelope_rms, sound_levels, velocity_rms

RUNS = 500
BAND_HZ = (500.0, 10_000.0)


def time_ms(call: Callable[[], object]) -> tuple[float, float]:
    """Median and shortest time of a call in ms."""
    call()
    found = []
    for _ in range(RUNS):
        began = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - began))
    return median(found), min(found)


def main() -> None:
    """Print a table."""
    for rate_hz in (12_800, 16_000, 48_000):
        samples = np.random.default_rng(1).normal(0, 0.1, 2 * rate_hz).astype(np.float32)
        calls: dict[str, Callable[[], object]] = {
            "velocity": partial(velocity_rms, samples, rate_hz),
            "envelope": partial(envelope_rms, samples, rate_hz, BAND_HZ),
            "dB and dB(A)": partial(sound_levels, samples, rate_hz, 1.0),
            "all of an accelerometer": partial(Meter("g", 50.0, BAND_HZ).measure, samples, rate_hz),
            "all of a microphone": partial(Meter("Pa", 20.0, BAND_HZ).measure, samples, rate_hz),
        }
        for name, call in calls.items():
            middle, least = time_ms(call)
            print(f"{rate_hz:6d} Hz  {name:24s} median {middle:.3f} ms, fastest {least:.3f} ms")


if __name__ == "__main__":
    main()
