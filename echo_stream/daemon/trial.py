"""A trial decides whether a node listens as before to what it heard before; what it tries can be undone.

The decision takes its time as an argument. What undoes it is on disk for as long as the trial lasts: a daemon
that starts and finds it does not know whether what was tried is any good, and undoes it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo_stream.core.errors import CommandRefused
from echo_stream.core.files import read_regular, sync_folder, write_whole
from echo_stream.core.log import get_logger
from echo_stream.mqtt.transfer import sha256_of

WITHIN_S = 60.0
STEADY_S = 10.0
"""A machine is heard again when it was listened to for so long without a break."""
LEAST_COVERAGE = 0.9
LATE_S = 5.0
"""A window that is later than its hop and this does not count as in time."""
_MOST_BYTES = 5_000_000

log = get_logger()

Machines = Iterable[Mapping[str, Any]]
"""Of the daemon's overview."""


def machines_heard(machines: Machines, hop_s: float) -> set[str]:
    """Ids of the machines whose sound comes and is scored now."""
    return {each["machine"] for each in machines if _in_time(each, hop_s)}


def _in_time(machine: Mapping[str, Any], hop_s: float) -> bool:
    age_s = machine.get("last_window_age_s")
    return bool(machine["listening"]) and age_s is not None and age_s <= hop_s + LATE_S


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Listening without a break."""

    since_s: float
    windows: int


class Trial:
    """Whether machines are heard again.

    Args:
        expected: ids of those that were heard before.
        hop_s: between two windows.
        now_s: monotonic time at which it begins.
        bank: a machine, and the version of its bank that it must have; None: any.
    """

    def __init__(
        self, expected: Collection[str], hop_s: float, now_s: float, bank: tuple[str, str] | None = None
    ) -> None:
        self._hop_s = hop_s
        self._began_s = now_s
        self._steady_s = max(STEADY_S, 3 * hop_s)
        self._limit_s = WITHIN_S - STEADY_S + self._steady_s
        self._bank = bank
        self._since: dict[str, _Stretch | None] = dict.fromkeys(expected)

    @property
    def summary(self) -> str:
        """What is true after a trial that went well."""
        count = len(self._since)
        if not count:
            return "in use; no machine was heard before, so there was nothing to compare with"
        return f"in use; {count} machine{'s are' if count > 1 else ' is'} heard as before"

    def check(self, machines: Machines, now_s: float) -> str | None:
        """Empty: all are heard as before; a text: they are not, and why; None: not decided yet."""
        known = {each["machine"]: each for each in machines}
        missing = [
            f"{machine}: {why}"
            for machine in self._since
            if (why := self._look_at(machine, known.get(machine), now_s))
        ]
        if not missing:
            return ""
        if now_s - self._began_s < self._limit_s:
            return None
        return f"not heard as before within {self._limit_s:.0f} s: {'; '.join(missing[:10])}"

    def _look_at(self, machine: str, found: Mapping[str, Any] | None, now_s: float) -> str:
        """Why it is not heard yet; empty where it is."""
        if (why := self._missing(machine, found, now_s)) or found is None:
            self._since[machine] = None
            return why
        windows, since = int(found["windows_scored"]), self._since[machine]
        if since is None or windows < since.windows:  # its counters begin anew
            since = self._since[machine] = _Stretch(now_s, windows)
        over_s = now_s - since.since_s
        if over_s < self._steady_s:
            return f"heard for {over_s:.0f} s so far"
        covered = (windows - since.windows + 1) * self._hop_s / over_s
        if covered >= LEAST_COVERAGE:
            return ""
        self._since[machine] = None
        return f"only {covered:.0%} of its sound is scored"

    def _missing(self, machine: str, found: Mapping[str, Any] | None, now_s: float) -> str:
        if found is None:
            return "is not listened to"
        if not _in_time(found, self._hop_s):
            return str(found.get("reason") or f"capture {found.get('capture')}, no window is scored")
        if now_s - self._began_s < found["last_window_age_s"]:
            return "no window since the change"
        if self._bank is not None and self._bank[0] == machine and found["bank"] != self._bank[1]:
            return f"expected bank {self._bank[1]}, found {found['bank'] or 'none'}"
        return ""


@dataclass(frozen=True, slots=True)
class Undo:
    """What was in use before a trial."""

    transfer: str
    """Id of the manifest."""
    sha256: str
    """Of what is tried."""
    before: str | None
    """Text of the configuration, or version of the bank; None: there was no bank."""
    machine: str = ""
    """Whose bank; empty for a configuration."""

    def save(self, path: Path) -> None:
        """Keep it.

        Raises:
            CommandRefused: it cannot be written.
        """
        try:
            write_whole(path, json.dumps(asdict(self)).encode())
        except OSError as error:
            raise CommandRefused(f"{path} cannot be written: {error.strerror}") from None

    @classmethod
    def load(cls, path: Path) -> Undo | None:
        """What is kept there, if anything."""
        try:
            return cls(**json.loads(read_regular(path, _MOST_BYTES)))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            log.error(
                "what undoes a transfer cannot be read, so nothing is undone",
                file=str(path),
                reason=repr(error),
            )
            return None

    def restore(self, config: Path) -> str:
        """Put the configuration back; what was done, in words.

        Raises:
            OSError: it cannot be written.
        """
        if not self.applies_to(config):
            return f"{config} was changed meanwhile and stays as it is"
        replace_file(config, (self.before or "").encode("utf-8", "surrogateescape"))
        return "the configuration from before is in use again"

    def applies_to(self, path: Path) -> bool:
        """Whether what is tried lies there, and nobody has put something else in its place."""
        try:
            return sha256_of(path)[0] == self.sha256
        except OSError:
            return False


def undo_path(config: Path) -> Path:
    """Where the undoing of a configuration is kept: beside it, as it is needed before it is read."""
    return config.with_name(f".{config.name}.before-push")


def replace_file(path: Path, data: bytes) -> None:
    """Write a file anew, synced, with the rights of the one that it replaces.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(f".{path.name}.pushed")
    write_whole(new, data)
    new.chmod(path.stat().st_mode & 0o777)
    new.replace(path)
    sync_folder(path.parent)


def undo_interrupted(config: Path) -> Undo | None:
    """Put back the configuration of a trial that a power cut or a stop has interrupted; before it is read."""
    path = undo_path(config)
    undo = Undo.load(path)
    if undo is None:
        return None
    try:
        outcome = undo.restore(config)
        path.unlink()
    except OSError as error:
        log.error("a configuration that was pushed cannot be taken back", reason=str(error))
        return None
    log.warning("a configuration that was pushed is taken back: its trial was interrupted", outcome=outcome)
    return undo
