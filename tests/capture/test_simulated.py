"""The simulated source: the contract of a source, its pace, and the faults at their time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import numpy as np

from echo_stream.capture.simulate import Fault, Scenario, SimulatedMachine
from echo_stream.capture.simulated import Simulated
from echo_stream.capture.sources import AudioSource
from echo_stream.types import Float32


def drain(source: Simulated) -> Float32:
    """All samples of a source that ends, (n,)."""
    blocks, at = [], 0
    while not source.ended:
        block = source.read()
        if block is None:
            time.sleep(0.005)
            continue
        assert block.start == at
        assert block.samples.dtype == np.float32
        assert block.samples.shape[1] == source.channels == 1
        assert not block.gap
        at += len(block.samples)
        blocks.append(block.samples[:, 0])
    return np.concatenate(blocks)


def test_it_is_a_source() -> None:
    source: AudioSource = Simulated(1)
    assert isinstance(source, AudioSource)
    assert "simulated machine 1" in source.description
    source.close()
    source.close()


def test_fast_gives_the_scenario_to_the_sample_and_ends() -> None:
    source = Simulated(2, 8000, [(1, 2, "bearing")], pace="fast", duration_s=3.3, start_s=100)
    expected = Scenario(SimulatedMachine(2, 8000), [Fault("bearing", 101, 102)]).render(800_000, 26_400)
    np.testing.assert_array_equal(drain(source), expected)
    assert source.read() is None
    assert source.lost_samples == 0


def test_real_time_takes_its_time_and_gives_the_same_samples() -> None:
    begun_s = time.monotonic()
    source = Simulated(1, 16000, duration_s=0.6)
    samples = drain(source)
    assert 0.55 < time.monotonic() - begun_s < 10
    np.testing.assert_array_equal(samples, SimulatedMachine(1).sound(0.6))


def test_real_time_never_runs_ahead_and_a_late_reader_loses_nothing() -> None:
    source = Simulated(1, 16000)
    assert source.read() is None, "nothing is due at once"
    time.sleep(0.7)
    first, second = source.read(), source.read()
    assert first is not None
    assert second is not None
    assert len(first.samples) == 8000
    assert second.start == 8000
    newest = source.time_of(second.start + len(second.samples))
    assert timedelta(seconds=-5) < newest - datetime.now(UTC) < timedelta(seconds=0.05)
    assert newest - source.time_of(0) == timedelta(seconds=(8000 + len(second.samples)) / 16000)
