"""A log limit admits some lines, and says the number of the others."""

from __future__ import annotations

import time

import structlog

from echo_stream.core.log_limit import LogLimit


def test_some_lines_then_their_number() -> None:
    limit = LogLimit("refused commands", most=3, within_s=0.05)
    with structlog.testing.capture_logs() as logs:
        assert [limit.admits() for _ in range(10)] == [True] * 3 + [False] * 7
        assert logs == []
        time.sleep(0.06)
        assert limit.admits()
    assert [(line["event"], line["count"]) for line in logs] == [
        ("further refused commands were not logged", 7)
    ]
