"""Take our devices out of Home Assistant again. For the command line; waits for the broker."""

from __future__ import annotations

import time
from collections.abc import Iterable

from paho.mqtt.client import MQTTMessage

from echo_stream.deliver.homeassistant import discovery_topic, is_ours
from echo_stream.deliver.mqtt_broker import Broker, BrokerAway
from echo_stream.deliver.mqtt_connection import Connection, Protocol
from echo_stream.deliver.topics import Topics

_QUIET_S = 0.5
_WAIT_S = 10.0


def purge_discovery(
    broker: Broker,
    topics: Topics,
    machines: Iterable[str],
    *,
    prefix: str = "homeassistant",
    protocol: Protocol = 5,
) -> list[str]:
    """Empty the retained discovery messages of this node: of these machines, and of any that it once had.

    A daemon that runs with a discovery prefix sends them again at its next connection.

    Returns:
        The topics that were emptied.

    Raises:
        DeliveryError: The broker is away or refuses us.
    """
    found = {discovery_topic(prefix, topics, machine) for machine in machines}

    def hear(message: MQTTMessage) -> None:
        if is_ours(bytes(message.payload), topics):
            found.add(message.topic)
        heard_s.append(time.monotonic())

    heard_s = [time.monotonic()]
    connection = Connection(
        broker, client_id=f"{topics.root}-{topics.node}-purge", protocol=protocol, on_message=hear
    )
    connection.open()
    try:
        connection.subscribe(f"{prefix}/device/+/config")
        give_up_s = time.monotonic() + _WAIT_S
        # Retained messages follow the answer to a subscription; how many there are, nobody says.
        while not connection.subscribed or time.monotonic() < heard_s[-1] + _QUIET_S:
            if time.monotonic() > give_up_s:
                break
            connection.step(0.1)
        waiting = {connection.publish(topic, b"", qos=1, retain=True) for topic in found}
        while waiting and time.monotonic() < give_up_s + _WAIT_S:
            connection.step(0.1)
            waiting -= {packet for packet, refusal in connection.acknowledged if refusal is None}
        if waiting:
            raise BrokerAway(
                f"{len(waiting)} of {len(found)} discovery messages could not be emptied",
                "try again; check what the broker's access list lets this user publish",
            )
        connection.leave()
    finally:
        connection.drop()
    return sorted(found)
