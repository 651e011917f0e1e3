"""A nuisance is a way in which normal sound may change without news: gain, and a little speed.

Each is a direction in feature space with the standard deviation that is expected of it. The metric adds it to
the covariance of normal sound: a change along it counts for less, however steady the enrolment was, and a
large one still counts. Why these two, and how much they are worth: docs/adr/0014-gain-and-speed.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from echo_stream.core.types import Float32, Float64

Nuisances = Callable[[Float32], Float64]
"""From the mean of normal features (bands, dim) to directions (k, bands, dim), each one deviation long."""

GAIN_DB = 0.32
"""A microphone that is moved by a hand, a preamplifier that warms up."""
SPEED = 0.03
"""A motor that slips with load and mains: all lines move up or down together."""
SUB_BANDS = 3
"""Features of the spectral encoder that lie beside each other in frequency, in each band."""


class SpectralColumns(NamedTuple):
    """Which features of a spectral view are levels in dB: groups of `SUB_BANDS` in order of frequency."""

    window: tuple[int, ...]
    """First column of each group."""
    segments: tuple[int, ...]


COLUMNS: Mapping[str, SpectralColumns] = {"spectral": SpectralColumns(window=(0,), segments=(0, 3))}
"""By kind of encoder; one that is not here has no nuisance (ECHO normalises the level away by itself)."""


GAIN_SAID_DB = 2.0
"""A common change of level that is smaller is not worth a word."""
UNCHANGED_DB, UNCHANGED_SHARE = 1.0, 0.25
"""The spectrum is unchanged where most of it lies within so many dB, or that share, of the common change."""


def gain_db(kind: str, mean: Float32, window: Float32) -> float | None:
    """By how much everything is louder than normal, where that is all that changed; None where it is not.

    Args:
        kind: Of the encoder.
        mean: Of normal windows (bands, dim).
        window: Features of a window, of the same shape.
    """
    if kind not in COLUMNS:
        return None
    columns = [slice(first, first + SUB_BANDS) for first in COLUMNS[kind].window]
    changes_db = np.concatenate([(window - mean)[:, each].ravel() for each in columns]).astype(np.float64)
    common_db = float(np.median(changes_db))
    rest_db = float(np.median(np.abs(changes_db - common_db)))
    said = abs(common_db) >= GAIN_SAID_DB and rest_db <= max(UNCHANGED_DB, UNCHANGED_SHARE * abs(common_db))
    return common_db if said else None


def none(mean: Float32) -> Float64:
    """No nuisance."""
    return np.empty((0, *mean.shape))


def of_views(kind: str, bands_hz: Float32) -> tuple[Nuisances, Nuisances]:
    """Nuisances of the windows and of the segments of an encoder's kind; bands_hz (bands, 2)."""
    if kind not in COLUMNS:
        return none, none
    of_window, of_segments = COLUMNS[kind]
    return partial(_spectral, of_window, bands_hz), partial(_spectral, of_segments, bands_hz)


def _spectral(groups: tuple[int, ...], bands_hz: Float32, mean: Float32) -> Float64:
    """(2, bands, dim): everything louder by `GAIN_DB`, and the spectrum moved up by `SPEED`."""
    edges_hz = np.maximum(np.asarray(bands_hz, np.float64), 1.0)
    sub_band = np.log(edges_hz[:, 1] / edges_hz[:, 0]) / SUB_BANDS
    moved = math.log1p(SPEED) / np.maximum(sub_band, 1e-3)
    gain, speed = np.zeros((2, *mean.shape))
    for first in groups:
        columns = slice(first, first + SUB_BANDS)
        gain[:, columns] = GAIN_DB
        slope_db = np.gradient(mean[:, columns].astype(np.float64).ravel()).reshape(len(mean), SUB_BANDS)
        speed[:, columns] = slope_db * np.minimum(moved, 1.0)[:, None]
    return np.stack([gain, speed])
