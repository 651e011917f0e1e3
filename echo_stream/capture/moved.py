"""Which source a sound server (PulseAudio, PipeWire) feeds this process from, by asking `pactl`.

When a source goes, these servers move its streams to another one without a word to the program that listens.
"""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

TIMEOUT_S = 2.0


def fed_from() -> dict[int, str]:
    """This process's recording streams: the server's number of each, and the name of the source it hears.

    Empty where there is no such server, no `pactl`, or no answer: then a move cannot be noticed.
    """
    streams = _ask("source-outputs")
    mine = {
        stream["index"]: stream["source"]
        for stream in streams
        if stream.get("properties", {}).get("application.process.id") == str(os.getpid())
    }
    if not mine:
        return {}
    names = {source["index"]: source["name"] for source in _ask("sources")}
    return {stream: names[source] for stream, source in mine.items() if source in names}


def _ask(what: str) -> list[dict[str, Any]]:
    try:
        answer = subprocess.run(
            ["pactl", "--format=json", "list", what], capture_output=True, timeout=TIMEOUT_S, check=True
        )
        told = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return told if isinstance(told, list) else []
