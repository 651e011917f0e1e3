"""Which machines are listened to, and how that changes while the daemon runs.

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
from echo_stream.pipeline.factory import alarms_of, by_device, fitting_bank_of, sources_of, station_of
from echo_stream.pipeline.station import Station

log = structlog.get_logger()


class Roster:
    """The stations by machine id.

    Args:
        config: what to listen to.
        encoder: shared by all.
        on_join: told of each station before its first window, on the thread that opens it.
        on_leave: told of each machine that is gone.
    """

    def __init__(
        self,
        config: Config,
        encoder: Encoder,
        *,
        on_join: Callable[[Station, Machine], None],
        on_leave: Callable[[str], None],
    ) -> None:
        self.config = config
        self._encoder = encoder
        self._on_join = on_join
        self._on_leave = on_leave
        self._stations: dict[str, Station] = {}
        self._changes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._banks: dict[str, object] = {}

    def open(self) -> None:
        """Opens every machine's source and bank, before the pipeline begins.

        Raises:
            EchoStreamError: a bank is missing or does not fit, a recording cannot be read.
        """
        for station, machine in self._prepare(self.config):
            self._join(station, machine)

    def stations(self) -> Mapping[str, Station]:
        """Those present now. The pipeline asks once a round; what was prepared takes effect here."""
        try:
            while True:
                self._changes.get_nowait()()
        except Empty:
            return self._stations

    @property
    def stations_now(self) -> Mapping[str, Station]:
        """Those present now, for whoever only looks; any thread."""
        return dict(self._stations)

    def close(self) -> None:
        """Closes every source; the pipeline has ended."""
        for station in self._stations.values():
            station.ear.source.close()

    # What follows is called by the main thread.

    def take_new_banks(self) -> None:
        """Prepares the change to every bank that was accepted since this was last asked."""
        for machine in self.config.machines:
            mark = _mark(machine)
            if mark != self._banks.get(machine.id):
                self._banks[machine.id] = mark
                self._retune(machine)

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
                self._stations.pop(machine_id).ear.source.close()
                self._on_leave(machine_id)
            for station, machine in opened:
                self._join(station, machine)

        self._changes.put(change)
        before = {machine.id: machine for machine in self.config.machines}
        for machine in (m for key in same for m in new[key]):
            if machine != before[machine.id]:
                self._retune(machine)
        self.config = config

    def _prepare(self, config: Config) -> list[tuple[Station, Machine]]:
        with ExitStack() as opened:
            sources = sources_of(config.machines)
            for source in sources.values():
                opened.callback(source.close)
            made = [(station_of(config, m, sources[m.id], self._encoder), m) for m in config.machines]
            opened.pop_all()
        self._banks |= {machine.id: _mark(machine) for machine in config.machines}
        return made

    def _join(self, station: Station, machine: Machine) -> None:
        self._stations[machine.id] = station
        self._on_join(station, machine)

    def _retune(self, machine: Machine) -> None:
        """Bank and alarms anew, for a station whose source stays; without success the old ones stay."""
        try:
            rate = self._stations[machine.id].ear.source.sample_rate_hz
            bank = fitting_bank_of(self.config, machine, self._encoder, rate)
            alarms = alarms_of(machine, bank)
        except EchoStreamError as error:
            log.error(
                "the bank in use stays: the new one cannot be taken", machine=machine.id, reason=str(error)
            )
            return

        def change() -> None:
            station = self._stations[machine.id]
            end = station.heard_until
            for new, old in zip(alarms, station.alarms, strict=True):
                new.restore(old.snapshot(), at=end)
            station.bank, station.scorer, station.alarms = bank, Scorer(bank), alarms
            station.proven, station.since = False, end
            station.bank_id = accepted_version(machine.bank) or ""
            log.info("bank in use", machine=machine.id, bank=station.bank_id)

        self._changes.put(change)


def _mark(machine: Machine) -> object:
    """Changes when another bank is accepted, or the file is written anew."""
    try:
        found = machine.bank.stat()
        link = machine.bank.readlink() if machine.bank.is_symlink() else None
    except OSError:
        return None
    return link, found.st_ino, found.st_mtime_ns  # not `resolve`: it looks at every folder of the path
