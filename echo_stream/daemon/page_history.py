"""The page's past is read from the history file: minutes, trends, the journal, and what-if.

What-if tries another level on the minutes of the bank in use: scores of another bank are no comparison, so it
begins where the present one was accepted.

A minute row holds the middle and the highest score, not the order of its windows. So it says of a level that
at least half of the minute was over it (the middle is), that some of it was (the highest is), or none. So it
tells alarms that would have come, unless the score jumped to and fro all the time, and alarms that may have
come: for how long a score was held within a minute no row can tell.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from echo_stream.alarm.calibration import Calibration
from echo_stream.core.errors import BankError, CommandRefused
from echo_stream.core.log import get_logger
from echo_stream.core.types import OFF, AlarmLevel
from echo_stream.daemon.history import HistoryRecorder
from echo_stream.daemon.page_models import joined_minutes, journal_items
from echo_stream.daemon.stations import StationRegistry
from echo_stream.history.minutes import MINUTE_S, MinuteRow, WindowFigures
from echo_stream.history.read import read_highest, read_history, read_journal
from echo_stream.history.store import HISTORY_FILE
from echo_stream.mqtt.payloads import Payload
from echo_stream.pipeline.factory import trip_levels
from echo_stream.web import models

JOIN_S: Final = 3 * MINUTE_S
"""Minutes over a level that are no further apart are one alarm."""


@dataclass(frozen=True, slots=True)
class Episode:
    """Minutes in a row over a level."""

    from_s: float
    """Unix time at which the first minute begins."""
    to_s: float
    """At which the last one ends."""
    sure: bool
    """Its middle scores lay over the level for as long as an alarm waits; otherwise it may have come."""
    highest: float
    operating_state: str


def episodes(rows: Sequence[MinuteRow], level: float, on_delay_s: float) -> list[Episode]:
    """Alarms that a level would have raised, oldest first.

    Sure is what was over the level for as many whole minutes as the on-delay touches, by the middle score.
    Of other minutes over the level the highest score alone is known: those may have raised one, where the
    on-delay is shorter than the minutes in a row.

    Args:
        rows: Minutes of one machine in order of time.
        level: Trips above this score.
        on_delay_s: How long the score must stay there.
    """
    whole = max(1, math.ceil(on_delay_s / MINUTE_S))
    runs: list[list[MinuteRow]] = []
    for row in rows:
        if row.score_max <= level or row.operating_state == OFF:
            continue
        if runs and row.minute_s - runs[-1][-1].minute_s <= JOIN_S:
            runs[-1].append(row)
        else:
            runs.append([row])
    return [_episode(run, level, whole) for run in runs if _touches(run) >= on_delay_s]


def _touches(run: Sequence[MinuteRow]) -> float:
    """So long the score may have been over the level at most, in seconds."""
    return max(MINUTE_S * length for length in _in_a_row(run, [True] * len(run)))


def _in_a_row(run: Sequence[MinuteRow], counts: Sequence[bool]) -> list[int]:
    lengths, length, before = [0], 0, None
    for row, counted in zip(run, counts, strict=True):
        follows = before is not None and row.minute_s - before == MINUTE_S
        length = (length + 1 if follows else 1) if counted else 0
        lengths.append(length)
        before = row.minute_s
    return lengths


def _episode(run: Sequence[MinuteRow], level: float, whole: int) -> Episode:
    highest = max(run, key=lambda row: row.score_max)
    held = _in_a_row(run, [row.score_median > level for row in run])
    return Episode(
        from_s=float(run[0].minute_s),
        to_s=float(run[-1].minute_s + MINUTE_S),
        sure=max(held) >= whole,
        highest=highest.score_max,
        operating_state=highest.operating_state,
    )


DAY_S: Final = 86_400.0
KEEP_S: Final = 30.0
"""A slider asks many times in a row: rows are read once in this time."""
MOST_EPISODES: Final = 200
MOST_JOURNAL: Final = 2000
MOST_KEPT: Final = 500
"""Events in memory where no history is kept."""

log = get_logger()


class PageHistory:
    """The past of all machines; any thread of the page.

    Args:
        registry: the machines.
        recorder: of their history; None where none is kept: then only the newest events are known.
    """

    def __init__(self, registry: StationRegistry, recorder: HistoryRecorder | None) -> None:
        self._registry, self._recorder = registry, recorder
        self._file = registry.config.state_dir / HISTORY_FILE
        self._journal: deque[tuple[int, str, Payload]] = deque(maxlen=MOST_KEPT)
        """Where no history is kept."""
        self._numbers = 0
        self._rows: tuple[tuple[str, float, float], float, list[MinuteRow]] = (("", 0.0, 0.0), 0.0, [])

    def put_event(self, kind: str, payload: Payload) -> None:
        """Something happened; any thread, returns at once."""
        if self._recorder is None:
            self._numbers += 1
            self._journal.append((self._numbers, kind, payload))

    def recent(self, machine: str) -> list[WindowFigures]:
        """Windows of the last ten minutes."""
        return self._recorder.recent(machine) if self._recorder else []

    def minutes(self, machine: str, since_s: float, step_s: float) -> list[models.Minute]:
        """Minutes of a machine, several as one where `step_s` says so."""
        if self._recorder is None:
            return []
        try:
            rows = read_history(self._file, machine, since_s=since_s)
        except sqlite3.Error as error:
            log.warning("history cannot be read for the page", reason=str(error))
            return []
        pieces: dict[float, list[MinuteRow]] = {}
        for row in rows:
            pieces.setdefault(row.minute_s // step_s * step_s, []).append(row)
        return [joined_minutes(at_s, step_s, members) for at_s, members in pieces.items()]

    def trends(self, since_s: float, step_s: float) -> dict[str, list[tuple[float, float]]]:
        """Highest scores of every machine."""
        if self._recorder is None:
            return {}
        try:
            found = read_highest(self._file, since_s=since_s, step_s=step_s)
        except sqlite3.Error as error:
            log.warning("history cannot be read for the page", reason=str(error))
            return {}
        return {name: [(at_s, highest) for at_s, highest, _ in pieces] for name, pieces in found.items()}

    def journal(self, machine: str | None, before: int | None, limit: int) -> list[models.JournalItem]:
        """What happened, newest first."""
        if self._recorder is None:
            kept = [
                models.JournalItem(number=number, kind=kind, event=payload)
                for number, kind, payload in reversed(list(self._journal))
                if machine in (None, payload.get("machine")) and (before is None or number < before)
            ]
            return kept[:limit]
        try:
            found = read_journal(self._file, machine=machine, before=before, limit=limit)
        except sqlite3.Error as error:
            log.warning("the journal cannot be read for the page", reason=str(error))
            return []
        return journal_items(found)

    def what_if(
        self, machine: str, days: float, *, on_delay_s: float, level: float | None, per_month: float | None
    ) -> models.WhatIf:
        """What would have been raised at a level, or at that of a rate of false alarms.

        Args:
            machine: whose.
            days: so many back from now.
            on_delay_s: as long as an alarm waits.
            level: trips above this score; None: that of `per_month`, or the one in use.
            per_month: false alarms that are accepted.

        Raises:
            CommandRefused: there is no history, the machine is not listened to, or its bank says nothing of
                rates.
        """
        configured, station = self._registry.config.machine(machine), self._registry.stations.get(machine)
        if self._recorder is None or configured is None or station is None:
            raise CommandRefused("no history is kept, or the machine is not listened to now")
        rate = configured.alarm.false_alarms_per_month if per_month is None else per_month
        if level is None:
            alarm = configured.alarm.model_copy(
                update={"false_alarms_per_month": rate, "on_delay_s": on_delay_s}
            )
            asked = configured.model_copy(update={"alarm": alarm})
            try:
                levels = trip_levels(asked, Calibration.of(station.bank.calibration))
            except BankError as error:
                raise CommandRefused(error.message) from None
            tried, stands_for = levels[AlarmLevel.ALARM].level, rate
        else:
            tried, stands_for = level, None
        accepted_s = _accepted_s(configured.bank)
        since_s = max(time.time() - days * DAY_S, accepted_s)
        rows = self._read((machine, days, accepted_s), since_s)
        found = episodes(rows, tried, on_delay_s)
        return models.WhatIf(
            level=round(tried, 3),
            on_delay_s=on_delay_s,
            false_alarms_per_month=stands_for,
            since_s=since_s,
            minutes=len(rows),
            episodes=[
                models.Episode(
                    from_s=each.from_s,
                    to_s=each.to_s,
                    sure=each.sure,
                    highest=each.highest,
                    operating_state=each.operating_state,
                )
                for each in found[-MOST_EPISODES:]
            ],
            raised=self._raised(machine, since_s),
        )

    def _read(self, key: tuple[str, float, float], since_s: float) -> list[MinuteRow]:
        known, at_s, rows = self._rows
        now_s = time.monotonic()
        if known == key and now_s - at_s < KEEP_S:
            return rows
        try:
            rows = read_history(self._file, key[0], since_s=since_s)
        except sqlite3.Error as error:
            raise CommandRefused(f"the history cannot be read: {error}") from None
        self._rows = key, now_s, rows
        return rows

    def _raised(self, machine: str, since_s: float) -> list[models.JournalItem]:
        try:
            found = read_journal(self._file, machine=machine, limit=MOST_JOURNAL)
        except sqlite3.Error as error:
            raise CommandRefused(f"the journal cannot be read: {error}") from None
        items = journal_items(each for each in found if each[1].kind == "event")
        since = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(since_s))
        return [
            item
            for item in items
            if item.event["level"] == "alarm" and item.event["to"] == "UNACK" and item.event["ts"] >= since
        ]


def _accepted_s(bank: Path) -> float:
    """Unix time at which the bank in use was accepted: of its link, or of a file in the link's place."""
    try:
        return bank.lstat().st_mtime
    except OSError:
        return 0.0
