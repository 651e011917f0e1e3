"""Runs inside the container in the service's place: tries what the unit must allow, and what it must not."""

from __future__ import annotations

import grp
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, "/opt/echo-stream/src")
import cffi  # type: ignore[import-untyped]
import torch

from echo_stream.capture.command import Command
from echo_stream.daemon.monitor import Notifier


def refused(action: Callable[[], object]) -> str:
    """The name of the error, empty where there is none."""
    try:
        action()
    except OSError as error:
        return type(error).__name__
    return ""


def tensors() -> bool:
    """What the encoder does: oneDNN compiles kernels at run time, OpenMP starts threads."""
    sound = torch.randn(1, 1, 16000)
    torch.nn.Conv1d(1, 8, 16)(sound).sum().item()
    (torch.randn(512, 512).bfloat16() @ torch.randn(512, 512).bfloat16()).sum().item()
    spectrum = torch.stft(sound[0], 400, window=torch.hann_window(400), return_complex=True)
    return bool(spectrum.abs().isfinite().all())


def program_of_a_source() -> bool:
    """A program of the system is started, prints through its pipe, and is ended."""
    source = Command(["head", "-c", "16000", "/dev/zero"], 16_000)
    deadline_s = time.monotonic() + 20
    block = None
    while block is None and time.monotonic() < deadline_s:
        block = source.read()
    source.close()
    return block is not None


state, runtime = Path(os.environ["STATE_DIRECTORY"]), Path(os.environ["RUNTIME_DIRECTORY"])
code = Path("/opt/echo-stream")
found = {
    "credential": (Path(os.environ["CREDENTIALS_DIRECTORY"]) / "mqtt-password").read_text(),
    "tensors": tensors(),
    "callback": cffi.FFI().callback("int(int)", lambda n: n + 1)(41),  # PortAudio's way into Python
    "program of a source": program_of_a_source(),
    "audio group": grp.getgrnam("audio").gr_gid in os.getgroups(),
    "state": refused((state / "kept").touch),
    "runtime": refused((runtime / "kept").touch),
    "tcp": refused(lambda: socket.socket(socket.AF_INET).bind(("127.0.0.1", 0))),
    "own package": refused((code / "src/echo_stream/__init__.py").touch),
    "own program": refused((code / "bin/echo-stream").touch),
    "own configuration": refused(Path("/etc/echo-stream/config.yaml").touch),
    "own unit": refused(Path("/etc/systemd/system/echo-stream.service").touch),
    "password file": refused(Path("/etc/echo-stream/mqtt-password").read_text),
    "homes": refused(lambda: list(Path("/root").iterdir())),
    "raw network": refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "real time": refused(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "names of sound cards": refused(
        lambda: list(Path("/proc/sys").iterdir())
    ),  # as /proc/asound, not a process
}
(state / "found.json").write_text(json.dumps(found))
Notifier().status("probed")
Notifier().ready()
while True:
    time.sleep(5)
    Notifier().watchdog()
