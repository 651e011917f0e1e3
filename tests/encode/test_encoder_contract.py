"""What every encoder promises. Another encoder joins by one line in `ENCODERS`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Features, Window
from echo_stream.encode.echo_encoder import EchoEncoder
from echo_stream.encode.encoder import Encoder, make_encoder
from tests.encode.conftest import GOLDEN_DIMENSIONS, MakeWindow, usable_runtimes

TOLERANCE = 1e-3
"""Of features whose scale is about 1 (ECHO) or tens of dB (spectral): rounding, never another sound."""


def spectral(_: Path) -> Encoder:
    return make_encoder("spectral", window_s=2.0)


def echo(weights: Path, runtime: str = "plain", precision: str = "float32") -> Encoder:
    return EchoEncoder.from_checkpoint(weights, GOLDEN_DIMENSIONS, runtime, precision)


ENCODERS: dict[str, Callable[[Path], Encoder]] = {
    "spectral": spectral,
    **{f"echo-{r}-{p}": partial(echo, runtime=r, precision=p) for r, p in usable_runtimes()},
}


@pytest.fixture(scope="module", params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest, golden_weights: Path) -> Encoder:
    return ENCODERS[request.param](golden_weights)


@pytest.fixture
def mixed(make_window: MakeWindow) -> list[Window]:
    """Machines of three rates and two lengths, quiet and loud."""
    return [
        make_window("pump", 16000, 2.0, seed=1),
        make_window("fan", 48000, 2.0, seed=2, start=96000),
        make_window("gear", 44100, 2.0, seed=3),
        make_window("pump", 16000, 1.0, seed=4, start=32000),
        make_window("valve", 16000, 2.0, seed=5),
    ]


def assert_same(one: Features, other: Features, tolerance: float = TOLERANCE) -> None:
    np.testing.assert_allclose(one.window, other.window, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.segments, other.segments, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(one.bands_hz, other.bands_hz)
    assert one.level_dbfs == pytest.approx(other.level_dbfs, abs=1e-3)


def test_shapes_and_types(encoder: Encoder, mixed: list[Window]) -> None:
    for window, features in zip(mixed, encoder.encode(mixed), strict=True):
        bands = len(features.bands_hz)
        patches = features.segments.shape[0]
        assert features.window.ndim == 2
        assert len(features.window) == bands
        assert features.segments.shape[1] == bands
        assert abs(patches - len(window.samples) / window.sample_rate_hz / 0.16) <= 1
        for array in (features.window, features.segments, features.bands_hz):
            assert array.dtype == np.float32
            assert np.isfinite(array).all()
        low, high = features.bands_hz.T
        assert (low < high).all()
        assert (np.diff(low) > 0).all()
        assert low[0] >= 0
        assert high[-1] <= window.sample_rate_hz / 2 + 1e-3


def test_a_window_is_encoded_alike_in_any_company(encoder: Encoder, mixed: list[Window]) -> None:
    together = encoder.encode(mixed)
    for window, features in zip(mixed, together, strict=True):
        assert_same(encoder.encode([window])[0], features)
    for features, reverse in zip(together, encoder.encode(mixed[::-1])[::-1], strict=True):
        assert_same(features, reverse)


def test_features_are_told_apart(encoder: Encoder, mixed: list[Window]) -> None:
    """What makes the equality above worth something: other sound gives other features."""
    first, _, _, _, last = encoder.encode(mixed)
    assert np.abs(first.window - last.window).max() > 10 * TOLERANCE


def test_the_same_samples_give_the_same_bits(encoder: Encoder, mixed: list[Window]) -> None:
    for one, other in zip(encoder.encode(mixed), encoder.encode(mixed), strict=True):
        assert_same(one, other, tolerance=0)


def test_stream_equals_file(encoder: Encoder, make_window: MakeWindow) -> None:
    """Windows one after another as from a stream, against one call over windows cut from the whole."""
    whole = make_window("pump", 16000, 6.0, seed=7)
    starts = range(0, 64001, 16000)
    cut = [
        Window("pump", whole.samples[at : at + 32000], at, at + 32000, 16000, whole.captured_at)
        for at in starts
    ]
    for window, offline in zip(cut, encoder.encode(cut), strict=True):
        fresh = Window("pump", window.samples.copy(), window.start, window.end, 16000, window.captured_at)
        assert_same(encoder.encode([fresh])[0], offline)


def test_nothing_in_nothing_out(encoder: Encoder) -> None:
    assert encoder.encode([]) == []


def test_samples_are_left_alone_and_features_are_nobody_elses(encoder: Encoder, mixed: list[Window]) -> None:
    before = [window.samples.copy() for window in mixed]
    first = encoder.encode(mixed)
    kept = [features.window.copy() for features in first]
    encoder.encode(mixed[::-1])
    for window, samples, features, window_feature in zip(mixed, before, first, kept, strict=True):
        np.testing.assert_array_equal(window.samples, samples)
        np.testing.assert_array_equal(features.window, window_feature)


def test_a_constant_is_no_sound(encoder: Encoder, make_window: MakeWindow) -> None:
    """A sensor that is stuck at an offset: finite features, the floor as level."""
    samples = make_window(seconds=2.0).samples
    window = Window("pump", np.full_like(samples, 0.25), 0, len(samples), 16000, make_window().captured_at)
    [features] = encoder.encode([window])
    assert features.level_dbfs == -200
    assert np.isfinite(features.window).all()


def test_level_is_that_of_the_sound_without_its_offset(encoder: Encoder, make_window: MakeWindow) -> None:
    window = make_window(rate=16000, seconds=2.0)
    tone = (0.5 + 0.1 * np.sin(2 * np.pi * 100 * np.arange(32000) / 16000)).astype(np.float32)
    [features] = encoder.encode([Window("pump", tone, 0, 32000, 16000, window.captured_at)])
    assert features.level_dbfs == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.01)


@pytest.mark.parametrize("damage", [np.nan, np.inf, -np.inf])
def test_damaged_samples_are_refused(encoder: Encoder, make_window: MakeWindow, damage: float) -> None:
    good, window = make_window("fan", seed=1), make_window("pump", start=5000)
    window.samples[123] = damage
    with pytest.raises(EncoderError, match="machine pump, sample 5123"):
        encoder.encode([good, window])


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_too_few_samples_are_refused(encoder: Encoder, make_window: MakeWindow, samples: int) -> None:
    whole = make_window("pump", 16000)
    window = Window("pump", whole.samples[:samples], 0, samples, 16000, whole.captured_at)
    with pytest.raises(EncoderError, match="pump"):
        encoder.encode([window])


def test_identity_is_equal_for_equal_encoders_only(encoder: Encoder, golden_weights: Path) -> None:
    again = [make(golden_weights) for make in (spectral, echo)]
    assert [other.identity == encoder.identity for other in again].count(True) == 1
    assert encoder.identity.kind in {"spectral", "echo"}


@pytest.mark.parametrize(("name", "precision"), usable_runtimes())
def test_the_precision_that_is_reported_is_the_runtimes(
    golden_weights: Path, name: str, precision: str
) -> None:
    assert echo(golden_weights, name, precision).computed_by == f"{name} {precision}"


def test_unknown_kind() -> None:
    with pytest.raises(EncoderError, match=r"encoder\.kind 'mel' is unknown"):
        make_encoder("mel", window_s=2.0)


def test_echo_without_weights() -> None:
    with pytest.raises(EncoderError, match=r"encoder\.weights is not set"):
        make_encoder("echo", window_s=2.0)


def test_echo_refuses_more_than_20_s(golden_weights: Path, make_window: MakeWindow) -> None:
    encoder = echo(golden_weights)
    assert encoder.encode([make_window("pump", 1000, 20.0)])[0].segments.shape[0] == 125
    with pytest.raises(EncoderError, match=r"machine pump.* at most 20024 fit"):
        encoder.encode([make_window("pump", 1000, 20.03)])
