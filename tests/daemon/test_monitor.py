"""Monitor says once when something begins and once when it ends, and tells systemd in a line."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from echo_stream.daemon.events import EventPublisher
from echo_stream.daemon.monitor import Monitor, Notifier
from echo_stream.daemon.stations import FailedMachine
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from echo_stream.pipeline.station import Station
from tests.support.stations import build_stations, write_config


class Supervised:
    """A monitor of one real station, and what systemd is told."""

    def __init__(self, folder: Path, bank: bytes) -> None:
        self.config = write_config(folder)
        self.stations: dict[str, Station]
        self.stations, _ = build_stations(folder, bank, self.config)
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(folder / "notify"))
        self.systemd.settimeout(20)
        broker = Broker(host="127.0.0.1")
        self.publisher = Publisher(broker, node="pc7", machines={}, outbox_path=folder / "outbox.sqlite")
        self.reasons: list[str] = []
        self.monitor = Monitor(
            self.overview,
            lambda: self.reasons,
            events=EventPublisher("pc7", self.publisher),
            publisher=self.publisher,
            notifier=Notifier({"NOTIFY_SOCKET": str(folder / "notify")}),
            now_s=0.0,
        )

    def overview(self) -> dict[str, Any]:
        outbox = dict.fromkeys(("depth", "dropped", "unsaved", "damaged"), 0)
        return {"machines": [], "threads": [], "outbox": outbox, "evidence": None, "history": None}

    def check(self, now_s: float, failed: dict[str, FailedMachine] | None = None) -> str:
        self.monitor.check(self.stations, failed or {}, now_s)
        return self.systemd.recv(4096).decode()


@pytest.fixture
def supervised(tmp_path: Path, simulated_bank: bytes) -> Iterator[Supervised]:
    made = Supervised(tmp_path, simulated_bank)
    yield made
    made.publisher.stop(0.0)
    made.systemd.close()


def test_the_state_of_each_alarm_stands_in_the_line_of_systemd(supervised: Supervised) -> None:
    assert supervised.check(1.0) == "STATUS=pump1: NORMAL"


def test_what_is_degraded_stands_before_it_and_is_said_once(supervised: Supervised) -> None:
    supervised.reasons = [f"pump{i}: bank x is damaged" for i in range(8)]
    with structlog.testing.capture_logs() as logs:
        for now_s in (1.0, 2.0):
            shown = supervised.check(now_s)
        supervised.reasons = []
        supervised.check(3.0)
    assert shown.startswith("STATUS=DEGRADED; pump0: bank x is damaged; pump1: ")
    assert shown.endswith("; 3 more; pump1: NORMAL")
    said = [line["event"] for line in logs if "DEGRADED" in line["event"]]
    assert said == ["the daemon is DEGRADED", "the daemon is no longer DEGRADED"]


def test_a_late_pc_is_said_once_when_it_begins_and_once_when_it_ends(supervised: Supervised) -> None:
    slicer = supervised.stations["pump1"].reader.slicer
    with structlog.testing.capture_logs() as logs:
        supervised.check(1.0)
        slicer.skipped_hops += 3
        for now_s in (2.0, 3.0, 31.0):
            supervised.check(now_s)
        assert [line["log_level"] for line in logs if "factors" in line] == ["warning"]
        supervised.check(40.0)
        supervised.check(41.0)
    assert [line["log_level"] for line in logs if "factors" in line] == ["warning", "info"]
