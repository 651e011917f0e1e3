"""Sound as levels in narrow bands, and the normal range of each: what pictures show. Pure numpy, any thread.

These bands are for eyes, a twelfth of an octave each; what is scored are the encoder's features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from echo_stream.types import Float32

Float64 = NDArray[np.float64]

FRAME_S: Final = 0.128
"""Long enough to tell 20 Hz from 30 Hz, short enough to show a knock."""
_LOWEST_HZ: Final = 20.0
_BANDS_PER_OCTAVE: Final = 12
_FLOOR: Final = 1e-15


def band_edges_hz(sample_rate_hz: int) -> Float64:
    """Edges of the bands from 20 Hz to half the sample rate: (bands + 1,)."""
    top_hz = sample_rate_hz / 2
    bands = round(_BANDS_PER_OCTAVE * np.log2(top_hz / _LOWEST_HZ))
    return np.geomspace(_LOWEST_HZ, top_hz, bands + 1)


def band_levels_over_time_db(samples: Float32, sample_rate_hz: int, hop_s: float) -> Float64:
    """Spectrogram in bands, one column each hop_s.

    Args:
        samples: (n,) full scale -1 to 1; shorter than a frame is filled up with silence.
        sample_rate_hz: of the samples.
        hop_s: time between the starts of two frames of 128 ms.

    Returns:
        (frames, bands) level of each band in dB relative to the power of a full-scale square wave.
    """
    n = round(FRAME_S * sample_rate_hz)
    centred = np.asarray(samples, np.float64) - np.mean(samples)
    padded = np.pad(centred, (0, max(0, n - len(centred))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, n)[:: max(1, round(hop_s * sample_rate_hz))]
    window = np.hanning(n)
    levels = [
        _band_power(part * window, sample_rate_hz) for part in np.array_split(frames, 1 + len(frames) // 64)
    ]
    power = np.concatenate(levels) / (window**2).sum()
    return np.asarray(10 * np.log10(power + _FLOOR))


def band_levels_db(samples: Float32, sample_rate_hz: int) -> Float64:
    """Mean level of each band over the whole of samples (n,): (bands,) in dB, as over time."""
    over_time = band_levels_over_time_db(samples, sample_rate_hz, FRAME_S / 2)
    return np.asarray(10 * np.log10((10 ** (over_time / 10)).mean(axis=0)))


def _band_power(frames: Float64, sample_rate_hz: int) -> Float64:
    """(frames, n) windowed to (frames, bands): the spectrum's integral between the edges of each band."""
    n = frames.shape[1]
    power = np.abs(np.fft.rfft(frames, axis=1)) ** 2 * 2 / n
    bin_hz = sample_rate_hz / n
    upto_hz = (np.arange(power.shape[1] + 1) - 0.5) * bin_hz  # each bin reaches half a bin to either side
    integral = np.concatenate([np.zeros((len(power), 1)), np.cumsum(power, axis=1)], axis=1)
    edges_hz = band_edges_hz(sample_rate_hz)
    at = np.clip((edges_hz - upto_hz[0]) / bin_hz, 0, power.shape[1] - 1e-9)
    whole = at.astype(int)
    below = integral[:, whole] + (at - whole) * (integral[:, whole + 1] - integral[:, whole])
    return np.asarray(np.diff(below, axis=1))


@dataclass(frozen=True, slots=True)
class NormalSpectrum:
    """What was normal in each band: the middle of the windows' levels, and the range most of them kept."""

    sample_rate_hz: int
    low_db: Float64
    """(bands,) one window in twenty was quieter."""
    median_db: Float64
    """(bands,)"""
    high_db: Float64
    """(bands,) one window in twenty was louder."""

    @classmethod
    def fit(cls, sample_rate_hz: int, levels_db: Sequence[Float64]) -> Self:
        """From `band_levels_db` of each window of normal sound, at least one."""
        low_db, median_db, high_db = np.quantile(np.stack(levels_db), [0.05, 0.5, 0.95], axis=0)
        return cls(sample_rate_hz, low_db, median_db, high_db)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON, to a tenth of a decibel."""
        levels = {
            name: np.round(getattr(self, name), 1).tolist() for name in ("low_db", "median_db", "high_db")
        }
        return {"sample_rate_hz": self.sample_rate_hz, **levels}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_json` gave.

        Raises:
            KeyError: a part is missing.
        """
        levels = [np.asarray(plain[name], np.float64) for name in ("low_db", "median_db", "high_db")]
        return cls(plain["sample_rate_hz"], *levels)
