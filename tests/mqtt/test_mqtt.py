"""The publisher against a real mosquitto: what it says, and what it does while the broker is away."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from echo_stream.core.types import AlarmLevel, AlarmState
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt import session as mqtt_session
from echo_stream.mqtt import state_payloads
from echo_stream.mqtt.publisher import Kind, Publisher
from tests.support.broker import MosquittoBroker, mosquitto
from tests.support.fake_broker import ACCEPT, FakeBroker, packets, publication

from .conftest import NOON, Process, Subscriber, a_score, an_event, wait_until

Publish = Callable[..., Publisher]
Listen = Callable[..., Subscriber]
Logged = list[MutableMapping[str, Any]]
ROOT = "echo-stream/pc7"


def alarm_payload(state: messages.LevelState | None = None) -> messages.Payload:
    levels = {} if state is None else {AlarmLevel.ALARM: state}
    return state_payloads.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels=levels)


def score_payload(value: float = 3.41) -> messages.Payload:
    return state_payloads.score(a_score(value), node="pc7", machine="pump3", ts=NOON, threshold=2.1)


def put_events(publisher: Publisher, count: int, machine: str = "pump3") -> list[str]:
    """Events in order; their ids."""
    events = [an_event(machine, publisher.next_seq(machine)) for _ in range(count)]
    for event in events:
        publisher.event("event", event)
    return [event["event_id"] for event in events]


def test_everything_arrives_where_the_convention_says(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker)
    publisher = publish(broker)
    wait_until(lambda: heard.texts(f"{ROOT}/status"), "status")
    event = an_event(seq=publisher.next_seq("pump3"))
    publisher.set_available("pump3", True)
    publisher.set_alarm("pump3", alarm_payload())
    publisher.event("event", event)
    publisher.score("pump3", score_payload())
    wait_until(lambda: heard.texts(f"{ROOT}/pump3/score"), "score")
    wait_until(lambda: heard.texts(f"{ROOT}/pump3/event"), "event")
    assert heard.texts(f"{ROOT}/status") == ["online"]
    assert heard.payloads(f"{ROOT}/pump3/event") == [event]
    wait_until(lambda: heard.texts(f"{ROOT}/pump3/availability")[-1:] == ["online"], "availability")
    assert heard.texts(f"{ROOT}/fan1/availability") == ["offline"]
    assert heard.payloads(f"{ROOT}/pump3/alarm") == [alarm_payload()]
    late = listen(broker)
    wait_until(lambda: len(late.heard) >= 4, "retained messages")
    assert {m.topic for m in late.heard if m.retain} == {
        f"{ROOT}/status",
        f"{ROOT}/pump3/availability",
        f"{ROOT}/fan1/availability",
        f"{ROOT}/pump3/alarm",
    }
    wait_until(lambda: publisher.counters().outbox_depth == 0, "acknowledged")
    assert publisher.counters().published == 1
    assert publisher.counters().connected


def test_mqtt_5_properties(broker: MosquittoBroker, publish: Publish, listen: Listen) -> None:
    heard = listen(broker)
    publisher = publish(broker, score_expiry_s=7)
    wait_until(lambda: publisher.connected, "connected")
    (event_id,) = put_events(publisher, 1)

    def both() -> bool:
        publisher.score("pump3", score_payload())  # QoS 0: one may be lost
        return {f"{ROOT}/pump3/score", f"{ROOT}/pump3/event"} <= set(heard.topics())

    wait_until(both, "both")
    by_topic = {message.topic: message for message in heard.heard}
    assert by_topic[f"{ROOT}/pump3/score"].properties.MessageExpiryInterval <= 7  # type: ignore[union-attr]
    assert by_topic[f"{ROOT}/pump3/score"].qos == 0
    user = by_topic[f"{ROOT}/pump3/event"].properties.UserProperty  # type: ignore[union-attr]
    assert ("event_id", event_id) in user
    assert by_topic[f"{ROOT}/pump3/event"].qos == 1


def test_of_many_scores_only_the_newest_goes_out(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker)
    publisher = publish(broker, score_interval_s=0.5)
    wait_until(lambda: publisher.connected, "connected")
    for n in range(1000):
        publisher.score("pump3", score_payload(n))
    wait_until(lambda: heard.payloads(f"{ROOT}/pump3/score")[-1:] == [score_payload(999)], "the newest")
    assert len(heard.texts(f"{ROOT}/pump3/score")) < 20


def test_each_kind_of_event_goes_to_its_own_topic(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker, "echo-stream/pc7/#")
    publisher = publish(broker)
    kinds: tuple[Kind, ...] = ("event", "evidence", "sensor", "drift", "flood")
    sent = {kind: messages.schema(kind)["examples"][0] for kind in kinds}
    for kind in kinds:
        publisher.event(kind, sent[kind])
    wait_until(lambda: publisher.counters().published == 5, "acknowledged")
    wait_until(lambda: heard.texts(f"{ROOT}/flood"), "the last")
    for kind in kinds:
        topic = f"{ROOT}/flood" if kind == "flood" else f"{ROOT}/pump3/{kind}"
        (payload,) = heard.payloads(topic)
        assert {**payload, "delayed": False} == {**sent[kind], "delayed": False}


def test_a_clean_stop_says_offline_and_calls_the_will_off(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker)
    publisher = publish(broker)
    publisher.set_available("pump3", True)
    wait_until(lambda: publisher.connected, "connected")
    put_events(publisher, 50)
    assert publisher.stop(10.0)
    wait_until(lambda: heard.texts(f"{ROOT}/status") == ["online", "offline"], "offline, once")
    wait_until(lambda: heard.texts(f"{ROOT}/pump3/availability")[-1] == "offline", "machine offline")
    assert len(heard.texts(f"{ROOT}/pump3/event")) == 50
    wait_until(lambda: "Received DISCONNECT from echo-stream-pc7" in broker.log, "a proper good-bye")


def test_what_is_said_after_the_stop_waits_for_the_next_run(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker, f"{ROOT}/+/event")
    first = publish(broker)
    wait_until(lambda: first.connected, "connected")
    assert first.stop(5.0)
    first.set_available("pump3", True)
    first.score("pump3", score_payload())
    (event_id,) = put_events(first, 1)
    publish(broker)
    wait_until(lambda: heard.ids(f"{ROOT}/pump3/event") == [event_id], "the event")


def test_stop_is_quick_while_the_broker_is_away(broker: MosquittoBroker, publish: Publish) -> None:
    broker.stop()
    publisher = publish(broker, retry_min_s=60.0, retry_max_s=60.0)
    put_events(publisher, 1)
    wait_until(lambda: publisher.counters().last_error, "it tried")
    assert not publisher.stop(5.0)
    assert not publisher.alive


def test_a_stop_says_offline_to_a_broker_that_has_come_back_meanwhile(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    """Found by an hour's soak: the next try was half a minute away, and the broker went on saying online."""
    publisher = publish(broker, retry_min_s=60.0, retry_max_s=60.0)
    wait_until(lambda: publisher.connected, "connected")
    broker.stop()
    wait_until(lambda: not publisher.connected, "away")
    broker.start()
    heard = listen(broker)
    put_events(publisher, 3)
    assert publisher.stop(5.0)
    wait_until(lambda: heard.texts(f"{ROOT}/status") == ["online", "offline"], "offline")
    assert len(heard.texts(f"{ROOT}/pump3/event")) == 3


@pytest.mark.parametrize("protocol", [3, 5])
def test_the_will_is_seen_after_kill_9(
    broker: MosquittoBroker, listen: Listen, tmp_path: Path, protocol: int
) -> None:
    heard = listen(broker, f"{ROOT}/status")
    process = Process(broker, tmp_path / "alone.sqlite", protocol=protocol, will_delay_s=1)
    wait_until(lambda: heard.texts(f"{ROOT}/status") == ["online"], "online")
    process.kill()
    wait_until(lambda: heard.texts(f"{ROOT}/status") == ["online", "offline"], "the will")


def test_who_is_back_before_the_will_is_due_was_never_offline(
    broker: MosquittoBroker, listen: Listen, tmp_path: Path
) -> None:
    heard = listen(broker, f"{ROOT}/status")
    process = Process(broker, tmp_path / "alone.sqlite", will_delay_s=60)
    wait_until(lambda: len(heard.heard) == 1, "online")
    process.kill()
    again = Process(broker, tmp_path / "alone.sqlite", will_delay_s=60)
    wait_until(lambda: len(heard.heard) == 2, "online again")
    again.stop()
    wait_until(lambda: len(heard.heard) == 3, "good-bye")
    assert heard.texts(f"{ROOT}/status") == ["online", "online", "offline"]


def test_a_broker_that_comes_later_gets_everything_in_order(
    broker: MosquittoBroker, publish: Publish, listen: Listen, logged: Logged
) -> None:
    broker.stop()
    publisher = publish(broker)
    ids = put_events(publisher, 30)
    assert publisher.outbox.depth == 30
    publisher.set_available("pump3", True)
    wait_until(lambda: publisher.counters().last_error, "it tried")
    broker.start()
    heard = listen(broker, f"{ROOT}/+/event", name="archive", clean_start=False, session_expiry=60)
    wait_until(lambda: publisher.counters().outbox_depth == 0, "all acknowledged")
    later = put_events(publisher, 3)
    wait_until(lambda: publisher.counters().published == 33, "sent")
    wait_until(lambda: heard.ids(f"{ROOT}/pump3/event")[-3:] == later, "the later ones")
    arrived = heard.ids(f"{ROOT}/pump3/event")
    assert arrived == [*ids, *later][-len(arrived) :]
    assert [line["event"] for line in logged] == ["the broker is away", "connected to the broker"]


@pytest.mark.parametrize("days", [60, -60])
def test_a_clock_that_jumps_makes_no_waiting_event_too_old(
    broker: MosquittoBroker, publish: Publish, listen: Listen, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    """Without a battery a PC's clock is months behind at boot, until the network is there, and NTP."""
    publisher = publish(broker, start=False)
    before = put_events(publisher, 3)
    kernels = time.time
    monkeypatch.setattr(time, "time", lambda: kernels() + days * 86_400)
    after = put_events(publisher, 2)
    subscriber = listen(broker, "echo-stream/+/+/event")
    publisher.start()
    topic = "echo-stream/pc7/pump3/event"
    wait_until(lambda: len(subscriber.ids(topic)) >= 5, "all events")
    assert subscriber.ids(topic) == before + after
    assert publisher.counters().dropped == 0


def test_nothing_is_lost_over_a_restart_of_the_broker(
    tmp_path: Path, publish: Publish, listen: Listen, logged: Logged
) -> None:
    with mosquitto(tmp_path, persistent=True) as broker:
        heard = listen(broker, f"{ROOT}/+/event", name="archive", clean_start=False, session_expiry=600)
        publisher = publish(broker)
        wait_until(lambda: publisher.connected, "connected")
        ids = put_events(publisher, 5)
        wait_until(lambda: publisher.counters().published == 5, "acknowledged")
        broker.stop()
        wait_until(lambda: not publisher.connected, "it noticed")
        ids += put_events(publisher, 5)
        broker.start()
        wait_until(lambda: publisher.counters().outbox_depth == 0, "acknowledged")
        ids += put_events(publisher, 5)
        wait_until(lambda: len(set(heard.ids(f"{ROOT}/pump3/event"))) == 15, "all events", 60)
        received = {p["event_id"]: p["delayed"] for p in heard.payloads(f"{ROOT}/pump3/event")}
        assert list(received) == ids
        assert list(received.values()) == [False] * 5 + [True] * 5 + [False] * 5
        # One line when it went, one when it was back; the rest of the attempts is silent.
        assert [line["event"] for line in logged] == [
            "connected to the broker",
            "the broker is away",
            "connected to the broker",
        ]
        assert "already connected" not in broker.log


def test_every_connection_announces_all_states_again(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    publisher = publish(broker)
    state = alarm_payload(messages.LevelState(AlarmState.UNACK, True, NOON, NOON, None))
    publisher.set_available("pump3", True)
    publisher.set_alarm("pump3", state)
    publisher.health("pump3", {"machine": "pump3", "versions": {}})
    wait_until(lambda: publisher.connected, "connected")
    broker.kill()
    broker.start()  # it has forgotten everything
    heard = listen(broker)
    wait_until(lambda: f"{ROOT}/pump3/health" in heard.topics(), "announced", 60)
    wait_until(lambda: f"{ROOT}/pump3/alarm" in heard.topics(), "announced")
    assert heard.texts(f"{ROOT}/status") == ["online"]
    assert heard.texts(f"{ROOT}/pump3/availability") == ["online"]
    assert heard.payloads(f"{ROOT}/pump3/alarm") == [state]


def test_events_of_a_killed_process_are_sent_by_the_next(
    broker: MosquittoBroker, publish: Publish, listen: Listen, tmp_path: Path
) -> None:
    heard = listen(broker, f"{ROOT}/+/event")
    broker.freeze()
    process = Process(broker, tmp_path / "outbox.sqlite")
    events = [an_event(seq=n + 1) for n in range(3)]
    for event in events:
        process.ask(event=event)
    process.kill()
    broker.thaw()
    publisher = publish(broker)
    wait_until(lambda: publisher.counters().outbox_depth == 0, "sent")
    wait_until(lambda: len(set(heard.ids(f"{ROOT}/pump3/event"))) == 3, "all three")
    assert publisher.next_seq("pump3") == 1  # this test chose its numbers itself
    assert all(payload["delayed"] for payload in heard.payloads(f"{ROOT}/pump3/event"))


def test_3_1_1_on_request(broker: MosquittoBroker, publish: Publish, listen: Listen) -> None:
    heard = listen(broker)
    publisher = publish(broker, protocol=3)
    ids = put_events(publisher, 3)
    publisher.score("pump3", score_payload())
    wait_until(lambda: heard.ids(f"{ROOT}/pump3/event") == ids, "events")
    wait_until(lambda: "as echo-stream-pc7 (p2," in broker.log, "3.1.1 is p2 in mosquitto's log")
    assert publisher.stop(5.0)


@pytest.fixture
def fake() -> Iterator[Callable[[Callable[[socket.socket], None]], FakeBroker]]:
    made: list[FakeBroker] = []

    def make(serve: Callable[[socket.socket], None]) -> FakeBroker:
        made.append(FakeBroker(serve))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


Fake = Callable[[Callable[[socket.socket], None]], FakeBroker]


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        if answer:
            connection.recv(1024)
            connection.sendall(answer)

    return serve


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\nServer: web\r\n\r\n" * 3,
        b"",  # accepts, and never says a word
        b"\x20\x03\x00\x77\x00",  # CONNACK with a reason that does not exist
        b"\x20\x09\x00\x00\x06\x21\x00\x14\x99\x00\x00",  # CONNACK with an unknown property
        b"\x20\xff\xff\xff\xff\xff",  # a length that never ends
        b"\xf0\x00",  # AUTH, out of place
        ACCEPT + b"\x32\x02\x00\x09",  # welcome, then a message whose topic is longer than it
    ],
)
def test_what_does_not_speak_mqtt_is_a_broker_that_is_away(
    answer: bytes, fake: Fake, publish: Publish, logged: Logged
) -> None:
    broker = fake(saying(answer))
    publisher = publish(broker, connect_timeout_s=0.3)
    wait_until(lambda: broker.connections >= 8, "it keeps trying")
    assert publisher.alive
    publisher.stop(5.0)
    assert "the broker is away" in [line["event"] for line in logged]
    assert len(logged) <= 7, "a connection that comes and goes does not fill the log"


def test_a_broker_of_3_1_1_only_is_spoken_to_in_3_1_1(fake: Fake, publish: Publish, logged: Logged) -> None:
    # As amqtt and other brokers without MQTT 5 answer: CONNACK of 3.1.1 with return code 1.
    connects: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        _, body = packets(connection)
        connects.append(body)
        connection.sendall(b"\x20\x02\x00\x01" if body[6] == 5 else b"\x20\x02\x00\x00")

    publisher = publish(fake(serve))
    wait_until(lambda: publisher.connected, "it tried again")
    assert [body[:7] for body in connects] == [b"\x00\x04MQTT\x05", b"\x00\x04MQTT\x04"]
    assert logged[0]["event"] == "the broker does not speak MQTT 5: going on with 3.1.1"


@pytest.mark.parametrize("hangs_up", [False, True])
def test_a_broker_that_says_nothing_to_mqtt_5_is_spoken_to_in_3_1_1(
    fake: Fake, publish: Publish, hangs_up: bool
) -> None:
    # amqtt 0.12 keeps the connection open and answers nothing.
    connects: list[int] = []
    seen = threading.Event()

    def serve(connection: socket.socket) -> None:
        _, body = packets(connection)
        connects.append(body[6])
        if body[6] == 4:
            connection.sendall(b"\x20\x02\x00\x00")
            packets(connection)
            seen.wait(60)
            connection.close()
        elif hangs_up:
            connection.close()

    broker = fake(serve)
    publisher = publish(broker, connect_timeout_s=0.3)
    wait_until(lambda: publisher.connected, "it tried the other one")
    seen.set()
    wait_until(lambda: len(connects) >= 4, "it is tried again, for the broker ends each connection")
    assert connects[:4] == [5, 4, 5, 4]


def test_an_event_that_the_broker_refuses_is_kept_and_tried_again(
    fake: Fake, publish: Publish, logged: Logged
) -> None:
    tries: list[str] = []

    def serve(connection: socket.socket) -> None:
        packets(connection)
        connection.sendall(ACCEPT)
        while True:
            kind, body = packets(connection)
            topic, packet = publication(kind, body)
            refuse = topic.endswith("/event") and len(tries) < 6
            tries.extend([topic] if topic.endswith("/event") else [])
            connection.sendall(b"\x40\x03" + packet.to_bytes(2) + (b"\x87" if refuse else b"\x00"))

    publisher = publish(fake(serve), refused_retry_s=0.1)
    put_events(publisher, 3)
    wait_until(lambda: publisher.outbox.depth == 0, "sent after all")
    wait_until(lambda: publisher.counters().published == 3, "counted")
    assert len(tries) == 9
    assert [line["event"] for line in logged] == ["connected to the broker", "the broker refuses a message"]


def test_a_broker_that_hangs_up_over_its_access_list_is_asked_slowly(
    tmp_path: Path, publish: Publish, listen: Listen, logged: Logged
) -> None:
    access = tmp_path / "access"
    access.write_text("topic read #\ntopic readwrite echo-stream/pc7/status\n")
    with mosquitto(tmp_path, extra=f"acl_file {access}") as broker:
        heard = listen(broker)
        publisher = publish(broker, refused_retry_s=0.3)
        ids = put_events(publisher, 3)
        wait_until(lambda: publisher.counters().connections >= 4, "it tries again")
        said = len(logged)
        wait_until(lambda: publisher.counters().connections >= 7, "and again")
        # Whether the broker's reason gets through before it hangs up is chance: it is said once at most.
        assert len(logged) <= said + 1, logged
        assert any("access list" in line.get("hint", "") for line in logged)
        assert publisher.outbox.depth == 3
        access.write_text("topic readwrite #\n")
        broker.reload()
        wait_until(lambda: publisher.outbox.depth == 0, "sent after all")
        wait_until(lambda: list(dict.fromkeys(heard.ids(f"{ROOT}/pump3/event"))) == ids, "in order")


def test_no_more_is_under_way_than_the_broker_receives(fake: Fake, publish: Publish) -> None:
    most = 0

    def serve(connection: socket.socket) -> None:
        nonlocal most
        packets(connection)
        connection.sendall(b"\x20\x06\x00\x00\x03\x21\x00\x02")  # Receive Maximum 2
        connection.settimeout(0.02)
        owed: list[int] = []
        while True:
            try:
                kind, body = packets(connection)
                owed += [publication(kind, body)[1]] if kind & 0xF0 == 0x30 else []
                most = max(most, len(owed))
            except TimeoutError:
                for packet in owed:
                    connection.sendall(b"\x40\x02" + packet.to_bytes(2))
                owed.clear()

    publisher = publish(fake(serve))
    put_events(publisher, 20)
    wait_until(lambda: publisher.outbox.depth == 0, "all sent")
    assert most == 2


def test_a_broker_that_acknowledges_nothing_is_left(
    fake: Fake, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(connection: socket.socket) -> None:
        packets(connection)
        connection.sendall(ACCEPT)
        with contextlib.suppress(ConnectionError):
            while True:
                packets(connection)

    monkeypatch.setattr(mqtt_session, "_ACK_TIMEOUT_S", 0.2)
    broker = fake(serve)
    publisher = publish(broker)
    put_events(publisher, 1)
    wait_until(lambda: broker.connections >= 2, "another connection")
    assert "acknowledged nothing" in publisher.counters().last_error
    assert publisher.outbox.depth == 1


def test_two_daemons_of_one_name_are_told_so(
    broker: MosquittoBroker, publish: Publish, tmp_path: Path, logged: Logged
) -> None:
    first = publish(broker)
    wait_until(lambda: first.connected, "the first")
    second = publish(broker, outbox_path=tmp_path / "second.sqlite")
    wait_until(lambda: first.counters().connections + second.counters().connections > 12, "they fight")
    hints = [line["hint"] for line in logged if line["event"] == "the connection to the broker does not hold"]
    assert len(hints) in (1, 2)
    assert "same node" in hints[0]
    assert len(logged) <= 2 * 7


def test_a_broker_that_says_why_it_sends_us_away_is_asked_slowly(
    fake: Fake, publish: Publish, logged: Logged
) -> None:
    def serve(connection: socket.socket) -> None:
        packets(connection)
        connection.sendall(ACCEPT + b"\xe0\x02\x8e\x00")  # DISCONNECT: session taken over

    broker = fake(serve)
    publisher = publish(broker, refused_retry_s=60.0)
    wait_until(lambda: "taken over" in publisher.counters().last_error, "noticed")
    assert [line["event"] for line in logged] == ["connected to the broker", "the broker refuses us"]
    assert "its own node" in logged[1]["hint"]
    assert broker.connections == 1


@pytest.mark.parametrize(
    ("limit", "says"),
    [
        ("retain_available false", "retained"),
        ("max_qos 0", "QoS 0"),
        ("max_packet_size 700", "700 bytes"),
        ("max_inflight_messages 1", ""),
        ("max_keepalive 10", ""),
    ],
)
def test_a_broker_with_limits_gets_the_events(
    tmp_path: Path, publish: Publish, listen: Listen, limit: str, says: str, logged: Logged
) -> None:
    with mosquitto(tmp_path, extra=limit) as broker:
        heard = listen(broker, "#")
        publisher = publish(broker)
        ids = put_events(publisher, 30)
        publisher.set_alarm("pump3", alarm_payload())
        wait_until(lambda: publisher.outbox.depth == 0, "all sent")
        wait_until(lambda: len(heard.ids(f"{ROOT}/pump3/event")) >= 30, "all received")
        assert heard.ids(f"{ROOT}/pump3/event") == ids
        wait_until(lambda: heard.texts(f"{ROOT}/pump3/alarm"), "the state")
        assert publisher.counters().connections == 1, "not thrown out"
        limits = [line["limit"] for line in logged if "limit" in line]
        assert any(says in text for text in limits) if says else not limits
        assert publisher.stop(5.0)
        wait_until(lambda: heard.texts(f"{ROOT}/status")[-1:] == ["offline"], "offline")


def test_without_wildcards_each_machine_is_subscribed_by_name(fake: Fake, publish: Publish) -> None:
    asked: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        packets(connection)
        connection.sendall(b"\x20\x05\x00\x00\x02\x28\x00")  # Wildcard Subscription Available 0
        while True:
            kind, body = packets(connection)
            if kind & 0xF0 == 0x80:
                asked.append(body)

    publish(fake(serve), discovery_prefix=None)
    wait_until(lambda: len(asked) >= 2, "two subscriptions")
    assert all(b"+" not in body for body in asked)
    assert {b"pump3/cmd" in body for body in asked} == {True, False}


def test_an_unforeseen_exception_is_said_counted_and_survived(
    broker: MosquittoBroker, publish: Publish, monkeypatch: pytest.MonkeyPatch, logged: Logged
) -> None:
    real, failing = mqtt_session.Session.step, [True]

    def step(self: mqtt_session.Session, timeout_s: float) -> None:
        if failing:
            raise RuntimeError("nobody thought of this")
        real(self, timeout_s)

    monkeypatch.setattr(mqtt_session.Session, "step", step)
    publisher = publish(broker)
    put_events(publisher, 1)
    wait_until(lambda: publisher.thread.guard.restarts >= 2, "it fails and begins anew")
    assert "nobody thought of this" in publisher.thread.guard.last_error
    assert any("the publisher failed" in line["event"] for line in logged)
    failing.clear()
    wait_until(lambda: publisher.outbox.depth == 0, "delivered after all")


def test_descriptors_over_1024_do_not_end_delivery(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker, f"{ROOT}/pump3/event")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(2000, hard), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        publisher = publish(broker)
        sent = put_events(publisher, 3)
        wait_until(lambda: heard.ids(f"{ROOT}/pump3/event") == sent, "delivered")
        publisher.stop(5.0)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_scores_are_no_sign_that_events_are_acknowledged(
    fake: Fake, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def serve(connection: socket.socket) -> None:
        packets(connection)
        connection.sendall(ACCEPT)
        with contextlib.suppress(ConnectionError):
            while True:
                packets(connection)

    monkeypatch.setattr(mqtt_session, "_ACK_TIMEOUT_S", 0.5)
    broker = fake(serve)
    publisher = publish(broker, score_interval_s=0.01)
    put_events(publisher, 1)

    def left() -> bool:
        publisher.score("pump3", score_payload())
        return broker.connections >= 2

    wait_until(left, "another connection")


def test_where_offline_is_not_acknowledged_the_will_says_it(fake: Fake, publish: Publish) -> None:
    said: list[int] = []

    def serve(connection: socket.socket) -> None:
        packets(connection)
        connection.sendall(ACCEPT)
        with contextlib.suppress(ConnectionError):
            while True:
                said.append(packets(connection)[0] & 0xF0)

    publisher = publish(fake(serve))
    put_events(publisher, 50)
    wait_until(lambda: publisher.connected and len(said) > 5, "under way")
    publisher.stop(2.0)
    assert 0xE0 not in said, "a DISCONNECT would have called the will off"


def test_what_the_disk_did_not_take_is_sent_marked(
    broker: MosquittoBroker, publish: Publish, listen: Listen, tmp_path: Path
) -> None:
    (tmp_path / "outbox.sqlite").mkdir()
    heard = listen(broker, f"{ROOT}/pump3/event")
    publisher = publish(broker)
    put_events(publisher, 1)
    wait_until(lambda: heard.heard, "received")
    assert heard.payloads(f"{ROOT}/pump3/event")[0]["unsaved"] is True


def test_a_root_of_several_levels_and_where_a_machine_stands(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    """A unified namespace: the root has the plant's levels, and each payload of a machine its asset."""
    heard = listen(broker, "acme/#")
    asset = {"site": "plant1", "area": "hall2"}
    publisher = publish(
        broker,
        topic_root="acme/plant1/hall2",
        assets={"pump3": asset},
        discovery_prefix="acme/ha",
    )
    wait_until(lambda: publisher.connected, "connected: scores of before would be stale")
    publisher.event("event", an_event(seq=publisher.next_seq("pump3")))
    publisher.score(
        "pump3", state_payloads.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1)
    )
    root = "acme/plant1/hall2/pc7"
    wait_until(lambda: heard.texts(f"{root}/pump3/event"), "its event")
    wait_until(lambda: heard.texts(f"{root}/pump3/score"), "its score")
    (event,), (score,) = heard.payloads(f"{root}/pump3/event"), heard.payloads(f"{root}/pump3/score")
    assert event["asset"] == score["asset"] == asset
    for name, payload in (("event", event), ("score", score)):
        jsonschema.Draft202012Validator(messages.schema(name)).validate(payload)
    wait_until(lambda: any(topic.startswith("acme/ha/device/") for topic in heard.topics()), "discovery")
    heard.client.publish(f"{root}/pump3/cmd", '{"command": "ack"}', qos=1)
    wait_until(publisher.commands, "a command")
