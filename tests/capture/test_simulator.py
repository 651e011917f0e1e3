"""The simulated machine: the same samples however they are cut, and what each fault changes in the sound."""

from __future__ import annotations

import math
import wave
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from echo_stream.capture.simulator import FAULT_KINDS, Fault, FaultKind, Scenario, SimulatedMachine, write_wav
from echo_stream.core.types import Float32

RATE_HZ = 16000
SEEDS = range(2)
EVERYTHING = [
    Fault("bearing", 0.2, 1.1),
    Fault("imbalance", 0.5, 1.3),
    Fault("rattle", 0.3, 1.9, severity=0.5),
]


@cache
def sound(seed: int, fault: FaultKind | None = None) -> Float32:
    """16 s of it, made once; read only."""
    made = SimulatedMachine(seed, RATE_HZ).sound(16, fault)
    made.flags.writeable = False
    return made


def level_db(samples: NDArray[np.floating]) -> float:
    return 20 * math.log10(float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))))


def power_spectrum(samples: Float32, n: int) -> NDArray[np.float64]:
    """Mean power of Hann frames of n samples, (n // 2 + 1,)."""
    frames = samples[: len(samples) // n * n].reshape(-1, n).astype(np.float64) * np.hanning(n)
    return np.asarray((np.abs(np.fft.rfft(frames, axis=1)) ** 2).mean(axis=0))


def band_gain_db(
    machine: SimulatedMachine, fault: FaultKind, low_hz: float, high_hz: float, n: int = 1600
) -> float:
    """How much louder the band is with the fault than without."""
    hz = np.fft.rfftfreq(n, 1 / machine.sample_rate_hz)
    inside = (hz >= low_hz) & (hz <= high_hz)
    with_fault, without = (power_spectrum(sound(machine.seed, f), n)[inside].sum() for f in (fault, None))
    return float(10 * np.log10(with_fault / without))


def envelope_spectrum(samples: Float32, low_hz: float, high_hz: float) -> NDArray[np.float64]:
    """Magnitude spectrum of the envelope of a band, one bin each 1 / duration Hz."""
    n = len(samples)
    spectrum = np.fft.fft(samples.astype(np.float64))
    hz = np.fft.fftfreq(n, 1 / RATE_HZ)
    envelope = np.abs(np.fft.ifft(2 * spectrum * ((hz >= low_hz) & (hz <= high_hz))))
    return np.asarray(np.abs(np.fft.rfft((envelope - envelope.mean()) * np.hanning(n))))


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 9000), min_size=1, max_size=12),
    st.sampled_from([1000, 8000, 11025, 16000, 48000]),
    st.integers(0, 30000),
)
def test_any_cutting_into_blocks_gives_the_same_samples(
    sizes: list[int], rate_hz: int, start_sample: int
) -> None:
    machine = SimulatedMachine(3, rate_hz)
    whole = Scenario(machine, EVERYTHING).render(start_sample, sum(sizes))
    scenario, at, blocks = Scenario(machine, EVERYTHING), start_sample, []
    for size in sizes:
        blocks.append(scenario.render(at, size))
        at += size
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(np.concatenate(blocks), whole)


def test_samples_asked_for_again_are_the_same() -> None:
    scenario = Scenario(SimulatedMachine(1), EVERYTHING)
    first = scenario.render(5000, 20000)
    scenario.render(900000, 10)
    np.testing.assert_array_equal(scenario.render(5000, 20000), first)


def test_nothing_jumps_where_frames_meet() -> None:
    machine = SimulatedMachine(2)
    samples = machine.sound(30)
    steps = np.abs(np.diff(samples.astype(np.float64)))
    frame = machine._frame_n
    at_seams = steps[frame - 1 :: frame]
    assert at_seams.mean() < 1.3 * steps.mean()
    assert at_seams.max() <= steps.max()


@pytest.mark.parametrize("rate_hz", [1000, 4000, 44100, 192000])
@pytest.mark.parametrize("seed", SEEDS)
def test_the_level_is_that_of_a_real_microphone_and_never_clips(seed: int, rate_hz: int) -> None:
    machine = SimulatedMachine(seed, rate_hz)
    for fault in (None, *FAULT_KINDS):
        samples = machine.sound(1.5, fault)
        assert samples.shape == (round(1.5 * rate_hz),)
        assert -36 < level_db(samples) < -20
        assert np.abs(samples).max() < 0.5


def test_another_seed_is_another_machine_and_one_seed_is_the_same() -> None:
    machines = [SimulatedMachine(seed) for seed in range(8)]
    assert len({round(m.shaft_hz, 2) for m in machines}) == 8
    assert len({round(m.resonance_hz) for m in machines}) == 8
    spectra = [np.log10(power_spectrum(m.sound(5), 512)) * 10 for m in machines]
    apart = [float(np.abs(a - b).mean()) for i, a in enumerate(spectra) for b in spectra[:i]]
    assert min(apart) > 1.5, "decibels between the mean spectra of two machines"
    np.testing.assert_array_equal(SimulatedMachine(5).sound(1), machines[5].sound(1))


def test_one_machine_sounds_alike_at_two_rates() -> None:
    low, high = (power_spectrum(SimulatedMachine(1, r).sound(20), r // 10) for r in (16000, 48000))
    bins = slice(10, 700)  # of 10 Hz
    difference_db = 10 * np.log10(high[bins] / 9 / low[bins])
    assert abs(float(difference_db.mean())) < 0.7


def test_the_shaft_and_the_mesh_stand_out() -> None:
    machine = SimulatedMachine(0)
    spectrum = power_spectrum(machine.sound(30), RATE_HZ)  # bins of 1 Hz
    for tone_hz in (machine.shaft_hz, machine.mesh_hz):
        near = spectrum[round(tone_hz * 0.98) : round(tone_hz * 1.02) + 2].max()
        around = np.median(spectrum[round(tone_hz * 0.7) : round(tone_hz * 1.3)])
        assert near > 10 * around


def test_the_load_changes_loudness_and_speed() -> None:
    machine = SimulatedMachine(1)
    t_s = np.arange(0, 60, 0.25)
    load = machine.load(t_s)
    assert load.min() < -0.7
    assert load.max() > 0.7
    samples = machine.sound(60).reshape(len(t_s), -1)
    level = np.array([level_db(s) for s in samples])
    assert level[load > 0.6].mean() - level[load < -0.6].mean() > 1.0
    speed_hz = np.diff(machine.turns(t_s)) / 0.25
    assert 0.01 < np.ptp(speed_hz) / machine.shaft_hz < 0.04
    assert speed_hz[load[:-1] > 0.6].mean() < speed_hz[load[:-1] < -0.6].mean()
    assert abs(speed_hz.mean() / machine.shaft_hz - 1) < 0.005


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bearing_fault_rings_at_the_defect_rate(seed: int) -> None:
    machine = SimulatedMachine(seed)
    low_hz, high_hz = 0.85 * machine.resonance_hz, 1.15 * machine.resonance_hz
    normal, faulty = (envelope_spectrum(sound(seed, f), low_hz, high_hz) for f in (None, "bearing"))
    near = slice(round(machine.defect_hz * 0.97 * 16), round(machine.defect_hz * 1.03 * 16))
    around = slice(round(machine.defect_hz * 0.7 * 16), round(machine.defect_hz * 1.3 * 16))
    assert faulty[near].max() > 6 * np.median(faulty[around])
    assert faulty[near].max() > 3 * normal[near].max()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_bearing_fault_adds_a_few_decibels_at_its_resonance_and_none_elsewhere(seed: int) -> None:
    machine = SimulatedMachine(seed)
    centre_hz = machine.resonance_hz
    assert 3 < band_gain_db(machine, "bearing", 0.89 * centre_hz, 1.12 * centre_hz) < 12
    for mode_hz in (centre_hz, 0.6 * centre_hz):
        assert 5 < band_gain_db(machine, "bearing", mode_hz - 60, mode_hz + 60) < 20
    assert abs(band_gain_db(machine, "bearing", 20, 800)) < 0.2
    assert level_db(sound(seed, "bearing")) - level_db(sound(seed)) < 2, "hardly louder as a whole"


@pytest.mark.parametrize("seed", SEEDS)
def test_bearing_impacts_stand_12_to_20_db_over_the_background(seed: int) -> None:
    machine = SimulatedMachine(seed)
    hit_s = np.arange(0, 0.08, 1 / RATE_HZ)
    low_hz, high_hz = 0.89 * machine.resonance_hz, 1.12 * machine.resonance_hz
    hz = np.fft.rfftfreq(len(hit_s), 1 / RATE_HZ)
    third_octave = (hz >= low_hz) & (hz <= high_hz)
    peaks = [
        np.abs(np.fft.irfft(np.fft.rfft(machine._impact(number)[1]) * third_octave)).max()
        for number in range(300)
    ]
    over_db = 20 * np.log10(np.array(peaks) / machine.background_rms(low_hz, high_hz))
    assert 12 < np.median(over_db) < 18
    assert over_db.max() < 21


@pytest.mark.parametrize("seed", SEEDS)
def test_imbalance_raises_the_shaft_and_not_the_treble(seed: int) -> None:
    machine = SimulatedMachine(seed)
    shaft_hz = machine.shaft_hz
    assert 12 < band_gain_db(machine, "imbalance", shaft_hz - 2, shaft_hz + 2, RATE_HZ) < 17
    assert 4 < band_gain_db(machine, "imbalance", 2 * shaft_hz - 4, 2 * shaft_hz + 4, RATE_HZ) < 11
    assert abs(band_gain_db(machine, "imbalance", 2000, 7000)) < 0.6


@pytest.mark.parametrize("seed", SEEDS)
def test_imbalance_makes_the_noise_swell_once_a_turn(seed: int) -> None:
    machine = SimulatedMachine(seed)
    over_the_mesh_hz = 3 * machine.mesh_hz + 3 * machine.shaft_hz  # sidebands of the mesh swell as well
    normal, faulty = (envelope_spectrum(sound(seed, f), over_the_mesh_hz, 7900) for f in (None, "imbalance"))
    near = slice(round(machine.shaft_hz * 0.98 * 16), round(machine.shaft_hz * 1.02 * 16))
    assert faulty[near].max() > 3 * normal[near].max()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_rattle_is_bursts_an_octave_wide(seed: int) -> None:
    machine = SimulatedMachine(seed)
    low_hz, high_hz = machine.rattle_hz / math.sqrt(2), machine.rattle_hz * math.sqrt(2)
    assert 1 < band_gain_db(machine, "rattle", low_hz, high_hz) < 9
    assert abs(band_gain_db(machine, "rattle", 20, 600)) < 0.3
    added = sound(seed, "rattle") - sound(seed)
    loud = np.abs(added).reshape(-1, 160).max(axis=1) > 0.25 * np.abs(added).max()
    assert 0.02 < loud.mean() < 0.4, "most of the time nothing knocks"


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_a_fault_comes_and_goes_and_leaves_the_rest_untouched(kind: FaultKind) -> None:
    machine = SimulatedMachine(0)
    normal = machine.sound(12)
    faulty = Scenario(machine, [Fault(kind, 4, 8)]).render(0, 12 * RATE_HZ)
    added = np.abs(faulty - normal)
    assert added[: 4 * RATE_HZ - 1].max() == 0
    assert added[round(8.2 * RATE_HZ) :].max() == 0, "the last hit may ring on for a moment"
    assert level_db(added[5 * RATE_HZ : 7 * RATE_HZ]) > level_db(normal) - 25


def test_severity_scales_the_fault() -> None:
    machine = SimulatedMachine(0)
    normal = machine.sound(5)
    mild, severe = (level_db(machine.sound(5, "bearing", severity) - normal) for severity in (0.5, 2.0))
    assert severe - mild == pytest.approx(20 * math.log10(4), abs=0.1)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="1000 Hz"):
        SimulatedMachine(0, 500)
    with pytest.raises(ValueError, match="seed"):
        SimulatedMachine(-1)
    with pytest.raises(ValueError, match="start_s"):
        Fault("bearing", 5, 4)
    with pytest.raises(ValueError, match="not one of"):
        Fault("squeal", 0, 1)  # type: ignore[arg-type]


def test_a_written_file_holds_the_samples(tmp_path: Path) -> None:
    samples = SimulatedMachine(0).sound(2)
    write_wav(tmp_path / "normal.wav", samples, RATE_HZ)
    with wave.open(str(tmp_path / "normal.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE_HZ, 1, 32000)
        read = np.frombuffer(file.readframes(32000), "<i2") / 32767
    np.testing.assert_allclose(read, samples, atol=1 / 32767)
