"""--since: times without a zone are those of the PC; nonsense is wrong usage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import typer

from echo_stream.cli.common import point_in_time


@pytest.fixture
def melbourne(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Australia/Melbourne")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("melbourne")
@pytest.mark.parametrize(
    ("since", "utc"),
    [
        ("2026-11-26T06:40", datetime(2026, 11, 25, 19, 40, tzinfo=UTC)),
        ("2026-07-01 06:40:10", datetime(2026, 6, 30, 20, 40, 10, tzinfo=UTC)),  # no daylight saving
        ("2026-11-26", datetime(2026, 11, 25, 13, 0, tzinfo=UTC)),
        ("2026-11-26T06:40Z", datetime(2026, 11, 26, 6, 40, tzinfo=UTC)),
        ("2026-11-26T06:40+01:00", datetime(2026, 11, 26, 5, 40, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_that_of_this_pc(since: str, utc: datetime) -> None:
    assert point_in_time(since, "--since") == utc


@pytest.mark.parametrize(
    ("since", "ago"),
    [("3d", timedelta(days=3)), ("12h", timedelta(hours=12)), ("30min", timedelta(minutes=30))],
)
def test_so_long_ago(since: str, ago: timedelta) -> None:
    assert abs(datetime.now(UTC) - ago - point_in_time(since, "--since")) < timedelta(seconds=10)


@pytest.mark.parametrize("since", ["yesterday", "", "99999999999d", "²d", "2026-13-01", "d"])
def test_nonsense_is_wrong_usage(since: str) -> None:
    with pytest.raises(typer.BadParameter):
        point_in_time(since, "--since")
