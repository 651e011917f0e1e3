"""The wheel that all tests of packages share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packaging.installed import build_wheel


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by way of the sdist."""
    return build_wheel(tmp_path_factory.mktemp("dist"))
