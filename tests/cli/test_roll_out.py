"""Roll-outs on a real daemon over a real broker, and what a node that lies can do to an operator."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage

from echo_stream.cli.plant import _carried_out, _roll_out
from echo_stream.cli.plant_broker import Plant
from echo_stream.cli.plant_transfer import RollOut, Target, stages
from echo_stream.core.errors import CommandRefused, ConfigError
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.signed import load_key, make_key
from echo_stream.mqtt.transfer import to_chunk
from tests.mqtt.conftest import Subscriber
from tests.support.broker import MosquittoBroker
from tests.support.daemon import PUMP, daemon, fitted, subscriber, wait_for

LIVE = PUMP.replace("pace: fast, duration_s: 90", "pace: realtime, start_s: 100")


@pytest.fixture
def operator(broker: MosquittoBroker, tmp_path: Path) -> tuple[RollOut, str, list[str]]:
    """Who rolls out, the public key, and what was told."""
    public, told = make_key(tmp_path / "key"), list[str]()
    plant = Plant(Broker(broker.host, broker.port), "echo-stream")
    return RollOut(plant, load_key(tmp_path / "key"), "J. Smith", told.append), public, told


def test_a_configuration_is_pushed_taken_back_and_banks_are_collected(
    broker: MosquittoBroker, operator: tuple[RollOut, str, list[str]], tmp_path: Path
) -> None:
    roll_out, public, told = operator
    fitted(tmp_path)
    config, new = tmp_path / "config.yaml", tmp_path / "new.yaml"
    where = f'mqtt: {{host: {broker.host}, port: {broker.port}}}\nplant: {{trust: ["{public}"]}}\n'
    config.write_text(LIVE + where)
    with (
        subscriber(broker.host, broker.port) as heard,
        daemon(tmp_path, "tests.support.hasty_daemon") as process,
    ):
        wait_for(lambda: heard.of("score", "pump3"), 60, "the machine is heard")
        new.write_text(LIVE.replace("bank:", "name: Pump\n    bank:") + where)
        (target,) = targets = [Target.parse("pc7", False, str(new))]
        roll_out.push("config", targets)
        assert (target.state, target.outcome) == ("done", "in use; 1 machine is heard as before")
        assert config.read_text() == new.read_text()

        silent = "{kind: command, argv: [sleep, '1000'], sample_rate_hz: 8000}"
        simulated = "{kind: simulated, seed: 5, sample_rate_hz: 8000, pace: realtime, start_s: 100}"
        good = new.read_text()
        new.write_text(good.replace(simulated, silent))
        (target,) = targets = [Target.parse("pc7", False, str(new))]
        roll_out.push("config", targets)
        assert target.state == "rolled_back"
        assert target.outcome.startswith("not heard as before within 12 s: pump3: ")
        assert config.read_text() == good
        count = len(heard.of("score", "pump3"))
        wait_for(lambda: len(heard.of("score", "pump3")) > count, 60, "the machine is heard again")

        (target,) = targets = [Target.parse("pc7", None)]
        roll_out.collect("banks", targets, tmp_path / "out", 10**7)
        assert target.state == "done"
        (file,) = target.files
        assert Path(file) == tmp_path / "out" / "pc7" / "pump3" / "b1.safetensors"
        assert Path(file).read_bytes() == (tmp_path / "banks" / "pump3.safetensors").read_bytes()
        assert process.poll() is None
    assert told[0] == "stage 1: pc7"


def test_one_then_a_tenth_then_all() -> None:
    targets = [Target(f"pc{n}", None) for n in range(35)]
    assert [len(stage) for stage in stages(targets)] == [1, 4, 30]
    assert [len(stage) for stage in stages(targets[:2])] == [1, 1]
    assert [len(stage) for stage in stages(targets[:1])] == [1]


@contextmanager
def nodes(client: Client, answer: Callable[[str, str], list[dict[str, Any] | bytes]]) -> Iterator[list[str]]:
    """Nodes that answer each manifest (node, id) with these messages; which were asked."""
    asked, ready = list[str](), threading.Event()

    def received(client: Client, _userdata: object, message: MQTTMessage) -> None:
        text = bytes(message.payload)
        if not text.startswith(b"{"):
            return
        manifest = json.loads(json.loads(text)["manifest"])
        asked.append(manifest["node"])
        for each in answer(manifest["node"], manifest["id"]):
            said = each if isinstance(each, bytes) else json.dumps({"node": manifest["node"], **each})
            client.publish(f"echo-stream/{manifest['node']}/transferred", said, qos=1)

    client.on_message = received
    client.on_subscribe = lambda *_: ready.set()
    client.subscribe("echo-stream/+/transfer", qos=1)
    assert ready.wait(60)
    yield asked


@pytest.fixture
def client(broker: MosquittoBroker, listen: Callable[..., Subscriber]) -> Client:
    return listen(broker, "none").client


def test_the_first_refusal_ends_a_roll_out(
    operator: tuple[RollOut, str, list[str]],
    client: Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    roll_out, _, told = operator
    (tmp_path / "bank").write_bytes(b"x")

    def answer(node: str, transfer: str) -> list[dict[str, Any] | bytes]:
        state = "refused" if node == "pc2" else "done"
        return [{"id": transfer, "state": state, "outcome": "because\x1b[31m\nof this"}]

    targets = [Target.parse(f"pc{n}/m", True, str(tmp_path / "bank")) for n in range(1, 31)]
    with (
        nodes(client, answer) as asked,
        pytest.raises(CommandRefused, match="refused: pc2/m; not begun: pc5/m") as ended,
    ):
        _carried_out("bank", targets, True, lambda: roll_out.push("bank", targets))
    assert "done: pc1/m, pc3/m, pc4/m" in ended.value.message
    assert sorted(asked) == ["pc1", "pc2", "pc3", "pc4"]
    assert "pc2/m: refused: because?[31m\nof this" in told
    found = json.loads(capsys.readouterr().out)["targets"]
    assert [each["state"] for each in found[:5]] == ["done", "refused", "done", "done", "not begun"]


def test_of_a_large_bank_only_chunks_are_in_memory(
    operator: tuple[RollOut, str, list[str]], client: Client, tmp_path: Path
) -> None:
    with (tmp_path / "bank").open("wb") as file:
        file.truncate(30_000_000)

    def answer(_node: str, transfer: str) -> list[dict[str, Any] | bytes]:
        asks = {"id": transfer, "state": "send", "outcome": "", "chunk": 400}
        return [asks, {"id": transfer, "state": "done", "outcome": "sent"}]

    targets = [Target.parse("pc1/m", True, str(tmp_path / "bank"))]
    tracemalloc.start()
    try:
        with nodes(client, answer):
            operator[0].push("bank", targets)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert targets[0].state == "done"


GOOD = {"state": "file", "outcome": "", "machine": "pump3", "name": "b1.safetensors", "size": 1}
DIGEST = {"sha256": sha256(b"x").hexdigest()}


@pytest.mark.parametrize(
    ("change", "number", "reason"),
    [
        ({"machine": "../../etc"}, 0, "names a machine '../../etc': not written"),
        ({"machine": None}, 0, "names a machine 'None'"),
        ({"name": "../key"}, 0, "names a file '../key': not written"),
        ({"name": ".bashrc"}, 0, "names a file '.bashrc'"),
        ({"size": 101}, 0, "has 101 bytes, at most 100 are taken"),
        ({"size": "1"}, 0, "at most 100 are taken"),
        ({"sha256": "0" * 64}, 0, "announced was 0000"),
        ({}, 1, "chunk 1 came, expected 0"),
        ({"size": 2}, None, "b1.safetensors is not whole; collect again"),
        ({"size": 0}, 0, "the file has the SHA-256"),
    ],
)
def test_a_node_that_lies_writes_nothing(
    operator: tuple[RollOut, str, list[str]],
    client: Client,
    tmp_path: Path,
    change: dict[str, Any],
    number: int | None,
    reason: str,
) -> None:
    roll_out, into = operator[0], tmp_path / "out"

    def answer(node: str, transfer: str) -> list[dict[str, Any] | bytes]:
        chunk = [] if number is None else [to_chunk(transfer, number, b"x")]
        end = {"id": transfer, "state": "done", "outcome": "sent"}
        return [b"no JSON", b"[]", {"id": transfer, **GOOD, **DIGEST, **change}, *chunk, end]

    (target,) = targets = [Target.parse("pc7", None)]
    with nodes(client, answer):
        roll_out.collect("banks", targets, into, 100)
    assert target.state == "failed"
    assert reason in target.outcome
    assert [path for path in into.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("text", "machine"), [("pc7", True), ("pc7/pump3", False), ("../x", None), ("pc7/a/b", None), ("", None)]
)
def test_what_is_no_target(text: str, machine: bool | None) -> None:
    with pytest.raises(ConfigError, match="expected NODE"):
        Target.parse(text, machine)


def test_a_file_that_is_not_there_is_said_before_anything_is_sent(
    operator: tuple[RollOut, str, list[str]], tmp_path: Path
) -> None:
    target = Target.parse("pc7", False, str(tmp_path / "{node}.yaml"))
    with pytest.raises(ConfigError, match=r"pc7\.yaml: No such file"):
        operator[0].push("config", [target])
    (tmp_path / "pc7.yaml").touch()
    with pytest.raises(ConfigError, match="is empty"):
        operator[0].push("config", [target])


def test_who_asks_is_the_caller_of_sudo_and_has_no_endless_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "key")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SUDO_USER", "anna")
    assert _roll_out(None, None, tmp_path / "key", None, True)._by == "anna"
    with pytest.raises(ConfigError, match="--by: has 101 characters, expected at most 100"):
        _roll_out(None, None, tmp_path / "key", "J" * 101, True)
