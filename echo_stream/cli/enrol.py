"""fit-normal asks a daemon that runs to listen for it: the daemon holds the microphone, and need not stop."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.text import Progress, duration_text
from echo_stream.daemon.status import ask, find_socket

if TYPE_CHECKING:
    from echo_stream.config.schema import Config

ASK_EVERY_S = 1.0
WORKING = ("listening", "paused", "fitting")


def running_daemon(config: Config) -> Path | None:
    """The socket of the daemon that runs with this state directory; None where none does."""
    socket = find_socket(config.state_dir)
    try:
        found = ask(socket)
    except EchoStreamError:
        return None
    path = Path(found.get("state_dir", {}).get("path", ""))
    return socket if path.absolute() == config.state_dir.absolute() else None


def request(socket: Path, machine: str, command: Mapping[str, Any]) -> str:
    """Has the daemon carry out a command `enrol`; what it says.

    Raises:
        EchoStreamError: it refuses, or does not answer.
    """
    answer = ask(socket, asked={"machine": machine, "command": {"command": "enrol", **command}})
    if not answer.get("ok"):
        raise EchoStreamError(f"machine {machine}: the daemon refuses: {answer.get('outcome')}")
    return str(answer["outcome"])


def follow(socket: Path, machines: Sequence[str], progress: Progress) -> dict[str, list[dict[str, Any]]]:
    """Waits until the enrolments of machines have ended.

    Returns:
        By machine, what was fitted: `{"fitted": as --json says, "text": for people}`.

    Raises:
        EchoStreamError: one failed, was cancelled, or the daemon does not answer any more.
    """
    fits: dict[str, list[dict[str, Any]]] = {}
    while True:
        states = {machine: ask(socket, asked={"machine": machine}) for machine in machines}
        enrolling = {machine: state.get("enrolling") or {} for machine, state in states.items()}
        for machine, found in enrolling.items():
            stage = found.get("stage")
            if stage in WORKING:
                continue
            if stage != "done":
                why = found.get("said") or "it was cancelled"
                raise EchoStreamError(f"machine {machine}: nothing was learnt: {why}")
            fits[machine] = states[machine]["fits"]
        if len(fits) == len(machines):
            return fits
        working = [found for found in enrolling.values() if found.get("stage") in WORKING]
        done = sum(found.get("progress", 1.0) for found in enrolling.values()) / len(machines)
        progress(done, 1.0, _in_a_line(working[0]))
        time.sleep(ASK_EVERY_S)


def _in_a_line(found: Mapping[str, Any]) -> str:
    if found["stage"] != "listening":
        return str(found["stage"])
    level = found["level_dbfs"]
    parts = [
        f"{duration_text(found['left_s'])} left",
        "no sound yet" if level is None else f"{level:.0f} dBFS",
    ]
    if found["clipped"]:
        parts.append("CLIPPED")
    if found["said"]:
        parts.append(found["said"])
    return ", ".join(parts)
