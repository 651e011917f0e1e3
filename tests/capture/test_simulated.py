"""The simulated source: the contract of a source, its pace, and the faults at their time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from echo_stream.capture.simulator import Fault, Scenario, Simulated, SimulatedMachine
from echo_stream.capture.source import AudioSource
from echo_stream.core.types import Float32


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


def test_a_loop_is_the_machine_over_and_over_without_a_click() -> None:
    source = Simulated(3, 8000, pace="fast", duration_s=5.5, start_s=1.5, loop_s=2)
    heard, plain = drain(source), SimulatedMachine(3, 8000).sound(2.05)
    np.testing.assert_array_equal(heard[:4000], plain[12_000:16_000])
    np.testing.assert_array_equal(heard[16_000:32_000], heard[:16_000], "the same every two seconds")
    np.testing.assert_array_equal(heard[4400:16_000], plain[400:12_000], "but for the seam the plain machine")
    steps = np.abs(np.diff(heard))
    assert steps[3990:4410].max() < 1.5 * steps.max(initial=0, where=np.arange(len(steps)) < 3990)


def test_a_looped_block_is_its_receivers_own() -> None:
    first, second = (Simulated(4, 8000, pace="fast", loop_s=1) for _ in range(2))
    block, same = first.read(), second.read()
    assert block is not None
    assert same is not None
    block.samples[:] = 0
    assert np.abs(same.samples).max() > 0


@pytest.mark.parametrize("wrong", [{"loop_s": 0.5}, {"loop_s": 10, "faults": [(0, 1, "rattle")]}])
def test_a_loop_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="loop"):
        Simulated(1, 8000, **wrong)
