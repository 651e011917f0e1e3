"""Fixtures of tests/cli."""

from __future__ import annotations

from tests.mqtt.conftest import broker, listen, logged, publish  # noqa: F401
