"""What every AudioSource keeps to, whatever it is. A microphone's turn needs a real sound server."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from echo_stream.capture.recording import Recording
from echo_stream.capture.source import AudioSource, SharedSource
from echo_stream.capture.stdin import RawPcm
from echo_stream.core.types import Float32
from tests.support.listening import ROOT
from tests.support.pulse import pulse_server, tone

Write = Callable[..., Path]


def keeps_the_contract(source: AudioSource, seconds: float) -> None:
    """Listen until `seconds` were heard or it ended, and check everything that can be checked on the way."""
    assert isinstance(source, AudioSource)
    rate, channels = source.sample_rate_hz, source.channels
    assert rate >= 1000
    assert channels >= 1
    assert source.description
    index = heard = 0
    deadline = time.monotonic() + 30
    while heard < seconds * rate and not source.ended:
        assert time.monotonic() < deadline
        began_s = time.monotonic()
        block = source.read()
        assert time.monotonic() - began_s < 2  # never blocks; generous, for a busy machine
        if block is None:
            time.sleep(0.005)
            continue
        n = len(block.samples)
        assert n >= 1
        assert block.samples.dtype == np.float32
        assert block.samples.shape == (n, channels)
        assert np.isfinite(block.samples).all()
        assert np.abs(block.samples).max() <= 1.0
        assert block.start == index or block.gap
        assert block.start >= index
        index = block.start + n
        heard += n
        assert source.lost_samples == index - heard
        before, after = source.time_of(index), source.time_of(index + rate)
        assert before.utcoffset() == timedelta(0)
        assert (after - before).total_seconds() == pytest.approx(1, abs=1e-5)
        assert abs((source.time_of(0) - datetime.now(UTC)).total_seconds()) < 60
    assert heard > 0
    source.close()
    source.close()


@pytest.fixture
def sound(write_recording: Write, noise: Float32) -> Path:
    return write_recording(noise)


@pytest.fixture
def fed_pipe(pipe: tuple[int, int], noise: Float32) -> Iterator[int]:
    def feed() -> None:
        for part in np.array_split((noise * 32767).astype("<i2"), 50):
            os.write(pipe[1], part.tobytes())
            time.sleep(0.005)
        os.close(pipe[1])

    feeder = threading.Thread(target=feed)
    feeder.start()
    yield pipe[0]
    feeder.join()


def test_recording(sound: Path) -> None:
    keeps_the_contract(Recording(sound, pace="fast"), 10)


def test_recording_at_real_time_pace(sound: Path) -> None:
    keeps_the_contract(Recording(sound), 1.0)


def test_recording_in_a_loop(sound: Path) -> None:
    keeps_the_contract(Recording(sound, pace="fast", loop=True), 7)


def test_stdin(fed_pipe: int) -> None:
    keeps_the_contract(RawPcm(8000, "s16le", 2, fd=fed_pipe), 10)


def test_view_of_one_channel(sound: Path) -> None:
    keeps_the_contract(SharedSource(Recording(sound, pace="fast")).view(1), 10)


MICROPHONES = """
from functools import partial
from echo_stream.capture.microphone import Microphone
from echo_stream.capture.source import SharedSource
from echo_stream.capture.reconnect import SupervisedSource
from tests.capture.test_source_contract import keeps_the_contract
open_source = partial(Microphone, "mic", 48000, 2)
supervised = SupervisedSource(open_source, sample_rate_hz=48000, channels=2, description="mic")
keeps_the_contract(open_source(), 2.0)
keeps_the_contract(SharedSource(supervised).view(1), 2.0)
"""


def test_microphone_and_supervised_microphone() -> None:
    with pulse_server(mic=(48_000, 2)) as server:
        server.play("mic", np.stack([tone(440, -20, 30, 48_000)] * 2, axis=1), 48_000)
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", MICROPHONES],
            env=server.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
