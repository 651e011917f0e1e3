"""A mosquitto in each of two halls, bridged to one in the middle as docs/scaling.md says: one is cut off."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.chaos_proxy import Mode, Proxy
from echo_stream.mqtt.publisher import Publisher
from tests.mqtt.conftest import Subscriber, an_event, wait_until
from tests.support.broker import MosquittoBroker, mosquitto

ROOT = Path(__file__).parents[2]
HALLS = ("hall1", "hall2")


def documented_bridge(hall: str, port: int) -> str:
    """The bridge of docs/scaling.md to 127.0.0.1, without TLS and passwords, tried again sooner."""
    text = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^connection hall1\n.*?(?=^```)", text, re.MULTILINE | re.DOTALL)
    ours = {"connection": hall, "address": f"127.0.0.1:{port}", "restart_timeout": "1 1"}
    lines = [line.split(maxsplit=1) for line in block.splitlines()]
    left_out = ("bridge_cafile", "remote_username", "remote_password")
    return "\n".join(f"{key} {ours.get(key, value)}" for key, value in lines if key not in left_out)


def test_a_hall_that_is_cut_off_loses_nothing(
    tmp_path: Path,
    publish: Callable[..., Publisher],
    listen: Callable[..., Subscriber],
) -> None:
    sent: dict[str, list[str]] = {hall: [] for hall in HALLS}
    with contextlib.ExitStack() as stack:
        middle = stack.enter_context(mosquitto(tmp_path))
        proxy = Proxy(middle.port, seed=1)
        stack.callback(proxy.close)
        ports = {"hall1": proxy.port, "hall2": middle.port}
        brokers: dict[str, MosquittoBroker] = {
            hall: stack.enter_context(mosquitto(tmp_path, extra=documented_bridge(hall, ports[hall])))
            for hall in HALLS
        }
        publishers = {
            hall: publish(brokers[hall], node=hall, outbox_path=tmp_path / f"{hall}.sqlite") for hall in HALLS
        }
        for publisher in publishers.values():
            stack.callback(publisher.stop, 1.0)
        heard, in_hall = listen(middle), listen(brokers["hall1"])

        def arrived(hall: str) -> list[str]:
            return heard.ids(f"echo-stream/{hall}/pump3/event")

        def happen(count: int) -> None:
            for _ in range(count):
                for hall in HALLS:
                    event = an_event(seq=publishers[hall].next_seq("pump3"))
                    publishers[hall].event("event", event)
                    sent[hall].append(str(event["event_id"]))

        happen(20)
        wait_until(lambda: all(set(arrived(hall)) == set(sent[hall]) for hall in HALLS), "both are bridged")
        happen(100)  # some of them are on their way
        proxy.set(Mode.CUT)
        happen(100)
        wait_until(lambda: set(arrived("hall2")) == set(sent["hall2"]), "the other hall notices nothing")
        topic = "echo-stream/hall1/pump3/event"
        wait_until(lambda: set(in_hall.ids(topic)) == set(sent["hall1"]), "the hall's own broker has all")
        assert len(set(arrived("hall1"))) <= 120
        proxy.set(Mode.PASS)
        wait_until(lambda: set(arrived("hall1")) == set(sent["hall1"]), "what waited in the hall arrives")
        for hall in HALLS:
            assert list(dict.fromkeys(arrived(hall))) == sent[hall], "in order"
        heard.client.publish("echo-stream/hall1/pump3/cmd", b"{}", qos=1)
        wait_until(lambda: in_hall.texts("echo-stream/hall1/pump3/cmd") == ["{}"], "a command arrives")
