"""Events through kills, cuts and refusals: what arrives, how often, in which order, and what is lost.

    python -m benchmarks.chaos --events 2000 [--kill-broker [--forgetful]]

A publisher in a process of its own puts events into its outbox and sends them through a misbehaving proxy to
a real mosquitto; a subscriber with a persistent session, straight at the broker, writes down what it hears.
The fault thread kills, stops, freezes and cuts at random. At the end everything is healed and counted. All of
it on 127.0.0.1. tests/mqtt/test_chaos.py runs a short form.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.chaos_proxy import Mode, Proxy
from echo_stream.mqtt import payloads as messages
from echo_stream.mqtt import state_payloads
from tests.mqtt.conftest import NOON, Process, Subscriber, an_event, subscribe, wait_until
from tests.support.broker import MosquittoBroker, mosquitto

MACHINES = ("pump3", "fan1", "gear2")
ROOT = "echo-stream/pc7"
FORGOTTEN_WITHIN_S = 5.0
"""An acknowledged event may be lost with a broker that is killed at most so much later."""
KEEP_ALL = "autosave_interval 1\nautosave_on_changes true\n"
"""The broker writes its state to disk at every change."""


@dataclass
class Report:
    """What came of it."""

    put: int = 0
    """Events whose `event` call returned."""
    in_doubt: int = 0
    """Events during whose `event` call the process was killed: they may arrive or not."""
    arrived: int = 0
    """Different event ids that reached the subscriber."""
    duplicates: int = 0
    """Messages that repeated one of them."""
    forgotten: int = 0
    """Acknowledged by a broker that was killed soon after, or that keeps nothing: its loss, not ours."""
    lost: int = 0
    """Neither arrived nor forgotten by a killed broker. Must be 0."""
    out_of_order: int = 0
    """First arrivals with a lower sequence number than one before, of the same machine. Must be 0."""
    retained_wrong: int = 0
    """Machines whose retained alarm state is not the last one that was set. Must be 0."""
    delayed: int = 0
    """Events that arrived marked as delayed."""
    seconds: float = 0.0
    faults: dict[str, int] = field(default_factory=dict)


class Chaos:
    """One run.

    Args:
        folder: For the broker's and the outbox's files.
        broker: Running.
        seed: Of faults and pauses.
        kill_broker: Also kill the broker with SIGKILL.
        forgetful: The broker keeps nothing on disk: what it acknowledged may be gone with it.
        pace: Of all pauses; 1 in the long form, less in the short one.
    """

    def __init__(
        self,
        folder: Path,
        broker: MosquittoBroker,
        *,
        seed: int,
        kill_broker: bool,
        forgetful: bool,
        pace: float,
    ) -> None:
        self._folder = folder
        self._broker = broker
        self._random = random.Random(seed)
        self._proxy = Proxy(broker.port, seed)
        self._subscriber: Subscriber = subscribe(
            broker, f"{ROOT}/+/event", name="archive", session_expiry=86_400, clean_start=False
        )
        self._process = self._new_process()
        self._states: dict[str, messages.Payload] = {}
        self._put: list[str] = []
        self._in_doubt: set[str] = set()
        self._killed_at_s: list[float] = []
        self._forgetful = forgetful
        self._pace = pace
        self._healing = threading.Event()
        self.faults: Counter[str] = Counter()
        self._kinds: list[tuple[str, Callable[[], None]]] = [
            ("daemon killed", self._kill_daemon),
            ("broker stopped", partial(self._bounce, self._broker.stop)),
            ("broker frozen", self._freeze),
            *((f"network {mode.value}", partial(self._network, mode)) for mode in Mode if mode != "pass"),
        ]
        if kill_broker:
            self._kinds.append(("broker killed", partial(self._bounce, self._kill_broker)))

    def run(self, events: int) -> Report:
        """Put so many events, and more until every kind of fault has come; wait until all is quiet; count."""
        began_s = time.monotonic()
        faults = threading.Thread(target=self._make_faults)
        faults.start()
        sequence: Counter[str] = Counter()
        while sequence.total() < events or len(self.faults) < len(self._kinds):
            machine = self._random.choice(MACHINES)
            sequence[machine] += 1
            self._put_event(machine, sequence[machine])
            time.sleep(self._random.uniform(0.0, 0.12) * self._pace)
        self._healing.set()
        faults.join()
        self._take_acknowledgements()
        report = self._count()
        report.seconds = round(time.monotonic() - began_s, 1)
        return report

    def close(self) -> None:
        """End everything."""
        self._process.kill()
        self._subscriber.client.disconnect()
        self._subscriber.client.loop_stop()
        self._proxy.close()

    def _new_process(self) -> Process:
        return Process(
            {"host": "127.0.0.1", "port": self._proxy.port, "keepalive_s": 2, "connect_timeout_s": 2},
            self._folder / "outbox.sqlite",
            machines={machine: machine for machine in MACHINES},
            acked=str(self._folder / "acked"),
            refused_retry_s=0.3,
        )

    def _put_event(self, machine: str, seq: int) -> None:
        event = an_event(machine, seq)
        event_id = event["event_id"]
        state = state_payloads.alarm_state(node="pc7", machine=machine, name=machine, ts=NOON, levels={})
        state["event_id"] = event_id
        self._states[machine] = state
        process = self._process
        try:
            process.ask(event=event)
            self._put.append(event_id)
            process.ask(alarm=state)
        except (BrokenPipeError, ValueError):  # killed meanwhile
            if event_id not in self._put[-1:]:
                self._in_doubt.add(event_id)
            wait_until(lambda: self._process is not process, "a new process", 60)

    # Faults, on their own thread.

    def _make_faults(self) -> None:
        deck: list[tuple[str, Callable[[], None]]] = []
        while not self._healing.wait(self._random.uniform(0.2, 1.0) * self._pace):
            deck = deck or self._random.sample(self._kinds, len(self._kinds))
            name, cause = deck.pop()
            cause()
            self.faults[name] += 1

    def _for_a_while(self) -> None:
        self._healing.wait(self._random.uniform(0.1, 2.0) * self._pace)

    def _kill_daemon(self) -> None:
        self._process.kill()
        time.sleep(self._random.uniform(0.0, 0.5))
        process = self._new_process()
        for state in list(self._states.values()):  # as the daemon does from what it kept
            process.ask(alarm=state)
        self._process = process

    def _bounce(self, end: Callable[[], None]) -> None:
        end()
        self._for_a_while()
        self._broker.start()

    def _kill_broker(self) -> None:
        self._killed_at_s.append(time.time())
        self._broker.kill()

    def _freeze(self) -> None:
        self._broker.freeze()
        self._for_a_while()
        self._broker.thaw()

    def _network(self, mode: Mode) -> None:
        self._proxy.set(mode)
        self._for_a_while()
        self._proxy.set(Mode.PASS)

    # The end.

    def _take_acknowledgements(self) -> None:
        for state in self._states.values():
            self._process.ask(alarm=state)
        wait_until(lambda: self._process.ask(counters=True)["outbox_depth"] == 0, "the outbox is empty", 120)
        heard, quiet_s = -1, time.monotonic()
        while time.monotonic() - quiet_s < 3.0 * self._pace:
            if len(self._subscriber.heard) != heard:
                heard, quiet_s = len(self._subscriber.heard), time.monotonic()
            time.sleep(0.1)

    def _count(self) -> Report:
        told = [json.loads(message.payload) for message in self._subscriber.heard]
        first = {payload["event_id"]: payload for payload in reversed(told)}
        order = list(dict.fromkeys(payload["event_id"] for payload in told))
        missing = [event_id for event_id in self._put if event_id not in first]
        forgotten = [event_id for event_id in missing if self._forgotten(event_id)]
        highest: Counter[str] = Counter()
        out_of_order = 0
        for event_id in order:
            machine, seq = first[event_id]["machine"], first[event_id]["seq"]
            out_of_order += seq < highest[machine]
            highest[machine] = max(highest[machine], seq)
        return Report(
            put=len(self._put),
            in_doubt=len(self._in_doubt),
            arrived=len(first),
            duplicates=len(told) - len(first),
            forgotten=len(forgotten),
            lost=len(missing) - len(forgotten),
            out_of_order=out_of_order,
            retained_wrong=self._wrong_states(),
            delayed=sum(payload["delayed"] for payload in first.values()),
            faults=dict(sorted(self.faults.items())),
        )

    def _forgotten(self, event_id: str) -> bool:
        """The broker had acknowledged it, and was killed soon after, or keeps nothing anyway."""
        path = self._folder / "acked"
        lines = path.read_text().splitlines() if path.exists() else []
        acked = [float(line.split()[1]) for line in lines if line.startswith(event_id)]
        if self._forgetful:
            return bool(acked)
        return any(0 <= killed - at < FORGOTTEN_WITHIN_S for at in acked for killed in self._killed_at_s)

    def _wrong_states(self) -> int:
        late = subscribe(self._broker, f"{ROOT}/+/alarm")
        with contextlib.suppress(AssertionError):
            wait_until(lambda: len(late.heard) >= len(self._states), "the retained states", 10)
        found = {payload["machine"]: payload for payload in map(json.loads, (m.payload for m in late.heard))}
        late.client.disconnect()
        late.client.loop_stop()
        return sum(found.get(machine) != state for machine, state in self._states.items())


def run(
    folder: Path,
    *,
    events: int,
    seed: int = 1,
    kill_broker: bool = False,
    forgetful: bool = False,
    pace: float = 1.0,
) -> Report:
    """One run from beginning to end; the arguments are those of Chaos."""
    with mosquitto(folder, persistent=not forgetful, extra="" if forgetful else KEEP_ALL) as broker:
        chaos = Chaos(folder, broker, seed=seed, kill_broker=kill_broker, forgetful=forgetful, pace=pace)
        try:
            return chaos.run(events)
        finally:
            chaos.close()


def main() -> None:
    """Run as the arguments say and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kill-broker", action="store_true", help="also kill the broker with SIGKILL")
    parser.add_argument("--forgetful", action="store_true", help="the broker keeps nothing on disk")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(
            Path(folder),
            events=given.events,
            seed=given.seed,
            kill_broker=given.kill_broker,
            forgetful=given.forgetful,
        )
    print(json.dumps(dataclasses.asdict(report), indent=1))


if __name__ == "__main__":
    main()
