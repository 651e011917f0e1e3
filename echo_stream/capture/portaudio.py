"""PortAudio opens input streams by ALSA name; only this module imports sounddevice.

The name (PaAlsaStreamInfo) replaces PortAudio's device number: its list is that of the
moment when it was initialised, and renewing it kills every open stream. So another microphone that comes or
goes disturbs none that runs. sounddevice's own streams know device numbers only; hence its C functions here.
Callbacks run on PortAudio's thread.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from echo_stream.core.errors import SourceError

if TYPE_CHECKING:
    from echo_stream.core.types import Float32

NO_PORTAUDIO_HINT = "Try: sudo apt-get install libportaudio2"
LATENCY_S = 0.2  # what ALSA may buffer while this process is busy; callbacks come four times as often
ALSA_HOST_API = 8  # paALSA
BY_NAME = -2  # paUseHostApiSpecificDeviceSpecification
INPUT_OVERFLOW = 0x2  # paInputOverflow
BAD_RATE = -9997  # paInvalidSampleRate
BAD_CHANNELS = -9998  # paInvalidChannelCount
COMPLETE = 1  # paComplete: a callback that wants to be the last
LEAVING_S = 0.5
_open_close_lock = threading.Lock()
_running: set[Stream] = set()
_leaving = threading.Event()

OnAudio = Callable[["Float32", bool], None]
OnEnd = Callable[[Exception | None], None]


class Refused(Exception):
    """PortAudio did not open a stream; `code` is its error."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def load() -> Any:
    """The module sounddevice, with PortAudio initialised.

    Raises:
        SourceError: libportaudio2 is not installed.
    """
    try:
        import sounddevice  # noqa: PLC0415 - only who listens needs libportaudio2
    except (ImportError, OSError) as error:
        raise SourceError(f"PortAudio cannot be loaded: {error}", NO_PORTAUDIO_HINT) from error
    # At exit it would wait for every stream, and a frozen sound server holds those for ever.
    atexit.unregister(sounddevice._exit_handler)
    atexit.unregister(_terminate)
    atexit.register(_terminate)
    return sounddevice


def list_alsa() -> list[tuple[str, int, int]]:
    """Name, channels and default rate of all ALSA inputs at the moment when PortAudio was initialised."""
    sounddevice = load()
    apis = sounddevice.query_hostapis()
    return [
        (device["name"], device["max_input_channels"], round(device["default_samplerate"]))
        for device in sounddevice.query_devices()
        if device["max_input_channels"] > 0 and apis[device["hostapi"]]["name"] == "ALSA"
    ]


class Stream:
    """A running input stream of the ALSA device `pcm`; keeps alive what PortAudio's thread points to.

    It must be closed, or goes on until the process ends.
    """

    def __init__(
        self, pcm: str, sample_rate_hz: int, channels: int, *, on_audio: OnAudio, on_end: OnEnd
    ) -> None:
        """Open and start.

        Args:
            pcm: ALSA's name of the device.
            sample_rate_hz: the rate in Hz; hardware devices are not resampled.
            channels: channels to open.
            on_audio: called by PortAudio's thread with (n, channels), valid during the call only, and whether
                samples were lost before it.
            on_end: called by PortAudio's thread when the device is gone, with what `on_audio` raised where
                that ended the stream.

        Raises:
            Refused: the device is not there, is busy, or has no such rate or channels.
            SourceError: libportaudio2 is not installed.
        """
        import numpy as np  # noqa: PLC0415 - a child that only lists devices stays light

        sounddevice = load()
        self._lib, ffi = sounddevice._lib, sounddevice._ffi
        name = ffi.new("char[]", pcm.encode())
        # PaAlsaStreamInfo {unsigned long size; int hostApiType; unsigned long version; char *deviceString}
        size = ffi.sizeof("unsigned long[4]")
        alsa = ffi.new("unsigned long[4]", [size, ALSA_HOST_API, 1, int(ffi.cast("uintptr_t", name))])
        parameters = (BY_NAME, channels, self._lib.paFloat32, LATENCY_S, ffi.cast("void *", alsa))

        self.error: Exception | None = None

        @ffi.callback("PaStreamCallback", error=self._lib.paAbort)  # type: ignore[untyped-decorator]
        def audio(data: Any, _output: Any, frames: int, _time: Any, flags: int, _user: Any) -> int:
            try:
                samples = np.frombuffer(ffi.buffer(data, frames * channels * 4), np.float32)
                on_audio(samples.reshape(frames, channels), bool(flags & INPUT_OVERFLOW))
            except Exception as error:  # noqa: BLE001 - it would be printed, and by nobody be noticed
                self.error = error
                return int(self._lib.paAbort)
            return COMPLETE if _leaving.is_set() else 0

        @ffi.callback("PaStreamFinishedCallback")  # type: ignore[untyped-decorator]
        def end(_user: Any) -> None:
            on_end(self.error)
            self.ended.set()

        self.ended = threading.Event()
        self._alive: tuple[Any, ...] = (name, alsa, audio, end)
        pointer = ffi.new("PaStream **")
        asked = ffi.new("PaStreamParameters *", parameters)
        with _exclusive():
            self._check(
                ffi, self._lib.Pa_OpenStream(pointer, asked, ffi.NULL, sample_rate_hz, 0, 0, audio, ffi.NULL)
            )
            self._pointer = pointer[0]
            self._lib.Pa_SetStreamFinishedCallback(self._pointer, end)
            code = self._lib.Pa_StartStream(self._pointer)
            if code != 0:
                self._lib.Pa_CloseStream(self._pointer)
                self._check(ffi, code)
        _running.add(self)

    def close(self) -> None:
        """Stop and give back, once. Hangs for as long as a frozen sound server does."""
        self._lib.Pa_AbortStream(self._pointer)
        with _exclusive():
            self._lib.Pa_CloseStream(self._pointer)
        _running.discard(self)
        self._alive = ()

    def _check(self, ffi: Any, code: int) -> None:
        if code != 0:
            raise Refused(code, ffi.string(self._lib.Pa_GetErrorText(code)).decode())


def _terminate() -> None:
    """No callback may come when the interpreter is gone; streams that hang have none, so do not wait long."""
    _leaving.set()
    deadline_s = time.monotonic() + LEAVING_S
    for stream in list(_running):
        stream.ended.wait(max(0.0, deadline_s - time.monotonic()))


@contextmanager
def _exclusive() -> Iterator[None]:
    """PortAudio's lists are not made for two threads; but one that hangs must not keep the others waiting."""
    held = _open_close_lock.acquire(timeout=5.0)
    try:
        yield
    finally:
        if held:
            _open_close_lock.release()
