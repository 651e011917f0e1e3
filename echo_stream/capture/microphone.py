"""A microphone is one PortAudio stream: the callback fills a ring, the pipeline thread reads it.

The callback does nothing else, because it must never wait. Where a sound server stands between, one more
thread checks the routing: the server moves a stream to another source without a word when its own goes.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from echo_stream.capture.devices import find
from echo_stream.capture.portaudio import Refused, Stream
from echo_stream.capture.ring import Ring
from echo_stream.capture.source import Anchor, UnsupervisedSource
from echo_stream.core.errors import SourceError
from echo_stream.core.guard import GuardedThread
from echo_stream.core.types import AudioBlock, Float32

RING_S = 10.0
ROUTING_CHECK_S = 3.0
PACTL_TIMEOUT_S = 2.0
_routing_lock = threading.Lock()


def stream_routing() -> dict[int, str]:
    """This process's recording streams: the server's number of each, and the name of its source.

    Empty where there is no such server, no `pactl`, or no answer: then a change cannot be noticed.
    """
    streams = _pactl("source-outputs")
    try:
        mine = {
            stream["index"]: stream["source"]
            for stream in streams
            if stream.get("properties", {}).get("application.process.id") == str(os.getpid())
        }
        names = {source["index"]: source["name"] for source in _pactl("sources")} if mine else {}
    except (AttributeError, KeyError, TypeError):  # another form of answer than we know
        return {}
    return {stream: names[source] for stream, source in mine.items() if source in names}


def _pactl(what: str) -> list[dict[str, Any]]:
    try:
        answer = subprocess.run(
            ["pactl", "--format=json", "list", what], capture_output=True, timeout=PACTL_TIMEOUT_S, check=True
        )
        listed = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return listed if isinstance(listed, list) else []


def boot_clock() -> float:
    """Seconds that pass evenly, through suspend too, whatever happens to the time of day."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CaptureBuffer:
    """The capture buffer takes what PortAudio's callback brings: a ring, and when the last of it came."""

    def __init__(self, sample_rate_hz: int, channels: int, clock: Callable[[], float]) -> None:
        self.ring = Ring(round(RING_S * sample_rate_hz), channels)
        self.last_callback = (clock(), 0)
        """When the last callback came, on `clock`, and the index after it; at first the start, and 0."""
        self._rate = sample_rate_hz
        self._channels = channels
        self._clock = clock

    def on_audio(self, samples: Float32, overflow: bool) -> None:
        """The callback: keep the first channels of `samples` (n, channels or more)."""
        now_s = self._clock()
        if overflow:  # PortAudio does not say how much: what passed since the last callback, less what came
            self.ring.mark_gap(round((now_s - self.last_callback[0]) * self._rate) - len(samples))
        self.ring.write(samples[:, : self._channels])
        self.last_callback = (now_s, self.ring.next_index)

    def restart(self) -> None:
        """The stream opens only now; no callback came yet."""
        self.last_callback = (self._clock(), 0)


class Microphone(UnsupervisedSource):
    """An AudioSource of one device, with all channels that any machine needs of it."""

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
        self._buffer = CaptureBuffer(sample_rate_hz, channels, clock)
        self._anchor: Anchor | None = None
        self.input, opened = find(device, sample_rate_hz, channels)
        self.description = f"microphone {self.input.write!r}"
        self.failure: str | None = None
        """Why nothing (right) will come any more; None while all is well."""
        self._closed = threading.Event()
        self._stream: Stream | None = self._open(opened)

    @property
    def last_callback(self) -> tuple[float, int]:
        """When the last callback came, on `clock`, and the index after it; at first the start, and 0."""
        return self._buffer.last_callback

    @property
    def lost_samples(self) -> int:
        """Samples lost to overflows that PortAudio reported, and to a reader that did not keep up."""
        return self._buffer.ring.lost_samples

    def read(self) -> AudioBlock | None:
        """What came since the last read.

        Raises:
            SourceError: the device failed, and all it delivered has been read.
        """
        block = self._buffer.ring.read()
        if block is None:
            if self.failure is not None:
                raise SourceError(f"{self.description}: {self.failure}", "Was it unplugged?")
            return None
        if self._anchor is None:
            came_s, index = self.last_callback
            utc = datetime.now(UTC) - timedelta(seconds=self._clock() - came_s)
            self._anchor = Anchor(index, utc, self.sample_rate_hz)
        return block

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: the newest sample of the first read had just come."""
        return (self._anchor or Anchor.now(0, self.sample_rate_hz)).time_of(index)

    def close(self) -> None:
        """Close the stream. Hangs for as long as a frozen sound server does."""
        self._closed.set()
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _open(self, channels: int) -> Stream:
        try:
            if not self.input.resamples:
                return self._start(channels)
            with _routing_lock:  # the stream that the sound server has afterwards and not before is this one
                before = stream_routing()
                stream = self._start(channels)
                added = {number: name for number, name in stream_routing().items() if number not in before}
        except Refused as error:
            raise SourceError(
                f"{self.description} cannot be opened: {error}", "It was there just now."
            ) from error
        if len(added) == 1:
            check = partial(self._check_routing, *added.popitem())
            GuardedThread(f"the check of the routing of {self.description}", check, self._closed).start()
        return stream

    def _start(self, channels: int) -> Stream:
        self._buffer.restart()
        return Stream(
            self.input.pcm, self.sample_rate_hz, channels, on_audio=self._buffer.on_audio, on_end=self._on_end
        )

    def _on_end(self, error: Exception | None) -> None:
        ended = "the device stopped" if error is None else f"taking its sound failed unexpectedly: {error!r}"
        self.failure = self.failure or ended

    def _check_routing(self, stream: int, source: str) -> None:
        """Fails the stream as soon as the sound server feeds it from another source."""
        while not self._closed.wait(ROUTING_CHECK_S):
            now = stream_routing().get(stream, source)
            if now != source:
                self.failure = f"the sound server connected it to another source: from {source} to {now}"
                return
