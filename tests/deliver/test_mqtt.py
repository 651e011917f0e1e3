"""The publisher against a real mosquitto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from echo_stream.deliver import messages
from echo_stream.deliver.mqtt import Publisher
from echo_stream.types import AlarmLevel, AlarmState
from tests.broker import MosquittoBroker

from .conftest import NOON, Subscriber, a_score, an_event, wait_until

Publish = Callable[..., Publisher]
Listen = Callable[..., Subscriber]
ROOT = "echo-stream/pc7"


def alarm_payload(state: messages.LevelState | None = None) -> messages.Payload:
    levels = {} if state is None else {AlarmLevel.ALARM: state}
    return messages.alarm_state(node="pc7", machine="pump3", name="Pump 3", ts=NOON, levels=levels)


def test_everything_arrives_where_the_convention_says(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker)
    publisher = publish(broker)
    wait_until(lambda: heard.texts(f"{ROOT}/status"), "status")
    event = an_event(seq=publisher.next_seq("pump3"))
    publisher.set_available("pump3", True)
    publisher.set_alarm("pump3", alarm_payload())
    publisher.event(event)
    publisher.score("pump3", messages.score(a_score(), node="pc7", machine="pump3", ts=NOON, threshold=2.1))
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


def test_a_clean_stop_says_offline_and_calls_the_will_off(
    broker: MosquittoBroker, publish: Publish, listen: Listen
) -> None:
    heard = listen(broker)
    publisher = publish(broker)
    wait_until(lambda: publisher.connected, "connected")
    publisher.event(an_event())
    assert publisher.stop(5.0)
    wait_until(lambda: heard.texts(f"{ROOT}/status") == ["online", "offline"], "offline, once")
    assert len(heard.texts(f"{ROOT}/pump3/event")) == 1
    assert "Received DISCONNECT from echo-stream-pc7" in broker.log


def test_a_broker_that_comes_later_gets_everything(
    broker: MosquittoBroker, publish: Publish, listen: Listen, tmp_path: Path
) -> None:
    broker.stop()
    publisher = publish(broker)
    ids = []
    for n in range(3):
        event = an_event(seq=publisher.next_seq("pump3"), after=AlarmState.UNACK)
        ids.append(event["event_id"])
        publisher.event(event)
        assert publisher.outbox.depth == n + 1
    broker.start()
    heard = listen(broker)
    wait_until(lambda: publisher.counters().outbox_depth == 0, "sent")
    publisher.event(an_event(seq=publisher.next_seq("pump3")))
    wait_until(lambda: publisher.counters().published == 4, "sent")
    again = heard.payloads(f"{ROOT}/pump3/event")
    assert [payload["delayed"] for payload in again][-1] is False
    assert publisher.counters().last_error
