"""The metrics server answers Prometheus, on this PC only by default. Threads of its own, one a request.

There are no books kept here: every answer is made from the daemon's snapshot (see `service.status`).
`/metrics` is for Prometheus. `/healthz` is 200 while the pipeline makes progress or waits by design: where it
is 503, a restart helps. `/readyz` is 200 while every machine is listened to; 503 names those that are not.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Event, Timer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from echo_stream.alarm.zone import ZONES
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.measures import MEASURES
from echo_stream.core.types import AlarmState
from echo_stream.daemon.status import Snapshot

_COUNTERS = {
    "windows_scored": "Windows that were scored.",
    "hops_skipped": "Windows left out because the PC was late.",
    "samples_lost": "Samples that never came, or were overwritten before they were read.",
    "gaps": "Stretches of lost samples.",
    "losses": "Times that the source was lost; it is opened again each time.",
    "warnings_held": "Warnings held, as the sound changed more at the machine's reference.",
    "alarms_held": "Alarms that waited longer than their delay, as changes here pass by themselves.",
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
    "slow_minute_score": ("slow_minute", "Median score of the newest minute that the slow way looks at."),
    "slow_usual_score": ("slow_usual", "The middle of such minutes before, of the same operating state."),
    "slow_evidence_ratio": ("slow_evidence", "Evidence that minutes are higher than before; at 1 it trips."),
    "drifting": ("drifting", "1 while minutes creep away from what they were."),
    "listening": ("listening", "1 while sound comes and is scored."),
}

_PARTS = {
    "broker": (
        ("connected", "broker_connected", "1 while the MQTT broker is connected."),
        ("published", "events_published_total", "Events that the broker confirmed."),
        ("connections", "broker_connections_total", "Times that the broker let us in."),
    ),
    "outbox": (
        ("depth", "outbox_events", "Events that the broker has not confirmed."),
        ("unsaved", "outbox_unsaved_events", "Of these, events that the disk did not take."),
        ("dropped", "events_dropped_total", "Events given up: the outbox was full, or they were too old."),
        ("damaged", "outbox_damaged_total", "Values of the outbox that were found damaged."),
        ("refusals", "outbox_refusals_total", "Times that the disk did not take or give what it should."),
        ("trouble", "outbox_writable", "1 while the outbox can be written."),
    ),
    "state_dir": (("trouble", "state_directory_writable", "1 while the state directory can be written."),),
    "evidence": (
        ("kept", "evidence_kept_total", "Alarms whose sound was kept."),
        ("bytes", "evidence_bytes", "Size of all evidence on the disk."),
        ("failed", "evidence_failed_total", "Alarms whose sound could not be kept."),
        ("trouble", "evidence_writable", "1 while evidence can be kept."),
    ),
    "history": (
        ("written", "history_rows_written_total", "Minute rows written."),
        ("dropped", "history_rows_dropped_total", "Minute rows lost because the disk did not take them."),
        ("waiting", "history_rows_waiting", "Minute rows in memory."),
        ("trouble", "history_writable", "1 while history can be written."),
    ),
    "plant": (
        ("done", "transfers_done_total", "Files that were pushed or collected."),
        ("refused", "transfers_refused_total", "Transfers that were refused."),
        ("rolled_back", "transfers_rolled_back_total", "Transfers that were taken back after their trial."),
        ("ignored", "transfer_messages_ignored_total", "Chunks that nobody asked for, or too many at once."),
        ("trouble", "transfers_taken_back", "0 where a push could not be taken back."),
    ),
}
"""By part of the overview: the key in it, the metric's name, what it means."""

_may_log_failure = LogLimit("failed metrics requests").admits
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
        self.thread = GuardedThread(
            "the metrics server", self._server.serve_forever, self._stop, name="metrics"
        )
        self.thread.start()

    def close(self) -> None:
        """Stops answering."""
        self._stop.set()
        self._server.shutdown()
        self.thread.join(_WHOLE_S)
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
        yield GaugeMetricFamily(
            "echo_stream_degraded",
            "1 while something is not as it should be: `echo-stream status` says what.",
            value=bool(found.get("degraded")),
        )
        for part, values in _PARTS.items():
            yield from _of_part(found.get(part) or {}, values)
        yield from _notifiers(found.get("notify", ()))
        yield from _threads(found.get("threads", ()))
        machines = list(found.get("machines", ()))
        for key, text in _COUNTERS.items():
            name = "source_losses" if key == "losses" else key
            counter = CounterMetricFamily(f"echo_stream_{name}", text, labels=["machine"])
            for machine in machines:
                counter.add_metric([machine["machine"]], machine.get(key, 0))
            yield counter
        for name, (key, text) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"echo_stream_{name}", text, labels=["machine"])
            for machine in machines:
                if machine.get(key) is not None:
                    gauge.add_metric([machine["machine"]], machine[key])
            yield gauge
        yield from _measured(machines)
        yield _zones(machines)
        yield _last_windows(machines)
        yield _known_sounds(machines)
        yield from _encoder_gates(machines)
        yield _enrolments(machines)
        yield _trip_levels(machines)
        yield from _alarms(machines)


def _of_part(said: Mapping[str, Any], values: Sequence[tuple[str, str, str]]) -> Iterator[Metric]:
    """The values of a part that is there; `_total` at the end of a name makes a counter of it."""
    for key, name, text in values:
        if key not in said:
            continue
        value = not said[key] if key == "trouble" else said[key]
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        yield family(f"echo_stream_{name.removesuffix('_total')}", text, value=value)


_NOTIFY = (
    ("waiting", "notifications_waiting", "Events that a receiver has not taken."),
    ("sent", "notifications_sent_total", "Events that a receiver took."),
    ("failed", "notifications_failed_total", "Tries that failed; they are repeated."),
    ("refused", "notifications_refused_total", "Events given up, because a receiver will never take them."),
    ("dropped", "notifications_dropped_total", "Events given up: too many waited, or for too long."),
)


def _notifiers(notifiers: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """By receiver; two on one host are counted together. Families without a receiver are left out."""
    for key, name, text in _NOTIFY if notifiers else ():
        family = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
        metric = family(f"echo_stream_{name.removesuffix('_total')}", text, labels=["to"])
        for to in dict.fromkeys(each["to"] for each in notifiers):
            metric.add_metric([to], sum(each[key] for each in notifiers if each["to"] == to))
        yield metric


def _threads(threads: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    restarts = CounterMetricFamily(
        "echo_stream_restarts", "Restarts of a part after an exception.", labels=["part"]
    )
    for thread in threads:
        restarts.add_metric([thread["part"]], thread["restarts"])
    yield restarts


def _measured(machines: Iterable[Mapping[str, Any]]) -> Iterator[Metric]:
    """What calibrated sensors measure; families without any machine are left out."""
    found = [(machine["machine"], measured) for machine in machines if (measured := machine.get("measured"))]
    for name, (text, unit) in MEASURES.items():
        with_it = [(machine, measured[name]) for machine, measured in found if name in measured]
        said = f"{text} of the last window, in {unit}." if unit else f"{text} of the last window."
        gauge = GaugeMetricFamily(f"echo_stream_{name}", said, labels=["machine"])
        for machine, value in with_it:
            gauge.add_metric([machine], value)
        if with_it:
            yield gauge


def _zones(machines: Iterable[Mapping[str, Any]]) -> Metric:
    text = "1 for the zone of the last minute's velocity, by the limits of the configuration."
    gauge = GaugeMetricFamily("echo_stream_vibration_zone", text, labels=["machine", "zone"])
    for machine in machines:
        for zone in ZONES if machine.get("zone") else ():
            gauge.add_metric([machine["machine"], zone], zone == machine["zone"])
    return gauge


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


def _known_sounds(machines: Iterable[Mapping[str, Any]]) -> Metric:
    text = "Occurrences of a sound that was taught as no fault."
    counter = CounterMetricFamily("echo_stream_known_sounds", text, labels=["machine", "sound"])
    for machine in machines:
        for name, count in (machine.get("known_sounds") or {}).items():
            counter.add_metric([machine["machine"], name], count)
    return counter


def _encoder_gates(machines: Sequence[Mapping[str, Any]]) -> Iterator[Metric]:
    """Where ECHO has no gate there is no such family."""
    found = [(machine["machine"], counts) for machine in machines if (counts := machine.get("encoder_gate"))]
    text = "Windows by what ECHO's gate decided."
    counter = CounterMetricFamily("echo_stream_gate_windows", text, labels=["machine", "decision"])
    for machine, counts in found:
        for decision, count in counts.items():
            counter.add_metric([machine, decision], count)
    if found:
        yield counter


def _enrolments(machines: Iterable[Mapping[str, Any]]) -> Metric:
    text = "Share of the listening that is done, of a machine that is being learnt."
    gauge = GaugeMetricFamily("echo_stream_enrolment_progress", text, labels=["machine", "stage"])
    for machine in machines:
        if found := machine.get("enrolling"):
            gauge.add_metric([machine["machine"], found["stage"]], found["progress"])
    return gauge


def _trip_levels(machines: Iterable[Mapping[str, Any]]) -> Metric:
    text = "Score above which the level trips; of an alarm that stands, of the way that raised it."
    gauge = GaugeMetricFamily("echo_stream_trip_level", text, labels=["machine", "level"])
    for machine in machines:
        for level, trip in (machine.get("trips") or {}).items():
            gauge.add_metric([machine["machine"], level], trip)
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
        if _may_log_failure():
            get_logger().warning("metrics request failed", exc_info=True)


def _hang_up(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
