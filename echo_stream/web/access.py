"""Access decides who may ask the page for what: names of the host, origin, login, role, tries.

An ASGI middleware before everything else. A browser can be made to ask 127.0.0.1 by any page on the Internet:
so the Host header must be a name of ours (else DNS could be made to point here), and whatever changes
something is JSON with an Origin of our own. With passwords a session cookie says who it is.
"""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import Final
from urllib.parse import urlsplit

from echo_stream.core.errors import EchoStreamError, of_extra
from echo_stream.web.passwords import NOBODY, Person, Role, matches

with of_extra("the page (web.enabled)", "web"):
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.requests import HTTPConnection
    from starlette.responses import JSONResponse
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "echo_stream_session"
SESSION_S: Final = 12 * 3600.0
MOST_SESSIONS: Final = 500
TRIES: Final = 5
"""Wrong passwords from one address within TRIES_S; ten times as many from all together."""
TRIES_S: Final = 300.0
MOST_BODY_BYTES: Final = 16_384
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'self'; img-src 'self' data:",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str | None
    role: Role


class TooManyTries(EchoStreamError):
    """Too many wrong passwords lately."""


class Sessions:
    """Logins that stand, in memory: a restart ends them all.

    Args:
        people: by name; None: no login is needed, who reaches the page may do everything.
    """

    def __init__(self, people: Mapping[str, Person] | None) -> None:
        self._people = people
        self._open: dict[str, tuple[float, User]] = {}
        self._failures: deque[tuple[float, str]] = deque()
        self._lock = Lock()  # one scrypt at a time: each takes 16 MB

    @property
    def needed(self) -> bool:
        """Whether one must log in."""
        return self._people is not None

    def login(self, name: str, password: str, address: str) -> str | None:
        """The cookie of a new session; None where name or password are wrong. Takes about 50 ms.

        Raises:
            TooManyTries: it was not even looked at.
        """
        with self._lock:
            failures = self._recent_failures()
            if failures.count(address) >= TRIES or len(failures) >= 10 * TRIES:
                raise TooManyTries("too many wrong passwords", "try again in a few minutes")
            person = (self._people or {}).get(name, NOBODY)
            if not matches(person, password):
                self._failures.append((monotonic(), address))
                return None
            while len(self._open) >= MOST_SESSIONS:
                self._open.pop(next(iter(self._open)))
            token = secrets.token_urlsafe(32)
            self._open[token] = monotonic() + SESSION_S, User(person.name, person.role)
            return token

    def logout(self, token: str) -> None:
        """Ends a session."""
        self._open.pop(token, None)

    def user(self, token: str | None) -> User | None:
        """Who a cookie belongs to."""
        if self._people is None:
            return User(None, "operator")
        until_s, user = self._open.get(token or "", (0.0, None))
        return user if monotonic() < until_s else None

    def _recent_failures(self) -> list[str]:
        """Addresses of the wrong passwords within TRIES_S."""
        since_s = monotonic() - TRIES_S
        while self._failures and self._failures[0][0] < since_s:
            self._failures.popleft()
        return [address for _, address in self._failures]


class Access:
    """The middleware.

    Args:
        app: what is protected.
        sessions: who is logged in.
        hosts: names of this page beside those of loopback; with passwords also every IP address.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, hosts: tuple[str, ...] = ()) -> None:
        self._app = app
        self._sessions = sessions
        own = socket.gethostname().lower()
        own_names = {own, f"{own}.local", socket.getfqdn().lower()} if sessions.needed else set()
        self._hosts = {"localhost", *(host.lower() for host in hosts), *own_names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers what is refused, and hands on what is not."""
        if scope["type"] != "http":
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)  # the report of an enrolment has a policy of its own
                if scope["path"].startswith("/api/"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refused = self._refusal(scope)
        if refused is not None:
            status, why = refused
            # What is still to come of a body that is refused is not read.
            response = JSONResponse({"ok": False, "outcome": why}, status, {"Connection": "close"})
            await response(scope, receive, send_protected)
            return
        await self._app(scope, receive, send_protected)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            return 421, f"host {host[:100]!r} is no name of this page; web.hosts can name it"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:12]) > MOST_BODY_BYTES:
            return 413, f"the body is longer than {MOST_BODY_BYTES} bytes"
        user = self._sessions.user(HTTPConnection(scope).cookies.get(COOKIE))
        scope.setdefault("state", {})["user"] = user
        method = scope["method"]
        if method not in {"GET", "HEAD", "POST"}:
            return 405, f"method {method[:20]} is not known here"
        problem = self._foreign(headers, host) if method == "POST" else None
        return (403, problem) if problem else self._unentitled(scope["path"], method, user)

    def _unentitled(self, path: str, method: str, user: User | None) -> tuple[int, str] | None:
        """Why this user may not; None where it may."""
        is_open = not path.startswith("/api/") or path in {"/api/me", "/api/login", "/api/openapi.json"}
        if user is None and not is_open:
            return 401, "log in first"
        if (
            method == "POST"
            and path not in {"/api/login", "/api/logout"}
            and (not user or user.role != "operator")
        ):
            return 403, "viewers see and do not change; log in as an operator"
        return None

    def _foreign(self, headers: Headers, host: str) -> str | None:
        """Why a POST may come from a page that is not ours; None where it is ours."""
        try:
            origin = urlsplit(headers.get("origin", ""))
        except ValueError:
            return "the Origin header is no address"
        if origin.scheme not in {"http", "https"} or not origin.netloc:
            return "the Origin header is missing; a browser sends it"
        if origin.netloc.lower() != host.lower() and not self._is_named(origin.hostname or ""):
            return f"origin {origin.netloc[:100]!r} is another page"
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return "expected Content-Type: application/json"
        return None

    def _is_named(self, name: str) -> bool:
        """A proxy may change the Host header; then the names of the configuration count."""
        return name.lower() in self._hosts - {"localhost"}

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname if host and "@" not in host else None
        except ValueError:  # a bracket without its other
            return False
        if not name:
            return False
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self._hosts
        # No name of anybody's can be made to point here where the browser asks for the address itself.
        return address.is_loopback or self._sessions.needed or str(address) in self._hosts
