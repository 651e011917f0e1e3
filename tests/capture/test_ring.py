"""The ring against a model that cannot be wrong, and with two real threads that race."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.capture.ring import Ring
from echo_stream.core.types import Float32

WRITE = st.integers(1, 30).map(lambda n: ("write", n))
GAP = st.integers(1, 50).map(lambda n: ("gap", n))
READ = st.just(("read", 0))


class Model:
    """A deque of (index, value) that forgets the oldest, which is all that a ring is."""

    def __init__(self, capacity: int) -> None:
        self.held: deque[tuple[int, float]] = deque(maxlen=capacity)
        self.index = 0
        self.expected = 0
        self.overwritten = 0

    def write(self, values: list[float]) -> None:
        for value in values:
            self.overwritten += len(self.held) == self.held.maxlen
            self.held.append((self.index, value))
            self.index += 1

    def read(self) -> tuple[list[float], int, bool] | None:
        if not self.held:
            return None
        start, value = self.held.popleft()
        values = [value]
        while self.held and self.held[0][0] == start + len(values):
            values.append(self.held.popleft()[1])
        gap, self.expected = start != self.expected, start + len(values)
        return values, start, gap


@given(st.integers(1, 20), st.lists(st.one_of(WRITE, GAP, READ), max_size=60))
def test_ring_equals_model(capacity: int, steps: list[tuple[str, int]]) -> None:
    ring, model = Ring(capacity, 1), Model(capacity)
    value = marked = 0
    for step, n in steps:
        if step == "write":
            values = [float(value + i) for i in range(n)]
            value += n
            model.write(values)
            ring.write(np.array(values, np.float32)[:, None])
        elif step == "gap":
            ring.mark_gap(n)
            model.index += n
            marked += n
        else:
            block, told = ring.read(), model.read()
            assert (block is None) == (told is None)
            if block is not None and told is not None:
                assert (block.samples[:, 0].tolist(), block.start, block.gap) == told
    assert ring.overwritten_samples <= model.overwritten  # counted by the reader, when it comes to it
    while (block := ring.read()) is not None:
        told = model.read()
        assert told is not None
        assert (block.samples[:, 0].tolist(), block.start, block.gap) == told
    assert model.read() is None
    assert ring.overwritten_samples == model.overwritten
    assert ring.lost_samples == marked + model.overwritten


def test_block_is_the_readers_own() -> None:
    ring = Ring(4, 1)
    ring.write(np.ones((4, 1), np.float32))
    block = ring.read()
    ring.write(np.zeros((4, 1), np.float32))
    assert block is not None
    assert block.samples.tolist() == [[1.0]] * 4


def test_an_unknown_loss_is_at_least_one_sample() -> None:
    ring = Ring(4, 1)
    ring.mark_gap(-7)
    ring.write(np.ones((1, 1), np.float32))
    block = ring.read()
    assert block is not None
    assert (block.start, block.gap, ring.lost_samples) == (1, True, 1)


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_ring_holds_something(capacity: int) -> None:
    with pytest.raises(ValueError, match="holds nothing"):
        Ring(capacity, 1)


def as_samples(start: int, count: int) -> Float32:
    """(count, 2): every sample tells its own index, twice, so that a torn block cannot go unnoticed."""
    values = (np.arange(start, start + count) % 2**23).astype(np.float32)  # exact in float32
    return np.stack([values, -values], axis=1)


@pytest.mark.parametrize(("capacity", "largest"), [(500, 300), (100_000, 80_000)])
def test_writer_and_reader_race(capacity: int, largest: int) -> None:
    """Both run flat out; large arrays are copied without the interpreter's lock, on two cores at once."""
    ring = Ring(capacity, 2)
    sizes = np.random.default_rng(3).integers(1, largest, 50)
    blocks_in = [as_samples(0, int(size)) for size in sizes]
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            for block in blocks_in:
                block[:, 0] = np.arange(written, written + len(block)) % 2**23
                np.negative(block[:, 0], out=block[:, 1])
                ring.write(block)
                written += len(block)
                if written % 3 == 0:
                    time.sleep(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    writer = threading.Thread(target=write)
    read = expected = blocks = 0
    deadline = time.monotonic() + 20
    try:
        writer.start()
        while writer.is_alive() or ring.stored_samples > expected:
            if (blocks > 300 and ring.overwritten_samples > capacity) or time.monotonic() > deadline:
                stop.set()
            if (block := ring.read()) is None:
                continue
            n = len(block.samples)
            assert block.gap == (block.start != expected)
            assert block.start >= expected
            assert np.array_equal(block.samples, as_samples(block.start, n))
            expected, read, blocks = block.start + n, read + n, blocks + 1
    finally:
        stop.set()
        sys.setswitchinterval(before)
        writer.join()
    assert written == expected == read + ring.overwritten_samples
    assert blocks > 100
    assert ring.overwritten_samples > 0
