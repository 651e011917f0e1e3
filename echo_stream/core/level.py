"""Level and full scale are defined here once, for sensors, encoders and reports."""

from __future__ import annotations

import numpy as np

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Float32, Window

FLOOR_DBFS = -200.0
FULL_SCALE = 0.9995
"""Samples of at least this magnitude are clipped: int16 reaches 32767 / 32768 at most."""
OVERSHOOT = 1.1
"""Filters exceed full scale by less; beyond it, float samples have another unit."""


def level_dbfs(samples: Float32) -> float:
    """Root mean square after the mean was taken away, in dB relative to full scale; at least -200.

    Args:
        samples: (n,), full scale is -1 to 1.
    """
    # float32 squares of a faint hum would lose digits, of a fault overflow
    centred = samples.astype(np.float64)
    centred -= centred.mean()
    np.square(centred, out=centred)  # no dot product: BLAS would wake its threads, which then spin
    rms = float(np.sqrt(centred.mean()))
    return max(20.0 * float(np.log10(rms)), FLOOR_DBFS) if rms > 0.0 else FLOOR_DBFS


def check_window(window: Window, shortest: int, longest: int | None = None) -> None:
    """Refuses what no feature can be computed from.

    Args:
        window: Of any machine.
        shortest: Fewest samples that the encoder can work on at the window's sample rate.
        longest: Most samples, where there is a limit.

    Raises:
        EncoderError: Too few samples, too many, or one that is not finite: names machine and sample.
    """
    samples = window.samples
    where = f"machine {window.machine}, samples {window.start} to {window.end}"
    if samples.ndim != 1 or len(samples) < shortest:
        raise EncoderError(
            f"{where}: shape {samples.shape} at {window.sample_rate_hz} Hz, at least ({shortest},) is needed",
            "Use a longer window (encoder.window_s).",
        )
    if longest is not None and len(samples) > longest:
        raise EncoderError(
            f"{where}: {len(samples)} samples at {window.sample_rate_hz} Hz, at most {longest} fit",
            "Use a shorter window (encoder.window_s).",
        )
    finite = np.isfinite(samples)
    if not finite.all():
        at = int(np.argmin(finite))
        raise EncoderError(
            f"machine {window.machine}, sample {window.start + at}: {samples[at]} is not a finite number",
            "The device or the recording delivered damaged samples; check its driver or the file.",
        )
