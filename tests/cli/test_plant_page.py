"""web --broker: the page of a plant, by what a real broker has of it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.testclient import TestClient

from echo_stream.cli.fleet import Fleet
from echo_stream.cli.plant_broker import Plant
from echo_stream.cli.plant_page import PlantPage, settings_of
from echo_stream.core.errors import ConfigError
from echo_stream.mqtt.broker import Broker
from echo_stream.web.access import COOKIE, Sessions
from echo_stream.web.passwords import read_passwords, with_person
from tests.cli.test_plant import NOW, URGENT, example, retained
from tests.mqtt.conftest import Subscriber, wait_until
from tests.support.broker import MosquittoBroker, free_port

HOSTILE = "<script>alert(1)</script>\x1b[2J"
POST = {"Origin": "http://localhost"}


def page_of(port: int, **asset: str) -> PlantPage:
    web = settings_of(f"127.0.0.1:{free_port()}", None, ())
    return PlantPage(Plant(Broker("127.0.0.1", port), "echo-stream"), web, asset)


def client_of(page: PlantPage, sessions: Sessions | None = None) -> TestClient:
    return TestClient(page._app(sessions or Sessions(None), ()), base_url="http://localhost")


def frames(told: list[bytes]) -> dict[str, Any]:
    """Data of server-sent events by their kind; strict, as a browser reads them."""
    parts = [each.split(b"\n")[:2] for each in b"".join(told).split(b"\n\n") if each]

    def refuse(constant: str) -> float:
        raise ValueError(constant)

    return {kind[7:].decode(): json.loads(data[6:], parse_constant=refuse) for kind, data in parts}


@pytest.fixture
def fleet() -> Fleet:
    found = Fleet("echo-stream")
    for topic, payload in retained().items():
        assert found.apply(topic, payload)
    return found


def test_rows_say_what_the_broker_has(fleet: Fleet) -> None:
    page = page_of(1)
    fleet.apply("echo-stream/hall1/fine/drift", example("drift", node="hall1", machine="fine"))
    page._take(fleet)
    found = client_of(page).get("/api/plant").json()
    words = [(m["word"].replace("normal", ""), m["node"], m["id"]) for m in found["machines"]]
    assert words == [(word, node, f"{node}/{machine}") for word, node, machine in URGENT]
    first, last = found["machines"][0], found["machines"][-1]
    assert (first["alarm"]["state"], first["bank_proposed"], first["heard"]) == ("UNACK", "b8", NOW)
    assert (last["versions"]["echo-stream"], last["coverage_10m"]) == ("0.1.0", 0.998)
    assert last["drift_since"]
    assert not first["drift_since"]
    reasons = {m["id"]: m["reason"] for m in found["machines"]}
    assert reasons["hall3/pump"] == "its PC is offline"
    assert reasons["hall2/fine"] == "its PC does less than it should: see PCs"
    nodes = {node["node"]: node for node in found["nodes"]}
    assert (nodes["hall3"]["online"], nodes["hall2"]["reasons"]) == (False, ["fine: bank is damaged"])
    assert found["state"]["connected"], "by a fleet without trouble"


def test_only_what_changed_is_sent(fleet: Fleet) -> None:
    page = page_of(1)
    page._take(fleet)
    feed = page._feed
    assert set(frames([feed.everything()])) == {"plant", "machines", "nodes"}
    assert len(frames(feed.news())["changed"]) == len(URGENT)
    own = {"node": "hall1", "machine": "fine", "asset": {"site": "A", "line": "0"}}
    later = "2099-01-01T00:00:00.000Z"
    fleet.apply("echo-stream/hall1/fine/health", example("health", **own, ts=later, coverage_10m=0.97))
    page._take(fleet)
    assert frames(feed.news()) == {"heard": {"hall1/fine": [0.97, later]}}
    fleet.apply("echo-stream/hall1/fine/alarm", example("alarm", **own, name="Fine"))
    page._take(fleet)
    news = frames(feed.news())
    assert [each["word"] for each in news["changed"]] == ["alarm"]
    assert set(news) == {"changed"}
    page._take(fleet)
    assert feed.news() == []
    for what in ("availability", "alarm", "health", "bank"):
        fleet.apply(f"echo-stream/hall1/fine/{what}", b"")
    page._take(fleet)
    assert len(frames(feed.news())["machines"]) == len(URGENT) - 1


def test_what_was_known_stays_while_the_broker_is_away(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    page = page_of(1)
    page._take(fleet)
    known = dict(page.machines)
    monkeypatch.setattr("echo_stream.cli.plant_broker.SILENT_S", -1.0)  # as if ten minutes had passed
    fleet.trouble, page._all_at_s = "the broker is away", 0.0
    page._take(fleet)
    assert (page.machines, page.state.connected) == (known, False)
    fleet.trouble, page._all_at_s = "", 0.0
    page._take(fleet)
    assert page.machines["hall1/fine"].word == "not heard lately"


def test_only_machines_that_stand_where_asked(fleet: Fleet) -> None:
    page = page_of(1, line="1")
    page._take(fleet)
    assert {each.asset["line"] for each in page.machines.values()} == {"1"}
    assert set(page.nodes) == {each.node for each in page.machines.values()}


def test_hostile_names_and_payloads_break_nothing(fleet: Fleet) -> None:
    node = "<img src=x onerror=alert(1)>"
    own = {"node": node, "machine": HOSTILE[:-4], "asset": {HOSTILE: HOSTILE * 100}}
    said = json.loads(example("alarm", **own, name=HOSTILE * 1000))
    topic = f"echo-stream/{node}/m"
    assert fleet.apply(f"{topic}/alarm", json.dumps(said).encode())
    health = json.loads(example("health", **own, versions={str(n): "9" * 400 for n in range(100)}))
    assert fleet.apply(f"{topic}/health", json.dumps(health).replace("-31.2", "Infinity").encode())
    reasons = [HOSTILE * 50] * 20
    assert fleet.apply(f"echo-stream/{node}/health", example("node", node=node, reasons=reasons))
    for payload in (b"", b"null", b"{}", b"[" * 50_000, b'{"ts": 1}', b"\xff", b"1" * 60_000):
        for what in ("alarm", "health", "bank", "drift", "availability", "event", "score", "cmd"):
            fleet.apply(f"echo-stream/{node}/x{len(payload)}/{what}", payload)
    page = page_of(1)
    page._take(fleet)
    told = frames([page._feed.everything()])
    row = next(each for each in told["machines"] if each["id"] == f"{node}/m")
    assert len(json.dumps(row)) < 30_000
    assert "\x1b" not in row["name"]
    assert "alarm" in row["word"]
    answer = client_of(page).get("/api/plant")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    known = client_of(page).post(f"/api/machines/{node}/y/command", json={"command": "ack"}, headers=POST)
    assert known.status_code == 404


def test_a_viewer_sees_and_does_not_answer(fleet: Fleet, tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text(with_person("", "kiosk", "viewer", "battery staple"))
    sessions = Sessions(read_passwords(file))
    page = page_of(1)
    page._take(fleet)
    client = client_of(page, sessions)
    assert client.get("/api/plant").status_code == 401
    assert client.get("/api/me").json()["node"] == ""
    token = sessions.login("kiosk", "battery staple", "")
    client.cookies.set(COOKIE, str(token))
    assert client.get("/api/plant").status_code == 200
    asked = client.post("/api/machines/hall1/alarm/command", json={"command": "ack"}, headers=POST)
    assert asked.status_code == 403


@contextmanager
def running(page: PlantPage) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=page.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not thread.is_alive()


def test_a_broker_that_comes_goes_and_returns(
    broker: MosquittoBroker, listen: Callable[..., Subscriber]
) -> None:
    client = listen(broker, "none").client
    for topic, payload in retained().items():
        client.publish(topic, payload, qos=1, retain=True).wait_for_publish(30)
    page = page_of(broker.port)
    with structlog.testing.capture_logs() as lines, running(page):
        wait_until(lambda: len(page.machines) == len(URGENT) and page.state.connected, "all machines")
        began = page.state.since
        broker.kill()
        wait_until(lambda: not page.state.connected, "it is told that the broker is away")
        assert page.state.since > began
        assert "127.0.0.1" in page.state.reason
        assert len(page.machines) == len(URGENT), "the last known stays"
        asked = {"command": "ack", "by": "anna"}
        outcome = page.command("hall1/alarm", asked, {}).result(60)
        assert not outcome.ok
        broker.start()
        wait_until(lambda: page.state.connected, "and that it is back")
        said = [(each["log_level"], each["event"]) for each in lines if "broker" in each]
    assert said == [
        ("info", "the broker is connected"),
        ("warning", "the broker is away, and is tried again"),
        ("info", "the broker is connected"),
    ]


def test_too_many_commands_are_refused(broker: MosquittoBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("echo_stream.cli.plant_page.COMMANDS", 1)
    monkeypatch.setattr("echo_stream.cli.plant_page.REPLY_S", 0.5)
    page = page_of(broker.port)
    fleet = Fleet("echo-stream")
    fleet.apply("echo-stream/pc7/pump3/availability", b"online")
    page._take(fleet)
    client = client_of(page)
    waiting = page.command("pc7/pump3", {"command": "ack", "by": "anna"}, {})
    body = {"command": "ack", "by": "anna"}
    refused = client.post("/api/machines/pc7/pump3/command", json=body, headers=POST)
    assert refused.status_code == 400
    assert "too many commands" in refused.json()["outcome"]
    assert "pc7/pump3 did not answer" in waiting.result(60).outcome
    late = client.post("/api/machines/pc7/pump3/command", json=body, headers=POST)
    assert late.status_code == 409
    assert "did not answer" in late.json()["outcome"]


@pytest.mark.parametrize(
    ("listen", "said"),
    [
        ("0.0.0.0:8766", "can be reached from other PCs, so password_file is needed"),
        ("127.0.0.1", "says no port"),
        ("127.0.0.1:99999", "--listen 127.0.0.1:99999"),
        (":8766", "--listen :8766"),
    ],
)
def test_where_it_cannot_listen(listen: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of(listen, None, ())


def test_where_it_can_listen(tmp_path: Path) -> None:
    assert settings_of("[::1]:9000", None, ()).host == "::1"
    assert settings_of("0.0.0.0:9000", str(tmp_path / "passwords"), ()).port == 9000
