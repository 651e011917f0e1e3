"""The demonstration's broker is mosquitto where it is installed, otherwise amqtt inside this process."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Final, Literal

from echo_stream.core.errors import DeliveryError

HOST: Final = "127.0.0.1"
_START_S: Final = 15.0


@dataclass(frozen=True, slots=True)
class DemoBroker:
    """A broker that lets everybody on this computer in."""

    name: str
    port: int
    protocol: Literal[3, 5]
    """What it speaks: 5, or 3 for 3.1.1."""


@contextmanager
def demo_broker() -> Iterator[DemoBroker]:
    """A real broker on a free port of the loopback, for the time of the block.

    Raises:
        DeliveryError: there is none to start, or it does not start.
    """
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    port = _free_port()
    if program is not None:
        with _mosquitto(program, port):
            yield DemoBroker("mosquitto", port, 5)
    else:
        with _amqtt(port):
            yield DemoBroker("amqtt", port, 3)


@contextmanager
def _mosquitto(program: str, port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="echo-stream-demo-") as folder:
        lines = [f"listener {port} {HOST}", "allow_anonymous true", "persistence false", "log_dest stderr"]
        if os.geteuid() == 0:
            lines.append("user root")  # it would drop to a user who may not read this folder
        settings = Path(folder) / "mosquitto.conf"
        settings.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with (Path(folder) / "log").open("w+b") as log:
            process = subprocess.Popen([program, "-c", str(settings)], stdout=log, stderr=log)
            said = Path(folder) / "log"
            try:
                _wait_for(port, lambda: process.poll() is None, lambda: said.read_text("utf-8", "replace"))
                yield
            finally:
                process.terminate()
                process.wait(5)


@contextmanager
def _amqtt(port: int) -> Iterator[None]:
    try:
        from amqtt.broker import Broker
    except ImportError:
        raise DeliveryError(
            "there is no MQTT broker for the demonstration",
            "apt-get install mosquitto, or pip install 'echo-stream[demo]'",
        ) from None
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.CRITICAL)
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    stop = Event()

    async def serve() -> None:
        broker = Broker(settings)
        await broker.start()
        while not stop.is_set():
            await asyncio.sleep(0.1)
        await broker.shutdown()

    thread = Thread(target=asyncio.run, args=(serve(),), name="amqtt", daemon=True)
    thread.start()
    try:
        _wait_for(port, thread.is_alive, lambda: "")
        yield
    finally:
        stop.set()
        thread.join(5)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, alive: Callable[[], bool], log: Callable[[], str]) -> None:
    """Until something listens on the port."""
    until_s = time.monotonic() + _START_S
    while alive() and time.monotonic() < until_s:
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.05)
    raise DeliveryError(f"the broker did not start on {HOST}:{port}", log().strip())
