"""A microphone. PortAudio's callback thread fills the ring and nothing else; the rest is the reader's thread.

Where a sound server stands between, one more thread asks it whether it still feeds this from the same source.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from echo_stream.capture.devices import find
from echo_stream.capture.portaudio import Refused, Stream
from echo_stream.capture.ring import Ring
from echo_stream.capture.source import Anchor
from echo_stream.core.errors import SourceError
from echo_stream.core.types import AudioBlock, Float32

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


# A microphone. PortAudio's callback thread fills the ring and nothing else; the rest is the reader's thread.
#
# Where a sound server stands between, one more thread asks it whether it still feeds this from the same
# source.

RING_S = 10.0
WATCH_S = 3.0
_placing = threading.Lock()


def boot_clock() -> float:
    """Seconds that pass evenly, through suspend too, whatever happens to the time of day."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Inlet:
    """Where PortAudio's callback puts sound: a ring, and when it came."""

    def __init__(self, sample_rate_hz: int, channels: int, clock: Callable[[], float]) -> None:
        self.ring = Ring(round(RING_S * sample_rate_hz), channels)
        self.heard = (clock(), 0)
        """When the last callback came, on `clock`, and the index after it; at first the start, and 0."""
        self._rate = sample_rate_hz
        self._channels = channels
        self._clock = clock

    def on_audio(self, samples: Float32, overflow: bool) -> None:
        """The callback: keep the first channels of `samples` (n, channels or more)."""
        now_s = self._clock()
        if overflow:  # PortAudio does not say how much: what passed since the last callback, less what came
            self.ring.mark_gap(round((now_s - self.heard[0]) * self._rate) - len(samples))
        self.ring.write(samples[:, : self._channels])
        self.heard = (now_s, self.ring.next_index)

    def restart(self) -> None:
        """The stream is opened only now; nothing was heard yet."""
        self.heard = (self._clock(), 0)


class Microphone:
    """An AudioSource that listens to one device, with all of the channels that anybody needs of it."""

    ended = False

    def __init__(
        self, device: str, sample_rate_hz: int, channels: int = 1, clock: Callable[[], float] = boot_clock
    ) -> None:
        """Find, open and start; may take seconds, or hang with the sound server.

        Args:
            device: a name as `echo-stream devices` prints it, or a part that only one input has.
            sample_rate_hz: a rate that the device offers; a card's is never resampled.
            channels: how many of the device's channels to deliver, from the first.
            clock: seconds.

        Raises:
            SourceError: no PortAudio, no such device, or it does not open with that rate and channels.
        """
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self._clock = clock
        self._inlet = Inlet(sample_rate_hz, channels, clock)
        self._anchor: Anchor | None = None
        self.input, opened = find(device, sample_rate_hz, channels)
        self.description = f"microphone {self.input.write!r}"
        self.failure: str | None = None
        """Why nothing (right) will come any more; None while all is well."""
        self._closed = threading.Event()
        self._stream: Stream | None = self._open(opened)

    @property
    def heard(self) -> tuple[float, int]:
        """When the last callback came, on `clock`, and the index after it; at first the start, and 0."""
        return self._inlet.heard

    @property
    def lost_samples(self) -> int:
        """Samples lost to overflows that PortAudio reported, and to a reader that did not keep up."""
        return self._inlet.ring.lost_samples

    def read(self) -> AudioBlock | None:
        """What was heard since the last read.

        Raises:
            SourceError: the device failed, and all it delivered has been read.
        """
        block = self._inlet.ring.read()
        if block is None:
            if self.failure is not None:
                raise SourceError(f"{self.description}: {self.failure}", "Was it unplugged?")
            return None
        if self._anchor is None:
            heard_s, index = self.heard
            utc = datetime.now(UTC) - timedelta(seconds=self._clock() - heard_s)
            self._anchor = Anchor(index, utc, self.sample_rate_hz)
        return block

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: what was newest at the first read had just been heard."""
        return (self._anchor or Anchor.now(0, self.sample_rate_hz)).time_of(index)

    def close(self) -> None:
        """Stop listening. Hangs for as long as a frozen sound server does."""
        self._closed.set()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _open(self, channels: int) -> Stream:
        try:
            if not self.input.resamples:
                return self._start(channels)
            with _placing:  # the stream that the sound server has afterwards and not before is this one
                before = fed_from()
                stream = self._start(channels)
                placed = {number: name for number, name in fed_from().items() if number not in before}
        except Refused as error:
            raise SourceError(
                f"{self.description} cannot be opened: {error}", "It was there just now."
            ) from error
        if len(placed) == 1:
            threading.Thread(target=self._watch, args=placed.popitem(), daemon=True).start()
        return stream

    def _start(self, channels: int) -> Stream:
        self._inlet.restart()
        return Stream(
            self.input.pcm, self.sample_rate_hz, channels, on_audio=self._inlet.on_audio, on_end=self._on_end
        )

    def _on_end(self) -> None:
        self.failure = self.failure or "the device stopped"

    def _watch(self, stream: int, source: str) -> None:
        """A sound server moves a stream to another source without a word when its own goes."""
        while not self._closed.wait(WATCH_S):
            now = fed_from().get(stream, source)
            if now != source:
                self.failure = f"the sound server moved it from {source} to {now}"
                return
