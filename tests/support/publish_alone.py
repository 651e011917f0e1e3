"""A publisher in a process of its own, to be killed: reads JSON, one command a line, answers each in a line.

{"event": payload}    puts it into the outbox; answers when `event` returned
{"alarm": payload}    the retained state of its machine
{"counters": true}    answers with the counters

Two arguments of the program are for the tests of killing: `acked` names a file into which the event id of
each acknowledged row is written, with the time, before the row leaves the outbox; `die` is a step, such as
"after publish", at whose first event the process kills itself.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import structlog

from echo_stream.mqtt.broker import Broker
from echo_stream.mqtt.connection import Connection
from echo_stream.mqtt.outbox import Outbox
from echo_stream.mqtt.publisher import Publisher


def die_at(step: str) -> None:
    """Kill this process before or after the first put, publish or ack of an event."""
    when, what = step.split()
    owner: type = {"put": Outbox, "publish": Connection, "ack": Outbox}[what]
    real: Callable[..., Any] = getattr(owner, what)

    def instead(self: object, *given: Any, **named: Any) -> Any:
        concerns_an_event = what != "publish" or given[0].endswith("/event")
        if when == "before" and concerns_an_event:
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(self, *given, **named)
        if concerns_an_event:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, what, instead)


def note_acked(path: Path) -> None:
    """Write down which events were acknowledged, and when, before they are forgotten."""
    real = Outbox.ack

    def ack(self: Outbox, ids: Iterable[int]) -> None:
        known = set(ids)
        rows = [row for row in self.pending(limit=1000) if row.id in known]
        with path.open("a") as file:
            file.writelines(f"{row.payload['event_id']} {time.time()}\n" for row in rows)
        real(self, known)

    Outbox.ack = ack  # type: ignore[method-assign]


def main() -> None:
    """Serve standard input until it ends; then stop properly."""
    # Answers go to standard output: a log line must not come in between.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    given = json.loads(sys.argv[1])
    if acked := given.pop("acked", None):
        note_acked(Path(acked))
    if step := given.pop("die", None):
        die_at(step)
    broker = Broker(**given.pop("broker"))
    publisher = Publisher(broker, outbox_path=Path(given.pop("outbox_path")), **given)
    publisher.start()
    for line in sys.stdin:
        asked = json.loads(line)
        answer: object = "ok"
        if "event" in asked:
            publisher.event("event", asked["event"])
        elif "alarm" in asked:
            publisher.set_alarm(asked["alarm"]["machine"], asked["alarm"])
        else:
            answer = dataclasses.asdict(publisher.counters())
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    publisher.stop(5.0)


if __name__ == "__main__":
    main()
