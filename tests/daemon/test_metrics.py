"""Metrics over real HTTP, read by Prometheus' own parser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.types import Score, Window
from echo_stream.daemon.metrics import MetricsServer
from echo_stream.pipeline.health import Health


def snapshot() -> dict[str, Any]:
    health = Health("pump3", 1.0, now_s=0.0)
    at = datetime(2026, 11, 20, tzinfo=UTC)
    score = Score(1.5, 0.25, (), (), -30.0, 0.0, "normal")
    health.scored(
        Window("pump3", np.zeros(2000, np.float32), 0, 2000, 1000, at),
        score,
        spent_s=0.5,
        lag_s=0.25,
        now_s=2.0,
    )
    health.lost(480, 1000)
    alarms = {"alarm": {"state": "UNACK", "active": True}, "warning": {"state": "NORMAL", "active": False}}
    deaf = Health("fan1", 1.0, now_s=0.0)
    return {
        "version": "1.2.3",
        "node": 'pc"7',
        "alive": True,
        "broker": {"connected": False, "host": "localhost", "port": 1883},
        "outbox": {"depth": 3, "dropped": 2},
        "notify": [
            {"to": "https://a", "waiting": 2, "sent": n, "failed": 9, "refused": 0, "dropped": 0}
            for n in (1, 4)
        ],
        "machines": [
            {
                **health.snapshot(2.5),
                "listening": True,
                "alarms": alarms,
                "warnings_held": 7,
                "alarms_held": 3,
            }
            | {"measured": {"velocity_mm_s": 2.5}, "zone": "A/B"}
            | {"encoder_gate": {"encoded": 3, "left_out": 9}},
            {**deaf.snapshot(2.5), "listening": False, "warnings_held": 0, "alarms_held": 0},
        ],
    }


@pytest.fixture
def said() -> dict[str, Any]:
    return snapshot()


@pytest.fixture
def server(said: dict[str, Any]) -> Iterator[MetricsServer]:
    server = MetricsServer(0, lambda: said)
    yield server
    server.close()


def get(server: MetricsServer, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=60) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(server: MetricsServer) -> dict[tuple[str, ...], float]:
    """Every sample by its name and its label values, in the order of the labels' names."""
    status, text = get(server, "/metrics")
    assert status == 200
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_say_what_the_snapshot_says(server: MetricsServer) -> None:
    found = samples(server)
    assert found["echo_stream_warnings_held_total", "pump3"] == 7
    assert found["echo_stream_alarms_held_total", "pump3"] == 3
    assert found["echo_stream_build_info", 'pc"7', "1.2.3"] == 1
    assert found["echo_stream_broker_connected",] == 0
    assert found["echo_stream_outbox_events",] == 3
    assert found["echo_stream_events_dropped_total",] == 2
    assert found["echo_stream_windows_scored_total", "pump3"] == 1
    assert found["echo_stream_samples_lost_total", "pump3"] == 480
    assert found["echo_stream_coverage_ratio", "pump3"] == 1
    assert found["echo_stream_anomaly_score", "pump3"] == 1.5
    assert found["echo_stream_real_time_ratio", "pump3"] == 0.5
    assert found["echo_stream_lag_p99_seconds", "pump3"] == 0.25
    assert found["echo_stream_last_window_timestamp_seconds", "pump3"] == 1795132800
    assert found["echo_stream_alarm_active", "alarm", "pump3"] == 1
    assert found["echo_stream_alarm_state", "alarm", "pump3", "UNACK"] == 1
    assert found["echo_stream_alarm_state", "alarm", "pump3", "NORMAL"] == 0
    assert found["echo_stream_velocity_mm_s", "pump3"] == 2.5
    assert found["echo_stream_vibration_zone", "pump3", "A/B"] == 1
    assert found["echo_stream_gate_windows_total", "encoded", "pump3"] == 3
    assert found["echo_stream_gate_windows_total", "left_out", "pump3"] == 9
    assert found["echo_stream_vibration_zone", "pump3", "C"] == 0
    assert not any(name == "echo_stream_kurtosis" for name, *_ in found)
    assert found["echo_stream_notifications_sent_total", "https://a"] == 5
    assert found["echo_stream_notifications_waiting", "https://a"] == 4
    assert found["process_open_fds",] > 0


def test_what_is_not_known_has_no_sample(server: MetricsServer) -> None:
    found = samples(server)
    assert ("echo_stream_anomaly_score", "fan1") not in found
    assert found["echo_stream_windows_scored_total", "fan1"] == 0
    assert found["echo_stream_listening", "fan1"] == 0
    assert ("echo_stream_gate_windows_total", "encoded", "fan1") not in found


def test_each_scrape_is_made_anew(server: MetricsServer, said: dict[str, Any]) -> None:
    said["outbox"]["depth"] = 4
    assert samples(server)["echo_stream_outbox_events",] == 4


def test_probes(server: MetricsServer, said: dict[str, Any]) -> None:
    assert get(server, "/healthz") == (200, '{"alive": true}\n')
    status, text = get(server, "/readyz")
    assert (status, json.loads(text)) == (503, {"ready": False, "not_listening": ["fan1"]})
    said["alive"] = False
    said["machines"].pop()
    assert get(server, "/healthz")[0] == 503
    assert get(server, "/readyz?verbose")[0] == 200


def test_other_pages_are_not_there(server: MetricsServer) -> None:
    status, text = get(server, "/../etc/passwd")
    assert (status, text) == (404, "/metrics, /healthz or /readyz\n")


def test_only_this_pc_hears_it(server: MetricsServer) -> None:
    assert server._server.server_address[0] == "127.0.0.1"


def test_a_taken_port_is_named(server: MetricsServer) -> None:
    with pytest.raises(EchoStreamError, match=rf"metrics on 127.0.0.1:{server.port}: .*in use"):
        MetricsServer(server.port, snapshot)
