"""A machine in a hall where a forklift passes, as sound: the simulator and made-up noise."""

from __future__ import annotations

from functools import cache

import numpy as np

from echo_stream.capture.simulator import FaultKind, Simulated
from echo_stream.core.types import Float32

RATE_HZ = 8_000


@cache
def machine_sound(
    seed: int, start_s: float, duration_s: float, faults: tuple[tuple[float, float, FaultKind], ...] = ()
) -> Float32:
    """(n,) of the simulated machine, made once, read only; faults in seconds of this stretch."""
    source = Simulated(seed, RATE_HZ, faults, pace="fast", start_s=start_s, duration_s=duration_s)
    blocks = []
    while (block := source.read()) is not None:
        blocks.append(block.samples[:, 0])
    sound = np.concatenate(blocks)
    sound.flags.writeable = False
    return sound


def forklift(seconds: float, seed: int) -> Float32:
    """(n,) of rms about 1: a motor's noise and a beeper; no two passes are the same."""
    n = round(seconds * RATE_HZ)
    t = np.arange(n) / RATE_HZ
    white = np.fft.rfft(np.random.default_rng(seed).standard_normal(n))
    motor = np.fft.irfft(white / (1 + (np.fft.rfftfreq(n, 1 / RATE_HZ) / 300) ** 2), n)
    beeper = 0.7 * np.sin(2 * np.pi * 1250 * t) * (np.sin(2 * np.pi * 2 * t) > 0)
    sound = (motor / motor.std() + beeper) * np.minimum(1, np.minimum(t, t[::-1]))
    scaled: Float32 = (sound / sound.std()).astype(np.float32)
    return scaled


def over(machine: Float32, passing: Float32, at_s: float, level_db: float) -> Float32:
    """Both together: the passing sound from at_s on, so many dB over the machine's own level."""
    both = machine.copy()
    at = round(at_s * RATE_HZ)
    gain = 10 ** (level_db / 20) * np.sqrt(np.mean(np.square(machine)) / np.mean(np.square(passing)))
    both[at : at + len(passing)] += gain * passing
    return both
