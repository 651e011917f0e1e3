"""Which microphones there are now: asks a short-lived child process (look.py). Any thread; takes a moment.

PortAudio sees only what was there when it was initialised, prints to standard error what it does not like,
and hangs with a sound server that hangs. A child process is always fresh, can be silenced and can be killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from echo_stream.capture.names import Input, find_input
from echo_stream.capture.portaudio import BAD_CHANNELS, BAD_RATE
from echo_stream.errors import SourceError

TIMEOUT_S = 8.0
FRESH_S = 1.0  # several microphones that went together are looked for together
_looking = threading.Lock()
_seen: tuple[float, list[Input] | SourceError] | None = None


def list_inputs() -> list[Input]:
    """All inputs that are there now (not older than a second).

    Raises:
        SourceError: PortAudio is not installed, or the sound system does not answer.
    """
    global _seen  # noqa: PLW0603 - one process, one sound system
    with _looking:
        if _seen is None or time.monotonic() - _seen[0] > FRESH_S:
            try:
                seen: list[Input] | SourceError = [
                    Input(**{**told, "names": tuple(told["names"])}) for told in _ask()
                ]
            except SourceError as error:
                seen = error
            _seen = (time.monotonic(), seen)
        if isinstance(_seen[1], SourceError):
            raise SourceError(_seen[1].message, _seen[1].hint)
        return _seen[1]


def find(device: str, sample_rate_hz: int, channels: int) -> tuple[Input, int]:
    """The input that `device` names, and with how many channels it opens: `channels`, or all that it has.

    Raises:
        SourceError: no such input, or it does not open.
    """
    found = find_input(device, list_inputs())
    counts = (channels, max(channels, found.channels))  # a card may have no stream of less than all channels
    told = _ask(found.pcm, str(sample_rate_hz), *map(str, counts))[0]
    if "opened" in told:
        return found, told["opened"]
    why = told["why"]
    what = f"microphone {found.write!r} cannot be opened at {sample_rate_hz} Hz, {channels} channel(s): {why}"
    if told["code"] == BAD_RATE:
        raise SourceError(what, f"Its own rate is {found.sample_rate_hz} Hz: set sample_rate_hz to it.")
    if told["code"] == BAD_CHANNELS or channels > found.channels:
        raise SourceError(what, f"It has {found.channels} channels, counted from 0.")
    raise SourceError(what, "Is it plugged in? Does another program hold it? See: fuser -v /dev/snd/*")


def _ask(*arguments: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", "-m", "echo_stream.capture.look", *arguments]
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        answer = subprocess.run(
            command,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
    except OSError as error:
        raise SourceError(
            f"microphones cannot be looked for: {error}", "Is this PC out of memory?"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"the sound system does not answer within {TIMEOUT_S:.0f} s",
            "The sound server (PulseAudio, PipeWire) or a driver hangs: restart it.",
        ) from error
    try:
        told = json.loads(answer.stdout)
    except ValueError as error:
        last = answer.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SourceError(
            f"looking for microphones failed with exit code {answer.returncode}: {last}",
            "Try: echo-stream devices",
        ) from error
    if isinstance(told, dict):
        raise SourceError(told["message"], told["hint"])
    return list(told)
