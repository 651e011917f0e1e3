"""A check has a verdict, a finding with its figure, and what to do: for enrolments and for `doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """A traffic light."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One check."""

    name: str
    verdict: Verdict
    finding: str
    """What was found, with its figure."""
    advice: str = ""
    """What to do; empty where nothing needs to be done."""


def worst(checks: Sequence[Check]) -> Verdict:
    """The worst of all verdicts; ok where there is none."""
    found = {check.verdict for check in checks}
    return next((v for v in (Verdict.FAIL, Verdict.WARN) if v in found), Verdict.OK)
