"""The taper of a frame, by which its spectrum is computed."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from echo_stream.core.types import Float32


@lru_cache(maxsize=64)
def taper(length: int) -> Float32:
    """Periodic Hann of unit power, so that white noise has one level at every rate and frame length."""
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    scaled: Float32 = (hann / np.sqrt(length * np.sum(hann**2) / 2)).astype(np.float32)
    return scaled
