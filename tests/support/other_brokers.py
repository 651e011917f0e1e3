"""Brokers other than mosquitto: amqtt (Python), and aedes (Node), which speak MQTT 3.1.1 only.

They are tried on request only: half a minute. amqtt comes with the extra `demo`: AMQTT=1. For
aedes: `npm install aedes` in a folder, which AEDES_FOLDER names.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import HOST, free_port

_AMQTT = """
import asyncio, sys
from amqtt.broker import Broker
settings = {
    "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{sys.argv[1]}"}},
    "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
}
async def serve():
    await Broker(settings).start()
    await asyncio.Event().wait()
asyncio.run(serve())
"""
_AEDES = """
const { Aedes } = require("aedes"), net = require("net");
(async () => {
  const aedes = Aedes.createBroker ? await Aedes.createBroker() : new Aedes();
  net.createServer(aedes.handle).listen(Number(process.argv[2]), "127.0.0.1");
})();
"""


class OtherBroker:
    """A broker in a process of its own, at the same port over restarts; it remembers nothing."""

    def __init__(self, command: list[str], cwd: Path) -> None:
        self.host = HOST
        self.port = free_port()
        self._command = [*command, str(self.port)]
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self._process = subprocess.Popen(
            self._command, cwd=self._cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s and self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self._command[0]} does not accept connections")

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(60)
            self._process = None


@contextlib.contextmanager
def other_broker(name: str, folder: Path) -> Iterator[OtherBroker]:
    """amqtt or aedes for the length of a test; skips, loudly, where it is not there."""
    broker = OtherBroker(_command(name, folder), folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def _command(name: str, folder: Path) -> list[str]:
    if name == "amqtt":
        if "AMQTT" not in os.environ or importlib.util.find_spec("amqtt") is None:
            pytest.skip("AMQTT NOT TRIED: set AMQTT=1 (pip install 'echo-stream[demo]')")
        return [sys.executable, "-W", "ignore", "-c", _AMQTT]
    installed, node = os.environ.get("AEDES_FOLDER"), shutil.which("node")
    if installed is None or node is None:
        pytest.skip("AEDES NOT TRIED: npm install aedes, and set AEDES_FOLDER to that folder")
    program = folder / "broker.js"
    program.write_text(_AEDES)
    (folder / "node_modules").symlink_to(Path(installed).resolve() / "node_modules")
    return [node, str(program)]
