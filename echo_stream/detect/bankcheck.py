"""What a bank that was read from a file must be, so that scoring cannot fail later. No thread of its own.

A file may be damaged, or come from another program: a NaN in it would score every window as normal for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from echo_stream.core.types import EncoderIdentity
from echo_stream.detect.reference import Reference, View

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
    shapes = [view.normals.shape for r in references for view in (r.window, r.segments)]
    if any(len(shape) != 3 or 0 in shape for shape in shapes):
        yield f"normal features of shapes {shapes}"
        return
    (_, bands, dim), (_, _, segment_dim) = shapes[:2]
    yield from _array("bands_hz", bands_hz, (bands, 2))
    scores = np.concatenate(held_out) if held_out else np.zeros(0)
    yield from _array("held_out", scores, (max(1, scores.size),))
    for reference in references:
        yield from _faults_in_one(reference)
        yield from _faults_in_view(reference.window, len(reference.recordings), bands, dim)
        yield from _faults_in_view(reference.segments, 1, bands, segment_dim)
    for name, kind in (("provenance", Mapping), ("created", str)):
        if not isinstance(plain[name], kind):
            yield f"{name} {plain[name]!r:.60}"
    for name in ("sample_rate_hz", "window_s", "hop_s"):
        if not _is_positive(plain[name]):
            yield f"{name} {plain[name]!r:.60}"


def faults_in_encoder(encoder: EncoderIdentity) -> Iterator[str]:
    """What is wrong with the identity as the file has it; nothing where all is well."""
    kind, version, weights, dimensions = map(
        _as_it_is, (encoder.kind, encoder.version, encoder.weights_sha256, encoder.dimensions)
    )
    if not (isinstance(kind, str) and isinstance(version, int) and isinstance(weights, str)):
        yield f"encoder {kind!r:.60}, version {version!r:.60}"
    if not isinstance(dimensions, Mapping) or not all(_is_number(value) for value in dimensions.values()):
        yield f"dimensions of the encoder {dimensions!r:.60}"


def _as_it_is(value: object) -> object:
    """Without the type that it should have."""
    return value


def _faults_in_view(view: View, n: int, bands: int, dim: int) -> Iterator[str]:
    metric = view.metric
    k = metric.shrink.size
    yield from _array("normals", view.normals, (n, bands, dim))
    yield from _array("centre", metric.centre, (bands, dim))
    yield from _array("scale", metric.scale, (bands, dim), above_0=True)
    yield from _array("directions", metric.directions, (bands * dim, k))
    yield from _array("shrink", metric.shrink, (k,))
    if not (_is_positive(metric.unit) and _is_number(view.median) and _is_positive(view.spread)):
        yield "unit, median or spread of a view"


def _faults_in_one(own: Reference) -> Iterator[str]:
    n = len(own.recordings)
    yield from _array("start_s", own.start_s, (n,))
    if n == 0 or not all(isinstance(name, str) for name in own.recordings):
        yield "recordings"
    condition = _as_it_is(own.condition)
    if not isinstance(condition, str):
        yield f"condition {condition!r:.60}"
    if not _is_number(own.level_dbfs):
        yield f"level_dbfs {own.level_dbfs!r:.60}"
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
