"""A publisher in a process of its own, to be killed: reads JSON, one command a line, answers each in a line.

{"event": payload}    puts it into the outbox; answers when `event` returned
{"alarm": payload}    the retained state of its machine
{"counters": true}    answers with the counters
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from echo_stream.deliver.mqtt import Publisher
from echo_stream.deliver.mqtt_broker import Broker


def main() -> None:
    """Serve standard input until it ends; then stop properly."""
    given = json.loads(sys.argv[1])
    broker = Broker(**given.pop("broker"))
    publisher = Publisher(broker, outbox_path=Path(given.pop("outbox_path")), **given)
    publisher.start()
    for line in sys.stdin:
        asked = json.loads(line)
        answer: object = "ok"
        if "event" in asked:
            publisher.event(asked["event"])
        elif "alarm" in asked:
            publisher.set_alarm(asked["alarm"]["machine"], asked["alarm"])
        else:
            answer = dataclasses.asdict(publisher.counters())
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    publisher.stop(5.0)


if __name__ == "__main__":
    main()
