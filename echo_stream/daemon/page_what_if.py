"""The page's what-if reads stored minutes of the bank in use, and tries another level on them.

Scores of another bank are no comparison, so it begins where the present one was accepted.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from echo_stream.alarm.calibration import Calibration
from echo_stream.config.schema import Machine
from echo_stream.core.errors import BankError, CommandRefused
from echo_stream.core.types import AlarmLevel
from echo_stream.daemon.page_models import journal_items
from echo_stream.detect.bank import NormalBank
from echo_stream.history.minutes import MinuteRow
from echo_stream.history.read import read_history, read_journal
from echo_stream.history.what_if import episodes
from echo_stream.pipeline.factory import trip_levels
from echo_stream.web import models

DAY_S: Final = 86_400.0
KEEP_S: Final = 30.0
"""A slider asks many times in a row: rows are read once in this time."""
MOST_EPISODES: Final = 200
MOST_JOURNAL: Final = 2000


class WhatIf:
    """Answers for all machines; any thread of the page.

    Args:
        history: the file.
    """

    def __init__(self, history: Path) -> None:
        self._history = history
        self._rows: tuple[tuple[str, float, float], float, list[MinuteRow]] = (("", 0.0, 0.0), 0.0, [])

    def answer(
        self,
        machine: Machine,
        bank: NormalBank,
        days: float,
        *,
        on_delay_s: float,
        level: float | None,
        per_month: float | None,
    ) -> models.WhatIf:
        """What would have been raised at a level, or at that of a rate of false alarms.

        Args:
            machine: whose.
            bank: that it is scored against.
            days: so many back from now.
            on_delay_s: as long as an alarm waits.
            level: trips above this score; None: that of `per_month`, or the one in use.
            per_month: false alarms that are accepted.

        Raises:
            CommandRefused: there is no history, or the bank says nothing of rates.
        """
        rate = machine.alarm.false_alarms_per_month if per_month is None else per_month
        if level is None:
            alarm = machine.alarm.model_copy(
                update={"false_alarms_per_month": rate, "on_delay_s": on_delay_s}
            )
            asked = machine.model_copy(update={"alarm": alarm})
            try:
                levels = trip_levels(asked, Calibration.of(bank.calibration))
            except BankError as error:
                raise CommandRefused(error.message) from None
            tried, stands_for = levels[AlarmLevel.ALARM].level, rate
        else:
            tried, stands_for = level, None
        accepted_s = _accepted_s(machine.bank)
        since_s = max(time.time() - days * DAY_S, accepted_s)
        rows = self._read((machine.id, days, accepted_s), since_s)
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
            raised=self._raised(machine.id, since_s),
        )

    def _read(self, key: tuple[str, float, float], since_s: float) -> list[MinuteRow]:
        known, at_s, rows = self._rows
        now_s = time.monotonic()
        if known == key and now_s - at_s < KEEP_S:
            return rows
        try:
            rows = read_history(self._history, key[0], since_s=since_s)
        except sqlite3.Error as error:
            raise CommandRefused(f"the history cannot be read: {error}") from None
        self._rows = key, now_s, rows
        return rows

    def _raised(self, machine: str, since_s: float) -> list[models.JournalItem]:
        try:
            found = read_journal(self._history, machine=machine, limit=MOST_JOURNAL)
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
