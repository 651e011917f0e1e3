"""Low lines: a line at 25 Hz that rises is found with them and hardly without; others are untouched."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from echo_stream.config.load import load
from echo_stream.config.schema import Config
from echo_stream.core.errors import BankMismatch, ConfigError
from echo_stream.core.types import Enrolled, Float32, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import encoder_of
from echo_stream.encode.spectral import SpectralEncoder, low_band_edges_hz, low_line_edges_hz
from echo_stream.pipeline.factory import build_encoder

RATE, WINDOW_S, SHAFT_HZ = 4000, 2.0, 25.0
PLAIN, WITH = SpectralEncoder(WINDOW_S), SpectralEncoder(WINDOW_S, low_lines=True)


def vibration(seconds: int, seed: int, rise_db: float = 0.0) -> Float32:
    """A shaft at 25 Hz on a base that rumbles from 28 to 60 Hz."""
    generator = np.random.default_rng(seed)
    t_s = np.arange(seconds * RATE) / RATE
    spectrum = np.fft.rfft(generator.normal(0, 1, len(t_s)))
    hz = np.fft.rfftfreq(len(t_s), 1 / RATE)
    spectrum *= np.where((hz > 28) & (hz < 60), 1.0, 0.02)
    rumble = np.fft.irfft(spectrum, len(t_s))
    lines = sum(a * np.sin(2 * np.pi * k * SHAFT_HZ * t_s + k) for k, a in ((2, 0.02), (3, 0.01), (7, 0.01)))
    first = 0.004 * 10 ** (rise_db / 20) * np.sin(2 * np.pi * SHAFT_HZ * t_s)
    return np.asarray(0.2 * rumble + lines + first, np.float32)


def windows(sound: Float32, rate: int = RATE, machine: str = "m") -> list[Window]:
    n, now = round(rate * WINDOW_S), datetime.now(UTC)
    return [
        Window(machine, sound[i : i + n], i, i + n, rate, now) for i in range(0, len(sound) - n + 1, rate)
    ]


def overlap(encoder: SpectralEncoder) -> float:
    """Share of pairs in which a window of imbalance does not score more than one of normal sound."""
    enrolled = [
        Enrolled(features, "a", float(i))
        for i, features in enumerate(encoder.encode(windows(vibration(120, 1))))
    ]
    bank = NormalBank.fit(
        enrolled, encoder=encoder.identity, sample_rate_hz=RATE, window_s=WINDOW_S, hop_s=1.0
    )
    scorer = Scorer(bank)
    normal, faulty = (
        np.array([one.value for one in scorer.score(encoder.encode(windows(vibration(40, seed, rise_db))))])
        for seed, rise_db in ((2, 0.0), (3, 10.0))
    )
    return float((faulty[:, None] <= normal).mean())


def test_imbalance_is_found_with_them_and_hardly_without() -> None:
    assert overlap(WITH) < 0.02
    assert overlap(PLAIN) > 0.2


@pytest.mark.parametrize("rate", [4000, 16_000, 48_000])
def test_all_other_features_are_the_same_bit_for_bit(rate: int) -> None:
    sound = np.random.default_rng(5).normal(0, 0.1, 4 * rate).astype(np.float32)
    for plain, more in zip(
        PLAIN.encode(windows(sound, rate)), WITH.encode(windows(sound, rate)), strict=True
    ):
        bands = len(plain.bands_hz)
        assert more.window[:bands].tobytes() == plain.window.tobytes()
        assert np.ascontiguousarray(more.segments[:, :bands]).tobytes() == plain.segments.tobytes()
        assert more.bands_hz[:bands].tobytes() == plain.bands_hz.tobytes()
        assert more.level_dbfs == plain.level_dbfs
        assert more.window.shape == (bands + len(low_band_edges_hz(WINDOW_S, 3)), 6)
        assert np.isfinite(more.window).all()
    assert "low_lines_hz" not in PLAIN.identity.dimensions
    assert "low_lines_hz" in WITH.identity.dimensions


def test_a_tone_stands_in_its_line_and_in_no_other() -> None:
    sound = (0.1 * np.sin(2 * np.pi * SHAFT_HZ * np.arange(2 * RATE) / RATE)).astype(np.float32)
    (features,) = WITH.encode(windows(sound))
    levels = features.window[-len(low_band_edges_hz(WINDOW_S, 3)) :, :3].ravel()
    edges = low_line_edges_hz(WINDOW_S, 3)
    loudest = int(np.argmax(levels))
    assert edges[loudest] <= SHAFT_HZ + 1e-6 < edges[loudest + 1] + 1e-6
    others = np.delete(levels, [loudest - 1, loudest, loudest + 1])
    assert others.max() < levels[loudest] - 40


CONFIG = """\
node: pc
machines:
  - {id: a, source: {kind: simulated, sensor: vibration, steady_speed: true}, bank: a.safetensors}
  - {id: b, source: {kind: simulated, sensor: vibration}, bank: b.safetensors}
"""


def configuration(folder: Path, text: str) -> Config:
    (folder / "config.yaml").write_text(text)
    return load(folder / "config.yaml")


def test_each_machine_has_its_own_features_with_one_encoder(tmp_path: Path) -> None:
    config = configuration(tmp_path, CONFIG)
    shared = build_encoder(config)
    sound = vibration(6, 1)
    mixed = [
        w for pair in zip(windows(sound, machine="a"), windows(sound, machine="b"), strict=True) for w in pair
    ]
    found = shared.encode(mixed)
    for machine, features in (("a", found[::2]), ("b", found[1::2])):
        own = encoder_of(shared, machine)
        assert own.identity == build_encoder(config, config.machine(machine)).identity
        for mine, alone in zip(features, own.encode(windows(sound)), strict=True):
            assert mine.window.tobytes() == alone.window.tobytes()
    a, b = (encoder_of(shared, machine).identity for machine in "ab")
    assert a == WITH.identity
    assert b == PLAIN.identity
    enrolled = [Enrolled(f, "a", float(i)) for i, f in enumerate(PLAIN.encode(windows(vibration(40, 1))))]
    bank = NormalBank.fit(enrolled, encoder=b, sample_rate_hz=RATE, window_s=WINDOW_S, hop_s=1.0)
    with pytest.raises(BankMismatch, match="low_lines_hz: the bank has none"):
        bank.require(a, RATE, WINDOW_S, 1.0)


def test_steady_speed_needs_a_vibration_sensor(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="steady_speed needs sensor: vibration"):
        configuration(tmp_path, CONFIG.replace("sensor: vibration, steady", "steady"))
