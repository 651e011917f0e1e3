"""The backend is what the page asks for, in words of its own models; the daemon answers.

So the page knows neither stations nor files. What says `may wait` reads a disk: the page uses a thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from echo_stream.core.types import Score, Window
from echo_stream.web import models


@dataclass(frozen=True, slots=True)
class Live:
    """A window of a machine that somebody watches."""

    window: Window
    score: Score
    hop_s: float
    vibration: bool = False
    """Of an accelerometer: it has to be moved up to be heard."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where the files of an alarm's evidence lie; None where one is missing."""

    clip: Path | None
    picture: Path | None
    normal: Path | None
    """The nearest normal sound; it lies beside the bank."""


class Past(Protocol):
    """What was kept of the past. Any thread; all of it may wait."""

    def minutes(self, machine: str, since_s: float, step_s: float) -> list[models.Minute]:
        """Minutes of a machine from a Unix time on."""

    def trends(self, since_s: float, step_s: float) -> dict[str, list[tuple[float, float]]]:
        """Highest scores of every machine."""

    def journal(self, machine: str | None, before: int | None, limit: int) -> list[models.JournalItem]:
        """What happened, newest first."""

    def what_if(
        self, machine: str, days: float, *, on_delay_s: float, level: float | None, per_month: float | None
    ) -> models.WhatIf:
        """Which alarms another level would have raised. Raises CommandRefused."""


class Backend(Protocol):
    """The daemon, as the page sees it. Any thread."""

    node: str
    listen: bool

    @property
    def past(self) -> Past:
        """What was kept of the past."""

    def machines(self) -> list[models.Machine]:
        """All machines, in the order of the configuration."""

    def machine(self, machine: str) -> models.Machine | None:
        """One machine; None where there is none of this id."""

    def detail(self, machine: str) -> models.MachineDetail | None:
        """One machine; None where there is none of this id."""

    def command(
        self, machine: str, asked: Mapping[str, Any], sender: Mapping[str, str]
    ) -> Future[models.Outcome]:
        """Has the pipeline carry out a command; the outcome comes within its next round."""

    def evidence(self, event_id: str) -> tuple[models.Evidence, Files] | None:
        """What was kept of an alarm; may wait."""

    def evidence_list(self, machine: str | None, limit: int) -> list[models.Evidence]:
        """The newest alarms of which something was kept; may wait."""

    def answer(self, event_id: str, asked: models.Answer, by: str) -> str:
        """Takes what a person says about an alarm; what comes of it. May wait; raises CommandRefused."""

    def answer_span(self, machine: str, asked: models.SpanAnswer, by: str) -> str:
        """Takes what a person says about a stretch of history. May wait; raises CommandRefused."""

    def compare(self, machine: str, bank_id: str) -> models.Comparison:
        """A version of a bank beside the one in use. May wait for seconds; raises CommandRefused."""

    def bank(self, machine: str) -> models.Bank:
        """Versions of a bank; may wait."""

    def change_bank(self, machine: str, asked: models.BankChange, by: str) -> str:
        """Has another version used; what was done. May wait; raises CommandRefused."""

    def enrolment(self, machine: str) -> models.Enrolment:
        """How far the learning of a machine's normal sound is."""

    def enrolment_report(self, machine: str, bank_id: str) -> Path | None:
        """The report of a version that an enrolment made; may wait."""

    def health(self) -> models.Health:
        """How the daemon is; may wait."""

    def heard_rate_hz(self, machine: str) -> int | None:
        """Sample rate of its live sound as it is sent; None while it is not heard."""

    def log_lines(self) -> list[dict[str, Any]]:
        """The last lines of the log."""

    def bundle(self) -> bytes:
        """A ZIP for those who help: no secret and no sound is in it; may wait."""

    def watch(self, machines: Collection[str]) -> None:
        """From now on windows of these machines are wanted, and of no others."""

    def take_live(self) -> list[Live]:
        """Windows of watched machines since the last call."""
