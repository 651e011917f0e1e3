"""Fixtures that every room may use; fixtures of one room stand in its own conftest."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import echo_stream  # noqa: F401 - before numpy: one thread for BLAS, as in the program itself
from tests.support import daemon
from tests.support.broker import MosquittoBroker, mosquitto
from tests.support.command import logs_as_before
from tests.support.stations import fit_bank

SHARED = Path(__file__).resolve().parents[2] / "shared"
LONGEST = (
    "web/test_page.py",
    "web/test_browser.py",
    "daemon/test_daemon.py",
    "benchmarks/test_soak.py",
    "daemon/test_daemon_container.py",
    "fit/test_fit.py",
    "encode/test_runtime.py",
    "fit/test_archive.py",
    "test_state_of_earlier_version.py",
    "fit/test_cluster.py",
    "capture/test_device_failures.py",
    "fit/test_report.py",
    "mqtt/test_mqtt.py",
    "cli/test_cli.py",
    "cli/test_demo.py",
    "evidence/test_evidence.py",
    "daemon/test_transfers.py",
    "pipeline/test_gated.py",
    "cli/test_bench.py",
    "daemon/test_end_to_end.py",
    "fit/test_judge.py",
    "capture/test_microphone.py",
    "daemon/test_ignore_end_to_end.py",
    "daemon/test_faults.py",
    "cli/test_roll_out.py",
    "mqtt/test_chaos.py",
    "daemon/test_enrol_end_to_end.py",
)
"""Files that begin first, in this order: they wait for long, or compute for long beside those that wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the rest as it stands."""
    tests = Path(__file__).parent
    first = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path.relative_to(tests).as_posix(), len(first)))


@pytest.fixture(scope="session", autouse=True)
def _made_once(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fitted banks and the list of fonts; workers have temporary folders of their own in that of the run."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    daemon.FITTED = shared / "fitted"
    os.environ["MPLCONFIGDIR"] = daemon.ENVIRONMENT["MPLCONFIGDIR"] = str(shared / "matplotlib")


@pytest.fixture(autouse=True)
def _logs_as_before() -> Iterator[None]:
    """A command that ran in this process leaves the log bound to a stream that is closed after its test."""
    with logs_as_before():
        yield
    root = logging.getLogger()
    for handler in list(root.handlers):  # pytest changes its own from phase to phase
        if type(handler).__module__ == "echo_stream.daemon.logs":
            root.removeHandler(handler)


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


@pytest.fixture(scope="session")
def simulated_bank(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A bank of the simulated machine of tests.support.stations."""
    return fit_bank(tmp_path_factory.mktemp("simulated"))
