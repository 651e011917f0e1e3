"""OpenAPI describes the operations of the API, from the models that check and make what they say."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from echo_stream import __version__
from echo_stream.core.errors import of_extra
from echo_stream.web import models

with of_extra("the page (web.enabled)", "web"):
    from starlette.requests import Request
    from starlette.responses import Response


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
