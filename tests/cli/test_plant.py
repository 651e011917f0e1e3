"""plant: all machines of all nodes by what a real broker keeps of them, the most urgent first."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage

from echo_stream.cli.common import print_table
from echo_stream.cli.fleet import Fleet
from echo_stream.cli.mqtt import _table
from echo_stream.cli.plant import _print, list_
from echo_stream.cli.plant_broker import Plant, _address, ask, collect, listed
from echo_stream.cli.plant_compare import show_comparison
from echo_stream.config.load import load
from echo_stream.core.errors import ConfigError, DeliveryError
from echo_stream.core.text import utc_text
from echo_stream.mqtt import schema
from echo_stream.mqtt.broker import Broker
from tests.mqtt.conftest import Subscriber
from tests.support.broker import MosquittoBroker, free_port, mosquitto

NOW = utc_text(datetime.now(UTC))
QUIET: dict[str, Any] = {"state": "NORMAL", "level": None, "active": False, "priority": None}


def example(kind: str, **fields: Any) -> bytes:
    """The documented example of a payload, with other fields."""
    document = {**schema.example(kind), "ts": NOW, **fields}
    schema.MODELS[kind].model_validate_json(json.dumps(document))
    return json.dumps(document).encode()


def retained() -> dict[str, bytes]:
    """Three nodes: one in trouble, one that is well, one that is gone."""
    found: dict[str, bytes] = {}
    alarms: dict[str, dict[str, Any]] = {
        "hall1/fine": QUIET,
        "hall1/alarm": {},
        "hall1/acked": {"state": "ACKED"},
        "hall1/warning": {"level": "warning", "priority": "low"},
        "hall1/back": {**QUIET, "state": "RTN_UNACK"},
        "hall2/fine": QUIET,
        "hall2/deaf": QUIET,
        "hall3/pump": QUIET,
        "hall4/silent": QUIET,
    }
    for n, (path, alarm) in enumerate(alarms.items()):
        node, machine = path.split("/")
        own = {"node": node, "machine": machine, "asset": {"site": "A", "line": str(n % 2)}}
        found[f"{path}/alarm"] = example("alarm", **own, name=machine.title(), **alarm)
        old = {"ts": "2026-11-20T08:14:03.120Z"} if machine == "silent" else {}
        found[f"{path}/health"] = example("health", **own, **old)
        found[f"{path}/bank"] = example("bank", **own)
        found[f"{path}/availability"] = b"offline" if machine == "deaf" else b"online"
    for node, state, reasons in (
        ("hall1", "ok", []),
        ("hall2", "degraded", ["fine: bank is damaged"]),
        ("hall4", "ok", []),
    ):
        found[f"{node}/health"] = example("node", node=node, state=state, reasons=reasons)
        found[f"{node}/status"] = b"online"
    found["hall3/status"] = b"offline"
    return {f"echo-stream/{topic}": payload for topic, payload in found.items()}


URGENT = [
    ("alarm", "hall1", "alarm"),
    ("alarm, seen", "hall1", "acked"),
    ("not listening", "hall2", "deaf"),
    ("not listening", "hall3", "pump"),
    ("not heard lately", "hall4", "silent"),
    ("to acknowledge", "hall1", "back"),
    ("warning", "hall1", "warning"),
    ("degraded", "hall2", "fine"),
    ("", "hall1", "fine"),
]


@pytest.fixture
def client(
    broker: MosquittoBroker,
    listen: Callable[..., Subscriber],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Client:
    """Publishes as nodes do; the commands run where there is no configuration."""
    monkeypatch.chdir(tmp_path)
    return listen(broker, "none").client


def test_what_a_broker_keeps_is_listed_by_urgency(
    broker: MosquittoBroker, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    for topic, payload in retained().items():
        client.publish(topic, payload, qos=1, retain=True).wait_for_publish(30)
    client.publish("echo-stream/hall1/fine/alarm/more", b"x", qos=1, retain=True).wait_for_publish(30)
    list_(f"127.0.0.1:{broker.port}", [], None, True)
    found = json.loads(capsys.readouterr().out)
    assert [(m["urgency"], m["node"], m["machine"]) for m in found["machines"]] == URGENT
    first = found["machines"][0]
    assert (first["name"], first["state"], first["bank"], first["bank_proposed"]) == (
        "Alarm",
        "UNACK",
        "b7",
        "b8",
    )
    assert (first["coverage_10m"], first["versions"]["echo-stream"]) == (0.998, "0.1.0")
    assert first["heard"] == NOW
    nodes = {node["node"]: node for node in found["nodes"]}
    assert {name: node["online"] for name, node in nodes.items()} == {
        "hall1": True,
        "hall2": True,
        "hall3": False,
        "hall4": True,
    }
    assert nodes["hall2"]["reasons"] == ["fine: bank is damaged"]
    list_(f"127.0.0.1:{broker.port}", ["line=1", "site=A"], None, False)
    said = capsys.readouterr().out
    assert "Alarm" in said
    assert "Acked" not in said
    assert "hall2: fine: bank is damaged" in said
    assert "hall3: offline" in said


def test_a_broker_that_refuses_or_is_away_says_so(tmp_path: Path) -> None:
    with mosquitto(tmp_path, users={"somebody": "secret"}) as locked, pytest.raises(DeliveryError):
        collect(Plant(Broker(locked.host, locked.port), "echo-stream"))
    with pytest.raises(DeliveryError):
        collect(Plant(Broker("127.0.0.1", free_port()), "echo-stream"))


def publish_scores(client: Client, scores: dict[str, tuple[float, float, float]]) -> None:
    for machine, (score, trip, level_dbfs) in scores.items():
        node, name = machine.split("/")
        own = {"node": node, "machine": name, "score": score, "threshold": trip, "level_dbfs": level_dbfs}
        client.publish(f"echo-stream/{machine}/score", example("score", **own)).wait_for_publish(30)


def test_the_odd_one_of_a_kind_is_named(
    broker: MosquittoBroker, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = {f"hall1/pump{n}": (0.4 + n / 50, 2.0 + n / 10, -30.0 - n) for n in range(4)}
    others = {
        "hall2/pump4": (1.8, 2.1, -30.5),
        "hall2/pump5": (0.5, 9.0, -50.0),
        "hall2/fan": (9.0, 1.0, 0.0),
    }
    ended = threading.Event()

    def publishing() -> None:
        while not ended.wait(0.2):
            publish_scores(client, alike | others)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(publishing)
        try:
            show_comparison(Plant.of(f"127.0.0.1:{broker.port}", None), "pump*", 2.0, False)
        finally:
            ended.set()
    said = capsys.readouterr().out
    assert "pump4 (hall2) is unlike the others: score / trip level 0.857, the others about 0.2" in said
    assert "pump5 (hall2) is unlike the others: trip level 9, the others about 2.1" in said
    assert "pump5 (hall2) is unlike the others: level -50 dBFS" in said
    assert said.count("unlike") == 3
    assert "fan" not in said


def test_a_pc_that_listens_to_nothing_may_look_at_a_plant(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("node: office\nmachines: []\nmqtt: {host: broker.plant, username: anna}\n")
    plant = Plant.of("broker.plant:8883", config)
    assert (plant.broker.port, plant.broker.username) == (8883, "anna")
    with pytest.raises(ConfigError, match="expected at least one machine"):
        load(config)


def test_two_machines_are_not_compared(broker: MosquittoBroker) -> None:
    with pytest.raises(ConfigError, match="3 machines or more are compared, found none"):
        show_comparison(Plant(Broker(broker.host, broker.port), "echo-stream"), "pump*", 0.1, True)


@pytest.mark.parametrize("machine", ["pump3", "/pump3", "pc7/", "pc7/pump+", "a/b/c"])
def test_what_is_no_machine(machine: str) -> None:
    with pytest.raises(ConfigError, match="expected NODE/MACHINE"):
        ask(Plant(Broker("127.0.0.1", 1), "echo-stream"), machine, {"command": "ack"})


def test_an_answer_is_shown_without_what_a_terminal_obeys(broker: MosquittoBroker, client: Client) -> None:
    ready = threading.Event()

    def answer(client: Client, _userdata: object, message: MQTTMessage) -> None:
        said = {"id": json.loads(message.payload)["id"], "ok": True, "outcome": "seen\x1b[2J\nby Anna"}
        client.publish("echo-stream/pc7/pump3/reply", json.dumps(said), qos=1)

    client.on_message = answer
    client.on_subscribe = lambda *_: ready.set()
    client.subscribe("echo-stream/pc7/pump3/cmd", qos=1)
    assert ready.wait(60)
    plant = Plant(Broker(broker.host, broker.port), "echo-stream")
    assert ask(plant, "pc7/pump3", {"command": "ack"}, 60) == "seen?[2J\nby Anna"


def test_a_machine_that_does_not_answer(broker: MosquittoBroker) -> None:
    with pytest.raises(DeliveryError, match="pc7/pump3 did not answer within 0 s"):
        ask(Plant(Broker(broker.host, broker.port), "echo-stream"), "pc7/pump3", {"command": "ack"}, 0.3)


def test_low_coverage_is_urgent() -> None:
    fleet = Fleet("r")
    fleet.apply("r/pc/status", b"online")
    fleet.apply("r/pc/m/availability", b"online")
    fleet.apply("r/pc/m/health", example("health", coverage_10m=0.2))
    assert [m["urgency"] for m in listed(fleet)["machines"]] == ["degraded"]


@pytest.mark.parametrize("text", ["", "host:port", "user@host", "host/path", ":1883"])
def test_what_is_no_broker(text: str) -> None:
    with pytest.raises(ConfigError, match="is no broker"):
        _address(text)


def test_addresses() -> None:
    assert _address("broker.plant") == ("broker.plant", None)
    assert _address("[::1]:8883") == ("::1", 8883)


def test_an_asset_that_says_no_place() -> None:
    with pytest.raises(ConfigError, match="says no place"):
        list_("127.0.0.1:1", ["line"], None, True)


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    fleet = Fleet("echo-stream")
    name = "Pump [hall 3] :fire: [/x]"
    fleet.apply("echo-stream/hall1/[red]p/alarm", example("alarm", node="hall1", machine="[red]p", name=name))
    _print(listed(fleet))
    print_table(_table(fleet), 140)
    said = capsys.readouterr().out
    assert name in said
    assert said.count("[red]p") == 1
