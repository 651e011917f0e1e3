"""Daemon starts all parts of a running echo-stream and stops them in reverse; `Daemon.run` is the order.

The main thread handles signals, watches the other threads and talks to systemd; the pipeline thread walks the
corridor; the publisher talks to the broker.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from echo_stream import __version__
from echo_stream.config.load import find, load
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.guard import Guard, GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.types import Window
from echo_stream.daemon.bank_updates import BankUpdates
from echo_stream.daemon.enrolments import Enrolments
from echo_stream.daemon.events import EventPublisher
from echo_stream.daemon.history import HistoryRecorder
from echo_stream.daemon.logs import configure, keep_recent
from echo_stream.daemon.monitor import Monitor, Notifier, SignalPipe
from echo_stream.daemon.operator_commands import execute
from echo_stream.daemon.overview import Parts, degraded, overview
from echo_stream.daemon.proposals import build_proposals
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.daemon.state_directory import StateDirectory
from echo_stream.daemon.stations import StationRegistry
from echo_stream.daemon.status import StatusServer, daemon_socket
from echo_stream.daemon.trial import Undo, undo_interrupted
from echo_stream.encode.encoder import Encoder
from echo_stream.mqtt.commands import Command
from echo_stream.mqtt.payloads import Payload
from echo_stream.pipeline.factory import (
    build_encoder,
    build_evidence,
    build_history,
    build_publisher,
    speed_topics,
)
from echo_stream.pipeline.loop import listen
from echo_stream.pipeline.station import Scored, Station, WindowReader

if TYPE_CHECKING:
    from echo_stream.daemon.metrics import MetricsServer
    from echo_stream.daemon.notify import Receiver
    from echo_stream.daemon.page import Page
    from echo_stream.daemon.transfers import Transfers

DRAIN_S = 4.0
STATES_EVERY_S = 60.0  # so much of a machine's own past, and 10 s, is lost when the power fails
METRICS_RETRY_S = 30.0
PAGE_LOG_LINES = 200
BANKS_EVERY_S = 5.0
RELOAD_S = 60.0
LOSSES_EVERY_S = 1.0  # what thousands of machines lost need not be asked twenty times a second
STUCK_S = 20.0  # a round that takes longer is no progress; under systemd half of WatchdogSec


class Part(Protocol):
    """What runs on a thread of its own."""

    thread: GuardedThread

    def start(self) -> None:
        """Begins; returns at once."""

    def stop(self) -> None:
        """Ends it, and waits for that."""


PartT = TypeVar("PartT", bound=Part)
FIXED = tuple(set(Config.model_fields) - {"machines"})

log = get_logger()


def run_daemon(path: Path | None = None) -> None:
    """Listens until SIGTERM, SIGINT, or the end of all sources.

    Raises:
        EchoStreamError: it cannot begin, or the pipeline failed.
    """
    path = path or find()
    os.umask(0o077)  # sound of a room may hold voices: without systemd too, only this user reads it
    configure()
    undone = undo_interrupted(path)
    config = load(path)
    Daemon(path, config, undone).run()


class Daemon:
    """All parts of a running echo-stream."""

    def __init__(self, path: Path, config: Config, undone: Undo | None = None) -> None:
        self._path = path
        self._undone = undone
        self._config = config
        self._stop = Event()
        self._signals = SignalPipe()
        self._notifier = Notifier()
        self._supervision = Guard("the supervision", self._stop)
        self._threads: list[GuardedThread] = []
        self._metrics: MetricsServer | None = None
        self._metrics_at_s = self._banks_at_s = 0.0
        self._metrics_trouble = ""
        self._since_s = self._round_at_s = self._losses_at_s = monotonic()
        self._states_at_s = self._since_s + STATES_EVERY_S
        self._unsaved: deque[str] = deque()
        """Machines whose state was not saved yet in this round of all of them."""
        self._failure: EchoStreamError | None = None
        self._computed_by = ""
        self._page: Page | None = None
        self._transfers: Transfers | None = None
        self._reloads_asked: SimpleQueue[SimpleQueue[str]] = SimpleQueue()

    def run(self) -> None:
        """Starts everything, waits, stops everything in reverse.

        Raises:
            EchoStreamError: it cannot begin, or a thread ended that must not.
        """
        config = self._config
        self._signals.catch()
        with ExitStack() as stack:
            self._require_extras()
            self._state_dir = StateDirectory(config.state_dir)
            self._state_dir.take(monotonic())
            stack.callback(self._state_dir.release)
            encoder = build_encoder(config)
            self._computed_by = encoder.computed_by
            self._publisher = build_publisher(config)
            stack.callback(self._stop_publisher)
            self._events = EventPublisher(config.node, self._publisher)
            self._receivers = self._start_receivers(stack)
            self._start_evidence(stack)
            self._history = self._start_history(stack)
            self._events.on_event = self._on_event
            self._proposals = self._begin(stack, build_proposals(config))
            self._sampler = self._begin(stack, FeatureSampler(config.state_dir))
            self._events.recent_features = self._sampler.recent
            self._monitor = Monitor(
                self.overview,
                lambda: degraded(self._registry.stations, self._registry.failed, self._parts()),
                events=self._events,
                publisher=self._publisher,
                notifier=self._notifier,
                now_s=monotonic(),
            )
            self._registry = StationRegistry(
                config, encoder, on_added=self._on_added, on_removed=self._on_removed
            )
            self._registry.open()
            stack.callback(self._registry.close)
            _warm_up(encoder, self._registry.readers)
            self._enrolments = self._begin(
                stack, Enrolments(self._path, config, self._registry, self._on_event)
            )
            self._banks = self._begin(stack, BankUpdates(self._path, self._events))
            self._serve_status(stack, daemon_socket(config.state_dir))
            stack.callback(self._close_metrics)
            self._serve_metrics(monotonic())
            self._start_transfers(stack)
            self._publisher.start()
            pipeline = GuardedThread("the pipeline", partial(self._walk, encoder), self._stop)
            self._threads += [self._publisher.thread, pipeline]
            pipeline.start()
            stack.callback(pipeline.join, 1.0)
            stack.callback(self._stop.set)
            log.info("listening", machines=list(self._registry.stations), version=__version__)
            self._notifier.ready()
            self._start_page(stack)  # after READY, which it must not delay
            self._supervise()
            self._notifier.stopping()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    def overview(self) -> dict[str, Any]:
        """What status, metrics and health say; any thread."""
        found = overview(
            self._config,
            self._registry.stations,
            self._registry.failed,
            self._parts(),
            computed_by=self._computed_by,
            since_s=self._since_s,
            alive=self._alive(monotonic()),
        )
        for machine in found["machines"]:
            machine["probation"] = self._sampler.probation(machine["machine"]).to_json()
            machine["enrolling"] = self._enrolments.snapshot(machine["machine"])
        return found

    def _parts(self) -> Parts:
        return Parts(
            publisher=self._publisher,
            state_dir=self._state_dir,
            evidence=self._events.evidence,
            history=self._history.counters if self._history else None,
            guards=[self._supervision, *(thread.guard for thread in self._threads)],
            receivers=self._receivers,
            troubles=list(filter(None, [self._metrics_trouble])),
            transfers=self._transfers,
        )

    def _begin(self, stack: ExitStack, part: PartT) -> PartT:
        """Start a part, have it stopped at the end, and supervise its thread."""
        part.start()
        stack.callback(part.stop)
        self._threads.append(part.thread)
        return part

    def _require_extras(self) -> None:
        """Refuses, before anything is opened, what needs a library that is not installed."""
        if self._config.plant.trust:
            import echo_stream.daemon.transfers  # noqa: PLC0415, F401 - only who wants it pays
        if self._config.web.enabled:
            from echo_stream.web.server import require_page  # noqa: PLC0415 - only who wants it pays

            require_page(self._config.web)
            keep_recent(PAGE_LOG_LINES)

    def _start_page(self, stack: ExitStack) -> None:
        if not self._config.web.enabled:
            return
        from echo_stream.daemon.page import Page  # noqa: PLC0415 - only who wants it pays

        page = Page(
            self._path,
            self._registry,
            self._events,
            history=self._history,
            enrolments=self._enrolments,
            overview=self.overview,
            journal=self._on_event,
            sampler=self._sampler,
        )
        self._page = self._begin(stack, page)

    def _on_event(self, kind: str, payload: Payload) -> None:
        self._sampler.on_event(kind, payload, self._registry.stations)
        if self._history:
            self._history.put_event(kind, payload)
        if self._page:
            self._page.on_event(kind, payload)

    def _stop_publisher(self) -> None:
        """Sends what waits; the outbox logs what is neither sent nor on the disk."""
        self._publisher.stop(DRAIN_S)
        counters = self._publisher.counters()
        if waiting := counters.outbox_depth - counters.outbox_unsaved:
            log.info("events wait in the outbox for the next start", events=waiting)

    def _serve_status(self, stack: ExitStack, path: Path) -> None:
        try:
            server = StatusServer(path, self.overview, self._enrolments.answer)
        except EchoStreamError as error:  # such as a path too long for a socket: no reason not to listen
            log.warning("`echo-stream status` will not be answered", reason=error.message, hint=error.hint)
            return
        stack.callback(server.close)
        self._threads.append(server.thread)

    def _serve_metrics(self, now_s: float) -> None:
        """Begins to answer Prometheus; a port that is taken is tried again, listening goes on."""
        port = self._config.metrics_port
        if port is None or self._metrics or now_s < self._metrics_at_s:
            return
        from echo_stream.daemon.metrics import MetricsServer  # noqa: PLC0415 - only who wants it pays

        self._metrics_at_s = now_s + METRICS_RETRY_S
        try:
            self._metrics = MetricsServer(port, self.overview)
        except EchoStreamError as error:
            if not self._metrics_trouble:
                log.error("metrics are not served; tried again", reason=error.message, hint=error.hint)
            self._metrics_trouble = error.message
            return
        self._metrics_trouble = ""
        self._threads.append(self._metrics.thread)

    def _close_metrics(self) -> None:
        if self._metrics:
            self._metrics.close()

    def _start_receivers(self, stack: ExitStack) -> list[Receiver]:
        if not self._config.notify:
            return []
        from echo_stream.daemon.notify import build_receivers  # noqa: PLC0415 - only who wants it pays

        receivers = build_receivers(self._config)
        for receiver in receivers:
            self._begin(stack, receiver)

        def notify(kind: str, payload: Payload) -> None:
            for receiver in receivers:
                receiver.take(kind, payload)

        self._events.notify = notify
        return receivers

    def _start_evidence(self, stack: ExitStack) -> None:
        evidence = build_evidence(self._config, self._events.evidence_complete, self._publisher.set_image)
        self._events.evidence = evidence
        if evidence:
            self._begin(stack, evidence)

    def _start_history(self, stack: ExitStack) -> HistoryRecorder | None:
        store = build_history(self._config)
        return None if store is None else self._begin(stack, HistoryRecorder(store))

    def _start_transfers(self, stack: ExitStack) -> None:
        if not self._config.plant.trust:
            return
        from echo_stream.daemon.transfers import Transfers  # noqa: PLC0415 - only who wants it pays

        self._transfers = transfers = Transfers(
            self._path,
            self._config,
            self._publisher,
            machines=lambda: self.overview()["machines"],
            reload=self._reload_now,
            interrupted=self._undone,
        )
        self._begin(stack, transfers)

    def _reload_now(self) -> str:
        """Has the main thread read the configuration again; why it is refused, empty where it is taken."""
        refusal: SimpleQueue[str] = SimpleQueue()
        self._reloads_asked.put(refusal)
        self._signals.wake()
        try:
            return refusal.get(timeout=RELOAD_S)
        except Empty:
            return f"it was not read within {RELOAD_S:.0f} s"

    def _alive(self, now_s: float) -> bool:
        """Pipeline and publisher make progress, or wait by design for a microphone or a broker."""
        patience_s = self._notifier.watchdog_interval_s or STUCK_S
        return now_s - self._round_at_s < patience_s and self._publisher.alive

    # The pipeline thread.

    def _walk(self, encoder: Encoder) -> None:
        listen(
            self._begin_round,
            encoder,
            on_event=self._events.publish,
            observe=self._observe,
            stop=self._stop,
            on_failure=self._registry.fail,
            expecting=lambda: bool(self._registry.failed),
            sampled=self._sampler.add,
            asked=self._sampler.keeps_next,
        )
        self._events.save_states(self._registry.stations.values())
        self._stop.set()
        self._signals.wake()

    def _begin_round(self) -> Mapping[str, Station]:
        self._round_at_s = monotonic()
        stations = self._registry.apply_changes()
        for window, device in self._registry.read_without_bank(self._enrolments.has_room):
            self._enrolments.take(window, device)

        def carry_out(command: Command, reply: Callable[[bool, str], None]) -> None:
            execute(
                command,
                stations,
                self._events.transition,
                self._proposals,
                enrol=self._enrolments.ask,
                accept_bank=self._banks.ask,
                reply=reply,
            )

        for command in self._publisher.commands():
            carry_out(command, self._replier(command))
        if self._page:
            self._page.execute_commands(carry_out)
        return stations

    def _replier(self, command: Command) -> Callable[[bool, str], None]:
        return lambda ok, outcome: self._publisher.reply(command, ok=ok, outcome=outcome)

    def _observe(self, scored: Sequence[Scored]) -> None:
        now_s, now = monotonic(), datetime.now(UTC)
        stations = self._registry.stations
        self._events.tick()
        for window, score in scored:
            station = stations[window.machine]
            spent_s = (now_s - self._round_at_s) / len(scored)
            lag_s = (now - window.captured_at).total_seconds()
            station.health.scored(window, score, spent_s=spent_s, lag_s=lag_s, now_s=now_s)
            self._events.score(station, (window, score))
            self._enrolments.take(window, station.reader.source.description, score.condition)
            if self._history:
                self._history.add(station, (window, score))
        if self._page:
            self._page.observe(scored)
        self._round_at_s = now_s
        if now_s >= self._losses_at_s:
            self._losses_at_s = now_s + LOSSES_EVERY_S
            _take_losses(stations.values())
        self._sampler.tick(now_s - self._since_s)
        self._save_some_states(stations, now_s)

    def _save_some_states(self, stations: Mapping[str, Station], now_s: float) -> None:
        """Each machine's once in `STATES_EVERY_S`: of a thousand at once the pipeline would stand."""
        self._states_at_s = max(self._states_at_s, now_s - STATES_EVERY_S)
        while stations and now_s >= self._states_at_s:
            self._unsaved = self._unsaved or deque(stations)
            if (station := stations.get(self._unsaved.popleft())) is not None:
                self._events.save_states([station])
            self._states_at_s += STATES_EVERY_S / len(stations)

    def _on_added(self, station: Station, machine: Machine) -> None:
        self._publisher.add_machine(machine.id, machine.title, machine.asset, machine.measures)
        self._events.add_station(station, machine.title)
        self._sampler.add_station(station)

    def _on_removed(self, machine_id: str) -> None:
        self._publisher.remove_machine(machine_id)
        if self._history:
            self._history.remove(machine_id)
        self._monitor.remove(machine_id)

    # The main thread.

    def _supervise(self) -> None:
        while not self._stop.is_set():
            received = self._signals.wait()
            if received & {signal.SIGTERM, signal.SIGINT}:
                return
            now_s = monotonic()
            if self._alive(now_s):
                self._notifier.watchdog()
            if signal.SIGHUP in received:
                self._reload_config()
            while not self._reloads_asked.empty():
                self._reloads_asked.get().put(self._reload_config())
            self._state_dir.take(now_s)
            self._supervision.step(partial(self._look_after, now_s))
            ended = [thread.guard.part for thread in self._threads if thread.ended]
            if ended and not self._stop.is_set():
                self._failure = EchoStreamError(
                    f"the thread of {' and '.join(ended)} has ended and cannot be restarted",
                    "systemd starts the service again",
                )
                return

    def _look_after(self, now_s: float) -> None:
        """Once a second."""
        self._registry.take_new_banks()
        self._registry.retry_failed(now_s)
        if now_s >= self._banks_at_s:
            self._banks_at_s = now_s + BANKS_EVERY_S
            self._banks.check(self._registry.config.machines)
        self._serve_metrics(now_s)
        self._monitor.check(self._registry.stations, self._registry.failed, now_s)

    def _reload_config(self) -> str:
        """Validated first; whatever goes wrong keeps the old configuration, and is logged and returned."""
        self._notifier.reloading()
        refusal = ""
        try:
            config = load(self._path)
            fixed = [key for key in FIXED if getattr(config, key) != getattr(self._config, key)]
            self._registry.reload(config)
            self._publisher.set_speeds(speed_topics(config))
            for machine in config.machines:
                known = machine.id, machine.title, machine.asset, machine.measures
                was = self._config.machine(machine.id)
                if was is None or known != (was.id, was.title, was.asset, was.measures):
                    self._publisher.add_machine(*known)  # one that lacks a bank takes commands too
                    self._events.rename(machine.id, machine.title)
        except EchoStreamError as error:
            refusal = str(error)
            log.error("the new configuration is refused, the old one stays", reason=refusal)
        except Exception as error:
            refusal = repr(error)
            log.exception("the new configuration is refused, the old one stays", reason=refusal)
        else:
            if fixed:
                log.warning("changed settings take effect at the next restart", keys=fixed)
            log.info("configuration read again", machines=[m.id for m in config.machines])
            self._config = config
        self._notifier.ready()
        return refusal


def _take_losses(stations: Iterable[Station]) -> None:
    for station in stations:
        lost, skipped = station.reader.losses()
        if lost:
            station.health.lost(lost, station.reader.source.sample_rate_hz)
        if skipped:
            station.health.skipped(skipped)


def _warm_up(encoder: Encoder, readers: Iterable[WindowReader]) -> None:
    """The first encode of each kind of window takes longest: before READY, not after it."""
    for rate, window_s in {(reader.source.sample_rate_hz, reader.window_s) for reader in readers}:
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(rate * window_s)).astype(np.float32)
        encoder.encode([Window("warm-up", samples, 0, len(samples), rate, datetime.now(UTC))])
