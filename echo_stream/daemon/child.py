"""A child runs a command of ours as a person would type it: its memory and time are not the daemon's."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

_NICED = ("nice", "-n", "10")


def command_line(config: Path, command: Sequence[str], options: Sequence[str], *, niced: bool) -> list[str]:
    """The words that run a command.

    Args:
        config: path of the configuration.
        command: its words, such as `bank extend`.
        options: what follows them.
        niced: at a low priority, so that nobody who listens waits for it.
    """
    first = _NICED if niced else ()
    return [*first, sys.executable, "-m", "echo_stream", *command, "--config", str(config), *options]


def why_it_failed(said: str, code: int) -> str:
    """For people: the last lines of a command's standard error, or its exit code where it said nothing."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = " ".join(lines[-3:]).removeprefix("echo-stream: ")[:500]
    return why or f"it ended with code {code}"
