"""Physical figures against the closed form: tones, modulated tones, noise, at several rates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from echo_stream.capture.physical import GRAVITY_M_S2, Meter, envelope_rms, velocity_rms
from echo_stream.core.types import Float32

G = Meter("g", 50.0, (500.0, 10_000.0))
PA = Meter("Pa", 20.0, (500.0, 10_000.0))
RATES_HZ = [8_000, 12_800, 44_100, 48_000]


def tone(hz: float, rate_hz: int, amplitude: float = 0.01, s: float = 2.0, phase: float = 0.3) -> Float32:
    at_s = np.arange(round(s * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * hz * at_s + phase)).astype(np.float32)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("hz", [12.0, 24.7, 159.155, 700.0, 987.6])
def test_velocity_of_a_tone_is_its_acceleration_through_omega(rate_hz: int, hz: float) -> None:
    expected = 1000 * 0.01 * 50 * GRAVITY_M_S2 / math.sqrt(2) / (2 * math.pi * hz)
    assert G.measure(tone(hz, rate_hz), rate_hz)["velocity_mm_s"] == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("rate_hz", [8_000, 12_800, 48_000])
def test_velocity_of_noise_is_that_of_its_density(rate_hz: int) -> None:
    draw = np.random.default_rng(1)
    sigma = 0.02
    windows = 8_000_000 // rate_hz  # chance leaves 0.9 % at 48 kHz, less below
    found = [
        velocity_rms(draw.normal(0, sigma, 2 * rate_hz).astype(np.float32), rate_hz) or 0
        for _ in range(windows)
    ]
    density = sigma**2 / (rate_hz / 2)  # per Hz; v^2 is its integral over 1 / (2 pi f)^2
    expected = math.sqrt(density / (4 * math.pi**2) * (1 / 10 - 1 / 1000))
    assert math.sqrt(np.mean(np.square(found))) == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("hz", [0.0, 1.3, 3.0, 1200.0, 2900.0, 3100.0, 4010.0, 7990.0])
def test_what_lies_outside_the_band_is_no_velocity(hz: float) -> None:
    """A swaying of 3 Hz is 53 times stronger as velocity than a line at 159 Hz: it must not leak."""
    beside = G.measure(tone(hz, 48_000, 0.1) + (0.5 if hz == 0 else 0), 48_000)["velocity_mm_s"]
    inside = G.measure(tone(1000 if hz > 1000 else 10, 48_000, 0.1), 48_000)["velocity_mm_s"]
    assert beside < 0.01 * inside


def test_a_line_keeps_its_velocity_beside_a_strong_sway() -> None:
    line = tone(50.0, 48_000)
    alone = G.measure(line, 48_000)["velocity_mm_s"]
    swaying = G.measure(line + tone(2.3, 48_000, 0.2) + np.float32(0.3), 48_000)["velocity_mm_s"]
    assert swaying == pytest.approx(alone, rel=0.01)


def test_short_windows_and_low_rates_have_no_velocity_instead_of_a_wrong_one() -> None:
    assert "velocity_mm_s" not in G.measure(tone(50, 48_000, s=0.5), 48_000)
    assert "velocity_mm_s" not in G.measure(tone(50, 2_000), 2_000)


def test_waveform_of_a_tone_of_noise_and_of_silence() -> None:
    found = G.measure(tone(100, 48_000, 0.01) + np.float32(0.25), 48_000)
    assert found["acceleration_m_s2"] == pytest.approx(0.5 * GRAVITY_M_S2 / math.sqrt(2), rel=1e-3)
    assert found["acceleration_peak_m_s2"] == pytest.approx(0.5 * GRAVITY_M_S2, rel=1e-3)
    assert found["crest_factor"] == pytest.approx(math.sqrt(2), rel=1e-3)
    assert found["kurtosis"] == pytest.approx(1.5, rel=1e-3)
    draw = np.random.default_rng(2)
    noise = [
        G.measure(draw.normal(0, 1e-5, 96_000).astype(np.float32), 48_000)["kurtosis"] for _ in range(20)
    ]
    assert np.mean(noise) == pytest.approx(3.0, rel=0.01)
    silence = G.measure(np.zeros(96_000, np.float32), 48_000)
    assert silence["acceleration_m_s2"] == silence["velocity_mm_s"] == 0
    assert not {"kurtosis", "crest_factor"} & set(silence)


@pytest.mark.parametrize("rate_hz", [12_800, 48_000])
def test_envelope_of_a_modulated_tone_and_of_noise(rate_hz: int) -> None:
    at_s = np.arange(2 * rate_hz) / rate_hz
    carrier = (1 + 0.5 * np.cos(2 * np.pi * 100.0 * at_s)) * np.sin(2 * np.pi * 3_120 * at_s)
    shaft = 5 * np.sin(2 * np.pi * 24.7 * at_s)  # far below the band, and far stronger
    sound = (0.02 * (carrier + shaft)).astype(np.float32)
    found = envelope_rms(sound, rate_hz, (500.0, 10_000.0))
    assert found == pytest.approx(0.02 * 0.5 / math.sqrt(2), rel=0.01)
    draw = np.random.default_rng(3)
    band_hz = (1000.0, 5000.0)
    mean = np.mean(
        [
            envelope_rms(draw.normal(0, 0.1, 2 * rate_hz).astype(np.float32), rate_hz, band_hz) or 0
            for _ in range(200)
        ]
    )
    sigma = 0.1 * math.sqrt((band_hz[1] - band_hz[0]) / (rate_hz / 2))
    assert mean == pytest.approx(sigma * math.sqrt(2 - math.pi / 2), rel=0.01)


def test_a_band_beyond_the_rate_has_no_envelope() -> None:
    assert envelope_rms(tone(100, 8_000), 8_000, (3_000.0, 10_000.0)) is None


# IEC 61672-1, table 3.
@pytest.mark.parametrize(
    ("hz", "db"), [(31.62, -39.4), (100, -19.1), (501.2, -3.2), (1000, 0.0), (3981, 1.0), (10_000, -2.5)]
)
def test_levels_of_a_tone(hz: float, db: float) -> None:
    found = PA.measure(tone(hz, 48_000, 0.1), 48_000)
    level_db = 20 * math.log10(0.1 * 20 / math.sqrt(2) / 20e-6)
    assert found["sound_level_db"] == pytest.approx(level_db, abs=0.05)
    assert found["sound_level_dba"] == pytest.approx(level_db + db, abs=0.1)
