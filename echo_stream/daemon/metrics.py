"""The metrics server answers Prometheus, on this PC only by default. Threads of its own, one a request.

There are no books kept here: every answer is made from the daemon's snapshot (see `service.status`).
`/metrics` is for Prometheus. `/healthz` is 200 while the pipeline makes progress or waits by design: where it
is 503, a restart helps. `/readyz` is 200 while every machine is listened to; 503 names those that are not.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Event, Thread, Timer
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.guard import Guard
from echo_stream.core.types import AlarmState
from echo_stream.daemon.status import Snapshot

_COUNTERS = {
    "windows_scored": "Windows that were scored.",
    "hops_skipped": "Windows left out because the PC was late.",
    "samples_lost": "Samples that never came, or were overwritten before they were read.",
    "gaps": "Stretches of lost samples.",
}
_GAUGES = {
    "coverage_10m_ratio": ("coverage_10m", "Share of hops scored in the last ten minutes."),
    "coverage_ratio": ("coverage", "Share of hops scored since the start."),
    "anomaly_score": ("score", "Anomaly score of the last window, higher is worse."),
    "anomaly_p_value": ("p_value", "Share of held-out normal windows that score at least as high."),
    "level_dbfs": ("level_dbfs", "Level of the last window in dB relative to full scale."),
    "real_time_ratio": ("real_time_factor", "Seconds of work for a second of sound."),
    "lag_p50_seconds": ("lag_p50_s", "From a window's last sample to its score, median of ten minutes."),
    "lag_p99_seconds": ("lag_p99_s", "The same, exceeded by one window in a hundred."),
    "lag_max_seconds": ("lag_max_s", "The same, the longest."),
    "listening": ("listening", "1 while sound comes and is scored."),
}


_CONNECTIONS = 16
_QUIET_S = 5.0
"""A client that sends or takes nothing for so long is dropped."""
_WHOLE_S = 15.0
"""A request that is not answered by then is dropped, whatever its client does."""


class MetricsServer:
    """Answers on http://host:port until closed. Port 0 takes a free one; `port` says which.

    Raises:
        EchoStreamError: the port is taken, or the host is not one of this PC.
    """

    def __init__(self, port: int, snapshot: Snapshot, host: str = "127.0.0.1") -> None:
        registry = CollectorRegistry()
        registry.register(_Snapshots(snapshot))
        ProcessCollector(registry=registry)
        try:
            self._server = _Server((host, port), snapshot, registry)
        except OSError as error:
            raise EchoStreamError(
                f"metrics on {host}:{port}: {error.strerror or error}",
                "choose another port, or a host that is an address of this PC",
            ) from error
        self.port = int(self._server.server_address[1])
        self._stop = Event()
        self._guard = Guard("the metrics server", self._stop)
        work = self._server.serve_forever
        self._thread = Thread(target=self._guard.run, args=(work,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops answering."""
        self._stop.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Snapshots(Collector):
    """The snapshot in Prometheus' words, made anew for each scrape."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        return []  # or registering would ask for a snapshot before the daemon has one

    def collect(self) -> Iterator[Metric]:
        found = self._snapshot()
        build = {"version": str(found.get("version", "")), "node": str(found.get("node", ""))}
        yield InfoMetricFamily("echo_stream_build", "What runs where.", build)
        broker, outbox = found.get("broker") or {}, found.get("outbox") or {}
        yield from _single(
            "broker_connected", "1 while the MQTT broker is connected.", broker.get("connected")
        )
        yield from _single("outbox_events", "Events that the broker has not confirmed.", outbox.get("depth"))
        if outbox.get("dropped") is not None:
            text = "Events given up because the outbox was full or they were too old."
            yield CounterMetricFamily("echo_stream_events_dropped", text, value=outbox["dropped"])
        machines = list(found.get("machines", ()))
        for key, text in _COUNTERS.items():
            counter = CounterMetricFamily(f"echo_stream_{key}", text, labels=["machine"])
            for machine in machines:
                counter.add_metric([machine["machine"]], machine[key])
            yield counter
        for name, (key, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"echo_stream_{name}", text, labels=["machine"])
            for machine in machines:
                if machine.get(key) is not None:
                    gauge.add_metric([machine["machine"]], machine[key])
            yield gauge
        yield _last_windows(machines)
        yield from _alarms(machines)


def _single(name: str, text: str, value: float | None) -> Iterator[Metric]:
    if value is not None:
        yield GaugeMetricFamily(f"echo_stream_{name}", text, value=value)


def _last_windows(machines: Iterable[Mapping[str, Any]]) -> Metric:
    gauge = GaugeMetricFamily(
        "echo_stream_last_window_timestamp_seconds", "When the last window ended.", labels=["machine"]
    )
    for machine in machines:
        if machine.get("last_window_at"):
            gauge.add_metric(
                [machine["machine"]], datetime.fromisoformat(machine["last_window_at"]).timestamp()
            )
    return gauge


def _alarms(machines: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    labels = ["machine", "level"]
    active = GaugeMetricFamily("echo_stream_alarm_active", "1 while the condition is true.", labels=labels)
    state = GaugeMetricFamily(
        "echo_stream_alarm_state", "1 for the state that the alarm is in.", labels=[*labels, "state"]
    )
    for machine in machines:
        for level, alarm in (machine.get("alarms") or {}).items():
            active.add_metric([machine["machine"], level], alarm["active"])
            for name in AlarmState:
                state.add_metric([machine["machine"], level, name.value], name.value == alarm["state"])
    yield active
    yield state


class _Page(BaseHTTPRequestHandler):
    """One request."""

    timeout = _QUIET_S
    server: _Server
    server_version = "echo-stream"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._reply(HTTPStatus.OK, generate_latest(self.server.registry), CONTENT_TYPE_LATEST)
        elif path == "/healthz":
            self._verdict({"alive": bool(self.server.snapshot().get("alive"))})
        elif path == "/readyz":
            deaf = [m["machine"] for m in self.server.snapshot()["machines"] if not m.get("listening")]
            self._verdict({"ready": not deaf, "not_listening": deaf})
        else:
            self._reply(HTTPStatus.NOT_FOUND, b"/metrics, /healthz or /readyz\n", "text/plain; charset=utf-8")

    def _verdict(self, body: Mapping[str, Any]) -> None:
        good = next(iter(body.values()))
        status = HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
        self._reply(status, json.dumps(body).encode() + b"\n", "application/json")

    def _reply(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a scrape every few seconds is no news."""


class _Server(ThreadingHTTPServer):
    """The socket, and what its pages are made of. At most _CONNECTIONS at once, each for _WHOLE_S at most."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], snapshot: Snapshot, registry: CollectorRegistry) -> None:
        self.snapshot = snapshot
        self.registry = registry
        self._free = BoundedSemaphore(_CONNECTIONS)
        super().__init__(address, _Page)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)  # a client that is refused asks again at the next scrape
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        deadline = Timer(_WHOLE_S, _hang_up, [request])  # a byte every few seconds never runs into `timeout`
        deadline.daemon = True
        deadline.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            deadline.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        structlog.get_logger().warning("metrics request failed", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
