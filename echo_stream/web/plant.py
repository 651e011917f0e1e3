"""The page of a plant: machines of many nodes by what the broker has of them, and what people ask of one."""

from __future__ import annotations

from typing import Protocol

from pydantic import Field

from echo_stream.core.errors import of_extra
from echo_stream.web import models
from echo_stream.web.asked import Commands, Operation, Problem, body_of, by_of, carry_out, events_of, to_json
from echo_stream.web.broadcast import Broadcast, frame
from echo_stream.web.models import LevelState, Model, Time

with of_extra("the page of a plant (web --broker)", "web"):
    from starlette.requests import Request
    from starlette.responses import Response


class PlantMachine(Model):
    """One machine of a plant, by what the broker has of it."""

    id: str = Field(description="NODE/MACHINE")
    node: str
    name: str
    asset: dict[str, str] = Field(description="where it stands")
    status: str = Field(description="one word for the colour")
    word: str = Field(description="the same for people")
    urgency: int = Field(description="0 is the most urgent")
    reason: str = Field(description="why it is not listened to; empty where it is")
    warning: LevelState | None = Field(None, description="null where nothing was received of it")
    alarm: LevelState | None = None
    coverage_10m: float | None
    bank: str | None
    bank_proposed: str | None = Field(description="a version that waits to be accepted")
    versions: dict[str, str] = Field(description="of the program, the encoder, and so on")
    drift_since: Time = Field(None, description="told since this page began, and not over")
    heard: Time = Field(description="of its newest message")


class PlantNode(Model):
    """One PC of a plant."""

    node: str
    online: bool
    reasons: list[str] = Field(description="what is not as it should be")
    outbox: int | None = Field(description="messages that wait for the broker; null where it does not say")
    dropped: int | None = Field(description="that a full outbox gave up since its start")
    heard: Time = None


class PlantState(Model):
    """How the plant is listened to."""

    broker: str
    connected: bool
    since: str = Field(description="UTC, ISO 8601: since when it is so")
    reason: str = Field("", description="why there is no connection")
    asset: dict[str, str] = Field(description="only machines at this place are shown")
    too_many: bool = Field(False, description="more publish than are shown")


class Plant(Model):
    """All of a plant, the most urgent machine first."""

    state: PlantState
    machines: list[PlantMachine]
    nodes: list[PlantNode]


class PlantBackend(Commands, Protocol):
    """What is known of a plant; another thread puts new objects in place of those that changed."""

    state: PlantState
    machines: dict[str, PlantMachine]
    nodes: dict[str, PlantNode]


class PlantFeed(Broadcast):
    """All viewers of a plant."""

    def __init__(self, backend: PlantBackend) -> None:
        super().__init__()
        self._backend = backend
        self._state: PlantState | None = None
        self._machines: dict[str, PlantMachine] = {}
        self._nodes: dict[str, PlantNode] = {}

    def everything(self) -> bytes:
        """All of it."""
        machines, nodes = dict(self._backend.machines), dict(self._backend.nodes)
        return (
            frame("plant", self._backend.state)
            + frame("machines", [each.model_dump() for each in machines.values()])
            + frame("nodes", [each.model_dump() for each in nodes.values()])
        )

    def news(self) -> list[bytes]:
        """What changed; of a machine that was only heard again two figures."""
        state, machines, nodes = (
            self._backend.state,
            dict(self._backend.machines),
            dict(self._backend.nodes),
        )
        known, self._machines = self._machines, machines
        known_nodes, self._nodes = self._nodes, nodes
        before, self._state = self._state, state
        if known.keys() - machines.keys() or known_nodes.keys() - nodes.keys():
            return [self.everything()]
        frames = [frame("plant", state)] if state != before else []
        new = [each for name, each in machines.items() if known.get(name) is not each]
        changed = [each for each in new if each.id not in known or _still(each) != _still(known[each.id])]
        told = {each.id for each in changed}
        heard = {each.id: (each.coverage_10m, each.heard) for each in new if each.id not in told}
        new_nodes = [each for name, each in nodes.items() if known_nodes.get(name) is not each]
        frames += [frame("changed", [each.model_dump() for each in changed])] if changed else []
        frames += [frame("heard", heard)] if heard else []
        frames += [frame("nodes", [each.model_dump() for each in new_nodes])] if new_nodes else []
        return frames

    def forget(self) -> None:
        """Nobody looks."""
        self._machines, self._nodes, self._state = {}, {}, None

    def watch(self) -> None:
        """Everything is kept, whether or not somebody looks."""


class PlantApi:
    """The handlers."""

    def __init__(self, backend: PlantBackend, feed: PlantFeed) -> None:
        self._backend, self._feed = backend, feed

    def operations(self) -> list[Operation]:
        """All of them."""
        m = models
        return [
            Operation("GET", "/plant", "All machines and nodes of the plant", Plant, self.plant),
            Operation(
                "POST",
                "/machines/{node}/{machine}/command",
                "Ask what MQTT's commands ask, and wait for the reply of its daemon",
                m.Outcome,
                self.command,
                m.Command,
            ),
            Operation(
                "GET",
                "/stream",
                "What is new, as server-sent events: plant, machines, changed, heard, nodes",
                "text/event-stream",
                self.stream,
            ),
        ]

    async def plant(self, _request: Request) -> Response:
        """All that is known, the most urgent machine first."""
        machines = sorted(self._backend.machines.values(), key=lambda each: (each.urgency, each.id))
        nodes = sorted(self._backend.nodes.values(), key=lambda each: each.node)
        return to_json(Plant(state=self._backend.state, machines=machines, nodes=nodes))

    async def command(self, request: Request) -> Response:
        """The same command as over MQTT, since it goes there."""
        machine = "{node}/{machine}".format(**request.path_params)
        if machine not in self._backend.machines:
            raise Problem(404, "no such machine")
        asked = (await body_of(request, models.Command)).model_dump(exclude_none=True)
        asked["by"] = by_of(request, asked.get("by"))
        return await carry_out(self._backend, request, machine, asked)

    async def stream(self, _request: Request) -> Response:
        """Server-sent events."""
        return events_of(self._feed)


def _still(machine: PlantMachine) -> PlantMachine:
    """Without what changes each ten seconds."""
    return machine.model_copy(update={"coverage_10m": None, "heard": None})
