"""A plant of many nodes against one mosquitto: messages, what they cost, and a broker that forgets.

    python -m benchmarks.nodes [--nodes 200] [--machines 10] [--seconds 60] [--down-s 10]

Each node is the daemon's own Publisher with its outbox, and sends what a daemon sends: the documented example
of each payload, a score a second and a machine, a health each 10 s. A subscriber hears everything.
`plant list` and the page of the plant (`web --broker`, looked at by chromium) are measured. Then the broker,
which keeps nothing on disk, is killed; each tenth machine's alarm changes meanwhile, then it returns: printed
is how long until all that it keeps is right again, and how many events of all never came to the subscriber.
It has no session, so those sent before it is back are missing too. Two processes carry the nodes, and their
own cost is on the same PC; what is printed of the broker is its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil
from paho.mqtt.client import MQTTMessage

from echo_stream.cli.fleet import Fleet
from echo_stream.cli.plant_broker import KEPT, Plant
from echo_stream.core.errors import DeliveryError
from echo_stream.core.text import utc_text
from echo_stream.daemon.logs import configure
from echo_stream.mqtt import schema
from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.publisher import Publisher
from tests.support.broker import MosquittoBroker, free_port, mosquitto
from tests.support.page import CHROMIUM, browser_window

CARRIERS = 2
HEALTH_S = 10.0
ASK_EVERY_S = 0.5
CHANGED_EACH = 10
"""Each so many machines' alarm changes while the broker is away."""


@dataclass(frozen=True)
class Asked:
    """What is to be measured."""

    nodes: int
    machines: int
    seconds: float
    down_s: float


def example(kind: str, **fields: Any) -> dict[str, Any]:
    """The documented example of a payload as of now, with other fields."""
    return {**schema.example(kind), "ts": utc_text(datetime.now(UTC)), **fields}


def event_id(node: int, machine: int, alarm: int) -> str:
    """Of a machine's n-th alarm; letters of a ULID."""
    return f"01J{node:08d}{machine:08d}{alarm:07d}"


def carry(first: int, asked: Asked, port: int, folder: Path, changed: Event, ended: Event) -> None:
    """Run each `CARRIERS`-th node from `first` on, until `ended`; `changed` raises new alarms, once."""
    configure(level="error")
    names = {f"m{n}": f"Machine {n}" for n in range(asked.machines)}
    numbers = range(first, asked.nodes, CARRIERS)
    nodes = {
        n: Publisher(
            Broker("127.0.0.1", port), node=f"pc{n}", machines=names, outbox_path=folder / f"{n}.sqlite"
        )
        for n in numbers
    }
    for n, publisher in nodes.items():
        for machine in names:
            own = {"node": f"pc{n}", "machine": machine}
            publisher.set_available(machine, True)
            publisher.set_bank(machine, example("bank", **own))
        publisher.start()
    for n, publisher in nodes.items():
        raise_alarms(publisher, n, asked, 0)
    said, beat = False, 0
    while not ended.wait(max(0.0, 1 - time.monotonic() % 1)):
        if changed.is_set() and not said:
            said = True
            for n, publisher in nodes.items():
                raise_alarms(publisher, n, asked, 1)
        for n, publisher in nodes.items():
            publish(publisher, n, names, health=beat % HEALTH_S == n % HEALTH_S)
        beat += 1
    for publisher in nodes.values():
        publisher.stop(0.5)


def publish(publisher: Publisher, n: int, names: dict[str, str], *, health: bool) -> None:
    """A second of a node's life."""
    if health:
        publisher.node_health(example("node", node=f"pc{n}", state="ok", reasons=[]))
    for machine in names:
        own = {"node": f"pc{n}", "machine": machine}
        publisher.score(machine, example("score", **own))
        if health:
            publisher.health(machine, example("health", **own))


def raise_alarms(publisher: Publisher, n: int, asked: Asked, alarm: int) -> None:
    """Every machine's alarm at first, each tenth's later: the state that is kept, and the event."""
    for m in range(asked.machines):
        if alarm and (n * asked.machines + m) % CHANGED_EACH:
            continue
        own = {"node": f"pc{n}", "machine": f"m{m}", "event_id": event_id(n, m, alarm)}
        publisher.set_alarm(f"m{m}", example("alarm", **own))
        publisher.event("event", example("event", **own, seq=alarm + 1))


def wanted(asked: Asked, alarm: int) -> dict[tuple[str, str], str]:
    """The id that each machine's kept alarm must have."""
    return {
        (f"pc{n}", f"m{m}"): event_id(n, m, alarm if (n * asked.machines + m) % CHANGED_EACH == 0 else 0)
        for n in range(asked.nodes)
        for m in range(asked.machines)
    }


def is_right(fleet: Fleet, ids: dict[tuple[str, str], str]) -> bool:
    """All that the broker keeps of every machine is there, and the newest."""
    for which, newest in ids.items():
        now = fleet.machines.get(which)
        if now is None or not fleet.listening(now) or not now.health or not now.bank:
            return False
        if (now.alarm or {}).get("event_id") != newest:
            return False
    return True


class Listener:
    """A subscriber of everything, straight at the broker."""

    def __init__(self, port: int) -> None:
        self._plant = Plant(Broker("127.0.0.1", port), "echo-stream")
        self.messages, self.bytes, self.events = 0, 0, set[str]()
        self.fleet = Fleet("echo-stream")

    def received(self, message: MQTTMessage) -> None:
        """Count it, and take it in."""
        self.messages += 1
        self.bytes += len(message.topic) + len(message.payload)
        self.fleet.apply(message.topic, bytes(message.payload))
        if message.topic.endswith("/event"):
            self.events.add(json.loads(message.payload)["event_id"])

    def listen(self, until: Callable[[], bool], most_s: float) -> float:
        """Seconds until `until`; a broker that is away is tried again.

        Raises:
            TimeoutError: not within `most_s`.
        """
        began_s = time.monotonic()
        while not until():
            with suppress(DeliveryError):
                topics = (*KEPT, "+/+/score", "+/+/event")
                with self._plant.connected(topics, self.received) as connection:
                    while not until():
                        asked_s = time.monotonic()  # asking costs: to look at 2,000 machines a millisecond
                        if asked_s - began_s > most_s:
                            raise TimeoutError(f"not within {most_s:.0f} s")
                        while time.monotonic() - asked_s < ASK_EVERY_S:
                            connection.step(0.05)
            time.sleep(0.05)
            if time.monotonic() - began_s > most_s:
                raise TimeoutError(f"not within {most_s:.0f} s")
        return time.monotonic() - began_s


def cost(broker: MosquittoBroker) -> tuple[float, float]:
    """Seconds of CPU since its start, and its memory in MB."""
    process = psutil.Process(broker.pid)
    spent = process.cpu_times()
    return spent.user + spent.system, process.memory_info().rss / 1e6


@contextmanager
def carriers(asked: Asked, port: int, folder: Path) -> Iterator[Event]:
    """All nodes, in processes of their own; the event that raises new alarms."""
    context = multiprocessing.get_context("spawn")
    changed, ended = context.Event(), context.Event()
    processes = [
        context.Process(target=carry, args=(first, asked, port, folder, changed, ended))
        for first in range(CARRIERS)
    ]
    for process in processes:
        process.start()
    try:
        yield changed
    finally:
        ended.set()
        for process in processes:
            process.join(120)
            process.kill()


def listed(port: int) -> str:
    """What `plant list` takes."""
    command = [
        sys.executable,
        "-m",
        "echo_stream",
        "plant",
        "list",
        "--broker",
        f"127.0.0.1:{port}",
        "--json",
    ]
    began_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = json.loads(process.stdout.read())
        _, _, used = os.wait4(process.pid, 0)
        process.returncode = 0
    seconds, computed_s = time.monotonic() - began_s, used.ru_utime + used.ru_stime
    return (
        f"{len(found['machines'])} machines of {len(found['nodes'])} nodes in {seconds:.1f} s, with "
        f"1 s to see that no more comes; {computed_s:.1f} s of CPU, {used.ru_maxrss / 1e3:.0f} MB"
    )


def paged(asked: Asked, port: int) -> Iterator[str]:
    """What the page of the plant takes: `web --broker`, without and with somebody who looks, in lines."""
    own = free_port()
    url, words = f"http://127.0.0.1:{own}/", ("--broker", f"127.0.0.1:{port}", "--listen", f"127.0.0.1:{own}")
    command = [sys.executable, "-m", "echo_stream", "web", *words]
    began_s = time.monotonic()

    def shown() -> int:
        with suppress(OSError), urlopen(f"{url}api/plant") as answer:
            return len(json.loads(answer.read())["machines"])
        return 0

    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        try:
            while shown() < asked.nodes * asked.machines:
                if time.monotonic() - began_s > 120:
                    raise TimeoutError(f"the page shows {shown()} machines after 120 s")
                time.sleep(0.2)
            yield f"all {shown()} machines {time.monotonic() - began_s:.1f} s after its start"
            yield f"nobody looks: {load(process.pid, asked.seconds)}"
            if CHROMIUM is None:
                yield "no chromium: not looked at"
                return
            with browser_window() as (window, _):
                looked_s = time.monotonic()
                window.goto(url)
                window.wait_for_selector("tbody tr")
                rows_s = time.monotonic() - looked_s
                paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
                yield f"first paint after {window.evaluate(paint):.0f} ms, rows after {1000 * rows_s:.0f} ms"
                yield f"one looks: {load(process.pid, asked.seconds)}"
                heap = window.evaluate("performance.memory.usedJSHeapSize") / 1e6
                rows = window.locator("tbody tr").count()
                yield f"in the browser: {heap:.0f} MB of JavaScript, {rows} rows"
        finally:
            process.terminate()


def load(pid: int, seconds: float) -> str:
    """CPU over some seconds and memory of a process."""
    process = psutil.Process(pid)
    began = process.cpu_times()
    time.sleep(seconds)
    ended = process.cpu_times()
    spent_s = ended.user + ended.system - began.user - began.system
    return f"{100 * spent_s / seconds:.1f} % of a core, {process.memory_info().rss / 1e6:.0f} MB"


def measure(asked: Asked, folder: Path) -> None:
    """Print the figures, one line each."""
    with mosquitto(folder, log="error") as broker, carriers(asked, broker.port, folder) as changed:
        listener = Listener(broker.port)
        took_s = listener.listen(lambda: is_right(listener.fleet, wanted(asked, 0)), 300)
        print(f"all nodes connected, every kept state right: after {took_s:.1f} s", flush=True)
        before, (began_cpu_s, _) = (listener.messages, listener.bytes), cost(broker)
        until_s = time.monotonic() + asked.seconds
        took_s = listener.listen(lambda: time.monotonic() > until_s, asked.seconds + 60)
        cpu_s, memory_mb = cost(broker)
        rate, size = (listener.messages - before[0]) / took_s, (listener.bytes - before[1]) / took_s
        print(f"messages to one subscriber of everything: {rate:.0f} a second, {size / 1e6:.2f} MB/s")
        print(
            f"broker: {100 * (cpu_s - began_cpu_s) / took_s:.1f} % of a core, {memory_mb:.0f} MB",
            flush=True,
        )
        print(f"plant list: {listed(broker.port)}", flush=True)
        for line in paged(asked, broker.port):
            print(f"page of the plant: {line}", flush=True)
        broker.kill()
        changed.set()
        time.sleep(asked.down_s)
        listener.fleet = Fleet("echo-stream")
        broker.start()
        took_s = listener.listen(lambda: is_right(listener.fleet, wanted(asked, 1)), 600)
        print(f"away {asked.down_s:.0f} s and all forgotten: every kept state right after {took_s:.1f} s")
        everything = set(wanted(asked, 0).values()) | set(wanted(asked, 1).values())
        with suppress(TimeoutError):
            took_s += listener.listen(lambda: everything <= listener.events, 60)
        missing = everything - listener.events
        print(f"events: {len(everything)} sent, {len(missing)} missing after {took_s:.1f} s", flush=True)


def main() -> None:
    """Read the options, measure in a temporary folder."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--machines", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--down-s", type=float, default=10.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        measure(Asked(given.nodes, given.machines, given.seconds, given.down_s), Path(folder))


if __name__ == "__main__":
    main()
