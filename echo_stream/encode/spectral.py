"""The spectral encoder computes statistics of the log spectrum, band by band; it needs no weights.

A vibration sensor on a machine of steady speed adds low lines: levels of 2 Hz wide bands from 5 Hz on.
Imbalance and a bent shaft live at the speed of the shaft, where frames of 64 ms cannot part them from their
neighbours; the whole window can. Where the speed wanders the lines wander too and ruin the score: so only
where the configuration says that it does not. Why: docs/adr/0045-low-lines.md.

numpy alone: scipy's FFT would save a sixth of it at 16 kHz and a third at 48 kHz, and take 143 MB on disk
(docs/measurements.md). Which statistics, and why these: docs/adr/0010-scoring.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from threading import local
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.errors import EncoderError
from echo_stream.core.level import check_window, level_dbfs
from echo_stream.core.types import EncoderIdentity, Features, Float32, Window


@lru_cache(maxsize=64)
def taper(length: int) -> Float32:
    """Periodic Hann of unit power, so that white noise has one level at every rate and frame length."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    scaled: Float32 = (hann / np.sqrt(length * np.sum(hann**2) / 2)).astype(np.float32)
    return scaled


PATCH_S = 0.160
LONG_HOP_S = 0.032
"""Frames are twice as long: 64 ms resolve the lines of a shaft and its harmonics, which 25 ms smear."""
SHORT_HOP_S = 0.004
"""Frames of 8 ms: short enough for the impacts of a bearing, which 64 ms smear."""
BANDS = 16
SUB_BANDS = 3
"""Log-spaced sub-bands in a band; fewer bands where a low sample rate has not bins enough."""
LOWEST_HZ = 30.0
AT_ONCE_SAMPLES = 128_000
"""Windows are encoded so many samples at a time, at least one of them: each call of numpy has its price."""
AT_ONCE_BYTES = 1 << 20
"""Frames are transformed so many bytes at a time: of more, they leave the cache."""
FLOOR = np.float32(1e-12)
"""-120 dB, added as power before the logarithm: digital silence has a level, and 16 bits' noise none."""
DB_OF_LOG = np.float32(10 / math.log(10))
"""numpy computes natural logarithms of several numbers at once, those to base 10 one by one."""
LOW_LINES_FROM_HZ, LOW_LINES_TO_HZ = 5.0, 101.0
LOW_LINE_HZ = 2.0
"""Width of a low line; wider where the window is too short for it."""
BINS_A_LINE = 2
"""Bins of the window's spectrum in a low line, at least."""
HALVES = 3
"""Half windows, each half over the one before: how steady a low line is."""


class SpectralEncoder:
    """Levels of log-spaced bands and how impulsive they are: over a window, and in each 160 ms of it.

    Of each band, for the window as a whole (dim 6): mean level of the 64 ms frames in 3 sub-bands; then
    kurtosis, crest and deviation of the envelope of 8 ms frames. For each segment (dim 6): mean and largest
    level of its 64 ms frames in 3 sub-bands. All in dB.

    Args:
        window_s: Length of a window.
        low_lines: Bands of fine low lines follow the others (`_low_line_powers`): the same statistics, of the
            window and of its half windows; in each segment those of the window.
    """

    def __init__(self, window_s: float, *, low_lines: bool = False) -> None:
        self._low_lines = low_lines
        self.computed_by = "numpy float32"
        self.identity = EncoderIdentity(
            kind="spectral",
            version=3,
            dimensions={"window_s": window_s, "bands": BANDS, "sub_bands": SUB_BANDS}
            | ({"low_lines_hz": LOW_LINE_HZ} if low_lines else {}),
        )

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        """Features of each window, in the order given; rates and lengths may differ between windows.

        Raises:
            EncoderError: samples that are not finite, or fewer than one patch (160 ms) of them.
        """
        alike: dict[tuple[int, int], list[int]] = {}
        for i, window in enumerate(windows):
            check_window(window, math.ceil(PATCH_S * window.sample_rate_hz))
            alike.setdefault((window.sample_rate_hz, len(window.samples)), []).append(i)
        features: dict[int, Features] = {}
        for (sample_rate_hz, length), members in alike.items():
            few = max(1, AT_ONCE_SAMPLES // length)
            for at in range(0, len(members), few):
                part = members[at : at + few]
                samples = np.stack([windows[i].samples for i in part], dtype=np.float32)
                found = _encode_batch(samples, sample_rate_hz)  # takes the mean away
                if self._low_lines:
                    found = _with_low_lines(found, samples, sample_rate_hz)
                features.update(zip(part, found, strict=True))
        return [features[i] for i in range(len(windows))]


def _encode_batch(samples: Float32, sample_rate_hz: int) -> list[Features]:
    """Features of windows of one rate and length; samples (n, samples), from which the mean is taken."""
    samples -= samples.mean(axis=1, keepdims=True)
    edges_hz = _band_edges_hz(sample_rate_hz)
    long = _levels_db(_band_powers(samples, sample_rate_hz, LONG_HOP_S, _in_sub_bands(sample_rate_hz)))
    bands = long.shape[2] // SUB_BANDS
    short = _band_powers(samples, sample_rate_hz, SHORT_HOP_S, _in_bands(sample_rate_hz))
    whole = np.concatenate([_in_bands_of(long.mean(axis=1), bands), _impulsiveness(short)], axis=-1)
    patches = _patches(long)
    segments = np.concatenate(
        [_in_bands_of(patches.mean(axis=2), bands), _in_bands_of(patches.max(axis=2), bands)], axis=-1
    )
    return [
        Features(window=whole[i], segments=segments[i], bands_hz=edges_hz, level_dbfs=level_dbfs(samples[i]))
        for i in range(len(samples))
    ]


def _in_bands_of(levels: Float32, bands: int) -> Float32:
    """(..., bands * SUB_BANDS) to (..., bands, SUB_BANDS)."""
    return levels.reshape(*levels.shape[:-1], bands, SUB_BANDS)


def _with_low_lines(features: Sequence[Features], samples: Float32, sample_rate_hz: int) -> list[Features]:
    """The same features, and those of the low lines behind them."""
    lines, halves = _low_line_powers(samples, sample_rate_hz, SUB_BANDS)
    levels = _levels_db(lines).reshape(len(lines), -1, SUB_BANDS)
    whole = np.concatenate([levels, _impulsiveness(halves)], axis=-1)
    in_segments = np.concatenate([levels, levels], axis=-1)
    edges_hz = low_band_edges_hz(samples.shape[1] / sample_rate_hz, SUB_BANDS)
    return [
        replace(
            each,
            window=np.concatenate([each.window, whole[i]]),
            segments=np.concatenate(
                [each.segments, np.broadcast_to(in_segments[i], (len(each.segments), *in_segments[i].shape))],
                axis=1,
            ),
            bands_hz=np.concatenate([each.bands_hz, edges_hz]),
        )
        for i, each in enumerate(features)
    ]


def _impulsiveness(powers: Float32) -> Float32:
    """(n, frames, bands) of short frames to (n, bands, 3): kurtosis, crest and deviation of the envelope."""
    # Statistics over frames, which then lie together.
    powers = np.ascontiguousarray(powers.transpose(0, 2, 1))
    frames = powers.shape[2]
    levels_db = _levels_db(powers)
    mean_db = levels_db.mean(axis=2, keepdims=True)
    few = max(1, frames // 100)
    loudest = np.partition(levels_db, frames - few, axis=2)[:, :, -few:].mean(axis=2)
    # Relative to the mean, as the fourth moments of an overload overflow float32.
    relative = powers + FLOOR
    relative /= relative.mean(axis=2, keepdims=True)
    kurtosis = np.square(relative, out=relative).mean(axis=2)
    levels_db -= mean_db
    deviation_db = np.sqrt(np.square(levels_db, out=levels_db).mean(axis=2))
    return np.stack([DB_OF_LOG * np.log(kurtosis), loudest - mean_db[:, :, 0], deviation_db], axis=-1)


def _patches(frames: Float32) -> Float32:
    """(n, frames, sub_bands) to (n, patches, frames in a patch, sub_bands), whole ones only."""
    each = round(PATCH_S / LONG_HOP_S)
    patches = frames.shape[1] // each
    return frames[:, : patches * each].reshape(len(frames), patches, each, frames.shape[2])


def _levels_db(powers: Float32) -> Float32:
    levels: Float32 = powers + FLOOR
    np.log(levels, out=levels)
    levels *= DB_OF_LOG
    return levels


def _band_powers(samples: Float32, sample_rate_hz: int, hop_s: float, of_bands: Float32) -> Float32:
    """Mean power of each band in frames of two hops: (n, frames, bands); of_bands (bins, bands)."""
    length = 2 * round(hop_s * sample_rate_hz)
    starts = _frame_starts(samples.shape[1], sample_rate_hz, hop_s)
    padded = np.concatenate([samples, samples[:, -2 : -length - 2 : -1]], axis=1)  # the last frame is whole
    means = np.empty((len(samples), len(starts), of_bands.shape[1]), np.float32)
    few = max(1, AT_ONCE_BYTES // (len(samples) * length * samples.itemsize))
    for at in range(0, len(starts), few):
        powers = _powers(_frames(padded, starts[at : at + few], length))
        np.matmul(powers, of_bands, out=means[:, at : at + few])
    return means


class _Memory(local):
    """Arrays that each thread uses again and again: to get large ones anew takes longer than to fill them."""

    def __init__(self) -> None:
        self._kept: dict[type[np.generic], NDArray[Any]] = {}

    def array(self, shape: tuple[int, ...], kind: type[np.generic]) -> NDArray[Any]:
        """Of that shape, with anything in it; the next one of this kind is the same memory."""
        size = math.prod(shape)
        if kind not in self._kept or len(self._kept[kind]) < size:
            self._kept[kind] = np.empty(size, kind)
        return self._kept[kind][:size].reshape(shape)


_memory = _Memory()


def _frames(padded: Float32, starts: NDArray[np.intp], length: int) -> Float32:
    """Tapered frames (n, starts, length) of windows (n, samples)."""
    n, samples = padded.shape
    row, step = padded.strides
    hop = int(starts[-1] - starts[0]) // max(1, len(starts) - 1)
    # sliding_window_view gives the same views and takes a tenth of the transform's time.
    if int(starts[0]) + hop * (len(starts) - 1) == starts[-1] and not (np.diff(starts) - hop).any():
        at = int(starts[0]) * step
        frames = np.ndarray((n, len(starts), length), np.float32, padded, at, (row, hop * step, step))
    else:
        every = np.ndarray((n, samples - length + 1, length), np.float32, padded, 0, (row, step, step))
        frames = every[:, starts]
    tapered: Float32 = _memory.array(frames.shape, np.float32)
    np.multiply(frames, taper(length), out=tapered)
    return tapered


@lru_cache(maxsize=64)
def _frame_starts(samples: int, sample_rate_hz: int, hop_s: float) -> NDArray[np.intp]:
    """Where the frames of a window begin, equally many at any rate."""
    count = int(samples / (hop_s * sample_rate_hz) + 1e-6)
    starts: NDArray[np.intp] = np.rint(np.arange(count) * hop_s * sample_rate_hz).astype(np.intp)
    return starts


def _powers(frames: Float32) -> Float32:
    """Power of each bin of frames (n, frames, length), whose memory it takes: (n, frames, bins)."""
    n, count, length = frames.shape
    bins = length // 2 + 1
    spectra = np.fft.rfft(frames, out=_memory.array((n, count, bins), np.complex64))
    parts = spectra.view(np.float32)
    np.square(parts, out=parts)
    powers: Float32 = _memory.array((n, count, bins), np.float32)
    np.add(parts[..., ::2], parts[..., 1::2], out=powers)
    return powers


@lru_cache(maxsize=64)
def _sub_band_bins(sample_rate_hz: int) -> NDArray[np.intp]:
    """Bins of the sub-bands in long frames, [first, last) each, at least one bin wide: (sub-bands, 2)."""
    length = 2 * round(LONG_HOP_S * sample_rate_hz)
    last = length // 2 + 1
    first = max(1, round(LOWEST_HZ * length / sample_rate_hz))
    for count in range(min(BANDS * SUB_BANDS, (last - first) // SUB_BANDS * SUB_BANDS), 0, -SUB_BANDS):
        edges = np.geomspace(first, last, count + 1).round().astype(np.intp)
        for i in range(1, count + 1):
            edges[i] = max(edges[i], edges[i - 1] + 1)
        if edges[-1] <= last:
            return np.stack([edges[:-1], edges[1:]], axis=1)
    raise EncoderError(
        f"a sample rate of {sample_rate_hz} Hz is too low for a spectrum", "Use 1 kHz or more."
    )


@lru_cache(maxsize=64)
def _in_sub_bands(sample_rate_hz: int) -> Float32:
    """What turns the powers of a long frame's bins into the means of its sub-bands: (bins, sub-bands)."""
    return _averaging(_sub_band_bins(sample_rate_hz), LONG_HOP_S, sample_rate_hz)


@lru_cache(maxsize=64)
def _in_bands(sample_rate_hz: int) -> Float32:
    """The same for a short frame and its bands: (bins, bands)."""
    return _averaging(_short_bins(sample_rate_hz), SHORT_HOP_S, sample_rate_hz)


def _averaging(bins: NDArray[np.intp], hop_s: float, sample_rate_hz: int) -> Float32:
    matrix = np.zeros((round(hop_s * sample_rate_hz) + 1, len(bins)), np.float32)
    for i, (first, end) in enumerate(bins.tolist()):
        matrix[first:end, i] = 1 / (end - first)
    return matrix


@lru_cache(maxsize=64)
def _band_edges_hz(sample_rate_hz: int) -> Float32:
    """(bands, 2), from the middle between two bins to the middle between two others."""
    bins = _sub_band_bins(sample_rate_hz)
    edges = np.append(bins[::SUB_BANDS, 0], bins[-1, 1])
    hz = np.clip(
        (edges - 0.5) * sample_rate_hz / (2 * round(LONG_HOP_S * sample_rate_hz)), 0, sample_rate_hz / 2
    )
    return np.stack([hz[:-1], hz[1:]], axis=1).astype(np.float32)


def _short_bins(sample_rate_hz: int) -> NDArray[np.intp]:
    """Bins of the bands in short frames, the nearest there are, (bands, 2): low bands share the lowest."""
    length = 2 * round(SHORT_HOP_S * sample_rate_hz)
    bins = np.rint(_band_edges_hz(sample_rate_hz) * length / sample_rate_hz).astype(np.intp)
    first = np.clip(bins[:, 0], 1, length // 2)
    return np.stack([first, np.clip(bins[:, 1], first + 1, length // 2 + 1)], axis=1)


def low_line_edges_hz(window_s: float, sub_bands: int) -> list[float]:
    """Edges of the lines, whole bands of `sub_bands` of them."""
    width_hz = max(LOW_LINE_HZ, BINS_A_LINE / window_s)
    bands = int((LOW_LINES_TO_HZ - LOW_LINES_FROM_HZ) / width_hz / sub_bands)
    return [LOW_LINES_FROM_HZ + i * width_hz for i in range(bands * sub_bands + 1)]


def low_band_edges_hz(window_s: float, sub_bands: int) -> Float32:
    """Lower and upper edge of each band, (bands, 2)."""
    edges = np.array(low_line_edges_hz(window_s, sub_bands)[::sub_bands], np.float32)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def _low_line_powers(samples: Float32, sample_rate_hz: int, sub_bands: int) -> tuple[Float32, Float32]:
    """Mean power of each line in the window, and of each band in its half windows.

    Args:
        samples: (n, samples), without their mean.
        sample_rate_hz: Of them.
        sub_bands: Lines in a band.

    Returns:
        (n, lines) and (n, `HALVES`, bands).
    """
    length = samples.shape[1]
    edges = tuple(low_line_edges_hz(length / sample_rate_hz, sub_bands))
    half = length // 2
    starts = [i * (length - half) // (HALVES - 1) for i in range(HALVES)]
    whole = _low_line_means(samples, sample_rate_hz, edges)
    halves = [
        _low_line_means(samples[:, at : at + half], sample_rate_hz, edges[::sub_bands]) for at in starts
    ]
    return whole, np.stack(halves, axis=1)


def _low_line_means(frames: Float32, sample_rate_hz: int, edges_hz: tuple[float, ...]) -> Float32:
    length = frames.shape[1]
    matrix = _low_line_averaging(length, sample_rate_hz, edges_hz)
    spectra = np.fft.rfft(frames * taper(length))[:, : len(matrix)]
    found: Float32 = (np.square(np.abs(spectra)) @ matrix).astype(np.float32)
    return found


@lru_cache(maxsize=16)
def _low_line_averaging(length: int, sample_rate_hz: int, edges_hz: tuple[float, ...]) -> Float32:
    """(bins, bands) what turns powers of bins into means; a band has one bin at least."""
    bin_hz = sample_rate_hz / length
    bins = [round(edge / bin_hz) for edge in edges_hz]
    matrix = np.zeros((bins[-1] + 2, len(edges_hz) - 1), np.float32)
    for i, (first, end) in enumerate(pairwise(bins)):
        matrix[first : max(end, first + 1), i] = 1 / max(1, end - first)
    return matrix
