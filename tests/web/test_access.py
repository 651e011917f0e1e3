"""Logins, roles, tries and names of the host; the password file."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from echo_stream.core.errors import ConfigError
from echo_stream.web import access
from echo_stream.web.access import COOKIE, TRIES, Access, Sessions, TooManyTries
from echo_stream.web.passwords import hash_password, matches, read_passwords, with_person

ORIGIN = {"Origin": "http://10.0.0.7", "Content-Type": "application/json"}


async def echo(request: Request) -> Response:
    user = request.state.user
    return JSONResponse({"name": user.name if user else None})


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("passwords") / "passwords"
    text = with_person("# who may\n", "anna", "operator", "correct horse")
    path.write_text(with_person(text, "kiosk", "viewer", "battery staple"))
    return path


@pytest.fixture
def sessions(file: Path) -> Sessions:
    return Sessions(read_passwords(file))


def client(sessions: Sessions, *hosts: str, host: str = "10.0.0.7") -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", echo, methods=["GET", "POST"])])
    return TestClient(Access(app, sessions, hosts), base_url=f"http://{host}")


def test_without_a_login_nothing_is_told(sessions: Sessions) -> None:
    page = client(sessions)
    assert page.get("/").status_code == 200
    assert page.get("/api/me").json() == {"name": None}
    for path in ("/api/machines", "/api/evidence/x/clip", "/api/stream", "/api/bundle"):
        assert page.get(path).status_code == 401
    assert page.get("/api/machines", headers={"Cookie": f"{COOKIE}=guessed"}).status_code == 401


@pytest.mark.parametrize(
    ("name", "password", "status"), [("anna", "correct horse", 200), ("kiosk", "battery staple", 403)]
)
def test_an_operator_may_answer_and_a_viewer_only_look(
    sessions: Sessions, name: str, password: str, status: int
) -> None:
    token = sessions.login(name, password, "10.0.0.9")
    assert token is not None
    page = client(sessions)
    page.cookies.set(COOKIE, token)
    assert page.get("/api/machines").json() == {"name": name}
    assert page.post("/api/machines/pump3/command", headers=ORIGIN).status_code == status
    assert page.post("/api/logout", headers=ORIGIN).status_code == 200
    sessions.logout(token)
    assert page.get("/api/machines").status_code == 401


def test_tries_are_limited_by_address_and_in_all(sessions: Sessions) -> None:
    for _ in range(TRIES):
        assert sessions.login("anna", "wrong", "10.0.0.9") is None
    with pytest.raises(TooManyTries):
        sessions.login("anna", "correct horse", "10.0.0.9")
    assert sessions.login("anna", "correct horse", "10.0.0.8")


def test_a_session_ends(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "SESSION_S", -1.0)
    token = sessions.login("anna", "correct horse", "")
    assert token
    assert sessions.user(token) is None


def test_names_of_the_host(sessions: Sessions) -> None:
    open_to_all = Sessions(None)
    for host, with_login, without in [
        ("localhost", 200, 200),
        ("127.0.0.1:8765", 200, 200),
        ("[::1]:8765", 200, 200),
        ("10.0.0.7", 200, 421),
        ("page.example", 200, 200),
        ("evil.example", 421, 421),
        ("localhost.evil.example", 421, 421),
    ]:
        for who, status in ((sessions, with_login), (open_to_all, without)):
            answer = client(who, "page.example").get("/", headers={"Host": host})
            assert answer.status_code == status, (host, who.needed)


def test_a_proxy_that_changes_the_host_needs_its_name_in_the_configuration(sessions: Sessions) -> None:
    token = sessions.login("anna", "correct horse", "")
    for hosts, status in ((("page.example",), 200), ((), 403)):
        page = client(sessions, *hosts)
        page.cookies.set(COOKIE, str(token))
        headers = {**ORIGIN, "Origin": "https://page.example"}
        assert page.post("/api/machines/pump3/command", headers=headers).status_code == status


def test_a_password_is_stored_so_that_it_cannot_be_read(file: Path) -> None:
    text = file.read_text()
    assert "correct horse" not in text
    people = read_passwords(file)
    assert matches(people["anna"], "correct horse")
    assert not matches(people["anna"], "correct horsf")
    assert hash_password("a", b"salt" * 4) == hash_password("a", b"salt" * 4)
    changed = with_person(text, "anna", "viewer", "another one")
    assert changed.count("anna:") == 1
    assert "# who may" in changed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names nobody"),
        ("anna:operator:secret123\n", ":1: expected name:viewer|operator:scrypt"),
        ("anna:admin:" + hash_password("x") + "\n", ":1: expected"),
        ("a:viewer:scrypt$16384$8$1$AAAA$AAAA\n", ":1: expected"),
        ("a:viewer:scrypt$1048576$8$1$AAAA$" + "A" * 43 + "=\n", ":1: expected"),
        ("\n".join(["a:viewer:" + hash_password("x")] * 2), ":2: a stands twice"),
    ],
    ids=["nobody", "no hash", "no such role", "short hash", "too dear", "twice"],  # hashes are salted
)
def test_a_wrong_password_file_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "passwords"
    path.write_text(text)
    with pytest.raises(ConfigError, match="web password") as caught:
        read_passwords(path)
    assert said in str(caught.value)
    assert caught.value.exit_code == 78


@pytest.mark.parametrize(
    ("name", "password"), [("a:b", "longenough"), ("", "longenough"), ("#a", "longenough"), ("a", "short")]
)
def test_what_cannot_be_a_name_or_a_password_is_refused(name: str, password: str) -> None:
    with pytest.raises(ConfigError):
        with_person("", name, "viewer", password)
