"""Sounds and files for the tests of capture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.core.types import Float32


@pytest.fixture
def noise() -> Float32:
    """(20000, 2): two channels of quiet noise, never the same value twice in a row."""
    return (0.1 * np.random.default_rng(1).standard_normal((20_000, 2))).astype(np.float32)


@pytest.fixture
def write_recording(tmp_path: Path) -> Callable[..., Path]:
    def write(samples: Float32, name: str = "sound.wav", rate: int = 8000, subtype: str = "FLOAT") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, samples, rate, subtype=subtype)
        return path

    return write


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(reading end, writing end); both are closed afterwards unless the test did."""
    import os
    from contextlib import suppress

    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: needs a minute of real time; deselect with -m 'not slow'")
