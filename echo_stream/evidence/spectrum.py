"""An alarm's spectrum is compared with the normal one: which bands changed, and by how much.

Pure numpy; runs in the process that draws the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from echo_stream.core.calibration import NormalSpectrum
from echo_stream.core.types import Float32, Float64

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


_LONGEST_AVERAGE_S: Final = 1.0
_COLUMNS: Final = 500
_WORTH_A_WORD_DB: Final = 2.0
"""So far a band must be outside its normal range: one of a hundred is so by chance."""
_DECIDES: Final = 1 / 3
"""Bands that add at least this share of the greatest contribution are marked."""


@dataclass(frozen=True, slots=True)
class AlarmSpectrum:
    """What a picture is made of, all times in seconds from the alarm."""

    document: Mapping[str, Any]
    edges_hz: Float64
    """(bands + 1,)"""
    times_s: Float64
    """(frames,) middle of each frame."""
    levels_db: Float64
    """(frames, bands)"""
    present_db: Float64
    """(bands,) mean from the onset to the alarm."""
    normal: NormalSpectrum
    normal_is: str
    """Where the normal spectrum comes from, in words."""
    onset_s: float


def measure_alarm(document: Mapping[str, Any], samples: Float32) -> AlarmSpectrum:
    """Measure what the picture shows; document as evidence writes it, samples (n,) of its clip."""
    clip = document["clip"]
    rate, alarm_s = clip["sample_rate_hz"], clip["alarm_s"]
    onset_s = alarm_s if clip["onset_s"] is None else clip["onset_s"]
    hop_s = max(len(samples) / rate / _COLUMNS, 0.01)
    levels = band_levels_over_time_db(samples, rate, hop_s)
    first, last = (round(s * rate) for s in (max(0.0, min(onset_s, alarm_s - 2)), alarm_s))
    if document["normal"] is not None:
        normal, normal_is = NormalSpectrum.from_json(document["normal"]), "normal (enrolled)"
    else:  # a bank that was fitted without one
        before, normal_is = samples[: max(0, first - 2 * rate)], "before the onset"
        if len(before) < rate:
            before, normal_is = samples, "the whole clip"
        pieces = np.array_split(before, max(1, len(before) // rate))
        normal = NormalSpectrum.fit(rate, [band_levels_db(piece, rate) for piece in pieces])
    return AlarmSpectrum(
        document=document,
        edges_hz=band_edges_hz(rate),
        times_s=np.arange(len(levels)) * hop_s + FRAME_S / 2 - alarm_s,
        levels_db=levels,
        present_db=band_levels_db(samples[first : max(last, first + 1)], rate),
        normal=normal,
        normal_is=normal_is,
        onset_s=onset_s - alarm_s,
    )


def smoothed_db(it: AlarmSpectrum) -> Float64:
    """Levels (frames, bands) averaged over time, longer in narrow bands: chance shall not colour them."""
    hop_s = float(np.diff(it.times_s).mean()) if len(it.times_s) > 1 else 1.0
    power = np.pad(10 ** (it.levels_db / 10), ((1, 0), (0, 0))).cumsum(axis=0)
    frame = np.arange(len(it.levels_db))
    smooth = np.empty_like(it.levels_db)
    for band, width_hz in enumerate(np.diff(it.edges_hz)):
        half = round(min(6 / width_hz, _LONGEST_AVERAGE_S) / hop_s / 2)
        first, last = np.maximum(frame - half, 0), np.minimum(frame + half + 1, len(frame))
        smooth[:, band] = (power[last, band] - power[first, band]) / (last - first)
    return np.asarray(10 * np.log10(np.maximum(smooth, 1e-15)))


def deciding_bands(document: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(low_hz, high_hz) of the bands that carry the score."""
    bands = document["bands_hz"]
    most = max((share for _, _, share in bands), default=0.0)
    return [(low, high) for low, high, share in bands if share > 0 and share >= _DECIDES * most]


def joined(bands: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Bands that touch each other as one; in order of frequency."""
    spans: list[tuple[float, float]] = []
    for low_hz, high_hz in sorted(bands):
        if spans and low_hz <= spans[-1][1] * 1.001:
            spans[-1] = spans[-1][0], max(high_hz, spans[-1][1])
        else:
            spans.append((low_hz, high_hz))
    return spans


@dataclass(frozen=True, slots=True)
class Change:
    """Bands that are outside of their normal range together."""

    change: str
    """louder or quieter"""
    by_db: float
    """Of the band that is furthest outside, from the middle of normal."""
    peak_hz: float
    """Middle of that band."""
    low_hz: float
    high_hz: float


def changes(it: AlarmSpectrum) -> list[Change]:
    """The greatest changes outside the normal range, louder and quieter, the greater one first."""
    beyond_db = np.maximum(it.present_db - it.normal.high_db, 0) - np.maximum(
        it.normal.low_db - it.present_db, 0
    )
    change_db = it.present_db - it.normal.median_db
    found: list[tuple[float, Change]] = []
    for sign, word in ((1, "louder"), (-1, "quieter")):
        peak = int(np.argmax(sign * beyond_db))
        if sign * beyond_db[peak] < _WORTH_A_WORD_DB:
            continue
        outside = sign * change_db >= max(sign * change_db[peak] / 2, 1)
        low = high = peak
        while low > 0 and outside[low - 1]:
            low -= 1
        while high + 1 < len(outside) and outside[high + 1]:
            high += 1
        edges_hz = it.edges_hz.tolist()
        change = Change(
            change=word,
            by_db=round(abs(float(change_db[peak])), 1),
            peak_hz=round((edges_hz[peak] * edges_hz[peak + 1]) ** 0.5, 1),
            low_hz=round(edges_hz[low], 1),
            high_hz=round(edges_hz[high + 1], 1),
        )
        found.append((abs(float(beyond_db[peak])), change))
    return [change for _, change in sorted(found, key=lambda each: -each[0])]


def change_text(it: AlarmSpectrum) -> str:
    """The same for people, such as `louder by 7 dB at 2.3 to 2.6 kHz`."""
    said = [
        f"{each.change} by {each.by_db:.0f} dB at {_span(each.low_hz, each.high_hz)}" for each in changes(it)
    ]
    return "; ".join(said) or "each band within its normal range"


def _span(low_hz: float, high_hz: float) -> str:
    if high_hz >= 1000:
        return f"{low_hz / 1000:.1f} to {high_hz / 1000:.1f} kHz"
    return f"{low_hz:.0f} to {high_hz:.0f} Hz"
