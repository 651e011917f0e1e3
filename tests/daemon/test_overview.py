"""The overview: each real cause, by what the user sees in `status`, metrics and the health of the node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from echo_stream.cli.status import show_status
from echo_stream.core.errors import BankError
from echo_stream.daemon.metrics import MetricsServer
from echo_stream.daemon.monitor import counters_of
from echo_stream.daemon.overview import Parts, overview
from echo_stream.daemon.state_directory import StateDirectory
from echo_stream.daemon.stations import FailedMachine
from echo_stream.daemon.status import StatusServer
from echo_stream.evidence.recorder import Evidence
from echo_stream.history.minutes import MinuteRow
from echo_stream.history.store import HistoryStore
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from tests.daemon.test_metrics import samples
from tests.support.daemon import wait_for
from tests.support.stations import write_config

ROW = MinuteRow("pump1", 60, 60, 0.25, 5.125, 0.5, 0.05, -31.4, "load", 1.0, None)


class Scene:
    """The parts of a daemon without machines, in a folder that a test may spoil beforehand."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.config = write_config(folder)
        self.folder = self.config.state_dir
        self.folder.mkdir(exist_ok=True)
        self.failed: dict[str, FailedMachine] = {}
        self._stack = stack

    def start(self, *, min_free_mb: float = 0.0, state_dir: Path | None = None) -> None:
        self.publisher = Publisher(
            Broker("127.0.0.1", 1), node="pc7", machines={}, outbox_path=self.folder / "outbox.sqlite"
        )
        self.evidence = Evidence(self.folder / "evidence", min_free_mb=min_free_mb)
        self.history = HistoryStore(self.folder / "history.sqlite", max_days=400)
        self.state_dir = StateDirectory(state_dir or self.folder)
        self.state_dir.take(monotonic())
        self.evidence.start()
        for undo in (self.state_dir.release, self.evidence.stop, lambda: self.publisher.stop(5.0)):
            self._stack.callback(undo)
        self.status = StatusServer(self.folder / "status.sock", self.overview)
        self.metrics = MetricsServer(0, self.overview)
        self._stack.callback(self.metrics.close)
        self._stack.callback(self.status.close)

    def overview(self) -> dict[str, Any]:
        parts = Parts(
            self.publisher, self.state_dir, self.evidence, self.history.counters, [self.evidence.thread.guard]
        )
        return overview(self.config, {}, self.failed, parts, computed_by="numpy", since_s=0.0, alive=True)

    def alarm(self) -> None:
        event = {"event_id": "A", "machine": "pump1", "ts": datetime.now(UTC).isoformat(), "level": "alarm"}
        self.evidence.alarm(
            event,
            at=800,
            onset=0,
            sample_rate_hz=8000,
            bands=(),
            history=lambda a, b: np.zeros(b - a, np.float32),
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as stack:
        yield Scene(tmp_path, stack)


def a_full_evidence_disk(scene: Scene) -> None:
    scene.start(min_free_mb=1e12)
    scene.alarm()
    wait_for(lambda: scene.evidence.trouble, 20, "it is noticed")


def a_history_that_cannot_be_written(scene: Scene) -> None:
    (scene.folder / "history.sqlite").mkdir()
    scene.start()
    scene.history.put(ROW)
    scene.history.start()
    scene.history.stop(10.0)


def an_outbox_that_cannot_be_written(scene: Scene) -> None:
    (scene.folder / "outbox.sqlite").mkdir()
    scene.start()
    scene.publisher.event("flood", {"event_id": "A"})


def a_read_only_state_directory(scene: Scene) -> None:
    scene.start(state_dir=Path("/proc/echo-stream-state"))


def a_broker_that_is_away(scene: Scene) -> None:
    scene.start()
    scene.publisher.start()
    wait_for(lambda: scene.publisher.counters().last_error, 20, "it is noticed")


def a_damaged_bank(scene: Scene) -> None:
    scene.start()
    machine = scene.config.machines[0]
    scene.failed["pump1"] = FailedMachine(machine, BankError("bank x is damaged"), None, 0.0, 1.0)


CAUSES: list[tuple[Callable[[Scene], None], str, dict[str, float]]] = [
    (a_full_evidence_disk, "evidence cannot be kept: ", {"evidence_writable": 0}),
    (a_history_that_cannot_be_written, "history cannot be written: ", {"history_rows_waiting": 1}),
    (an_outbox_that_cannot_be_written, "events wait in memory", {"outbox_unsaved_events": 1}),
    (a_read_only_state_directory, "state_dir /proc/", {"state_directory_writable": 0}),
    (a_broker_that_is_away, "no connection to the broker: ", {"broker_connected": 0}),
    (a_damaged_bank, "pump1: bank x is damaged", {"outbox_writable": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "says", "metrics"), CAUSES, ids=[spoil.__name__ for spoil, _, _ in CAUSES])
def test_each_cause_is_seen(
    scene: Scene,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Scene], None],
    says: str,
    metrics: dict[str, float],
) -> None:
    spoil(scene)
    show_status(scene.folder.parent / "config.yaml", as_json=False)
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("DEGRADED: ")]
    assert len(shown) == 1
    assert says in shown[0]
    show_status(scene.folder.parent / "config.yaml", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert says in found["degraded"][0]
    assert all(isinstance(value, int) for value in counters_of(found).values())
    measured = samples(scene.metrics)
    assert measured["echo_stream_degraded",] == 1
    assert {name: measured[f"echo_stream_{name}",] for name in metrics} == metrics


def test_where_all_is_well_nothing_is_degraded(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    scene.start()
    show_status(scene.folder.parent / "config.yaml", as_json=False)
    assert "DEGRADED" not in capsys.readouterr().out
    assert samples(scene.metrics)["echo_stream_degraded",] == 0


def test_evidence_is_well_again_when_the_disk_is(scene: Scene) -> None:
    a_full_evidence_disk(scene)
    scene.evidence._min_free_bytes = 0.0
    scene.evidence.on_samples_buffered("pump1", 0, datetime.now(UTC))
    wait_for(lambda: not scene.evidence.trouble, 20, "it is noticed within the hour")
