"""Monitor checks sources and pace once a second; it logs a problem when it begins and ends. Main thread.

Notifier reports to systemd: ready, alive, reloading, stopping, by the protocol of sd_notify(3). SignalPipe
hands the main thread its signals.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

from echo_stream.core.log import get_logger
from echo_stream.daemon.events import EventPublisher
from echo_stream.daemon.stations import FailedMachine
from echo_stream.mqtt.publisher import Publisher
from echo_stream.pipeline.station import Station


class Notifier:
    """The line to systemd. Every method is harmless without it.

    A message that cannot be sent is dropped: it is advice to the supervisor, and a supervisor that does not
    get its WATCHDOG=1 restarts the service anyway.
    """

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # the abstract name space, which has no path in the file system
            self._address = "\0" + self._address[1:]
        usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_interval_s: float | None = int(usec) / 2e6 if usec.isdigit() and ours else None
        """Seconds between two calls of `watchdog`: half of WatchdogSec. None where no watchdog is set."""

    def ready(self) -> None:
        """Start-up, or a reload, is finished."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send("STATUS=" + text.replace("\n", " "))

    def watchdog(self) -> None:
        """The pipeline makes progress, or waits for a source by design."""
        self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` must follow, also where the new one is refused."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The service drains and goes."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.settimeout(1.0)  # a supervisor that does not read must not hold the main thread
            line.sendto(message.encode(), self._address)


HEALTH_EVERY_S = 10.0
SUMMARY_EVERY_S = 60.0
CATCHING_UP_S = 30.0  # so long without a skipped hop, and the PC keeps up again
AWAY = ("waiting", "lost")

log = get_logger()


class SignalPipe:
    """Signals of the process, for the main thread; any thread may wake it.

    A signal handler takes no lock, because the thread that it interrupts may hold that lock: Python writes
    the signal's number into a pipe, and the main thread reads it.
    """

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()  # not select.select, which fails with more than 1,024 open descriptors
        self._poll.register(self._reader, select.POLLIN)

    def catch(self) -> None:
        """From now on SIGTERM, SIGINT and SIGHUP arrive here."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, _ignore)  # its number arrives in the pipe

    def wake(self) -> None:
        """`wait` returns at once."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def wait(self, timeout_ms: int = 1000) -> set[int]:
        """The signals that came; empty where none did within the time."""
        if self._poll.poll(timeout_ms):
            with contextlib.suppress(BlockingIOError):
                return set(os.read(self._reader, 4096))
        return set()


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Runs on the main thread between two of its instructions: whatever it did could be half done there."""


class Monitor:
    """Follows sources and pace, publishes health, writes the summary.

    Args:
        overview: the daemon's state; takes a while with a thousand machines.
        degraded: what is not as it should be, in sentences; quick.
        events: for health messages.
        publisher: for the machines' availability.
        notifier: for the line in `systemctl status`.
        now_s: monotonic time.
    """

    def __init__(
        self,
        overview: Callable[[], dict[str, Any]],
        degraded: Callable[[], list[str]],
        *,
        events: EventPublisher,
        publisher: Publisher,
        notifier: Notifier,
        now_s: float,
    ) -> None:
        self._overview = overview
        self._degraded = degraded
        self._said: list[str] = []
        self._events = events
        self._publisher = publisher
        self._notifier = notifier
        self._captures: dict[str, str] = {}
        self._skipped = 0
        self._late_until_s = now_s
        self._late = False
        self._health_at_s = now_s
        self._summary_at_s = now_s + SUMMARY_EVERY_S

    def check(
        self, stations: Mapping[str, Station], failed: Mapping[str, FailedMachine], now_s: float
    ) -> None:
        """Once a second."""
        for machine in failed:
            if self._captures.get(machine) != "failed":
                self._captures[machine] = "failed"
                self._publisher.set_available(machine, False)
        for machine, station in stations.items():
            self._check_capture(machine, station)
        self._check_pace(stations, now_s)
        reasons = self._degraded()
        self._notifier.status(_in_a_line(stations, reasons))
        due = now_s >= self._health_at_s
        if due:
            self._health_at_s = now_s + HEALTH_EVERY_S
        if due or reasons != self._said:
            self._say_health(reasons, with_machines=due)
        if now_s >= self._summary_at_s:
            self._summary_at_s = now_s + SUMMARY_EVERY_S
            _summarise(self._overview())

    def _say_health(self, reasons: list[str], *, with_machines: bool) -> None:
        if reasons and not self._said:
            log.warning("the daemon is DEGRADED", reasons=reasons[:_REASONS_IN_LINE])
        elif self._said and not reasons:
            log.info("the daemon is no longer DEGRADED")
        self._said = reasons
        found = self._overview()
        coverages = [m["coverage_10m"] for m in found["machines"] if m["coverage_10m"] is not None]
        self._events.node_health(reasons, counters_of(found), min(coverages, default=None))
        for machine in found["machines"] if with_machines else ():
            if machine["capture"] != "failed" or machine.get("enrolling"):
                self._events.health(machine)

    def remove(self, machine: str) -> None:
        """A machine is gone."""
        self._captures.pop(machine, None)

    def _check_capture(self, machine: str, station: Station) -> None:
        capture, before = station.reader.source.state, self._captures.get(machine)
        reason = station.reader.source.last_error
        opening = capture == "waiting" and reason is None  # takes a second or two with PortAudio
        if capture == before or opening:
            return
        self._captures[machine] = capture
        self._publisher.set_available(machine, capture == "running")
        device = station.reader.source.description
        if capture in AWAY:
            log.warning(
                f"the source delivers no sound: {capture}", machine=machine, device=device, reason=str(reason)
            )
        elif capture == "ended" or before is not None:
            log.info(f"sound: {capture}", machine=machine, device=device)

    def _check_pace(self, stations: Mapping[str, Station], now_s: float) -> None:
        skipped = sum(station.reader.slicer.skipped_hops for station in stations.values())
        if skipped > self._skipped:
            self._late_until_s = now_s + CATCHING_UP_S
        self._skipped = skipped
        late = now_s < self._late_until_s
        if late != self._late:
            self._late = late
            factors = {found["machine"]: found["real_time_factor"] for found in self._overview()["machines"]}
            say = log.warning if late else log.info
            say(
                "the PC cannot keep up: windows are skipped, the newest are scored"
                if late
                else "the PC keeps up",
                factors=factors,
            )


_REASONS_IN_LINE = 5


def _in_a_line(stations: Mapping[str, Station], reasons: Sequence[str]) -> str:
    """For `systemctl status`: what is not as it should be, then the alarms."""
    more = len(reasons) - _REASONS_IN_LINE
    shown = [*reasons[:_REASONS_IN_LINE], *([f"{more} more"] if more > 0 else [])]
    states = [f"{machine}: {station.alarms[-1].state}" for machine, station in stations.items()]
    return "; ".join([*(["DEGRADED", *shown] if shown else []), *states[:5]])


def counters_of(found: Mapping[str, Any]) -> dict[str, int]:
    """What the overview counts of the daemon's own parts, for the health of the node."""
    counters = {
        "restarts": sum(thread["restarts"] for thread in found["threads"]),
        "machines_failed": sum(machine["capture"] == "failed" for machine in found["machines"]),
        **{f"outbox_{name}": found["outbox"][name] for name in ("depth", "dropped", "unsaved", "damaged")},
    }
    if found["evidence"]:
        counters["evidence_failed"] = found["evidence"]["failed"]
    if found["history"]:
        counters["history_dropped"] = found["history"]["dropped"]
    return counters


def _summarise(found: Mapping[str, Any]) -> None:
    for machine in found["machines"]:
        keys = ("machine", "score", "coverage_10m", "level_dbfs", "real_time_factor", "capture")
        states = {level: alarm["state"] for level, alarm in machine["alarms"].items()}
        log.info("summary", **{key: machine[key] for key in keys}, **states)
