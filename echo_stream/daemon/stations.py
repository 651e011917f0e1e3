"""StationRegistry holds the machines that are listened to and changes them while the daemon runs.

The main thread prepares a change (a new bank, a new configuration); the pipeline thread applies it between
two rounds of the corridor, so that nothing changes under a window.

A machine that cannot be listened to does not silence the others: it is kept as a FailedMachine with its
reason, and tried again with a wait that doubles, or at once when its bank changes. One that lacks a bank only
is heard nevertheless, so that it can be enrolled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

from echo_stream.capture.source import AudioSource
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import BankError, ConfigError, EchoStreamError, NoBank, SourceError
from echo_stream.core.log import get_logger
from echo_stream.core.types import Window
from echo_stream.detect.bank_file import accepted_version
from echo_stream.detect.known_sound_file import fingerprint
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.factory import (
    build_alarms,
    build_gate,
    build_scorer,
    build_station,
    build_surroundings,
    build_zones,
    expected_lines_hz,
    load_fitting_bank,
)
from echo_stream.pipeline.sources import by_device, open_sources
from echo_stream.pipeline.station import Station, WindowReader

FIRST_RETRY_S = 5.0
LONGEST_RETRY_S = 60.0
MOST_WINDOWS = 16
"""Of a machine without a bank, read in one round of the pipeline."""

log = get_logger()


@dataclass(frozen=True, slots=True)
class FailedMachine:
    """A configured machine that is not listened to."""

    machine: Machine
    error: Exception
    source: AudioSource | None
    """Kept open where it is read, or other machines use the same device; None where it is opened anew."""
    retry_at_s: float
    """Monotonic time."""
    wait_s: float
    reader: WindowReader | None = None
    """Cuts what comes from the source, where the bank is all that is missing."""

    @property
    def reason(self) -> str:
        """Why, in one line for people."""
        return to_reason(self.error)


class StationRegistry:
    """The stations by machine id.

    Args:
        config: what to listen to.
        encoder: shared by all.
        on_added: called with each station before its first window, on the thread that opens it.
        on_removed: called with the id of each machine that was removed.
        first_retry_s: seconds until a machine that failed is tried again for the first time.
    """

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        *,
        on_added: Callable[[Station, Machine], None],
        on_removed: Callable[[str], None],
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        self.config = config
        self._encoder = encoder
        self._on_added = on_added
        self._on_removed = on_removed
        self._first_retry_s = first_retry_s
        self._stations: dict[str, Station] = {}
        self._failed: dict[str, FailedMachine] = {}
        self._pending: set[str] = set()
        """Failed machines whose station is prepared and waits for the pipeline."""
        self._changes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._banks: dict[str, object] = {}

    def open(self) -> None:
        """Opens every machine's source and bank, before the pipeline begins.

        Where no machine can be listened to, going on is still worth while as long as one of them may heal: a
        file server that is away, a disk that gives an error. Otherwise somebody must act first.

        Raises:
            EchoStreamError: nothing can be listened to before somebody acts (exit code 78); the first reason.
        """
        opened, failed = self._prepare(self.config.machines)
        if not opened and failed and all(_is_hopeless(each.error) for each in failed):
            _close(failed)
            raise _as_ours(failed[0])
        for station, machine in opened:
            self._add(station, machine)
        for each in failed:
            self._set_failed(each)

    def apply_changes(self) -> Mapping[str, Station]:
        """Applies every prepared change and returns the stations; called once a round by the pipeline."""
        try:
            while True:
                self._changes.get_nowait()()
        except Empty:
            return self._stations

    @property
    def stations(self) -> Mapping[str, Station]:
        """A copy of the stations present now, for reading on any thread."""
        return dict(self._stations)

    @property
    def failed(self) -> Mapping[str, FailedMachine]:
        """A copy of the machines that cannot be listened to now, for reading on any thread."""
        return dict(self._failed)

    @property
    def readers(self) -> list[WindowReader]:
        """Of all machines that are heard, with and without a bank. Any thread."""
        without = (failed.reader for failed in self.failed.values())
        return [*(station.reader for station in self.stations.values()), *filter(None, without)]

    def rate_of(self, machine_id: str) -> int | None:
        """Sample rate of a machine's source, where it is open. Any thread."""
        station, failed = self._stations.get(machine_id), self._failed.get(machine_id)
        source = station.reader.source if station else failed.source if failed else None
        return source.sample_rate_hz if source is not None else None

    def read_without_bank(self, wanted: Callable[[str], bool]) -> list[tuple[Window, str]]:
        """New windows of machines that lack a bank, each with its device. Pipeline thread; never waits.

        Args:
            wanted: Whether a source that waits for us is to be read for a machine (id); what comes by itself
                always is, so that it does not pile up.
        """
        found: list[tuple[Window, str]] = []
        for machine, failed in self.failed.items():
            reader = failed.reader
            if reader is None or machine in self._pending or not (reader.live or wanted(machine)):
                continue
            try:
                for _ in range(MOST_WINDOWS):
                    if (window := reader.window()) is None:
                        break
                    found.append((window, reader.source.description))
            except Exception as error:  # noqa: BLE001 - one machine must not silence the others
                self.fail(machine, error)
        return found

    def fail(self, machine_id: str, error: Exception) -> None:
        """Takes a machine out that raised `error`, from the next round on. Pipeline thread."""
        if not isinstance(error, EchoStreamError):
            log.error("a machine failed unexpectedly", machine=machine_id, exc_info=error)
        self._changes.put(lambda: self._take_out(machine_id, error))

    def close(self) -> None:
        """Closes every source; the pipeline has ended."""
        for station in self._stations.values():
            station.reader.source.close()
        _close(self._failed.values())

    # What follows is called by the main thread.

    def take_new_banks(self) -> None:
        """Prepares the change to every bank that was accepted since this was last asked."""
        for machine in self.config.machines:
            found = fingerprint(machine.bank)
            if found != self._banks.get(machine.id):
                self._banks[machine.id] = found
                if (failed := self._failed.get(machine.id)) is not None:
                    self._retry(failed)
                elif machine.id in self._stations:
                    self._replace_bank(machine)

    def retry_failed(self, now_s: float) -> None:
        """Tries each failed machine again whose time has come."""
        for failed in self.failed.values():
            if now_s >= failed.retry_at_s:
                self._retry(failed)

    def reload(self, config: Config) -> None:
        """Prepares the change to another configuration; machines that are the same go on without a gap.

        Raises:
            EchoStreamError: a machine of it cannot be listened to, and not for want of a bank; then nothing
                changes.
        """
        old, new = by_device(self.config.machines), by_device(config.machines)
        same = {key for key in new if [m.source for m in new[key]] == [m.source for m in old.get(key, ())]}
        before, self.config = self.config, config
        opened, failed = self._prepare([m for key in new.keys() - same for m in new[key]])
        wrong = [each for each in failed if not isinstance(each.error, NoBank)]
        if wrong:
            self.config = before
            _close(failed)
            for station, _ in opened:
                station.reader.source.close()
            raise _as_ours(wrong[0])
        leaving = [m.id for key in old.keys() - same for m in old[key]]

        def change() -> None:
            for machine_id in leaving:
                self._discard(machine_id)
                self._on_removed(machine_id)
            for station, machine in opened:
                self._add(station, machine)
            for each in failed:
                self._set_failed(each)

        self._changes.put(change)
        known = {machine.id: machine for machine in before.machines}
        for machine in (m for key in same for m in new[key]):
            if (gone := self._failed.get(machine.id)) is not None:
                self._retry(gone, machine)
            elif machine != known[machine.id]:
                self._replace_bank(machine)

    def _prepare(
        self, machines: Iterable[Machine]
    ) -> tuple[list[tuple[Station, Machine]], list[FailedMachine]]:
        """Opens the sources and builds the stations of machines; each that fails with its reason."""
        opened: list[tuple[Station, Machine]] = []
        failed: list[FailedMachine] = []
        for together in by_device(machines).values():
            try:
                sources = open_sources(together)
            except Exception as error:  # noqa: BLE001 - one machine must not silence the others
                failed += [self._failure(machine, error, None) for machine in together]
                continue
            for machine in together:
                source = sources[machine.id]
                self._banks[machine.id] = fingerprint(machine.bank)
                try:
                    opened.append((build_station(self.config, machine, source, self._encoder), machine))
                except Exception as error:  # noqa: BLE001 - a damaged bank raises what it likes
                    keep = len(together) > 1 or isinstance(error, BankError)
                    if not keep:
                        source.close()
                    failed.append(self._failure(machine, error, source if keep else None))
        return opened, failed

    def _failure(self, machine: Machine, error: Exception, source: AudioSource | None) -> FailedMachine:
        before = self._failed.get(machine.id)
        wait_s = min(2 * before.wait_s, LONGEST_RETRY_S) if before else self._first_retry_s
        reader = None
        if source is not None and isinstance(error, BankError):
            same = before is not None and before.source is source and before.reader
            reader = same or self._reader(machine, source)
        return FailedMachine(machine, error, source, monotonic() + wait_s, wait_s, reader)

    def _reader(self, machine: Machine, source: AudioSource) -> WindowReader:
        cut = self.config.encoder
        return WindowReader(machine.id, source, cut.window_s, cut.hop_s, live=machine.source.realtime)

    def _set_failed(self, failed: FailedMachine) -> None:
        before = self._failed.get(failed.machine.id)
        self._failed[failed.machine.id] = failed
        if before is None or before.reason != failed.reason:
            log.error(
                "a machine cannot be listened to: DEGRADED; tried again until it can",
                machine=failed.machine.id,
                reason=failed.reason,
                hint=getattr(failed.error, "hint", ""),
            )

    def _retry(self, failed: FailedMachine, machine: Machine | None = None) -> None:
        machine = machine or failed.machine
        if machine.id in self._pending:
            return
        if failed.source is None:
            opened, again = self._prepare([machine])
        else:
            self._banks[machine.id] = fingerprint(machine.bank)
            opened, again = [], []
            try:
                opened = [(build_station(self.config, machine, failed.source, self._encoder), machine)]
            except Exception as error:  # noqa: BLE001 - a damaged bank raises what it likes
                again = [self._failure(machine, error, failed.source)]
        for each in again:
            self._set_failed(each)

        def change() -> None:
            for station, present in opened:
                self._pending.discard(present.id)
                gone = self._failed.pop(present.id, None)
                if gone is not None and gone.reader is not None and gone.source is station.reader.source:
                    # What was read without a bank was not missed.
                    station.health.origin_s = gone.reader.slicer.end / station.reader.source.sample_rate_hz
                    station.reader.losses()
                self._add(station, present)
                log.info("a machine is listened to again", machine=present.id)

        if opened:
            self._pending.add(machine.id)
            self._changes.put(change)

    # What follows runs on the pipeline thread, or before it begins.

    def _add(self, station: Station, machine: Machine) -> None:
        self._stations[machine.id] = station
        self._on_added(station, machine)

    def _discard(self, machine_id: str) -> None:
        station, failed = self._stations.pop(machine_id, None), self._failed.pop(machine_id, None)
        if station is not None:
            station.reader.source.close()
        if failed is not None:
            _close([failed])

    def _take_out(self, machine_id: str, error: Exception) -> None:
        station, failed = self._stations.pop(machine_id, None), self._failed.get(machine_id)
        machine = next((m for m in self.config.machines if m.id == machine_id), None)
        source = station.reader.source if station else failed.source if failed else None
        if source is None or machine is None:
            return
        together = next(group for group in by_device(self.config.machines).values() if machine in group)
        keep = len(together) > 1 and not isinstance(error, SourceError)
        if not keep:
            source.close()
        self._set_failed(self._failure(machine, error, source if keep else None))

    def _replace_bank(self, machine: Machine) -> None:
        """Bank and alarms anew, for a station whose source stays; without success the old ones stay."""
        try:
            rate = self._stations[machine.id].reader.source.sample_rate_hz
            bank = load_fitting_bank(self.config, machine, self._encoder, rate)
            (alarms, ways), scorer = build_alarms(machine, bank), build_scorer(machine, bank)
            zones = build_zones(machine, bank.hop_s)
        except Exception as error:  # noqa: BLE001 - a damaged bank raises what it likes
            reason = to_reason(error)
            log.error("the bank in use stays: the new one cannot be taken", machine=machine.id, reason=reason)
            return

        def change() -> None:
            station = self._stations.get(machine.id)
            if station is None:  # it failed meanwhile; its retry takes the new bank
                return
            end = station.scored_until
            for new, old in zip(alarms, station.alarms, strict=True):
                new.restore(old.snapshot(), at=end, same_bank=bank.sha256 == station.bank.sha256)
            station.bank, station.scorer, station.alarms, station.ways = bank, scorer, alarms, ways
            station.encoder_gate = build_gate(bank, station.encoder_gate)
            station.bank_id = accepted_version(machine.bank) or ""
            if station.surroundings is None or station.surroundings.reference != machine.reference:
                station.surroundings = build_surroundings(machine, bank.hop_s)
            if (station.zones and station.zones.limits_mm_s) != (zones and zones.limits_mm_s):
                station.zones, station.zone = zones, None
            station.lines_hz = partial(expected_lines_hz, machine)
            known = sorted(scorer.known_sounds)
            log.info("a new bank is in use", machine=machine.id, bank=station.bank_id, known_sounds=known)

        self._changes.put(change)


def to_reason(error: Exception) -> str:
    """What went wrong, in one line for people; an unforeseen exception keeps the name of its type."""
    return error.message if isinstance(error, EchoStreamError) else f"{type(error).__name__}: {error}"


def _as_ours(failed: FailedMachine) -> EchoStreamError:
    if isinstance(failed.error, EchoStreamError):
        return failed.error
    return EchoStreamError(
        f"machine {failed.machine.id} cannot be listened to: {failed.reason}",
        "is its bank damaged? fit it anew: echo-stream fit-normal",
    )


def _is_hopeless(error: Exception) -> bool:
    """Whether trying again cannot help: a bank is for something else. One that is missing can be enrolled."""
    if not isinstance(error, EchoStreamError) or isinstance(error, NoBank):
        return False
    return error.exit_code == ConfigError.exit_code


def _close(failed: Iterable[FailedMachine]) -> None:
    for each in failed:
        if each.source is not None:
            each.source.close()
