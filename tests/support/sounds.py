"""Features of made-up machines, for the tests of this room."""

from __future__ import annotations

import numpy as np

from echo_stream.core.types import EncoderIdentity, Enrolled, Features, Float32

BANDS, DIM, PATCHES = 6, 4, 5
HOP_S, WINDOW_S, RATE_HZ = 1.0, 2.0, 16_000
ENCODER = EncoderIdentity("made-up", 1, "", {"window_s": WINDOW_S})


def features(values: Float32, level_dbfs: float = -30.0) -> Features:
    """Of a window whose features are values (bands, dim), and so are those of each of its segments."""
    edges = np.linspace(0, 8_000, BANDS + 1)
    return Features(
        window=values.astype(np.float32),
        segments=np.repeat(values[None], PATCHES, axis=0).astype(np.float32),
        bands_hz=np.stack([edges[:-1], edges[1:]], axis=1).astype(np.float32),
        level_dbfs=level_dbfs,
    )


def normal(n: int, seed: int = 0, offset: float = 0.0) -> list[Features]:
    """Windows of a machine that wanders a little around `offset`."""
    generator = np.random.default_rng(seed)
    return [features(generator.normal(offset, 1, (BANDS, DIM)).astype(np.float32)) for _ in range(n)]


def enrol(
    items: list[Features], *, recordings: int = 1, condition: str = "normal", name: str = "rec"
) -> list[Enrolled]:
    """Windows spread over recordings in order, at hop spacing."""
    each = -(-len(items) // recordings)
    return [
        Enrolled(item, f"{name}{i // each}.wav", (i % each) * HOP_S, condition)
        for i, item in enumerate(items)
    ]
