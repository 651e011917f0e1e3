"""A subscriber of a few lines, for the demonstration: hands on every message of this program's topics.

paho's own thread calls back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any, Literal

from paho.mqtt.client import Client, MQTTMessage, MQTTv5, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion

from echo_stream.errors import DeliveryError


@contextmanager
def subscribed(
    topics: str,
    on_message: Callable[[str, str], None],
    *,
    host: str,
    port: int,
    protocol: Literal[3, 5] = 5,
    wait_s: float = 10.0,
) -> Iterator[None]:
    """Subscribes to `topics` (a filter such as `echo-stream/#`) at QoS 1 for the time of the block.

    Args:
        topics: filter.
        on_message: gets topic and text of each message, on paho's thread.
        host: of the broker, without password.
        port: of the broker.
        protocol: 5, or 3 for 3.1.1.
        wait_s: how long the broker may take.

    Raises:
        DeliveryError: the broker is not there, or does not let us subscribe.
    """
    ready = Event()

    def connected(client: Client, *_: Any) -> None:
        client.subscribe(topics, qos=1)

    def heard(_client: Client, _data: object, message: MQTTMessage) -> None:
        on_message(message.topic, message.payload.decode("utf-8", "replace"))

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5 if protocol == 5 else MQTTv311)
    client.disable_logger()  # some brokers close first at our goodbye, which paho calls an error
    client.on_connect = connected
    client.on_message = heard
    client.on_subscribe = lambda *_: ready.set()
    try:
        client.connect(host, port)
    except OSError as error:
        raise DeliveryError(
            f"no broker at {host}:{port}: {error}", "start one, or correct host and port"
        ) from error
    client.loop_start()
    try:
        if not ready.wait(wait_s):
            raise DeliveryError(
                f"the broker at {host}:{port} did not answer", f"waited {wait_s:g} s to subscribe"
            )
        yield
    finally:
        client.disconnect()
        client.loop_stop()
