"""FeatureSampler keeps a sample of what each machine is heard, for `bank propose`, in the state directory.

The pipeline's thread only adds to it; a thread of its own writes it, anew, synced and renamed, every five
minutes and at the end. A file that is damaged is set aside, and the sample begins anew.
"""

from __future__ import annotations

import contextlib
import queue
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any
from zlib import crc32

from echo_stream.core.files import write_whole
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.types import Features, Score, Window
from echo_stream.history.sample import About, FeatureSample, Probation, Stretch, path_of
from echo_stream.pipeline.station import Station

EVERY_S = 300.0
STOP_S = 5.0

log = get_logger()


class FeatureSampler:
    """The samples of all machines.

    Args:
        state_dir: where the folder of samples is made.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._samples: dict[str, FeatureSample] = {}
        self._queue: queue.Queue[tuple[str, FeatureSample] | Event | None] = queue.Queue()
        self._asked: deque[Event] = deque()
        self._stop = Event()
        self._trouble = ""
        self._due_s = EVERY_S
        self.thread = GuardedThread("the writer of feature samples", self._work, self._stop)

    def start(self) -> None:
        """Begins to write."""
        self.thread.start()

    def stop(self) -> None:
        """Writes all of it, as far as the time allows; after the pipeline's last window."""
        for machine, sample in self._samples.items():
            self._queue.put((machine, sample.copy()))
        self._queue.put(None)
        self.thread.join(STOP_S)
        self._stop.set()

    def probation(self, machine: str) -> Probation:
        """How much of a machine was heard; any thread."""
        sample = self._samples.get(machine)
        return sample.probation if sample else Probation(0.0, 0)

    def flush(self, timeout_s: float = 10.0) -> None:
        """Waits until what was heard up to now is written, or so long; any thread but the pipeline's."""
        written = Event()
        self._asked.append(written)
        written.wait(timeout_s)

    def between(self, machine: str, begin: datetime, end: datetime) -> tuple[About, list[Stretch]] | None:
        """What is kept of a machine in a span of time, and what its features depend on; any thread."""
        sample = self._samples.get(machine)
        if sample is None:
            return None
        kept = [*sample.copy().stretches, *sample.copy().events]
        return sample.about, [s for s in kept if begin <= datetime.fromisoformat(s.at) <= end]

    # The pipeline's thread, or before it begins.

    def add_station(self, station: Station) -> None:
        """A machine is listened to from now on: its sample goes on."""
        reader = station.reader
        about = About(station.bank.encoder, reader.source.sample_rate_hz, reader.window_s, reader.hop_s)
        known = self._samples.get(reader.machine)
        if known is None or known.about != about:
            sample = self._samples[reader.machine] = self._read(reader.machine, about)
            if station.encoder_gate is not None:  # what is kept is encoded: not of all machines at once
                sample.begin_after(crc32(reader.machine.encode()) / 2**32)

    def add(self, station: Station, window: Window, features: Features, score: Score) -> None:
        """A window was scored; before anything is announced."""
        alarmed = any(alarm.active for alarm in station.alarms) or station.sensor.masks_machine
        self._samples[window.machine].add(
            features, score.condition, window.captured_at, window.start, window.end, alarmed=alarmed
        )

    def keeps_next(self, machine: str) -> bool:
        """Whether the next window of a machine is kept: it must have features of its own."""
        sample = self._samples.get(machine)
        return sample is not None and sample.keeps_next

    def recent(self, machine: str) -> Sequence[Features]:
        """Features of its newest windows in a row, oldest first."""
        sample = self._samples.get(machine)
        return sample.recent if sample else ()

    def on_event(self, kind: str, payload: Mapping[str, Any], stations: Mapping[str, Station]) -> None:
        """What was published; of what was raised the windows that led to it are kept."""
        machine = str(payload.get("machine", ""))
        station = stations.get(machine)
        if kind != "event" or payload.get("to") != "UNACK" or station is None or station.score is None:
            return
        at = station.reader.source.time_of(station.scored_until)
        condition = station.score.condition
        self._samples[machine].event(str(payload["event_id"]), str(payload["level"]), condition, at)

    def tick(self, elapsed_s: float) -> None:
        """So many seconds have passed since the daemon began."""
        if elapsed_s >= self._due_s or self._asked:
            self._due_s = elapsed_s + EVERY_S
            if self._queue.empty():  # a disk that is slow does not pile them up
                for machine, sample in self._samples.items():
                    self._queue.put((machine, sample.copy()))
                while self._asked:
                    self._queue.put(self._asked.popleft())

    def _read(self, machine: str, about: About) -> FeatureSample:
        path = path_of(self._state_dir, machine)
        try:
            found = FeatureSample.read(path, about)
        except FileNotFoundError:
            return FeatureSample(about)
        except (OSError, ValueError) as error:
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.replace(aside)
            log.warning(
                "the sample of what was heard is damaged, is set aside and begins anew",
                machine=machine,
                aside=str(aside),
                reason=str(error),
            )
            return FeatureSample(about)
        if found is None:
            log.info("the sample of what was heard begins anew: the features are others", machine=machine)
        return found or FeatureSample(about)

    # The writer's thread.

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, Event):
                item.set()
                continue
            machine, sample = item
            try:
                write_whole(path_of(self._state_dir, machine), sample.to_bytes())
            except OSError as error:
                if not self._trouble:
                    log.warning("the sample of what was heard cannot be written", reason=str(error))
                self._trouble = str(error)
            else:
                self._trouble = ""
