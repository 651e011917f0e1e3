"""run: the composition root. What is started and in which order stands in `Daemon.run`; it stops in reverse.

The main thread handles signals, watches the pipeline and talks to systemd; the pipeline thread walks the
corridor; the publisher talks to the broker.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from types import FrameType

import numpy as np
import structlog

from echo_stream import __version__
from echo_stream.announce import Announcer
from echo_stream.build import encoder_of, publisher_of, sources_of, station_of
from echo_stream.config import Config
from echo_stream.configfile import load
from echo_stream.encode.encoder import Encoder
from echo_stream.errors import ConfigError, EchoStreamError
from echo_stream.pipeline import Scored, Station, listen
from echo_stream.service.logs import configure
from echo_stream.service.systemd import Notifier
from echo_stream.types import Window

DRAIN_S = 4.0
STUCK_S = 20.0  # a round of the corridor that takes longer is no progress
HEALTH_EVERY_S = 10.0
SUMMARY_EVERY_S = 60.0

log = structlog.get_logger()


def run_daemon(path: Path | None = None) -> None:
    """Listens until SIGTERM, SIGINT, or the end of all sources.

    Raises:
        EchoStreamError: it cannot begin, or the pipeline failed.
    """
    stop = Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    config = load(path)
    configure()
    Daemon(config, stop).run()


class Daemon:
    """All parts of a running echo-stream."""

    def __init__(self, config: Config, stop: Event) -> None:
        self._config = config
        self._stop = stop
        self._notifier = Notifier()
        self._stations: dict[str, Station] = {}
        self._round_at_s = monotonic()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Starts everything, waits, stops everything in reverse."""
        config = self._config
        _require_writable(config.state_dir)
        with ExitStack() as stack:
            encoder = encoder_of(config)
            sources = sources_of(config.machines)
            for machine in config.machines:
                source = sources[machine.id]
                stack.callback(source.close)
                self._stations[machine.id] = station_of(config, machine, source, encoder)
            _warm_up(encoder, self._stations.values())
            publisher = publisher_of(config)
            names = {machine.id: machine.title for machine in config.machines}
            self._announcer = Announcer(config.node, names, publisher)
            for station in self._stations.values():
                self._announcer.restore(station)
                publisher.set_available(station.ear.machine, True)
            publisher.start()
            stack.callback(publisher.stop, DRAIN_S)
            pipeline = Thread(target=self._walk, args=(encoder,), name="pipeline", daemon=True)
            pipeline.start()
            stack.callback(pipeline.join, 1.0)
            stack.callback(self._stop.set)
            log.info("listening", machines=list(names), encoder=encoder.identity.kind, version=__version__)
            self._notifier.ready()
            self._supervise()
            self._notifier.stopping()
        if self._failure is not None:
            raise self._failure
        log.info("stopped")

    def _walk(self, encoder: Encoder) -> None:
        """The pipeline thread."""
        try:
            listen(
                lambda: self._stations,
                encoder,
                tell=self._announcer.tell,
                observe=self._observe,
                stop=self._stop,
            )
        except Exception as error:
            self._failure = error
            if not isinstance(error, EchoStreamError):
                log.exception("the pipeline failed")
        finally:
            self._stop.set()

    def _observe(self, scored: Sequence[Scored]) -> None:
        now_s = monotonic()
        spent_s = now_s - self._round_at_s
        for window, score in scored:
            station = self._stations[window.machine]
            station.health.scored(window, score, spent_s=spent_s / len(scored), now_s=now_s)
            self._announcer.score(station, (window, score))
        self._round_at_s = monotonic()

    def _supervise(self) -> None:
        """The main thread, until it is told to stop."""
        health_at_s = summary_at_s = monotonic()
        while not self._stop.wait(1.0):
            now_s = monotonic()
            if now_s - self._round_at_s < STUCK_S:
                self._notifier.watchdog()
            if now_s >= health_at_s:
                health_at_s = now_s + HEALTH_EVERY_S
                for station in self._stations.values():
                    self._announcer.health(station, "listening", {"echo-stream": __version__})
            if now_s >= summary_at_s + SUMMARY_EVERY_S:
                summary_at_s = now_s
                self._summarise(now_s)

    def _summarise(self, now_s: float) -> None:
        for machine, station in self._stations.items():
            found = station.health.snapshot(now_s)
            log.info(
                "summary",
                machine=machine,
                score=found["score"] and round(found["score"], 2),
                states={alarm.level.value: alarm.state.value for alarm in station.alarms},
                coverage_10m=found["coverage_10m"],
                level_dbfs=found["level_dbfs"],
                real_time_factor=found["real_time_factor"],
            )


def _warm_up(encoder: Encoder, stations: Iterable[Station]) -> None:
    """The first encode of each kind of window takes longest: before READY, not after it."""
    for rate, window_s in {(s.ear.source.sample_rate_hz, s.ear.window_s) for s in stations}:
        samples = np.random.default_rng(0).uniform(-0.1, 0.1, round(rate * window_s)).astype(np.float32)
        encoder.encode([Window("warm-up", samples, 0, len(samples), rate, datetime.now(UTC))])


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ConfigError(
            f"state_dir {folder} cannot be written: {error.strerror}",
            "name a folder that the service may write, or give it the rights",
        ) from None
