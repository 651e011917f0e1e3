"""The container in which a file of tests finds a PC of its own, where one can be booted."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import Container, missing


@pytest.fixture(scope="module")
def computer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A PC with echo-stream's files and nothing installed."""
    if why := missing():
        pytest.skip(f"SYSTEMD NOT TESTED FOR REAL: {why}")
    container = Container(tmp_path_factory.mktemp("nspawn") / "root")
    for program in ("probe.py", "hang.py"):
        shutil.copy(Path(__file__).parents[1] / "support" / program, container.root / "opt" / "echo-stream")
    try:
        container.boot()
        yield container
    finally:
        container.shut_down()
