"""The app is what a page serves: static files, an API under `api/`, its description, and who may log in.

Every address is relative to the page's own, so that a proxy may serve it below any path.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

from echo_stream import __version__
from echo_stream.core.errors import of_extra
from echo_stream.web import models
from echo_stream.web.access import COOKIE, SESSION_S, Access, Sessions, TooManyTries, User
from echo_stream.web.asked import Operation, Problem, body_of, describe, to_json

with of_extra("the page (web.enabled)", "web"):
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import BaseRoute, Mount, Route
    from starlette.staticfiles import StaticFiles
    from starlette.types import ASGIApp, Scope

STATIC: Final = Path(str(resources.files(__package__) / "static"))


def build_app(
    api: list[Operation],
    sessions: Sessions,
    hosts: tuple[str, ...],
    *,
    node: str,
    listen: bool = False,
    plant: bool = False,
) -> ASGIApp:
    """A page as an ASGI app, protected by `Access`.

    Args:
        api: its operations.
        sessions: who is logged in.
        hosts: names of the page.
        node: whose page it is.
        listen: people may listen live.
        plant: it is the page of many nodes.
    """
    operations = [*Logins(sessions, node=node, listen=listen, plant=plant).operations(), *api]
    routes: list[BaseRoute] = [
        Route(f"/api{each.path}", each.handle, methods=[each.method]) for each in operations
    ]
    described = describe(operations)

    async def openapi(_request: Request) -> Response:
        return JSONResponse(described)

    routes.append(Route("/api/openapi.json", openapi))
    routes.append(Mount("/", _Static(directory=STATIC, html=True)))
    app = Starlette(routes=routes, exception_handlers={Problem: _problem})
    return Access(app, sessions, hosts)


async def _problem(_request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Problem) else 500
    return JSONResponse(models.Outcome(ok=False, outcome=str(error)).model_dump(), status)


class _Static(StaticFiles):
    """The page's own files; a browser asks each time whether they changed with an update."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


class Logins:
    """Who looks: the handlers.

    Args:
        sessions: who is logged in.
        node: whose page it is.
        listen: people may listen live.
        plant: it is the page of many nodes.
    """

    def __init__(self, sessions: Sessions, *, node: str, listen: bool, plant: bool) -> None:
        self._sessions = sessions
        self._node, self._listen, self._plant = node, listen, plant

    def operations(self) -> list[Operation]:
        """All of them."""
        return [
            Operation("GET", "/me", "Who looks, and at what", models.Me, self.me),
            Operation("POST", "/login", "Log in; sets a cookie", models.Outcome, self.login, models.Login),
            Operation("POST", "/logout", "Log out", models.Outcome, self.logout),
        ]

    async def me(self, request: Request) -> Response:
        """Who looks."""
        user: User | None = request.state.user
        return to_json(
            models.Me(
                name=user.name if user else None,
                role=user.role if user else "nobody",
                login=self._sessions.needed,
                node=self._node if user else "",
                version=__version__ if user else "",
                listen=self._listen if user else False,
                plant=self._plant,
            )
        )

    async def login(self, request: Request) -> Response:
        """Opens a session."""
        asked = await body_of(request, models.Login)
        address = request.client.host if request.client else ""
        try:
            token = await run_in_threadpool(self._sessions.login, asked.name, asked.password, address)
        except TooManyTries as error:
            raise Problem(429, f"{error.message}; {error.hint}") from None
        if token is None:
            raise Problem(401, "name or password is wrong")
        response = to_json(models.Outcome(ok=True, outcome=f"logged in as {asked.name}"))
        response.set_cookie(COOKIE, token, max_age=int(SESSION_S), httponly=True, samesite="strict")
        return response

    async def logout(self, request: Request) -> Response:
        """Ends the session."""
        self._sessions.logout(request.cookies.get(COOKIE, ""))
        response = to_json(models.Outcome(ok=True, outcome="logged out"))
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")
        return response
