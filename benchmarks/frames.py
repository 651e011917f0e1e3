"""Frames of ECHO that are transformed once for overlapping windows, beside those of each window alone.

    python -m benchmarks.frames [FILE...]

A frame of two windows is the same sound but for the windows' means. Where it is transformed once, a window's
mean can be taken from its two lowest bins afterwards, which is all that a Hann window leaves of it. Printed
is how far the log spectrogram, which the net sees, is then from the one of each window alone, over 10 s.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

from echo_stream.core.types import Float32
from echo_stream.encode import spectrogram as front

SECONDS = 10


def apart(sound: Float32, rate_hz: int) -> str:
    """In windows of 2 s, one a second."""
    length, hop = front.fft_samples(rate_hz), front.hop_samples(rate_hz)
    if rate_hz % hop:
        return "frames of two windows never coincide"
    hann = front._hann(length)
    frames = np.lib.stride_tricks.sliding_window_view(sound, length)[::hop]
    once = np.fft.rfft(frames * hann, axis=1).astype(np.complex64)
    of_mean = np.fft.rfft(hann)[:2]
    lowest, others, over, count = 0.0, 0.0, 0, 0
    for start in range(0, len(sound) - 2 * rate_hz + 1, rate_hz):
        window = sound[start : start + 2 * rate_hz]
        alone = front.log_spectrogram(window[None], rate_hz)[0].T
        part = once[start // hop :][: len(alone)].copy()
        part[:, :2] -= (window.mean(dtype=np.float64) * of_mean).astype(np.complex64)
        log = np.log(np.abs(part) + np.float32(front.FLOOR))
        away = np.abs((log - np.float32(front.MEAN)) / np.float32(front.SPREAD) - alone)
        lowest, others = max(lowest, away[:, :2].max()), max(others, away[:, 2:].max())
        over, count = over + int((away > 1e-6).sum()), count + away.size
    return f"two lowest bins {lowest:.1e}, others {others:.1e}, over 1e-6: {over / count:.2%}"


def main() -> None:
    """A line a sound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", type=Path, nargs="*")
    rng = np.random.default_rng(0)
    for rate_hz in (16_000, 48_000):
        noise = rng.standard_normal(SECONDS * rate_hz)
        hum = 0.3 * np.sin(2 * np.pi * 120 * np.arange(len(noise)) / rate_hz)
        for name, sound in (("noise", 0.1 * noise), ("hum, faint noise", hum + 1e-4 * noise)):
            print(f"{name}, {rate_hz} Hz: {apart(sound.astype(np.float32), rate_hz)}")
    for path in parser.parse_args().files:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        own = np.ascontiguousarray(samples[: SECONDS * rate_hz, 0])
        print(f"{path.name}, {rate_hz} Hz: {apart(own, rate_hz)}")


if __name__ == "__main__":
    main()
