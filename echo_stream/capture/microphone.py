"""A microphone through PortAudio. Its callback thread fills the ring; all else is the reader's thread.

Streams are opened by ALSA name (PaAlsaStreamInfo), not by PortAudio's device number: PortAudio's list is that
of the moment when it was initialised, and renewing it kills every open stream. So another microphone that
comes or goes disturbs none that runs.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from echo_stream.capture.devices import NO_PORTAUDIO_HINT, Input, find_input, list_inputs
from echo_stream.capture.ring import Ring
from echo_stream.capture.sources import Anchor
from echo_stream.errors import SourceError
from echo_stream.types import AudioBlock

RING_S = 10.0
LATENCY_S = 0.1  # what PortAudio may buffer; short enough for alarms, long enough for a busy PC
ALSA_HOST_API = 8  # paALSA
BY_NAME = -2  # paUseHostApiSpecificDeviceSpecification
INPUT_OVERFLOW = 0x2  # paInputOverflow
BAD_CHANNELS = -9998  # paInvalidChannelCount
BAD_RATE = -9997  # paInvalidSampleRate
_portaudio = threading.Lock()  # PortAudio is not safe for opening in two threads


def boot_clock() -> float:
    """Seconds that pass evenly, through suspend too, whatever happens to the time of day."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Microphone:
    """An AudioSource that listens to one device, with all of the channels that anybody needs."""

    ended = False

    def __init__(
        self,
        device: str,
        sample_rate_hz: int,
        channels: int = 1,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """Open and start.

        Args:
            device: a name as `echo-stream devices` prints it, or a part that only one has.
            sample_rate_hz: a rate that the device offers; a card's is never resampled.
            channels: how many of the device's channels to deliver, from the first.
            clock: seconds, for tests.

        Raises:
            SourceError: no PortAudio, no such device, or it does not offer rate or channels.
        """
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.input = find_input(device, list_inputs())
        self.description = f"microphone {self.input.write!r}"
        self.finished = False
        """The device stopped the stream."""
        self.heard_s = clock()
        """When the last callback came, or the stream was opened, on `clock`."""
        self._clock = clock
        self._ring = Ring(round(RING_S * sample_rate_hz), channels)
        self._anchor: Anchor | None = None
        self._stream: _Stream | None = _open(
            self.input, sample_rate_hz, channels, self._on_audio, self._on_end
        )

    @property
    def lost_samples(self) -> int:
        """Samples lost to overflows that PortAudio reported, and to a reader that did not keep up."""
        return self._ring.lost_samples

    @property
    def stored_samples(self) -> int:
        """Samples heard so far."""
        return self._ring.stored_samples

    def read(self) -> AudioBlock | None:
        """What was heard since the last read.

        Raises:
            SourceError: the device stopped, and all it delivered has been read.
        """
        block = self._ring.read()
        if block is None:
            if self.finished:
                raise SourceError(f"{self.description} stopped", "Was it unplugged?")
            return None
        if self._anchor is None:
            newest = datetime.now(UTC) - timedelta(seconds=self._clock() - self.heard_s)
            self._anchor = Anchor(block.start + len(block.samples), newest, self.sample_rate_hz)
        return block

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: the end of the first block is when it arrived."""
        return (self._anchor or Anchor.now(0, self.sample_rate_hz)).time_of(index)

    def close(self) -> None:
        """Stop listening. Hangs for as long as the sound server does."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def _on_audio(self, samples: np.ndarray[Any, np.dtype[np.float32]], overflow: bool) -> None:
        now_s = self._clock()
        if overflow:  # PortAudio does not say how much: what passed since the last callback, less what came
            self._ring.mark_gap(round((now_s - self.heard_s) * self.sample_rate_hz) - len(samples))
        self._ring.write(samples[:, : self.channels])
        self.heard_s = now_s

    def _on_end(self) -> None:
        self.finished = True


class _Stream:
    """A PortAudio input stream opened by ALSA name; keeps alive what C code points to."""

    def __init__(self, lib: Any, pointer: Any, keep: tuple[Any, ...]) -> None:
        self._lib = lib
        self._pointer = pointer
        self._keep = keep

    def close(self) -> None:
        self._lib.Pa_AbortStream(self._pointer)
        with _portaudio:
            self._lib.Pa_CloseStream(self._pointer)


def _open(
    device: Input,
    sample_rate_hz: int,
    channels: int,
    on_audio: Callable[[Any, bool], None],
    on_end: Callable[[], None],
) -> _Stream:
    """Open and start; a card that has no stream of so few channels is opened with all it has."""
    sounddevice = _load()
    code = 0
    for count in dict.fromkeys((channels, device.channels)):
        stream, code = _try_open(
            sounddevice,
            device.pcm,
            sample_rate_hz=sample_rate_hz,
            channels=count,
            on_audio=on_audio,
            on_end=on_end,
        )
        if stream is not None:
            return stream
    raise _refused(sounddevice, device, sample_rate_hz, channels, code)


def _try_open(
    sounddevice: Any,
    pcm: str,
    *,
    sample_rate_hz: int,
    channels: int,
    on_audio: Callable[[Any, bool], None],
    on_end: Callable[[], None],
) -> tuple[_Stream | None, int]:
    lib, ffi = sounddevice._lib, sounddevice._ffi
    name = ffi.new("char[]", pcm.encode())
    # struct PaAlsaStreamInfo {unsigned long size; int hostApiType; unsigned long version; char *deviceString}
    alsa = ffi.new(
        "unsigned long[4]",
        [ffi.sizeof("unsigned long[4]"), ALSA_HOST_API, 1, int(ffi.cast("uintptr_t", name))],
    )
    parameters = ffi.new(
        "PaStreamParameters *",
        (BY_NAME, channels, lib.paFloat32, LATENCY_S, ffi.cast("void *", alsa)),
    )

    @ffi.callback("PaStreamCallback", error=lib.paAbort)  # type: ignore[untyped-decorator]
    def audio(data: Any, _output: Any, frames: int, _time: Any, flags: int, _user: Any) -> int:
        samples = np.frombuffer(ffi.buffer(data, frames * channels * 4), np.float32)
        on_audio(samples.reshape(frames, channels), bool(flags & INPUT_OVERFLOW))
        return 0

    @ffi.callback("PaStreamFinishedCallback")  # type: ignore[untyped-decorator]
    def end(_user: Any) -> None:
        on_end()

    pointer = ffi.new("PaStream **")
    with _portaudio:
        code = lib.Pa_OpenStream(pointer, parameters, ffi.NULL, sample_rate_hz, 0, 0, audio, ffi.NULL)
        if code != 0:
            return None, code
        lib.Pa_SetStreamFinishedCallback(pointer[0], end)
        code = lib.Pa_StartStream(pointer[0])
        if code != 0:
            lib.Pa_CloseStream(pointer[0])
            return None, code
    return _Stream(lib, pointer[0], (name, alsa, audio, end)), 0


def _load() -> Any:
    try:
        import sounddevice  # noqa: PLC0415 - only who listens needs libportaudio2
    except (ImportError, OSError) as error:
        raise SourceError(f"PortAudio cannot be loaded: {error}", NO_PORTAUDIO_HINT) from error
    # At exit it would wait for every stream, and a frozen sound server holds those for ever.
    atexit.unregister(sounddevice._exit_handler)
    return sounddevice


def _refused(sounddevice: Any, device: Input, sample_rate_hz: int, channels: int, code: int) -> SourceError:
    why = sounddevice._ffi.string(sounddevice._lib.Pa_GetErrorText(code)).decode()
    what = (
        f"microphone {device.write!r} cannot be opened at {sample_rate_hz} Hz with {channels} channels: {why}"
    )
    if code == BAD_RATE:
        return SourceError(what, f"Its own rate is {device.sample_rate_hz} Hz: set sample_rate_hz to it.")
    if channels > device.channels or code == BAD_CHANNELS:
        return SourceError(what, f"It has {device.channels} channels, counted from 0.")
    return SourceError(what, "Does another program hold it? See: fuser -v /dev/snd/*")
