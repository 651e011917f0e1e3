"""One file of two channels, heard by several machines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from echo_stream.capture.recording import Recording
from echo_stream.capture.source import AudioSource, SharedSource
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32


@pytest.fixture
def source(write_recording: Callable[..., Path], noise: Float32) -> Recording:
    return Recording(write_recording(noise), pace="fast", block_s=0.1)


def play(views: list[AudioSource]) -> list[Float32]:
    parts: list[list[Float32]] = [[] for _ in views]
    while not all(view.ended for view in views):
        for view, heard in zip(views, parts, strict=True):
            if (block := view.read()) is not None:
                assert block.start == sum(map(len, heard))
                assert not block.gap
                heard.append(block.samples)
    return [np.concatenate(heard) for heard in parts]


def test_every_view_hears_all_of_its_channel(source: Recording, noise: Float32) -> None:
    shared = SharedSource(source)
    views = [shared.view(0), shared.view(1), shared.view(0)]
    for heard, channel in zip(play(views), (0, 1, 0), strict=True):
        assert np.array_equal(heard[:, 0], noise[:, channel])
    assert all((view.channels, view.sample_rate_hz, view.lost_samples) == (1, 8000, 0) for view in views)


def test_a_view_that_nobody_reads_holds_up_no_other_and_its_loss_is_counted(
    write_recording: Callable[..., Path], noise: Float32
) -> None:
    source = Recording(write_recording(noise), pace="fast", loop=True, block_s=1.0)
    shared = SharedSource(source)
    busy, idle = shared.view(0), shared.view(1)
    end = 0
    while end < 8000 * 60:
        block = busy.read()
        assert block is not None
        end = block.start + len(block.samples)
    assert idle.lost_samples > 8000 * 45
    block = idle.read()
    assert block is not None
    assert block.gap
    assert block.start == idle.lost_samples
    block = idle.read()
    assert block is not None
    assert not block.gap
    assert busy.lost_samples == 0


def test_the_source_closes_with_the_last_view(source: Recording) -> None:
    shared = SharedSource(source)
    first, second = shared.view(0), shared.view(1)
    first.close()
    first.close()
    assert not source.ended
    assert second.read() is not None
    second.close()
    assert source.ended


@pytest.mark.parametrize("channel", [-1, 2])
def test_no_such_channel(source: Recording, channel: int) -> None:
    with pytest.raises(SourceError, match=f"no channel {channel}") as error:
        SharedSource(source).view(channel)
    assert "0 to 1" in error.value.hint
