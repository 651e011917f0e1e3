"""The history recorder turns what the pipeline scored into minute rows and hands them to the history store.

Runs on the pipeline thread, which it never keeps waiting: the store has a thread of its own.
"""

from __future__ import annotations

import json

from echo_stream.history.minutes import MinuteSummary, WindowFigures
from echo_stream.history.store import HistoryCounters, HistoryStore
from echo_stream.mqtt.payloads import Payload
from echo_stream.pipeline.station import Scored, Station


class HistoryRecorder:
    """Minute summaries of all stations, and the store behind them.

    Args:
        store: not started yet.
    """

    def __init__(self, store: HistoryStore) -> None:
        self._store = store
        self.thread = store.thread
        self._summaries: dict[str, MinuteSummary] = {}

    def start(self) -> None:
        """Start writing."""
        self._store.start()

    def stop(self) -> None:
        """Write also the minutes under way, and end; after the pipeline's last window."""
        for summary in self._summaries.values():
            if (row := summary.close()) is not None:
                self._store.put(row)
        self._store.stop()

    def add(self, station: Station, scored: Scored) -> None:
        """Take a window that was scored."""
        window, score = scored
        machine = window.machine
        if machine not in self._summaries:
            self._summaries[machine] = MinuteSummary(machine, station.reader.hop_s)
        figures = WindowFigures(
            window.captured_at.timestamp(),
            score.value,
            score.level_dbfs,
            score.condition,
            score.deciding_band_hz,
            station.measured,
        )
        row = self._summaries[machine].add(figures, {a.level.value: a.trip for a in station.alarms})
        if row is not None:
            self._store.put(row)

    def remove(self, machine: str) -> None:
        """Write the minute under way of a machine that is no longer listened to, and forget it."""
        summary = self._summaries.pop(machine, None)
        if summary is not None and (row := summary.close()) is not None:
            self._store.put(row)

    def recent(self, machine: str) -> list[WindowFigures]:
        """Windows of the last ten minutes, oldest first; any thread."""
        summary = self._summaries.get(machine)
        return summary.recent() if summary else []

    def put_event(self, kind: str, payload: Payload) -> None:
        """Keep an event in the journal; any thread."""
        self._store.put_event(kind, str(payload.get("machine", "")), json.dumps(payload))

    @property
    def counters(self) -> HistoryCounters:
        """What was written and lost; any thread."""
        return self._store.counters
