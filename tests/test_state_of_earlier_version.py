"""What version 0.1 left behind is taken over: alarms, events, banks, enrolments, evidence, payloads.

tests/data/state_0.1 holds it; make.py beside it says how it was made. Nothing there is ever changed: each
test works on a copy. The only path that ties it to a folder is in the name of a part in a --resume folder, a
checksum of the recording's absolute path and time: `_kept_from_before` gives the copy the name that it has in
its place.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import soundfile
import yaml
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

import echo_stream
from echo_stream.config.load import load
from tests.support.broker import MosquittoBroker
from tests.support.daemon import Subscriber, daemon, run, subscriber, terminate, wait_for
from tests.support.stations import learnt

BEFORE = Path(__file__).parent / "data/state_0.1"
MACHINES = ("pump1", "pump2", "pump3", "pump4", "fan5")
KINDS = sorted(path.stem for path in (BEFORE / "schemas_0.1").glob("*.json"))
TOLERANCE = 1e-4
"""Of scores and trip levels."""


def read(name: str) -> Any:
    return json.loads((BEFORE / name).read_text())


def lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (BEFORE / name).read_text().splitlines()]


def same(new: Any, old: Any, where: str = "") -> None:
    """All that the old one says is said by the new one, numbers within the tolerance."""
    if isinstance(old, dict):
        assert set(old) <= set(new), where
        for key in old:
            same(new[key], old[key], f"{where}.{key}")
    elif isinstance(old, list):
        assert len(new) == len(old), where
        for n, (a, b) in enumerate(zip(new, old, strict=True)):
            same(a, b, f"{where}[{n}]")
    elif isinstance(old, float):
        assert new == pytest.approx(old, rel=TOLERANCE, abs=TOLERANCE), where
    else:
        assert new == old, where


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A copy of the folder with configuration, banks, state, recordings."""
    copy = tmp_path / "site"
    shutil.copytree(BEFORE / "site", copy, symlinks=True)
    return copy


def stopped_at(site: Path, at: datetime) -> None:
    """As if the daemon had been stopped then: a shelving lasts a week at most, the fixture is older."""
    with closing(sqlite3.connect(site / "state/outbox.sqlite")) as outbox, outbox:
        saved = outbox.execute("SELECT machine, snapshot FROM machine").fetchall()
        assert {machine for machine, _ in saved} == set(MACHINES)
        for machine, text in saved:
            moved = json.dumps({**json.loads(text), "at": at.isoformat()})
            outbox.execute("UPDATE machine SET snapshot = ? WHERE machine = ?", (moved, machine))


def connect(site: Path, broker: MosquittoBroker) -> None:
    path = site / "config.yaml"
    path.write_text(path.read_text().replace("port: 1883", f"port: {broker.port}"))


def retain(broker: MosquittoBroker, messages: dict[str, Any]) -> None:
    """The broker holds them, as it did before."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(broker.host, broker.port)
    client.loop_start()
    for topic, payload in messages.items():
        text = payload if isinstance(payload, str) else json.dumps(payload)
        client.publish(topic, text, qos=1, retain=True).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def retained(broker: MosquittoBroker) -> dict[str, Any]:
    """All that the broker holds."""
    found: dict[str, Any] = {}
    complete: list[int] = []

    def on_message(client: Client, _userdata: object, message: MQTTMessage) -> None:
        text = message.payload.decode(errors="replace")
        if message.topic == "the/end":  # mosquitto sends what it holds before what comes later
            complete.append(1)
        elif message.retain:
            found[message.topic] = json.loads(text) if text.startswith("{") else text

    client = Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda client, *_: client.publish("the/end", "", qos=1)
    client.on_message = on_message
    client.connect(broker.host, broker.port)
    client.loop_start()
    wait_for(lambda: complete, 10, "what the broker holds")
    client.disconnect()
    client.loop_stop()
    return found


def alarm_states(told: Subscriber, machine: str) -> dict[str, str]:
    levels = told.of("alarm", machine)[-1]["levels"]
    return {level: state["state"] for level, state in levels.items()}


def two_events(told: Subscriber, machine: str) -> list[Any]:
    """What is said of both levels of its alarm."""
    wait_for(lambda: len(told.of("event", machine)) == 2, 30, f"two events of {machine}")
    return told.of("event", machine)


def test_alarms_stand_where_they_stood_and_waiting_events_arrive(site: Path, broker: MosquittoBroker) -> None:
    before, waiting = read("retained.json"), read("waiting.json")
    stopped_at(site, datetime.now(UTC) - timedelta(minutes=1))
    connect(site, broker)
    retain(broker, before)
    with subscriber(broker.host, broker.port) as told, daemon(site) as process:
        wait_for(lambda: all(len(told.of("alarm", m)) > 1 for m in MACHINES), 30, "retained alarms, anew")
        wait_for(lambda: len(told.of("score", "pump1")) > 4, 30, "some scores")

        arrived = [(topic, it) for topic, it in told.heard if topic.endswith(("/event", "/evidence"))]
        assert [(topic, it["event_id"]) for topic, it in arrived] == [
            (topic, it["event_id"]) for topic, it in waiting
        ]
        for (_, new), (_, old) in zip(arrived, waiting, strict=True):
            if "delayed" in old:
                assert new["delayed"] is True
            assert {**new, "delayed": None} == {**old, "delayed": None}

        now = retained(broker)
        new_topics = {"echo-stream/pc7/health", "homeassistant/device/echo-stream_pc7/config"}
        new_topics |= {
            f"echo-stream/pc7/{machine}/{what}" for machine in MACHINES for what in ("bank", "image")
        }
        assert set(now) - new_topics == set(before)  # no topic is left over
        assert now["echo-stream/pc7/status"] == "online"
        for machine in MACHINES:
            topic = f"echo-stream/pc7/{machine}/alarm"
            assert now[f"echo-stream/pc7/{machine}/availability"] == "online"
            if machine != "fan5":  # its events came while the broker was away
                assert {**now[topic], "ts": None} == {**before[topic], "ts": None}
        last = {it["level"]: it for topic, it in waiting if topic.endswith("/event")}
        for level, stands in now["echo-stream/pc7/fan5/alarm"]["levels"].items():
            assert (stands["state"], stands["active"]) == ("RTN_UNACK", False)
            assert (stands["event_id"], stands["since"]) == (last[level]["event_id"], last[level]["ts"])
        for topic in before:
            if topic.startswith("homeassistant/"):
                assert now[topic]["dev"]["ids"] == before[topic]["dev"]["ids"]
                for key, component in before[topic]["cmps"].items():  # no entity twice: all it was, it is
                    assert now[topic]["cmps"][key] == {**now[topic]["cmps"][key], **component}
                assert now[topic]["dev"]["ids"] == before[topic]["dev"]["ids"]

        # What lies below is known too, and numbers go on.
        for machine, command, after in (
            ("pump1", "ack", "ACKED"),
            ("pump3", "unshelve", "UNACK"),
            ("pump4", "in_service", "NORMAL"),
        ):
            told.publish(f"echo-stream/pc7/{machine}/cmd", {"command": command})
            moved = two_events(told, machine)
            assert {event["to"] for event in moved} == {after}
            first = {"pump1": 3, "pump3": 5, "pump4": 3}[machine]
            assert [event["seq"] for event in moved] == [first, first + 1]
        assert alarm_states(told, "pump2") == {"alarm": "ACKED", "warning": "ACKED"}
        assert terminate(process)[0] == 0
    assert "begin anew" not in (site / "log").read_text()


def test_a_shelving_ends_though_nothing_ran(site: Path, broker: MosquittoBroker) -> None:
    stopped_at(site, datetime.now(UTC) - timedelta(days=8))
    connect(site, broker)
    with subscriber(broker.host, broker.port) as told, daemon(site):
        ended = two_events(told, "pump3")
        assert {(event["cause"], event["to"]) for event in ended} == {("shelve_expired", "UNACK")}


def test_banks_are_what_they_were(site: Path) -> None:
    before = read("bank.json")
    same(json.loads(run(site, "bank", "list", "-m", "pump1", "--json")), before["list"])
    for bank, shown in before["show"].items():
        levels = shown.pop("levels")
        now = json.loads(run(site, "bank", "show", "-m", "pump1", bank, "--json"))
        same(now, shown, bank)
        assert now["levels"].keys() == levels.keys()  # how high is set by the rule of the version in use
    run(site, "bank", "rollback", "-m", "pump1")
    assert (site / "banks/pump.safetensors").resolve().name == "b1.safetensors"


def test_scores_are_what_they_were(site: Path) -> None:
    text = run(site, "score", "-m", "pump1", "recordings/faulty.flac", "recordings/normal_1.flac")
    before = lines("scores.jsonl")
    for line in before:
        del line["threshold"], line["active"]  # by the rule of the version in use
    now = [json.loads(line) for line in text.splitlines()]
    same(now, before)
    assert any(line["active"] for line in now)


def test_evidence_is_listed(site: Path) -> None:
    (kept,) = json.loads(run(site, "events", "--json", apart=True))
    assert kept["complete"] is True
    alarm = read("retained.json")["echo-stream/pc7/pump1/alarm"]["levels"]["alarm"]
    assert (kept["machine"], kept["event_id"]) == ("pump1", alarm["event_id"])
    assert json.loads(run(site, "events", "show", kept["event_id"])) == kept
    assert all((site / kept["files"][what]).stat().st_size for what in ("document", "picture"))
    sound, rate = soundfile.read(site / kept["files"]["clip"])
    assert (len(sound), rate) == (4 * 8000, 8000)


def went_on(site: Path, name: str, *words: str) -> None:
    """A command goes on from the same sound; what is fitted anew has the levels of the new version."""
    before = read("goes_on.json")[name]
    told = json.loads(run(site, *words, "-m", "pump1", "--json"))
    for key in ("bank", "windows", "minutes", "conditions", "left_out"):
        if key in before["told"]:
            same(told[key], before["told"][key], key)
    shown = json.loads(run(site, "bank", "show", "-m", "pump1", "b3", "--json"))
    assert shown["levels"].keys() == before["levels"].keys()
    for session in before["sessions"]:
        for key in ("heard_at", "by", "on", "software_version"):
            del session[key]
    same(shown["sessions"], before["sessions"], "sessions")


def test_an_enrolment_is_extended(site: Path) -> None:
    went_on(site, "extend", "bank", "extend", "--condition", "load", "recordings/normal_1.flac")


def test_an_operating_state_joins(site: Path) -> None:
    words = ("--condition", "other", "--no-accept", "recordings/normal_2.flac")
    went_on(site, "fit-normal", "fit-normal", *words)


def _kept_from_before(site: Path) -> Path:
    """The part that was finished, under the name that it has here."""
    about, recording = read("kept_about.json"), site / "recordings/normal_1.flac"
    assert recording.stat().st_size == about["bytes"]
    about["path"] = str(recording.resolve())
    about["modified_ns"] = recording.stat().st_mtime_ns
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]
    return (site / "kept/part.safetensors").rename(site / f"kept/{name}.safetensors")


def test_an_interrupted_fit_goes_on(site: Path) -> None:
    part = _kept_from_before(site)
    written_ns = part.stat().st_mtime_ns
    sounds = ("recordings/normal_1.flac", "recordings/normal_2.flac")
    words = ("--condition", "load", "--no-accept", "--resume", "kept", *sounds)
    went_on(site, "resume", "fit-normal", *words)
    assert part.stat().st_mtime_ns == written_ns
    # Features of another FFT are others: both recordings are computed anew, and the old part is left alone.
    assert len(list((site / "kept").iterdir())) == 3


@pytest.mark.timeout(300)
def test_the_default_configuration_raises_the_same(tmp_path: Path, broker: MosquittoBroker) -> None:
    """A simulated machine with each kind of fault, from fit to the end: the same events as before."""
    shutil.copy(BEFORE / "default/fit.yaml", tmp_path / "config.yaml")
    settings = load(tmp_path / "config.yaml")
    machine = next(machine for machine in settings.machines if machine.id == "seed3")
    learnt(settings, machine, minutes=2.0).bank.save(machine.bank)
    config = yaml.safe_load((BEFORE / "default/run.yaml").read_text())
    config["machines"] = [machine for machine in config["machines"] if machine["id"].startswith("seed3-")]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    connect(tmp_path, broker)
    with subscriber(broker.host, broker.port) as told, daemon(tmp_path) as process:
        assert process.wait(120) == 0
        wait_for(lambda: told.of("status")[-1:] == ["offline"], 10, "it has said all")
        found = sorted(told.events, key=lambda event: (event["machine"], event["seq"]))
    said = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    at_s = {line["event_id"]: line["at_s"] for line in said if "event_id" in line}
    before = [event for event in lines("default/events.jsonl") if event["machine"].startswith("seed3-")]
    keys = ("machine", "level", "from", "to", "cause", "active")
    assert [[event[key] for key in keys] for event in found] == [
        [event[key] for key in keys] for event in before
    ]
    # Scores are not compared: the metric of ADR 14 gives others. Each event comes within seconds of before.
    apart_s = [abs(at_s[now["event_id"]] - then["at_s"]) for now, then in zip(found, before, strict=True)]
    assert max(apart_s) <= 4.0


# ---------------------------------------------------------------------- payloads


def schema_now(kind: str) -> Any:
    """Of the package in use, wherever it keeps them."""
    (path,) = Path(echo_stream.__file__).parent.rglob(f"schemas/{kind}.json")
    return json.loads(path.read_text())


def test_payloads_of_each_kind_are_there() -> None:
    assert sorted({kind for kind, _ in lines("payloads.jsonl")}) == KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_payloads_of_before_fit_the_schemas_of_now(kind: str) -> None:
    """Real payloads and examples; and each, altered at one place, that the old schema takes."""
    old_schema = read(f"schemas_0.1/{kind}.json")
    old = jsonschema.Draft202012Validator(old_schema)
    new = jsonschema.Draft202012Validator(schema_now(kind))
    payloads = [payload for its_kind, payload in lines("payloads.jsonl") if its_kind == kind]
    payloads += old_schema.get("examples", [])
    for payload in payloads:
        old.validate(payload)
        new.validate(payload)
    values = [*_values_in(old_schema), None, True, -1, 0, 0.5, 1, 2, 1e9, "", "x", [], [[1, 2, 0.5]], {}]
    for payload in (payloads[0], payloads[-1]):
        for altered in _altered(payload, values):
            if old.is_valid(altered):
                new.validate(altered)


def _values_in(schema: Any) -> Iterator[Any]:
    """What a schema names: values of enums, constants."""
    if isinstance(schema, dict):
        yield from schema.get("enum", []) if isinstance(schema.get("enum"), list) else []
        yield from [schema["const"]] if "const" in schema else []
        for each in schema.values():
            yield from _values_in(each)
    elif isinstance(schema, list):
        for each in schema:
            yield from _values_in(each)


def _altered(payload: Any, values: list[Any]) -> Iterator[Any]:
    """Copies with another value at one place, or one key less or more."""
    yield from values
    if isinstance(payload, dict):
        yield {**payload, "more": 1}
        for key, value in payload.items():
            yield {other: each for other, each in payload.items() if other != key}
            for altered in _altered(value, values):
                yield {**payload, key: altered}
    elif isinstance(payload, list):
        for n, value in enumerate(payload[:2]):
            for altered in _altered(value, values):
                yield [*payload[:n], altered, *payload[n + 1 :]]
