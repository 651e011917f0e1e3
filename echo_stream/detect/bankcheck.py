"""What a bank that was read from a file must be, so that scoring cannot fail later. No thread of its own.

A file may be damaged, or come from another program: a NaN in it would score every window as normal for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from echo_stream.detect.reference import Reference

Array = NDArray[Any]


def faults_in(
    references: Sequence[Reference], bands_hz: Array, held_out: Sequence[Array], plain: Mapping[str, Any]
) -> Iterator[str]:
    """What is wrong, part by part; nothing where all is well.

    Args:
        references: One for each operating state, all of the same bands and dimensions.
        bands_hz: Edges of each band, (bands, 2).
        held_out: Runs of scores, each (windows,).
        plain: The plain values of the bank, by name.
    """
    if not references:
        yield "no reference"
        return
    shape = references[0].window.shape
    if len(shape) != 3 or 0 in shape:
        yield f"window of shape {shape}"
        return
    _, bands, dim = shape
    yield from _array("bands_hz", bands_hz, (bands, 2))
    scores = np.concatenate(held_out) if held_out else np.zeros(0)
    yield from _array("held_out", scores, (max(1, scores.size),))
    for reference in references:
        yield from _faults_in_one(reference, bands, dim)
    for name, kind in (("provenance", Mapping), ("calibration", Mapping), ("created", str)):
        if not isinstance(plain[name], kind):
            yield f"{name} {plain[name]!r:.60}"
    for name in ("sample_rate_hz", "window_s", "hop_s"):
        if not _is_positive(plain[name]):
            yield f"{name} {plain[name]!r:.60}"


def _faults_in_one(own: Reference, bands: int, dim: int) -> Iterator[str]:
    n = len(own.window)
    shapes: dict[str, tuple[int, ...]] = {
        "window": (n, bands, dim),
        "start_s": (n,),
        "level_dbfs": (n,),
        "centre": (bands, dim),
        "scale": (bands, dim),
        "band_median": (bands,),
        "band_spread": (bands,),
    }
    for name, shape in shapes.items():
        yield from _array(name, getattr(own, name), shape, above_0=name in ("scale", "band_spread"))
    if len(own.recordings) != n or not all(isinstance(name, str) for name in own.recordings):
        yield "recordings"
    condition: object = own.condition  # as the file has it
    if not isinstance(condition, str):
        yield f"condition {condition!r:.60}"
    if not (_is_number(own.score_median) and _is_positive(own.score_spread)):
        yield "score_median or score_spread"


def _array(name: str, values: Array, shape: tuple[int, ...], *, above_0: bool = False) -> Iterator[str]:
    if values.shape != shape or values.dtype not in (np.float32, np.float64):
        yield f"{name} is {values.dtype} of shape {values.shape}, expected float32 or 64 of shape {shape}"
    elif not np.isfinite(values).all():
        yield f"{name} has values that are not finite"
    elif above_0 and not (values > 0).all():
        yield f"{name} has values that are not above 0"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # NaN is not


def _is_positive(value: object) -> bool:
    return _is_number(value) and value > 0
