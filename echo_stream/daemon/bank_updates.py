"""BankUpdates say which version of a bank is in use and which is proposed, and take one into use when asked.

For those who decide over MQTT, such as Home Assistant's update entity. Accepting runs in a child, by the
command that a person would type (`bank accept`), which refuses a bank that misses a confirmed fault.
"""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Final

from echo_stream.alarm.calibration import Calibration
from echo_stream.config.schema import Machine
from echo_stream.core.errors import BankError, CommandRefused
from echo_stream.core.guard import GuardedThread
from echo_stream.core.types import BANK_ID, AlarmLevel
from echo_stream.daemon.child import completed, why_it_failed
from echo_stream.daemon.events import EventPublisher
from echo_stream.daemon.proposals import Done
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.bank_file import accepted_version, version_numbers
from echo_stream.mqtt.commands import Command
from echo_stream.pipeline.factory import trip_levels

ACCEPT_S: Final = 60.0
WAITING: Final = 8
FRESH_NS: Final = 2_000_000_000
"""What changed so lately may have changed once more within the file system's tick."""


@dataclass(frozen=True, slots=True)
class BankState:
    """Which versions of a machine's bank matter."""

    installed: str | None
    """In use: its id, the file's own name where it is none of ours; None without a bank."""
    newest: str | None
    """Made last; None where there are no versions."""

    @property
    def proposed(self) -> str | None:
        """The newest, where it was made after the one in use; None where nothing is proposed."""
        if self.newest is None or self.installed is None:
            return self.newest
        if not re.fullmatch(BANK_ID, self.installed):
            return None  # a file that a person put there: older and newer mean nothing
        return self.newest if int(self.newest[1:]) > int(self.installed[1:]) else None


def bank_state(bank: Path) -> BankState:
    """From names alone; quick."""
    numbers = version_numbers(bank)
    return BankState(accepted_version(bank), f"b{numbers[-1]}" if numbers else None)


def _stamp(bank: Path) -> tuple[int, int]:
    """When the link and the folder of versions last changed; names of a thousand machines take too long."""
    return _changed_ns(bank), _changed_ns(bank.with_suffix(".versions"))


def _changed_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0


def effect(machine: Machine, proposed: Path) -> str:
    """What taking a version into use would change, in the 255 letters that Home Assistant takes."""
    try:
        new = NormalBank.load(proposed)
        old = NormalBank.load(machine.bank) if machine.bank.exists() else None
    except BankError as error:
        return error.message[:255]
    said = []
    for level in (AlarmLevel.ALARM, AlarmLevel.WARNING):
        before, after = (
            None if bank is None else trip_levels(machine, Calibration.of(bank.calibration))[level].level
            for bank in (old, new)
        )
        said.append(f"{level.value} from a score of {f'{before:.1f} to ' if before else ''}{after:.1f}")
    windows = f"{new.n_held_out} windows of normal sound" + (f" (now {old.n_held_out})" if old else "")
    states = f"operating states: {', '.join(new.conditions)}"
    text = f"{'; '.join([*said, windows, states])}."[:255]
    return text[0].upper() + text[1:]


class BankUpdates:
    """Looks after the versions of all banks.

    Args:
        config: path of the configuration, for the child.
        events: tells others.
    """

    def __init__(self, config: Path, events: EventPublisher) -> None:
        self._config = config.absolute()
        self._events = events
        self._known: dict[str, BankState] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._queue: queue.Queue[tuple[Command, Done] | None] = queue.Queue(WAITING)
        self._stop = Event()
        self.thread = GuardedThread("the acceptance of banks", self._work, self._stop, name="banks")

    def start(self) -> None:
        """Begins to take commands."""
        self.thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Ends; what waits is not done."""
        self._stop.set()
        try:
            self._queue.put_nowait(None)
        except queue.Full:
            return
        self.thread.join(timeout_s)

    def check(self, machines: Iterable[Machine]) -> None:
        """Tells what changed since the last look. Main thread."""
        for machine in machines:
            stamp = _stamp(machine.bank)
            if stamp == self._stamps.get(machine.id) and time.time_ns() - max(stamp) > FRESH_NS:
                continue
            self._stamps[machine.id] = stamp
            state, before = bank_state(machine.bank), self._known.get(machine.id)
            if state == before:
                continue
            self._known[machine.id] = state
            path = machine.bank.with_suffix(".versions") / f"{state.proposed}.safetensors"
            summary = effect(machine, path) if state.proposed else ""
            self._events.bank(machine.id, state.installed, state.proposed, summary)
            if before is not None and state.newest is not None and state.newest != before.newest:
                self._events.enrolled(machine.id, state.newest, accepted=state.installed == state.newest)

    def ask(self, command: Command, done: Done) -> None:
        """Has a version taken into use; returns at once. Pipeline thread.

        Raises:
            CommandRefused: none is proposed, or too many wait.
        """
        state = self._known.get(command.machine)
        if state is None or (command.bank or state.proposed) is None:
            raise CommandRefused(f"no bank of {command.machine} is proposed")
        try:
            self._queue.put_nowait((command, done))
        except queue.Full:
            raise CommandRefused("too many banks wait to be accepted", "send it again later") from None

    # The worker's thread.

    def _work(self) -> None:
        while (asked := self._queue.get()) is not None and not self._stop.is_set():
            command, done = asked
            try:
                done(True, self._accept(command))
            except CommandRefused as error:
                done(False, error.message)

    def _accept(self, command: Command) -> str:
        bank_id = command.bank or self._known[command.machine].proposed
        if bank_id is None:
            raise CommandRefused(f"no bank of {command.machine} is proposed")
        options = ["--machine", command.machine, "--by", command.by or "MQTT", "--", bank_id]
        ran = completed(self._config, ("bank", "accept"), options, niced=False, timeout_s=ACCEPT_S)
        if ran.returncode != 0:
            raise CommandRefused(why_it_failed(ran.stderr, ran.returncode))
        return ran.stdout.strip()
