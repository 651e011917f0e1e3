"""A child runs a command of ours as a person would type it: its memory and time are not the daemon's.

So what is pushed is checked, on the thread of the transfers, which waits for the children.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from echo_stream.config.load import load
from echo_stream.config.schema import Config
from echo_stream.core.errors import CommandRefused, EchoStreamError
from echo_stream.core.files import write_whole

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


def completed(
    config: Path, command: Sequence[str], options: Sequence[str], *, niced: bool, timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """A command of ours that has ended, whatever its exit code.

    Raises:
        CommandRefused: it cannot be run, or does not end in time.
    """
    words = command_line(config, command, options, niced=niced)
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise CommandRefused(f"{' '.join(command)} cannot be run: {error}") from None


def why_it_failed(said: str, code: int) -> str:
    """For people: the last lines of a command's standard error, or its exit code where it said nothing."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = " ".join(lines[-3:]).removeprefix("echo-stream: ")[:500]
    return why or f"it ended with code {code}"


CUTS_OFF: Final = ("node", "state_dir", "mqtt", "encoder")
"""A change takes effect at the next restart only, and then cuts the node off, or needs other banks."""
CHECK_S: Final = 120.0
_SERVICE: Final = """\
a push needs a configuration that the service may write, in a folder of its own:
sudo install -o echo-stream -g echo-stream -m 0640 {path} /var/lib/echo-stream/{path.name}
sudo systemctl edit echo-stream, with the three lines: [Service], ExecStart=, \
ExecStart=/opt/echo-stream/bin/echo-stream run --config /var/lib/echo-stream/{path.name}
sudo systemctl restart echo-stream; relative paths in it count from that folder then"""


def checked_config(path: Path, data: bytes) -> Config:
    """What a configuration says that `run` could begin with; it is checked in its folder, for relative paths.

    Args:
        path: of the one in use.
        data: of the new one.

    Raises:
        CommandRefused: it has mistakes, or the folder cannot be written.
    """
    if path.is_symlink():
        raise CommandRefused(
            f"{path} is a link, which a push would replace: name the file itself in run --config"
        )
    candidate = path.with_name(f".{path.name}.candidate")
    try:
        write_whole(candidate, data)
    except OSError as error:
        raise CommandRefused(
            f"the daemon cannot write {path.parent}: {error.strerror}; {_SERVICE.format(path=path)}"
        ) from None
    try:
        run_command(candidate, ("check-config",), [], shown=path)
        return load(candidate)
    except EchoStreamError as error:
        raise CommandRefused(str(error)) from None
    finally:
        candidate.unlink(missing_ok=True)


def require_reachable(new: Config, old: Config, before: set[str]) -> str:
    """What the operator must know, in words.

    Args:
        new: what is pushed.
        old: what the daemon began with.
        before: ids of the machines that are heard.

    Raises:
        CommandRefused: it would cut the node off at its next restart, or silence a machine.
    """
    changed = [key for key in Config.model_fields if getattr(new, key) != getattr(old, key)]
    if cut := [key for key in CUTS_OFF if key in changed]:
        raise CommandRefused(
            f"{', '.join(cut)}: a push does not change these, as only a restart shows whether the node "
            "can still be reached and listens; change them on the PC"
        )
    if not set(new.plant.trust) & set(old.plant.trust):
        raise CommandRefused("plant.trust: none of the keys that are trusted now is in it")
    for machine in new.machines:
        if machine.id in before and not machine.bank.exists():
            raise CommandRefused(
                f"{machine.bank} does not exist: {machine.id} is heard now and would not be any more"
            )
    gone = sorted(before - {machine.id for machine in new.machines})
    later = sorted(set(changed) - {"machines"})
    return "".join(
        [
            f"; not listened to any more: {', '.join(gone)}" if gone else "",
            f"; takes effect at the next restart: {', '.join(later)}" if later else "",
        ]
    )


def run_command(
    config: Path, command: Sequence[str], options: Sequence[str], shown: Path | None = None
) -> str:
    """What a command of ours printed.

    Raises:
        CommandRefused: it failed; with what it said, of `shown` instead of the configuration that it read.
    """
    ran = completed(config, command, options, niced=True, timeout_s=CHECK_S)
    if ran.returncode != 0:
        # The service may not change priorities, and `nice` says so before it runs the command.
        lines = [line for line in ran.stderr.strip().splitlines() if not line.startswith("nice: ")]
        said = "\n".join(lines).removeprefix("echo-stream: ") or f"it ended with code {ran.returncode}"
        raise CommandRefused(said.replace(str(config), str(shown or config)))
    return ran.stdout.strip()
