"""The daemon with an exception in the loop of each of its threads, or one that no guard may hold.

`python -m tests.support.faulty_daemon run` runs `echo-stream run`; FAULTS names its parts, in one word.
An exception is raised once in each; `PART!` raises SystemExit, after which a thread cannot go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from echo_stream.cli import main
from echo_stream.daemon import metrics, status
from echo_stream.daemon.bank_updates import BankUpdates
from echo_stream.daemon.enrolments import Enrolments
from echo_stream.daemon.monitor import Monitor
from echo_stream.daemon.proposals import ProposalWriter
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.daemon.stations import StationRegistry
from echo_stream.evidence.recorder import Evidence
from echo_stream.history import store
from echo_stream.mqtt.session import Session
from echo_stream.web.server import PageServer

LOOPS: dict[str, tuple[type, str]] = {
    "pipeline": (StationRegistry, "apply_changes"),
    "publisher": (Session, "step"),
    "evidence": (Evidence, "_work"),
    "history": (store.HistoryStore, "_write_queue"),
    "proposals": (ProposalWriter, "_work"),
    "sampler": (FeatureSampler, "_work"),
    "banks": (BankUpdates, "_work"),
    "enrolment": (Enrolments, "_look_after_fits"),
    "page": (PageServer, "_serve"),
    "metrics": (metrics._Server, "service_actions"),
    "status": (status._Server, "service_actions"),
    "supervision": (Monitor, "check"),
}
"""What the loop of each thread calls."""


def inject(part: str) -> None:
    """Have the part's loop raise once."""
    owner, name = LOOPS[part.rstrip("!")]
    real: Callable[..., Any] = getattr(owner, name)
    raised: list[bool] = []

    def instead(*given: Any, **named: Any) -> Any:
        if not raised:
            raised.append(True)
            raise SystemExit(part) if part.endswith("!") else RuntimeError(f"injected into {part}")
        return real(*given, **named)

    setattr(owner, name, instead)


if __name__ == "__main__":
    store.WRITE_EVERY_S = 0.5
    for each in os.environ["FAULTS"].split(","):
        inject(each)
    main()
