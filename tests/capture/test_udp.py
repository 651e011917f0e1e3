"""Packets of a sensor over a real socket: lost, late, foreign, of another start, or no packet at all."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_stream.capture.reconnect import SupervisedSource
from echo_stream.capture.udp import Udp
from echo_stream.core.errors import SourceError
from echo_stream.core.types import AudioBlock, Float32

RATE = 16_000
HERE = "127.0.0.1"
SENDER = Path(__file__).parents[2] / "contrib" / "send_udp.py"


def free_port() -> int:
    with socket.socket(type=socket.SOCK_DGRAM) as found:
        found.bind((HERE, 0))
        return int(found.getsockname()[1])


class Sensor:
    """Sends packets whose samples are the index of each frame, as thousandths of a step."""

    def __init__(self, port: int) -> None:
        self._out = socket.socket(type=socket.SOCK_DGRAM)
        self._to = (HERE, port)

    def send(
        self, index: int, frames: int = 100, *, session: int = 7, rate: int = RATE, channels: int = 1
    ) -> None:
        samples = np.repeat(np.arange(index, index + frames), channels).astype("<i2")
        header = struct.pack("<4sBBHIIQ", b"ECS1", 1, channels, frames, rate, session, index)
        self.raw(header + samples.tobytes())

    def raw(self, packet: bytes) -> None:
        self._out.sendto(packet, self._to)

    def close(self) -> None:
        self._out.close()


class Clock:
    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pair(clock: Clock) -> Iterator[tuple[Udp, Sensor]]:
    port = free_port()
    source, sensor = Udp(HERE, port, HERE, RATE, clock=clock), Sensor(port)
    yield source, sensor
    source.close()
    sensor.close()


def drain(source: Udp) -> list[AudioBlock]:
    return list(iter(source.read, None))


def steps(samples: Float32) -> list[int]:
    return [round(float(value) * 2**15) for value in samples[:, 0]]


def test_packets_are_one_stream_without_a_gap(pair: tuple[Udp, Sensor]) -> None:
    source, sensor = pair
    for index in range(5000, 6000, 100):  # the sensor ran before we listened
        sensor.send(index)
    blocks = drain(source)
    assert [(block.start, block.gap) for block in blocks] == [(0, False)]
    assert steps(blocks[0].samples) == list(range(5000, 6000))
    assert source.lost_samples == 0


def test_lost_packets_are_a_gap_of_their_number(pair: tuple[Udp, Sensor]) -> None:
    source, sensor = pair
    for index in (0, 100, 300, 400, 900):
        sensor.send(index)
    blocks = drain(source)
    found = [(block.start, block.gap, len(block.samples)) for block in blocks]
    assert found == [(0, False, 200), (300, True, 200), (900, True, 100)]
    assert steps(blocks[2].samples)[0] == 900
    assert source.lost_samples == 100 + 400
    assert source.last_callback[1] == 1000


def test_a_packet_that_comes_late_or_twice_is_passed_over(pair: tuple[Udp, Sensor]) -> None:
    source, sensor = pair
    for index in (0, 200, 100, 200, 300):
        sensor.send(index)
    assert sum(len(block.samples) for block in drain(source)) == 300
    assert (source.refused_packets, source.lost_samples) == (2, 100)


def test_a_sensor_that_starts_anew_goes_on_after_the_time_that_passed(
    pair: tuple[Udp, Sensor], clock: Clock
) -> None:
    source, sensor = pair
    sensor.send(0)
    drain(source)
    clock.now_s += 2.0
    sensor.send(0, session=8)
    sensor.send(100, session=8)
    (block,) = drain(source)
    assert (block.start, block.gap, len(block.samples)) == (2 * RATE, True, 200)
    assert source.lost_samples == 2 * RATE - 100


def test_another_rate_is_an_error_with_both(pair: tuple[Udp, Sensor]) -> None:
    source, sensor = pair
    sensor.send(0, rate=8000)
    with pytest.raises(SourceError, match="sends 8000 Hz and 1 channels, configured are 16000 and 1"):
        source.read()


def test_packets_of_others_are_passed_over() -> None:
    port = free_port()
    source, sensor = Udp(HERE, port, "127.0.0.2", RATE), Sensor(port)
    sensor.send(0)
    assert source.read() is None
    assert source.refused_packets == 1
    source.close()
    sensor.close()


@settings(max_examples=100, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.tuples(
            st.integers(0, 255), st.integers(0, 65535), st.integers(0, 2**64 - 1), st.binary(max_size=64)
        ).map(lambda t: struct.pack("<4sBBHIIQ", b"ECS1", t[0], 1, t[1], RATE, 7, t[2]) + t[3]),
    )
)
def test_no_packet_whatever_it_holds_harms(packet: bytes) -> None:
    port = free_port()
    source, sensor = Udp(HERE, port, HERE, RATE), Sensor(port)
    try:
        sensor.raw(packet)
        sensor.raw(b"ECS1 and no more")
        for block in drain(source):
            assert np.isfinite(block.samples).all()
        assert source.refused_packets >= 1
    except SourceError as error:
        assert "configured are" in error.message  # noqa: PT017 - a packet that happens to be whole
    finally:
        source.close()
        sensor.close()


def test_a_port_that_is_taken_is_said() -> None:
    port = free_port()
    source = Udp(HERE, port, HERE, RATE)
    with pytest.raises(SourceError, match=r"cannot listen on 127\.0\.0\.1: Address already in use"):
        Udp(HERE, port, HERE, RATE)
    source.close()


def test_the_sender_of_contrib_is_heard_and_its_losses_are_counted(tmp_path: Path) -> None:
    sound = (0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * RATE) / RATE)).astype(np.float32)
    soundfile.write(tmp_path / "tone.wav", sound, RATE, subtype="PCM_16")
    port = free_port()
    source = SupervisedSource(
        lambda: Udp(HERE, port, HERE, RATE), sample_rate_hz=RATE, channels=1, description="sensor"
    )
    sending = [sys.executable, str(SENDER), str(tmp_path / "tone.wav"), HERE, str(port), "--loss", "0.1"]
    blocks: list[AudioBlock] = []
    while source._background_open is not None and not source._background_open.done:
        time.sleep(0.01)
    source.read()
    process = subprocess.Popen(sending)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        running = process.poll() is None  # asked before: what came until then is read below
        while (block := source.read()) is not None:
            blocks.append(block)
        if not running:
            break
        time.sleep(0.01)
    lost = source.lost_samples
    source.close()
    assert process.returncode == 0
    heard = sum(len(block.samples) for block in blocks)
    end = blocks[-1].start + len(blocks[-1].samples)
    assert 0 < lost < RATE
    assert end == heard + lost
    assert end == pytest.approx(2 * RATE, abs=6 * 320)  # the first or last packets may be the lost ones
