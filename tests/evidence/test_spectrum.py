"""Levels in bands: a tone is where and as loud as it should be, and powers add up."""

from __future__ import annotations

import json

import numpy as np
import pytest

from echo_stream.capture.simulator import SimulatedMachine
from echo_stream.core.calibration import NormalSpectrum
from echo_stream.core.types import Float32
from echo_stream.evidence.spectrum import band_edges_hz, band_levels_db, band_levels_over_time_db


def tone(hz: float, amplitude: float, seconds: float, rate_hz: int) -> Float32:
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)).astype(
        np.float32
    )


@pytest.mark.parametrize("rate_hz", [1000, 12800, 16000, 44100, 192000])
def test_edges_reach_from_20_hz_to_half_the_rate(rate_hz: int) -> None:
    edges = band_edges_hz(rate_hz)
    assert edges[0] == pytest.approx(20)
    assert edges[-1] == pytest.approx(rate_hz / 2)
    assert np.allclose(edges[1:] / edges[:-1], 2 ** (1 / 12), rtol=0.01)


@pytest.mark.parametrize(("hz", "rate_hz"), [(50.0, 8000), (1000.0, 16000), (5000.0, 44100), (30.0, 48000)])
def test_a_tone_is_loudest_in_its_band_and_has_its_level(hz: float, rate_hz: int) -> None:
    levels = band_levels_db(tone(hz, 0.1, 2, rate_hz), rate_hz)
    edges = band_edges_hz(rate_hz)
    loudest = int(np.argmax(levels))
    width_hz = 1 / 0.128
    assert edges[loudest] - width_hz < hz < edges[loudest + 1] + width_hz
    near = (edges[1:] > hz - 3 * width_hz) & (edges[:-1] < hz + 3 * width_hz)
    total_db = 10 * np.log10((10 ** (levels[near] / 10)).sum())
    assert total_db == pytest.approx(20 * np.log10(0.1 / np.sqrt(2)), abs=0.5)


def test_the_bands_of_noise_add_up_to_its_level() -> None:
    noise = np.random.default_rng(0).normal(0, 0.05, 80000).astype(np.float32)
    total_db = 10 * np.log10((10 ** (band_levels_db(noise, 16000) / 10)).sum())
    assert total_db == pytest.approx(20 * np.log10(0.05), abs=0.3)


def test_over_time_shows_when() -> None:
    quiet, loud = tone(1000, 0.001, 2, 16000), tone(1000, 0.1, 2, 16000)
    levels = band_levels_over_time_db(np.concatenate([quiet, loud]), 16000, 0.05).max(axis=1)
    assert len(levels) == 1 + (64000 - 2048) // 800
    assert levels[:36].max() < -55
    assert levels[45:].min() > -25


def test_shorter_than_a_frame_and_silence_have_levels() -> None:
    assert np.isfinite(band_levels_db(tone(1000, 0.1, 0.05, 16000), 16000)).all()
    assert band_levels_db(np.zeros(8000, np.float32), 16000).max() < -120


def test_the_normal_range_holds_normal_sound_and_travels_as_json() -> None:
    machine = SimulatedMachine(1)
    levels = [band_levels_db(w, 16000) for w in machine.sound(60).reshape(30, -1)]
    normal = NormalSpectrum.fit(16000, levels)
    later = [band_levels_db(w, 16000) for w in machine.sound(40, start_s=500).reshape(20, -1)]
    inside = [(w >= normal.low_db - 1) & (w <= normal.high_db + 1) for w in later]
    assert np.mean(inside) > 0.9
    again = NormalSpectrum.from_json(json.loads(json.dumps(normal.to_json())))
    assert again.sample_rate_hz == 16000
    np.testing.assert_allclose(again.median_db, normal.median_db, atol=0.051)
    np.testing.assert_allclose(again.high_db, normal.high_db, atol=0.051)
