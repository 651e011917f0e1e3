"""What machines send: messages and bytes of each kind, and how large an outbox grows without a broker.

    python -m benchmarks.traffic [--machines 20] [--minutes 3] [--json]

The real daemon, a real mosquitto and one subscriber of everything. Each machine has one fault, so that every
kind of message is seen; how many alarms a day there are in life is another question.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import psutil
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.plant import QUIET_BROKER, Machines, Plant, Settings, plant, prepare
from echo_stream.mqtt.outbox import Outbox
from tests.support.broker import mosquitto

RATE_HZ = 16_000
PLANT_PER_S, PCS, LOAD_S = 2200, 20, 20.0
"""A score a second and a health every ten seconds of 2,000 machines, on 20 PCs."""
STORED = 1000
"""Events that are put into an outbox to see how large it becomes."""


class Everything:
    """A subscriber that counts what it hears, by the last level of the topic."""

    def __init__(self, running: Plant) -> None:
        self.messages: defaultdict[str, int] = defaultdict(int)
        self.payload_bytes: defaultdict[str, int] = defaultdict(int)
        self.topic_bytes: defaultdict[str, int] = defaultdict(int)
        self.event: dict[str, Any] | None = None
        self._client = Client(CallbackAPIVersion.VERSION2)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(*running.broker_address)
        self._client.loop_start()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        kind = "discovery" if message.topic.startswith("homeassistant/") else message.topic.rsplit("/", 1)[-1]
        self.messages[kind] += 1
        self.payload_bytes[kind] += len(message.payload)
        self.topic_bytes[kind] += len(message.topic)
        if kind == "event":
            self.event = json.loads(message.payload)

    def close(self) -> None:
        """End."""
        self._client.disconnect()
        self._client.loop_stop()


def measure(folder: Path, machines: int, seconds: float) -> dict[str, Any]:
    """Every kind of message, and what a stored event takes on the disk."""
    settings = Settings(folder)
    prepare(settings, [RATE_HZ])
    middle_s = seconds / 2
    settings.source = f"faults: [{{kind: rattle, start_s: {middle_s}, end_s: {middle_s + 20}}}]"
    with plant(settings, Machines(machines, RATE_HZ)) as running:
        heard = Everything(running)
        sent = running.traffic.received()
        time.sleep(seconds)
        after = running.traffic.received()
        heard.close()
    if heard.event is None:
        raise SystemExit("no machine raised anything")
    rows = {
        kind: {
            "messages": count,
            "messages_per_machine": round(count / machines, 2),
            "payload_bytes": round(heard.payload_bytes[kind] / count),
            "topic_bytes": round(heard.topic_bytes[kind] / count),
        }
        for kind, count in sorted(heard.messages.items())
    }
    per_machine = machines * seconds
    return {
        "seconds": seconds,
        "machines": machines,
        "messages_per_machine_and_s": round((after[0] - sent[0]) / per_machine, 3),
        "wire_bytes_per_machine_and_s": round((after[1] - sent[1]) / per_machine, 1),
        "outbox_bytes_per_event": _stored_bytes(folder / "stored.sqlite", heard.event),
        **rows,
    }


def _stored_bytes(path: Path, event: dict[str, Any]) -> int:
    """Bytes of the outbox for each event that waits in it."""
    outbox = Outbox(path)
    for _ in range(STORED):
        machine = event["machine"]
        outbox.put(machine, f"echo-stream/plant/{machine}/event", event, now_s=time.time(), key="event alarm")
    outbox.close()
    return round(sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) / STORED)


def broker_load(folder: Path, per_s: int, payload_bytes: int, seconds: float) -> dict[str, Any]:
    """What a mosquitto spends on so many messages a second, QoS 0, with one subscriber of everything."""
    folder.mkdir()
    with mosquitto(folder, extra=QUIET_BROKER) as broker:
        assert broker._process is not None
        process, heard, payload = psutil.Process(broker._process.pid), [0], b"x" * payload_bytes
        clients = [Client(CallbackAPIVersion.VERSION2) for _ in range(1 + PCS)]
        subscriber, *publishers = clients
        subscriber.on_connect = lambda client, *_: client.subscribe("echo-stream/#")

        def count(*_: object) -> None:
            heard[0] += 1

        subscriber.on_message = count
        for client in clients:
            client.connect(broker.host, broker.port)
            client.loop_start()
        time.sleep(1)
        began_s, before, sent = time.monotonic(), process.cpu_times(), 0
        while (passed_s := time.monotonic() - began_s) < seconds:
            while sent < per_s * passed_s:
                pc = sent % PCS
                publishers[pc].publish(f"echo-stream/pc{pc}/machine{sent % 100}/score", payload)
                sent += 1
            time.sleep(0.01)
        time.sleep(1)
        after = process.cpu_times()
        for client in clients:
            client.disconnect()
            client.loop_stop()
        spent_s = after.user + after.system - before.user - before.system
        return {
            "broker_messages_per_s": round(sent / seconds),
            "broker_cpu_cores": round(spent_s / seconds, 4),
            "heard_share": round(heard[0] / sent, 4),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--machines", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plant-") as folder:
        found = measure(Path(folder), given.machines, 60 * given.minutes)
        found |= broker_load(Path(folder) / "alone", PLANT_PER_S, found["score"]["payload_bytes"], LOAD_S)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:28} {value}")


if __name__ == "__main__":
    main()
