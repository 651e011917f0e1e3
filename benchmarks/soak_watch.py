"""What the soak sees of the daemon while it runs: messages, status, notifications, memory, files, threads.

Only records; what must hold of it stands in soak_checks.py. The main thread samples, paho's and the
notification thread write into their own lists.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import psutil
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion

from benchmarks.soak_scene import PASSWORD
from echo_stream.core.errors import EchoStreamError
from echo_stream.daemon.status import ask
from tests.support.broker import MosquittoBroker


class Listener:
    """A subscriber whose session outlives the broker: what is published while it is away waits for it."""

    def __init__(self, broker: MosquittoBroker) -> None:
        self.events: list[dict[str, Any]] = []
        """As they came, duplicates too."""
        self.counts: dict[str, int] = {}
        self.node: list[str] = []
        self.secrets = 0
        self._client = Client(CallbackAPIVersion.VERSION2, client_id="soak", clean_session=False)
        self._client.username_pw_set("soak", PASSWORD)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_connect = lambda client, *_: client.subscribe("echo-stream/#", qos=1)
        self._client.on_message = self._on_message
        self._client.connect(broker.host, broker.port, keepalive=10)
        self._client.loop_start()

    def _on_message(self, _client: Client, _userdata: object, message: MQTTMessage) -> None:
        text = message.payload.decode(errors="replace")
        what = message.topic.rsplit("/", 1)[-1]
        self.counts[what] = self.counts.get(what, 0) + 1
        self.secrets += PASSWORD in text
        if what == "event":
            self.events.append({**json.loads(text), "heard_s": time.monotonic()})
        elif message.topic == "echo-stream/soak/status":
            self.node.append(text)

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()


class Notifications:
    """Stands where systemd would: gets READY=1, WATCHDOG=1 and STATUS=."""

    def __init__(self, path: Path) -> None:
        self.ready_s: float | None = None
        self.longest_silence_s = 0.0
        """Between two WATCHDOG=1."""
        self._at_s = 0.0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.environment = {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "60000000"}
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            said, now_s = self._socket.recv(4096), time.monotonic()
            if said == b"READY=1" and self.ready_s is None:
                self.ready_s = self._at_s = now_s
            elif said == b"WATCHDOG=1":
                self.longest_silence_s = max(self.longest_silence_s, now_s - self._at_s)
                self._at_s = now_s


@dataclass(frozen=True)
class Sample:
    """The process at one time."""

    at_s: float
    rss_mb: float
    anonymous_mb: float
    """Of it what no file backs: heap and stacks."""
    files: int
    threads: int
    cpu_s: float


@dataclass
class Record:
    """All that was seen."""

    began_s: float
    table: Path
    """Gets each sample as a line while the soak runs."""
    samples: list[Sample] = field(default_factory=list)
    statuses: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    unanswered: list[tuple[float, str]] = field(default_factory=list)
    """Times at which `status` was asked and did not answer, and why."""

    def look(self, process: psutil.Process, status_socket: Path) -> None:
        """Take one sample of the process and ask for its status."""
        at_s = time.monotonic()
        fields = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
        kb = {line.split(":")[0]: float(line.split()[1]) for line in fields if line.endswith("kB")}
        cpu = process.cpu_times()
        self.samples.append(
            Sample(
                at_s,
                kb["VmRSS"] / 1024,
                kb["RssAnon"] / 1024,
                process.num_fds(),
                process.num_threads(),
                cpu.user + cpu.system,
            )
        )
        sample = self.samples[-1]
        row = [sample.at_s - self.began_s, *astuple(sample)[1:]]
        with self.table.open("a", encoding="utf-8") as table:
            table.write(",".join(f"{value:.10g}" for value in row) + "\n")
        try:
            self.statuses.append((at_s, ask(status_socket)))
        except EchoStreamError as error:
            self.unanswered.append((at_s, error.message))
