"""Physical figures say in m/s2, mm/s or dB what a calibrated sensor measures in a window.

Vibration people know these and no anomaly score: velocity between 10 and 1000 Hz is what ISO 20816 judges.
Pure numpy, on the pipeline thread. A figure that cannot be measured is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from echo_stream.core.types import Float32, Float64

GRAVITY_M_S2: Final = 9.80665
"""Standard acceleration of free fall (ISO 80000-3)."""
HEARING_PA: Final = 20e-6
"""0 dB (ISO 1683)."""
VELOCITY_HZ: Final = (10.0, 1000.0)
"""Of ISO 20816-1."""
LEVEL_S: Final = 0.5
ENVELOPE_S: Final = 0.25
"""So much of a window's end is taken: a spectrum of all of it would cost 2 ms."""
_LEAST_VELOCITY_RATE_HZ: Final = 2.56 * VELOCITY_HZ[1]
_LOW_RATE_HZ: Final = 4000.0
_TAPS, _BETA = 10, 7.9
"""Of the low-pass (Kaiser), in samples at the low rate: what lies over 3 kHz is 80 dB down. That is needed:
the integral raises what is folded to 10 Hz by 40 dB over what stays at 1 kHz."""
_ROW: Final = 4096
_EDGE: Final = 0.1
"""Of either end of the sound whose envelope is computed: tapered, and left out."""


@dataclass(frozen=True, slots=True)
class Meter:
    """Measures the windows of one sensor.

    Args:
        unit: `g`, `m/s2` or `Pa`.
        full_scale: what a sample of 1.0 stands for, in that unit.
        envelope_hz: band of the envelope of an acceleration.
    """

    unit: str
    full_scale: float
    envelope_hz: tuple[float, float]

    def measure(self, samples: Float32, sample_rate_hz: int) -> dict[str, float]:
        """The figures of a window (n,) of finite samples, by the names of `core.measures`."""
        if self.unit == "Pa":
            return sound_levels(samples, sample_rate_hz, self.full_scale)
        scale = self.full_scale * (GRAVITY_M_S2 if self.unit == "g" else 1.0)
        centred = samples - samples.mean()
        found = {**_waveform(centred, scale)}
        velocity = velocity_rms(centred, sample_rate_hz)
        if velocity is not None:
            found["velocity_mm_s"] = 1000 * scale * velocity
        envelope = envelope_rms(centred, sample_rate_hz, self.envelope_hz)
        if envelope is not None:
            found["envelope_m_s2"] = scale * envelope
        return found


def _waveform(centred: Float32, scale: float) -> dict[str, float]:
    """RMS and peak in m/s2; crest factor and kurtosis (3 of noise), which silence has not."""
    power = _mean_square(centred)
    peak = float(max(centred.max(), -centred.min()))
    found = {"acceleration_m_s2": scale * power**0.5, "acceleration_peak_m_s2": scale * peak}
    if power > 0:
        unit_power = np.square(centred)
        unit_power /= np.float32(power)  # or the fourth power of a faint sound were 0
        found |= {"crest_factor": peak / power**0.5, "kurtosis": _mean_square(unit_power)}
    return found


def _mean_square(values: Float32) -> float:
    """Of (n,), row by row: one dot product of all would wake the threads of BLAS, which then spin."""
    rows = len(values) // _ROW
    whole, rest = values[: rows * _ROW].reshape(rows, _ROW), values[rows * _ROW :]
    return float(np.vecdot(whole, whole).sum(dtype=np.float64) + rest @ rest) / len(values)


def velocity_rms(acceleration: Float32, sample_rate_hz: int) -> float | None:
    """Root mean square of the velocity between 10 and 1000 Hz, by integration in the frequency domain.

    Each bin of the power spectrum is divided by (2 pi f)^2 (ISO 20816-1; Brandt, Noise and Vibration
    Analysis, 2011, section 3.6). A low-pass and decimation to about 4 kHz come before, whose gain is divided
    out of each bin. A Hann taper keeps what lies below 10 Hz there: without it a swaying of 2 Hz, which the
    integral raises, leaks into the band. The taper's power is divided out; it widens a line by 1 Hz in a
    window of 2 s, by which a line at 10 Hz is at most 0.3 % too strong. A line within 1 Hz of an end of the
    band counts in part.

    Args:
        acceleration: (n,) its mean taken away, in a unit U.
        sample_rate_hz: of the samples.

    Returns:
        In U s; None of less than 1 s, or a rate under 2560 Hz.
    """
    if not (sample_rate_hz >= _LEAST_VELOCITY_RATE_HZ and len(acceleration) >= sample_rate_hz):
        return None
    grid = _velocity_grid(len(acceleration), sample_rate_hz)
    taps, apart = grid.low_pass.shape
    blocks = acceleration[: len(acceleration) // apart * apart].reshape(-1, apart)
    parts = grid.low_pass @ blocks.T
    low = parts[0, : len(grid.taper)].copy()
    for tap in range(1, taps):
        low += parts[tap, tap : tap + len(grid.taper)]
    spectrum = np.fft.rfft(low * grid.taper, grid.size)[grid.first : grid.first + len(grid.weight)]
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    return float(np.sqrt((power * grid.weight).sum(dtype=np.float64)))


class _VelocityGrid(NamedTuple):
    """What depends on the length and the rate alone."""

    low_pass: Float32
    """(taps, samples between two of the low rate)"""
    taper: Float32
    """(samples of the low rate,)"""
    size: int
    """Of the Fourier transform."""
    first: int
    """Lowest bin of the band."""
    weight: Float32
    """(bins of the band,) what makes the mean square of the velocity of the spectrum's power."""


@lru_cache(maxsize=16)
def _velocity_grid(n: int, sample_rate_hz: int) -> _VelocityGrid:
    apart = max(1, int(sample_rate_hz / _LOW_RATE_HZ))
    taps = _TAPS if apart > 1 else 1
    at = np.arange(taps * apart) - (taps * apart - 1) / 2
    low_pass = np.sinc(at / apart) * np.kaiser(len(at), _BETA) if apart > 1 else np.ones(1)
    low_pass /= low_pass.sum()
    taper = np.hanning(n // apart - taps + 1)
    size = _smooth_size(len(taper))
    bin_hz = sample_rate_hz / apart / size
    first, last = (round(hz / bin_hz) for hz in VELOCITY_HZ)
    at_hz = (
        np.arange(first, last + 1) * bin_hz
    )  # each reaches half a bin to either side: part of it may count
    low_hz, high_hz = (np.clip(at_hz + side * bin_hz / 2, *VELOCITY_HZ) for side in (-1, 1))
    omega = 2 * np.pi * at_hz
    gain = np.exp(-1j * np.outer(omega / sample_rate_hz, at)) @ low_pass
    weight = 2 * (high_hz - low_hz) / bin_hz
    weight /= size * np.square(taper).sum() * np.square(omega) * np.square(np.abs(gain))
    return _VelocityGrid(
        low_pass=low_pass.reshape(taps, apart).astype(np.float32),
        taper=taper.astype(np.float32),
        size=size,
        first=first,
        weight=weight.astype(np.float32),
    )


def envelope_rms(samples: Float32, sample_rate_hz: int, band_hz: tuple[float, float]) -> float | None:
    """Root mean square of how far the envelope in a band swings about its mean, of the newest 0.25 s.

    The envelope is the magnitude of the analytic signal: the inverse transform of the band's bins
    (Randall and Antoni, Rolling element bearing diagnostics: a tutorial, 2011, section 4.3). Of noise with a
    root mean square s it swings by s sqrt(2 - pi / 2), of a tone A (1 + m cos) by A m / sqrt(2).

    Args:
        samples: (n,) their mean taken away.
        sample_rate_hz: of the samples.
        band_hz: from and to; what lies over 0.45 of the rate is cut off.

    Returns:
        In the samples' unit; None where less than a quarter of the band is left, or of less than 0.25 s.
    """
    grid = _envelope_grid(sample_rate_hz, band_hz)
    if grid is None or len(samples) < len(grid.taper):
        return None
    band = np.fft.rfft(samples[-len(grid.taper) :] * grid.taper)[grid.first : grid.last]
    envelope = np.abs(np.fft.ifft(band, grid.size))
    edge = int(_EDGE * grid.size) + 1
    return float(envelope[edge:-edge].std(dtype=np.float64)) * 2 * grid.size / len(grid.taper)


class _EnvelopeGrid(NamedTuple):
    taper: Float32
    first: int
    last: int
    """Bins of the band."""
    size: int
    """Of the inverse transform: samples of the envelope."""


@lru_cache(maxsize=16)
def _envelope_grid(sample_rate_hz: int, band_hz: tuple[float, float]) -> _EnvelopeGrid | None:
    n, top_hz = round(ENVELOPE_S * sample_rate_hz), min(band_hz[1], 0.45 * sample_rate_hz)
    if top_hz - band_hz[0] < (band_hz[1] - band_hz[0]) / 4:
        return None
    edge = int(_EDGE * n)
    rise = np.sin(np.pi / 2 * (np.arange(edge) + 0.5) / edge) ** 2
    taper = np.concatenate([rise, np.ones(n - 2 * edge), rise[::-1]]).astype(np.float32)
    first, last = (round(hz * n / sample_rate_hz) for hz in (band_hz[0], top_hz))
    return _EnvelopeGrid(taper, first, last, _smooth_size(last - first))


def sound_levels(samples: Float32, sample_rate_hz: int, full_scale_pa: float) -> dict[str, float]:
    """Sound pressure level of the newest 0.5 s in dB re 20 uPa, as it is and A-weighted; silence has none.

    The spectrum is tapered (Hann), so that low hum does not leak to where the ear is keener.

    Args:
        samples: (n,), full scale -1 to 1.
        sample_rate_hz: of the samples.
        full_scale_pa: what 1.0 stands for.
    """
    newest = samples[-round(LEVEL_S * sample_rate_hz) :]
    taper, weight = _level_grid(len(newest), sample_rate_hz)
    spectrum = np.fft.rfft((newest - newest.mean()) * taper)
    power = np.square(spectrum.real) + np.square(spectrum.imag)
    reference = (HEARING_PA / full_scale_pa) ** 2 * len(newest) * float(np.square(taper).sum()) / 2
    found = {"sound_level_db": power, "sound_level_dba": power * weight}
    sums = {name: float(each.sum(dtype=np.float64)) for name, each in found.items()}
    return {name: 10 * float(np.log10(total / reference)) for name, total in sums.items() if total > 0}


@lru_cache(maxsize=16)
def _level_grid(n: int, sample_rate_hz: int) -> tuple[Float32, Float32]:
    weights = 10 ** (a_weighting_db(np.fft.rfftfreq(n, 1 / sample_rate_hz).astype(np.float64)) / 10)
    return np.hanning(n).astype(np.float32), weights.astype(np.float32)


def a_weighting_db(frequencies_hz: Float64) -> Float64:
    """The A curve (IEC 61672-1:2013, annex E): 0 dB at 1 kHz."""
    square = np.square(np.maximum(frequencies_hz, 1e-3))
    low, middle, upper, high = (hz**2 for hz in (20.60, 107.7, 737.9, 12194.0))
    gain = (
        high * square**2 / ((square + low) * np.sqrt((square + middle) * (square + upper)) * (square + high))
    )
    return np.asarray(20 * np.log10(gain) + 2.00)


def _smooth_size(n: int) -> int:
    """The next size from n on that has no prime factor over 5: others take several times as long."""
    size = n
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 1
