"""Fixtures that every room may use; fixtures of one room stand in its own conftest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import MosquittoBroker, mosquitto

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """The folder of real recordings; skips, loudly, where it is not there."""
    folder = SHARED / "recordings"
    if not folder.is_dir():
        pytest.skip(
            f"REAL RECORDINGS MISSING: {folder} is not there, so nothing was measured on real machines"
        )
    return folder


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[MosquittoBroker]:
    """A plain mosquitto on 127.0.0.1."""
    with mosquitto(tmp_path) as running:
        yield running
