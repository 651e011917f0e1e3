"""The API maps addresses to the daemon: what it knows of its machines, and what people ask of it.

Names that come from outside (machine, event) are looked up, never made into a path.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

from echo_stream.core.errors import CommandRefused, of_extra
from echo_stream.core.log import get_logger
from echo_stream.core.types import BANK_ID
from echo_stream.web import models
from echo_stream.web.access import User
from echo_stream.web.asked import (
    Operation,
    Problem,
    Stream,
    body_of,
    by_of,
    carry_out,
    event_id_of,
    events_of,
    number_of,
    to_json,
)
from echo_stream.web.backend import Backend
from echo_stream.web.feed import MOST_LISTENERS, Feed

with of_extra("the page (web.enabled)", "web"):
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response

MOST_POINTS: Final = 1_000
"""Points of a chart: more than a screen is wide."""
TREND_STEP_S: Final = 900
DAY_S: Final = 86_400
MINUTE_S: Final = 60
MOST_DAYS: Final = 400.0
SORTS: Final = {"clip": "audio/flac", "picture": "image/png", "normal": "audio/flac"}
REPORT_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"
)
"""The report brings its own style and pictures, and nothing that runs."""

log = get_logger()


class Api:
    """The handlers of all operations on the daemon."""

    def __init__(self, backend: Backend, feed: Feed) -> None:
        self._backend = backend
        self._feed = feed
        self._trends: tuple[float, models.Trends] | None = None

    def operations(self) -> list[Operation]:
        """All of them."""
        m, flac = models, "audio/flac"
        one, event = "/machines/{machine}", "/evidence/{event_id}"
        learning = f"{one}/enrolment"
        return [
            Operation("GET", "/machines", "All machines, the most urgent first", m.Machine, self.machines),
            Operation("GET", one, "One machine with its last ten minutes", m.MachineDetail, self.machine),
            Operation("GET", f"{one}/history", "Its past", m.History, self.history, query=("days",)),
            Operation(
                "GET",
                f"{one}/what-if",
                "Which alarms another level would have raised",
                m.WhatIf,
                self.what_if,
                query=("days", "on_delay_s", "level", "false_alarms_per_month"),
            ),
            Operation(
                "POST", f"{one}/command", "Ask what MQTT's commands ask", m.Outcome, self.command, m.Command
            ),
            Operation("GET", f"{one}/bank", "Versions of its bank", m.Bank, self.bank),
            Operation("POST", f"{one}/bank", "Use another", m.Outcome, self.change_bank, m.BankChange),
            Operation("GET", f"{one}/bank/{{bank_id}}", "Compare", m.Comparison, self.compare),
            Operation("POST", f"{one}/answer", "Of its past", m.Outcome, self.answer_span, m.SpanAnswer),
            Operation("POST", event + "/answer", "Fault or normal", m.Outcome, self.answer, m.Answer),
            Operation(
                "GET", learning, "How far the learning of its normal sound is", m.Enrolment, self.enrolment
            ),
            Operation(
                "POST", learning, "Begin or change it", m.Outcome, self.change_enrolment, m.EnrolmentCommand
            ),
            Operation(
                "GET",
                f"{learning}/report",
                "What came of it",
                "text/html",
                self.enrolment_report,
                query=("bank",),
            ),
            Operation("GET", f"{one}/listen", "Its live sound, without an end", "audio/wav", self.listen),
            Operation("GET", "/trends", "The last day of every machine", m.Trends, self.trends),
            Operation(
                "GET",
                "/journal",
                "What happened",
                m.Journal,
                self.journal,
                query=("machine", "before", "limit"),
            ),
            Operation(
                "GET",
                "/evidence",
                "Newest alarms with evidence",
                m.EvidenceList,
                self.evidence_list,
                query=("machine", "limit"),
            ),
            Operation("GET", event, "What was kept of an alarm", m.Evidence, self.evidence),
            Operation("GET", event + "/clip", "Its sound; answers Range", flac, self.file),
            Operation("GET", event + "/normal", "The nearest normal sound", flac, self.file),
            Operation("GET", event + "/picture", "Its picture", "image/png", self.file),
            Operation("GET", "/health", "How the daemon is", m.Health, self.health),
            Operation("GET", "/log", "The last lines of the log", m.Log, self.log),
            Operation(
                "GET", "/bundle", "For those who help: no secret, no sound", "application/zip", self.bundle
            ),
            Operation(
                "GET",
                "/stream",
                "What is new, as server-sent events: machines, changed, figures, columns",
                "text/event-stream",
                self.stream,
                query=("machine",),
            ),
        ]

    async def machines(self, _request: Request) -> Response:
        """All machines."""
        found = sorted(self._backend.machines(), key=lambda each: (each.urgency, each.name))
        return JSONResponse([each.model_dump() for each in found])

    async def machine(self, request: Request) -> Response:
        """One machine."""
        detail = self._backend.detail(request.path_params["machine"])
        if detail is None:
            raise Problem(404, "no such machine")
        return to_json(detail)

    async def history(self, request: Request) -> Response:
        """The past of one machine, in at most MOST_POINTS pieces."""
        machine = self._known(request)
        days = number_of(request, "days", 1.0, least=1 / 1440, most=MOST_DAYS)
        step_s = MINUTE_S * max(1, -(-days * DAY_S // MINUTE_S // MOST_POINTS))
        since_s = time.time() - days * DAY_S
        minutes = await run_in_threadpool(self._backend.past.minutes, machine, since_s, step_s)
        return to_json(models.History(machine=machine, step_s=step_s, minutes=minutes))

    async def what_if(self, request: Request) -> Response:
        """What a level, or a rate of false alarms, would have raised."""
        machine = self._known(request)
        days = number_of(request, "days", 28.0, least=1 / 24, most=90.0)
        on_delay_s = number_of(request, "on_delay_s", 7.0, least=0.0, most=3600.0)
        query = request.query_params
        level = number_of(request, "level", 0.0, least=-1e6, most=1e6) if "level" in query else None
        rate = "false_alarms_per_month"
        per_month = number_of(request, rate, 1.0, least=1e-3, most=1e3) if rate in query else None

        def asked() -> models.WhatIf:
            return self._backend.past.what_if(
                machine, days, on_delay_s=on_delay_s, level=level, per_month=per_month
            )

        try:
            return to_json(await run_in_threadpool(asked))
        except CommandRefused as error:
            raise Problem(409, error.message) from None

    async def trends(self, _request: Request) -> Response:
        """The last day of all; computed once a minute at most, however many ask."""
        now_s = time.monotonic()
        if self._trends is None or now_s - self._trends[0] > MINUTE_S:
            found = await run_in_threadpool(self._backend.past.trends, time.time() - DAY_S, TREND_STEP_S)
            self._trends = now_s, models.Trends(step_s=TREND_STEP_S, machines=found)
        return to_json(self._trends[1])

    async def command(self, request: Request) -> Response:
        """The same checks, function and log lines as a command over MQTT."""
        machine = self._known(request)
        asked = (await body_of(request, models.Command)).model_dump(exclude_none=True)
        asked["by"] = by_of(request, asked.get("by"))
        return await carry_out(self._backend, request, machine, asked)

    async def answer(self, request: Request) -> Response:
        """A fault, or normal: learn it."""
        event_id, asked = event_id_of(request), await body_of(request, models.Answer)
        return await self._changed(self._backend.answer, event_id, asked, by_of(request, asked.by))

    async def answer_span(self, request: Request) -> Response:
        """The same of a stretch of history."""
        machine, asked = self._known(request), await body_of(request, models.SpanAnswer)
        return await self._changed(self._backend.answer_span, machine, asked, by_of(request, asked.by))

    async def compare(self, request: Request) -> Response:
        """A version beside the one in use."""
        machine, bank_id = self._known(request), str(request.path_params["bank_id"])
        if not re.fullmatch(BANK_ID, bank_id):
            raise Problem(404, "no such version")
        try:
            return to_json(await run_in_threadpool(self._backend.compare, machine, bank_id))
        except CommandRefused as error:
            raise Problem(409, error.message) from None

    async def bank(self, request: Request) -> Response:
        """Versions of a machine's bank."""
        return to_json(await run_in_threadpool(self._backend.bank, self._known(request)))

    async def change_bank(self, request: Request) -> Response:
        """Accept or roll back."""
        machine, asked = self._known(request), await body_of(request, models.BankChange)
        return await self._changed(self._backend.change_bank, machine, asked, by_of(request, asked.by))

    async def _changed(self, change: Callable[..., str], *how: object) -> Response:
        try:
            outcome = await run_in_threadpool(change, *how)
        except CommandRefused as error:
            raise Problem(409, error.message) from None
        return to_json(models.Outcome(ok=True, outcome=outcome))

    async def journal(self, request: Request) -> Response:
        """What happened."""
        machine = request.query_params.get("machine")
        if machine is not None and self._backend.machine(machine) is None:
            raise Problem(404, "no such machine")
        before = number_of(request, "before", 0, least=0, most=2**53)
        limit = int(number_of(request, "limit", 100, least=1, most=500))
        items = await run_in_threadpool(self._backend.past.journal, machine, int(before) or None, limit)
        return to_json(models.Journal(items=items))

    async def evidence_list(self, request: Request) -> Response:
        """The newest alarms with evidence."""
        machine = self._known(request) if "machine" in request.query_params else None
        limit = int(number_of(request, "limit", 50, least=1, most=200))
        items = await run_in_threadpool(self._backend.evidence_list, machine, limit)
        return to_json(models.EvidenceList(items=items))

    async def evidence(self, request: Request) -> Response:
        """One of them."""
        found = await run_in_threadpool(self._backend.evidence, event_id_of(request))
        if found is None:
            raise Problem(404, "nothing was kept of this event, or it is gone")
        return to_json(found[0])

    async def file(self, request: Request) -> Response:
        """One of its files; the last word of the address says which."""
        which = request.url.path.rpartition("/")[2]
        found = await run_in_threadpool(self._backend.evidence, event_id_of(request))
        path = getattr(found[1], which) if found else None
        if path is None:
            raise Problem(404, "it was not kept, or is gone")
        return FileResponse(
            path, media_type=SORTS[which], filename=path.name, content_disposition_type="inline"
        )

    async def health(self, _request: Request) -> Response:
        """How the daemon is."""
        return to_json(await run_in_threadpool(self._backend.health))

    async def log(self, _request: Request) -> Response:
        """Its last lines."""
        return to_json(models.Log(lines=self._backend.log_lines()))

    async def bundle(self, _request: Request) -> Response:
        """A ZIP."""
        name = f'attachment; filename="echo-stream-{self._backend.node}.zip"'
        data = await run_in_threadpool(self._backend.bundle)
        return Response(data, media_type="application/zip", headers={"Content-Disposition": name})

    async def stream(self, request: Request) -> Response:
        """Server-sent events."""
        machine = self._known(request) if "machine" in request.query_params else None
        return events_of(self._feed, machine)

    async def listen(self, request: Request) -> Response:
        """Live sound, where the configuration allows it; who listens stands in the log."""
        if not self._backend.listen:
            raise Problem(403, "live listening is not allowed here: web.listen")
        machine = self._known(request)
        rate = self._backend.heard_rate_hz(machine)
        if rate is None:
            raise Problem(503, "it is not heard now")
        if self._feed.listeners >= MOST_LISTENERS:
            raise Problem(503, f"{MOST_LISTENERS} people listen already")
        user: User = request.state.user
        address = request.client.host if request.client else ""
        log.info("somebody listens live", machine=machine, by=user.name, address=address)
        return Stream(self._feed.listen(machine, rate), media_type="audio/wav")

    async def enrolment(self, request: Request) -> Response:
        """How far the learning of what is normal is."""
        return to_json(self._backend.enrolment(self._known(request)))

    async def change_enrolment(self, request: Request) -> Response:
        """Begin, pause, go on, finish, cancel it."""
        machine = self._known(request)
        asked = (await body_of(request, models.EnrolmentCommand)).model_dump(exclude_none=True)
        asked["by"] = by_of(request, asked.get("by"))
        return await carry_out(self._backend, request, machine, {"command": "enrol", **asked})

    async def enrolment_report(self, request: Request) -> Response:
        """The report that lies beside a version."""
        machine, bank = self._known(request), request.query_params.get("bank", "")
        path = await run_in_threadpool(self._backend.enrolment_report, machine, bank)
        if path is None:
            raise Problem(404, "there is no such report")
        return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})

    def _known(self, request: Request) -> str:
        """The machine that a request names.

        Raises:
            Problem: there is none.
        """
        machine = request.path_params.get("machine") or request.query_params.get("machine", "")
        if self._backend.machine(machine) is None:
            raise Problem(404, "no such machine")
        return str(machine)
