"""The device probe lists the inputs, or tries to open one, in a child process of its own (see devices.py)."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from echo_stream.capture.devices import identify
from echo_stream.capture.portaudio import Refused, Stream, list_alsa
from echo_stream.core.errors import SourceError


def main(arguments: list[str]) -> object:
    """Without arguments the inputs; with `pcm rate channels...` the first number of channels that opens."""
    try:
        if not arguments:
            return [asdict(found) for found in identify(list_alsa())]
        pcm, rate, *counts = arguments
        return [_try(pcm, int(rate), [int(count) for count in counts])]
    except SourceError as error:
        return {"message": error.message, "hint": error.hint}


def _try(pcm: str, sample_rate_hz: int, counts: list[int]) -> dict[str, object]:
    refused: dict[str, object] = {}
    for channels in dict.fromkeys(counts):
        try:
            stream = Stream(pcm, sample_rate_hz, channels, on_audio=lambda *_: None, on_end=lambda _: None)
        except Refused as error:
            refused = refused or {"code": error.code, "why": str(error)}
        else:
            stream.close()
            return {"opened": channels}
    return refused


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
