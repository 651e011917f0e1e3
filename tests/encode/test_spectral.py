"""The spectral encoder: its shapes at every rate, what it hears, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pytest

from echo_stream.core.errors import EncoderError
from echo_stream.core.types import Features, Float32, Window
from echo_stream.encode.spectral import SpectralEncoder

RATES_HZ = [1_000, 1_600, 8_000, 12_800, 16_000, 44_100, 48_000, 96_000, 192_000]


def window_of(samples: Float32, sample_rate_hz: int) -> Window:
    samples = samples.astype(np.float32)
    return Window("m", samples, 0, len(samples), sample_rate_hz, datetime.now(UTC))


def noise(sample_rate_hz: int, duration_s: float = 2.0, seed: int = 0) -> Float32:
    generator = np.random.default_rng(seed)
    return generator.normal(0, 0.1, round(duration_s * sample_rate_hz)).astype(np.float32)


def encode(samples: Float32, sample_rate_hz: int) -> Features:
    return SpectralEncoder(2.0).encode([window_of(samples, sample_rate_hz)])[0]


@pytest.mark.parametrize("sample_rate_hz", RATES_HZ)
def test_every_rate_gives_bands_that_tile_up_to_nyquist(sample_rate_hz: int) -> None:
    features = encode(noise(sample_rate_hz), sample_rate_hz)
    bands = len(features.bands_hz)
    assert features.window.shape[0] == bands
    assert features.segments.shape[:2] == (12, bands)
    assert features.window.dtype == features.segments.dtype == features.bands_hz.dtype == np.float32
    np.testing.assert_array_equal(features.bands_hz[1:, 0], features.bands_hz[:-1, 1])
    assert features.bands_hz[-1, 1] == pytest.approx(sample_rate_hz / 2, rel=0.02)
    assert np.isfinite(features.window).all()
    assert np.isfinite(features.segments).all()
    assert features.level_dbfs == pytest.approx(-20.0, abs=0.5)


def test_windows_of_several_rates_and_lengths_in_one_call_come_back_in_order() -> None:
    windows = [window_of(noise(rate, length), rate) for rate in (16_000, 48_000) for length in (1.0, 2.0)]
    together = SpectralEncoder(2.0).encode([*windows, windows[0]])
    for window, features in zip([*windows, windows[0]], together, strict=True):
        alone = SpectralEncoder(2.0).encode([window])[0]
        np.testing.assert_allclose(features.window, alone.window, atol=1e-4)
        np.testing.assert_allclose(features.segments, alone.segments, atol=1e-4)


def test_no_window_gives_no_features() -> None:
    assert SpectralEncoder(2.0).encode([]) == []


@pytest.mark.parametrize("frequency_hz", [100.0, 440.0, 3_000.0])
def test_a_tone_raises_its_own_band_most(frequency_hz: float) -> None:
    quiet = encode(noise(16_000), 16_000)
    tone = np.sin(2 * np.pi * frequency_hz * np.arange(32_000) / 16_000).astype(np.float32)
    loud = encode(noise(16_000) + 0.5 * tone, 16_000)
    change = np.abs(loud.window - quiet.window).max(axis=1)
    low, high = loud.bands_hz[int(np.argmax(change))]
    assert low - 10 <= frequency_hz <= high + 10


def test_digital_silence_is_finite_and_quiet() -> None:
    features = encode(np.zeros(32_000, dtype=np.float32), 16_000)
    assert features.level_dbfs == -200.0
    assert np.isfinite(features.window).all()
    assert np.isfinite(features.segments).all()


def test_an_offset_changes_nothing() -> None:
    sound = noise(16_000)
    np.testing.assert_allclose(encode(sound + 0.2, 16_000).window, encode(sound, 16_000).window, atol=0.01)


def test_samples_that_are_not_finite_are_refused() -> None:
    broken = noise(16_000)
    broken[77] = np.nan
    with pytest.raises(EncoderError, match="finite"):
        encode(broken, 16_000)


def test_less_than_a_patch_is_refused() -> None:
    with pytest.raises(EncoderError):
        encode(noise(16_000, 0.1), 16_000)


def test_identity_names_the_window() -> None:
    assert SpectralEncoder(2.0).identity == SpectralEncoder(2.0).identity
    assert SpectralEncoder(2.0).identity != SpectralEncoder(1.0).identity


def test_neither_torch_nor_scipy_is_imported() -> None:
    code = (
        "import sys; from echo_stream.encode.spectral import SpectralEncoder; "
        "from echo_stream.detect.scorer import Scorer; "
        "print('torch' in sys.modules, 'scipy' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["False", "False"]
