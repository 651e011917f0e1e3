"""What a request asks is read here, and refused with words where it is malformed."""

from __future__ import annotations

import re
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError

from echo_stream.core.errors import of_extra
from echo_stream.web.access import MOST_BODY_BYTES, User

with of_extra("the page (web.enabled)", "web"):
    from starlette.requests import Request
    from starlette.responses import Response

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
