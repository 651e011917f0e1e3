"""The page of a plant runs on the PC of who looks after it: the broker is its source, it needs no daemon.

One thread reads the broker and makes the rows of the page anew where something changed; the page's own thread
sends them; commands wait for their replies on a few threads more.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import BoundedSemaphore, Event
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from echo_stream.cli.fleet import Fleet, MachineNow
from echo_stream.cli.plant_broker import (
    KEPT,
    LEAST_COVERAGE,
    URGENCY,
    Plant,
    ask,
    follow,
    machine_now,
    node_now,
    stands_at,
)
from echo_stream.config.schema import WebSettings
from echo_stream.core.errors import CommandRefused, ConfigError, EchoStreamError
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.text import utc_text
from echo_stream.web import models
from echo_stream.web.plant import PlantApi, PlantFeed, PlantMachine, PlantNode, PlantState
from echo_stream.web.server import PageServer

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from echo_stream.web.access import Sessions

TOPICS: Final = (*KEPT, "+/+/drift")
EVERY_S: Final = 0.5
ALL_EVERY_S: Final = 30.0
"""All rows are made anew so often: a machine that says nothing becomes *not heard lately*."""
COMMANDS: Final = 8
REPLY_S: Final = 8.0
NOT_YET: Final = "no connection yet"
_STATUS: Final = {
    "alarm": "alarm",
    "alarm, seen": "acknowledged",
    "not listening": "not-heard",
    "not heard lately": "not-heard",
    "to acknowledge": "alarm-over",
    "warning": "warning",
    "degraded": "degraded",
    "": "normal",
}
_WORKS: Final = ("running", "listening")

log = get_logger()


def settings_of(listen: str, passwords: str | None, hosts: tuple[str, ...]) -> WebSettings:
    """What `web` in a configuration would say, with the same rules.

    Raises:
        ConfigError: the address is none, or can be reached by others and has no passwords.
    """
    host, _, port = listen.rpartition(":")
    given = {"host": host.strip("[]"), "password_file": passwords, "hosts": hosts}
    try:
        return WebSettings.model_validate({"enabled": True, "port": int(port), **given})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(
            f"--listen {listen}: {first['msg'].removeprefix('Value error, ')}",
            "expected ADDRESS:PORT, such as 127.0.0.1:8766; for other PCs with --passwords FILE",
        ) from None
    except ValueError:
        raise ConfigError(f"--listen {listen}: says no port", "expected ADDRESS:PORT") from None


class PlantPage:
    """Rows of the page, the thread that reads the broker, and the page's server.

    Args:
        plant: where the nodes publish to.
        web: where the page is served, and who may see it.
        asset: only machines at this place are shown.
    """

    def __init__(self, plant: Plant, web: WebSettings, asset: Mapping[str, str]) -> None:
        self._plant, self._asset = plant, dict(asset)
        self.machines: dict[str, PlantMachine] = {}
        self.nodes: dict[str, PlantNode] = {}
        self.state = PlantState(
            broker=plant.broker.address,
            connected=False,
            since=utc_text(datetime.now(UTC)),
            reason=NOT_YET,
            asset=self._asset,
        )
        self._all_at_s = 0.0
        self._stop = Event()
        self._free = BoundedSemaphore(COMMANDS)
        self._pool = ThreadPoolExecutor(COMMANDS, thread_name_prefix="command")
        self._feed = PlantFeed(self)
        self._server = PageServer(self._feed, self._app, web)
        self._reader = GuardedThread("the reading of the broker", self._read, self._stop, name="broker")

    def run(self, stop: Event) -> None:
        """Serve until `stop`; returns when all is closed."""
        self._server.start()
        self._reader.start()
        try:
            stop.wait()
        finally:
            self._stop.set()
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._reader.join(3.0)
            self._server.stop()

    def _app(self, sessions: Sessions, hosts: tuple[str, ...]) -> ASGIApp:
        from echo_stream.web.app import build_app

        operations = PlantApi(self, self._feed).operations()
        return build_app(operations, sessions, hosts, node=self.state.broker, plant=True)

    def command(
        self, machine: str, asked: Mapping[str, Any], sender: Mapping[str, str]
    ) -> Future[models.Outcome]:
        """Sends a command of a person; done when its daemon has replied, or did not in time.

        Raises:
            CommandRefused: too many wait for replies.
        """
        if not self._free.acquire(blocking=False):
            raise CommandRefused("too many commands wait for replies: try again in some seconds")
        future = self._pool.submit(self._ask, machine, asked, sender)
        future.add_done_callback(lambda _: self._free.release())
        return future

    def _ask(self, machine: str, asked: Mapping[str, Any], sender: Mapping[str, str]) -> models.Outcome:
        try:
            outcome = models.Outcome(ok=True, outcome=ask(self._plant, machine, asked, REPLY_S))
        except EchoStreamError as error:
            outcome = models.Outcome(ok=False, outcome=error.message)
        log.info(
            "a command was sent",
            machine=machine,
            command=asked["command"],
            by=asked["by"],
            ok=outcome.ok,
            outcome=outcome.outcome,
            **sender,
        )
        return outcome

    # The thread that reads the broker.

    def _read(self) -> None:
        follow(self._plant, TOPICS, self._take, self._stop, every_s=EVERY_S)

    def _take(self, fleet: Fleet) -> None:
        """What the broker has changed: new rows in place of the old."""
        changed, fleet.changed = fleet.changed, set()
        if fleet.trouble:  # what was known stays as it was then, until the broker has said all again
            self._all_at_s = time.monotonic()
        elif time.monotonic() - self._all_at_s >= ALL_EVERY_S:
            self._all_at_s = time.monotonic()
            changed |= {*fleet.machines, *((node, "") for node in {*fleet.nodes, *fleet.node_healths})}
        nodes = {node for node, machine in changed if not machine}
        changed |= {key for key in fleet.machines if key[0] in nodes}
        for key in changed:
            if key[1]:
                self._put_machine(fleet, key)
        with_machines = {each.node for each in self.machines.values()}
        for node in {node for node, _ in changed}:
            known = (node in fleet.nodes or node in fleet.node_healths) and not self._asset
            if not known and node not in with_machines:
                self.nodes.pop(node, None)
            elif self.nodes.get(node) != (found := _node_of(fleet, node)):
                self.nodes[node] = found
        self._put_state(fleet)
        if changed:
            self._feed.touch()

    def _put_machine(self, fleet: Fleet, key: tuple[str, str]) -> None:
        name, now = "/".join(key), fleet.machines.get(key)
        found = None if now is None else row_of(fleet, now)
        if found is None or not stands_at(found.asset, self._asset):
            self.machines.pop(name, None)
        elif self.machines.get(name) != found:
            self.machines[name] = found

    def _put_state(self, fleet: Fleet) -> None:
        before, connected = self.state, not fleet.trouble
        found = {"connected": connected, "reason": fleet.trouble, "too_many": fleet.too_many}
        if before.model_dump(include=set(found)) == found:
            return
        if connected and not before.connected:
            log.info("the broker is connected", broker=before.broker)
        elif not connected and (before.connected or before.reason == NOT_YET):
            log.warning("the broker is away, and is tried again", broker=before.broker, reason=fleet.trouble)
        since = before.since if connected == before.connected else utc_text(datetime.now(UTC))
        self.state = before.model_copy(update={**found, "since": since})
        self._feed.touch()


def row_of(fleet: Fleet, now: MachineNow) -> PlantMachine:
    """The row of a machine."""
    found = machine_now(fleet, now)
    levels = {name: _level(level) for name, level in ((now.alarm or {}).get("levels") or {}).items()}
    aside = models.ASIDE.get(found["state"] or "")
    drift = now.drift or {}
    return PlantMachine(
        id=f"{now.node}/{now.machine}",
        node=now.node,
        name=found["name"],
        asset=found["asset"] or {},
        status=aside or _STATUS[found["urgency"]],
        word=(aside or found["urgency"] or "normal").replace("-", " "),
        urgency=URGENCY.index(found["urgency"]),
        reason=_reason(fleet, now, found),
        warning=levels.get("warning"),
        alarm=levels.get("alarm"),
        coverage_10m=found["coverage_10m"],
        bank=found["bank"],
        bank_proposed=found["bank_proposed"],
        versions=found["versions"],
        drift_since=drift.get("since") or drift.get("ts") if drift.get("active") else None,
        heard=found["heard"],
    )


def _reason(fleet: Fleet, now: MachineNow, found: Mapping[str, Any]) -> str:
    capture = found["capture"] or ""
    if not fleet.nodes.get(now.node, False):
        return "its PC is offline"
    if not found["listening"]:
        return "its PC does not listen to it" if capture in ("", *_WORKS) else f"sound: {capture}"
    if found["coverage_10m"] is not None and found["coverage_10m"] < LEAST_COVERAGE:
        return "too little of the last ten minutes was scored"
    if fleet.node_healths.get(now.node, {}).get("state") == "degraded":
        return "its PC does less than it should: see PCs"
    return ""


def _level(level: Mapping[str, Any]) -> models.LevelState:
    return models.LevelState(
        state=level["state"], active=level["active"], since=level["since"], event_id=level["event_id"]
    )


def _node_of(fleet: Fleet, node: str) -> PlantNode:
    found = node_now(fleet, node)
    counters = found["counters"]
    return PlantNode(
        node=node,
        online=found["online"],
        reasons=found["reasons"],
        outbox=counters.get("outbox_depth"),
        dropped=counters.get("outbox_dropped"),
        heard=found["heard"],
    )


def serve(plant: Plant, web: WebSettings, asset: Mapping[str, str]) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Raises:
        ConfigError: the password file cannot be used.
    """
    stop = Event()
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, lambda *_: stop.set())
    PlantPage(plant, web, asset).run(stop)
