"""StationRegistry holds the machines that are listened to and changes them while the daemon runs.

The main thread prepares a change (a new bank, a new configuration); the pipeline thread applies it between
two rounds of the corridor, so that nothing changes under a window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from queue import Empty, SimpleQueue

import structlog

from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import EchoStreamError
from echo_stream.detect.bank_file import accepted_version
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.pipeline.factory import (
    build_alarms,
    build_station,
    by_device,
    load_fitting_bank,
    open_sources,
)
from echo_stream.pipeline.station import Station

log = structlog.get_logger()


class StationRegistry:
    """The stations by machine id.

    Args:
        config: what to listen to.
        encoder: shared by all.
        on_added: called with each station before its first window, on the thread that opens it.
        on_removed: called with the id of each machine that was removed.
    """

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        *,
        on_added: Callable[[Station, Machine], None],
        on_removed: Callable[[str], None],
    ) -> None:
        self.config = config
        self._encoder = encoder
        self._on_added = on_added
        self._on_removed = on_removed
        self._stations: dict[str, Station] = {}
        self._changes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._banks: dict[str, object] = {}

    def open(self) -> None:
        """Opens every machine's source and bank, before the pipeline begins.

        Raises:
            EchoStreamError: a bank is missing or does not fit, a recording cannot be read.
        """
        for station, machine in self._prepare(self.config):
            self._add(station, machine)

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

    def close(self) -> None:
        """Closes every source; the pipeline has ended."""
        for station in self._stations.values():
            station.reader.source.close()

    # What follows is called by the main thread.

    def take_new_banks(self) -> None:
        """Prepares the change to every bank that was accepted since this was last asked."""
        for machine in self.config.machines:
            fingerprint = _fingerprint(machine)
            if fingerprint != self._banks.get(machine.id):
                self._banks[machine.id] = fingerprint
                self._replace_bank(machine)

    def reload(self, config: Config) -> None:
        """Prepares the change to another configuration; machines that are the same go on without a gap.

        Raises:
            EchoStreamError: a machine of it cannot be listened to; then nothing changes.
        """
        old, new = by_device(self.config.machines), by_device(config.machines)
        same = {key for key in new if [m.source for m in new[key]] == [m.source for m in old.get(key, ())]}
        opened = self._prepare(
            config.model_copy(update={"machines": tuple(m for key in new.keys() - same for m in new[key])})
        )
        leaving = [m.id for key in old.keys() - same for m in old[key]]

        def change() -> None:
            for machine_id in leaving:
                self._stations.pop(machine_id).reader.source.close()
                self._on_removed(machine_id)
            for station, machine in opened:
                self._add(station, machine)

        self._changes.put(change)
        before = {machine.id: machine for machine in self.config.machines}
        for machine in (m for key in same for m in new[key]):
            if machine != before[machine.id]:
                self._replace_bank(machine)
        self.config = config

    def _prepare(self, config: Config) -> list[tuple[Station, Machine]]:
        with ExitStack() as opened:
            sources = open_sources(config.machines)
            for source in sources.values():
                opened.callback(source.close)
            made = [(build_station(config, m, sources[m.id], self._encoder), m) for m in config.machines]
            opened.pop_all()
        self._banks |= {machine.id: _fingerprint(machine) for machine in config.machines}
        return made

    def _add(self, station: Station, machine: Machine) -> None:
        self._stations[machine.id] = station
        self._on_added(station, machine)

    def _replace_bank(self, machine: Machine) -> None:
        """Bank and alarms anew, for a station whose source stays; without success the old ones stay."""
        try:
            rate = self._stations[machine.id].reader.source.sample_rate_hz
            bank = load_fitting_bank(self.config, machine, self._encoder, rate)
            alarms = build_alarms(machine, bank)
        except EchoStreamError as error:
            log.error(
                "the bank in use stays: the new one cannot be taken", machine=machine.id, reason=str(error)
            )
            return

        def change() -> None:
            station = self._stations[machine.id]
            end = station.scored_until
            for new, old in zip(alarms, station.alarms, strict=True):
                new.restore(old.snapshot(), at=end)
            station.bank, station.scorer, station.alarms = bank, Scorer(bank), alarms
            station.proven, station.since = False, end
            station.bank_id = accepted_version(machine.bank) or ""
            log.info("bank in use", machine=machine.id, bank=station.bank_id)

        self._changes.put(change)


def _fingerprint(machine: Machine) -> object:
    """Changes when another bank is accepted, or the file is written anew."""
    try:
        found = machine.bank.stat()
        link = machine.bank.readlink() if machine.bank.is_symlink() else None
    except OSError:
        return None
    return link, found.st_ino, found.st_mtime_ns  # not `resolve`: it looks at every folder of the path
