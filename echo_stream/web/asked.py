"""A request to the API is described (OpenAPI, from the models), read, and refused where it is malformed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import models_json_schema

from echo_stream import __version__
from echo_stream.core.errors import CommandRefused, of_extra
from echo_stream.web import models
from echo_stream.web.access import MOST_BODY_BYTES, User
from echo_stream.web.broadcast import MOST_VIEWERS, Broadcast

with of_extra("the page (web.enabled)", "web"):
    from starlette.requests import Request
    from starlette.responses import Response, StreamingResponse
    from starlette.types import Receive, Scope, Send

COMMAND_S: Final = 10.0

EVENT_ID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")

Asked = TypeVar("Asked", bound=BaseModel)


class Problem(Exception):
    """An answer that is no success: status and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


def to_json(model: BaseModel, status: int = 200) -> Response:
    """An answer of the API."""
    return Response(model.model_dump_json(), status, media_type="application/json")


class Commands(Protocol):
    """Who carries out what people ask of a machine."""

    def command(
        self, machine: str, asked: Mapping[str, Any], sender: Mapping[str, str]
    ) -> Future[models.Outcome]:
        """Begins; raises CommandRefused where it is malformed, or too much waits."""


async def carry_out(backend: Commands, request: Request, machine: str, asked: Mapping[str, Any]) -> Response:
    """Has a command carried out, and answers what came of it.

    Raises:
        Problem: it was refused, or takes too long.
    """
    sender = {"page": request.client.host if request.client else ""}
    try:
        future = backend.command(machine, asked, sender)
        outcome = await asyncio.wait_for(asyncio.wrap_future(future), COMMAND_S)
    except CommandRefused as error:
        raise Problem(400, error.message) from None
    except TimeoutError:
        raise Problem(504, "the daemon is busy and has not done it yet; look again") from None
    return to_json(outcome, 200 if outcome.ok else 409)


def events_of(feed: Broadcast, machine: str | None = None) -> Response:
    """Server-sent events for one more viewer.

    Raises:
        Problem: too many look.
    """
    if feed.viewers >= MOST_VIEWERS:
        raise Problem(503, f"{MOST_VIEWERS} people look already")
    return Stream(feed.follow(machine), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


class Stream(StreamingResponse):
    """A stream whose generator is closed at once when its viewer goes, not when Python happens to."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends until the viewer goes."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self.body_iterator, "aclose", None)
            if close is not None:
                await close()


async def body_of(request: Request, model: type[Asked]) -> Asked:
    """What was asked.

    Raises:
        Problem: too long, or not what the model says.
    """
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MOST_BODY_BYTES:
            raise Problem(413, f"the body is longer than {MOST_BODY_BYTES} bytes")
    try:
        return model.model_validate_json(bytes(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Problem(400, f"{where}: {first['msg']}" if where else first["msg"]) from None


def by_of(request: Request, given: str | None) -> str:
    """Who asks: with passwords the name of the login, whatever else is said.

    Raises:
        Problem: nobody says.
    """
    user: User = request.state.user
    by = user.name if user.name is not None else (given or "").strip()
    if not by:
        raise Problem(400, "say who you are (by): it stands in the journal")
    return by


def number_of(request: Request, name: str, default: float, *, least: float, most: float) -> float:
    """A number of the query.

    Raises:
        Problem: it is none, or out of bounds.
    """
    given = request.query_params.get(name)
    if given is None:
        return default
    try:
        value = float(given)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise Problem(400, f"{name}: expected a number from {least:g} to {most:g}")
    return value


def event_id_of(request: Request) -> str:
    """The event that a request names.

    Raises:
        Problem: that is no id of an event.
    """
    event_id = str(request.path_params["event_id"])
    if not EVENT_ID.fullmatch(event_id):
        raise Problem(404, "no such event")
    return event_id


@dataclass(frozen=True, slots=True)
class Operation:
    """An address of the API, as code and as OpenAPI describe it."""

    method: str
    path: str
    summary: str
    answer: type[BaseModel] | str
    """Model of the answer, or its media type."""
    handle: Callable[[Request], Awaitable[Response]]
    body: type[BaseModel] | None = None
    query: tuple[str, ...] = ()


def describe(operations: list[Operation]) -> dict[str, Any]:
    """OpenAPI 3.1 of the operations, from the models that check and make what they say."""
    used = {each.answer for each in operations if not isinstance(each.answer, str)}
    used |= {each.body for each in operations if each.body}
    used |= {models.LiveFigures, models.LiveColumns}
    ordered = sorted(used, key=lambda model: model.__name__)
    ref = "#/components/schemas/{model}"
    _, schemas = models_json_schema([(model, "validation") for model in ordered], ref_template=ref)
    paths: dict[str, Any] = {}
    for each in operations:
        answer: dict[str, Any] = {"description": "done"}
        if isinstance(each.answer, str):
            answer["content"] = {each.answer: {}}
        else:
            schema: dict[str, Any] = {"$ref": f"#/components/schemas/{each.answer.__name__}"}
            if each.path == "/machines":
                schema = {"type": "array", "items": schema}
            answer["content"] = {"application/json": {"schema": schema}}
        operation: dict[str, Any] = {"summary": each.summary, "responses": {"200": answer}}
        names = [(name, "path") for name in re.findall(r"{(\w+)}", each.path)] + [
            (q, "query") for q in each.query
        ]
        if names:
            operation["parameters"] = [
                {"name": name, "in": where, "required": where == "path", "schema": {"type": "string"}}
                for name, where in names
            ]
        if each.body:
            content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{each.body.__name__}"}}}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(f"api{each.path}", {})[each.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "echo-stream, the page's API", "version": __version__},
        "servers": [{"url": "../"}],
        "paths": {f"/{path}": value for path, value in paths.items()},
        "components": {"schemas": schemas["$defs"]},
    }
