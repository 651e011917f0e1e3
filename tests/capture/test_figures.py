"""Sensor checks on made-up windows whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from echo_stream.capture.figures import signal_figures
from echo_stream.core.level import level_dbfs
from echo_stream.core.types import Float32


def sine(amplitude: float, offset: float = 0.0) -> Float32:
    phase = 2 * np.pi * 100 * np.arange(8000) / 8000
    return (offset + amplitude * np.sin(phase + 0.1)).astype(np.float32)


@pytest.mark.parametrize("amplitude", [1.0, 0.1, 1e-4])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_level_of_a_sine_is_that_without_its_offset(amplitude: float, offset: float) -> None:
    found = signal_figures(sine(amplitude, offset))
    assert found.level_dbfs == pytest.approx(20 * np.log10(amplitude / np.sqrt(2)), abs=0.01)
    assert (found.dead, found.stuck, found.finite) == (False, False, True)


@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_no_change_is_dead(value: float) -> None:
    found = signal_figures(np.full(8000, value, np.float32))
    assert (found.dead, found.stuck, found.level_dbfs) == (True, False, -200.0)
    assert found.clipped_share == float(value == 1.0)


def test_one_value_for_half_of_the_window_is_stuck() -> None:
    window = sine(0.1)
    window[2000:6001] = window[2000]
    assert signal_figures(window).stuck
    window[4000] = 0.9
    assert not signal_figures(window).stuck


def test_one_value_again_and_again_is_not_stuck() -> None:
    quiet = np.tile(np.array([0, 1, 0, -1], np.float32) / np.float32(2**15), 2000)
    assert not signal_figures(quiet.astype(np.float32)).stuck


def test_clipping_is_a_share() -> None:
    clipped = np.clip(sine(2.0), -1.0, 32767 / 32768).astype(np.float32)
    assert signal_figures(clipped).clipped_share == pytest.approx(2 / 3, abs=0.01)
    assert signal_figures(sine(0.99)).clipped_share == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_said_and_nothing_else_breaks(bad: float) -> None:
    window = sine(0.1)
    window[7] = bad
    found = signal_figures(window)
    assert not found.finite
    assert found.level_dbfs == pytest.approx(-23.0, abs=0.1)
    assert np.isfinite(found.clipped_share)


def test_one_sample() -> None:
    assert signal_figures(np.zeros(1, np.float32)).dead
    assert level_dbfs(np.zeros(1, np.float32)) == -200.0
