"""The API of enrolments: how far one is, what is asked of it, and the report that came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from echo_stream.core.errors import of_extra
from echo_stream.web import models
from echo_stream.web.asked import Problem, body_of, by_of, to_json
from echo_stream.web.backend import Backend
from echo_stream.web.openapi import Operation

with of_extra("the page (web.enabled)", "web"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import FileResponse, Response

REPORT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
)
"""The report brings its own style and pictures, and nothing that runs."""

Known = Callable[[Request], str]
Send = Callable[[Request, str, dict[str, Any]], Awaitable[Response]]


class EnrolmentApi:
    """The handlers.

    Args:
        backend: the daemon.
        known: the machine that a request names.
        send: has the pipeline carry out a command of a machine.
    """

    def __init__(self, backend: Backend, known: Known, send: Send) -> None:
        self._backend, self._known, self._send = backend, known, send

    def operations(self) -> list[Operation]:
        """All of them."""
        path, m = "/machines/{machine}/enrolment", models
        return [
            Operation("GET", path, "How far the learning of its normal sound is", m.Enrolment, self.state),
            Operation("POST", path, "Begin or change it", m.Outcome, self.change, m.EnrolmentCommand),
            Operation("GET", f"{path}/report", "What came of it", "text/html", self.report, query=("bank",)),
        ]

    async def state(self, request: Request) -> Response:
        """How far it is."""
        return to_json(self._backend.enrolment(self._known(request)))

    async def change(self, request: Request) -> Response:
        """Begin, pause, go on, finish, cancel."""
        machine = self._known(request)
        asked = (await body_of(request, models.EnrolmentCommand)).model_dump(exclude_none=True)
        asked["by"] = by_of(request, asked.get("by"))
        return await self._send(request, machine, {"command": "enrol", **asked})

    async def report(self, request: Request) -> Response:
        """The report that lies beside a version."""
        machine, bank = self._known(request), request.query_params.get("bank", "")
        path = await run_in_threadpool(self._backend.enrolment_report, machine, bank)
        if path is None:
            raise Problem(404, "there is no such report")
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})
