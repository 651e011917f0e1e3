"""A command source is a program that prints PCM, as ffmpeg does for a camera's sound.

It is started without a shell, in a process group of its own, and stopped with all of its children. Its output
is polled, never waited for: a program that is late keeps nobody waiting, and one that prints faster than
sound goes by is an error before it fills anything. `reconnect.SupervisedSource` starts it again.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from echo_stream.capture.microphone import boot_clock
from echo_stream.capture.source import SourceState
from echo_stream.capture.stdin import RawPcm
from echo_stream.core.errors import SourceError
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.text import clean_text
from echo_stream.core.types import AudioBlock

SILENT_S = 5.0  # lost: so long without output; networks pause longer than sound cards do
GRACE_S = 30.0  # or so long without the first: a camera is asked, and its streams are looked at
AHEAD_S = 10.0  # sound that a program may print before its time: what a server had kept for it
END_S = 1.0  # so long after its output ended its exit code is waited for
TERM_S = 0.5  # and so long what SIGTERM does; daemon stop waits a second in all
KILL_S = 5.0
PIPE_BYTES = 1 << 20  # what the kernel keeps while the pipeline is busy: 10 s of 48 kHz in 16 bits
LONGEST_LINE_BYTES = 4096
MESSAGE_BYTES = 1 << 16  # of its standard error, at each look
OF_THE_SERVICE = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
"""Variables by which the daemon speaks to systemd; its children must not."""
_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")

log = get_logger()


def find_program(name: str) -> str:
    """The file of a program.

    Raises:
        SourceError: there is none, or it may not be executed.
    """
    found = shutil.which(name)
    if found is None:
        where = "not there, or may not be executed" if "/" in name else f"not in {os.environ.get('PATH', '')}"
        raise SourceError(f"the program {name!r:.200} is {where}", "Install it, or write its whole path.")
    return found


class Command:
    """An AudioSource that reads what a program prints: interleaved little-endian PCM, raw or as WAV."""

    ended = False
    state: SourceState = "running"
    last_error: SourceError | None = None
    lost_samples = 0
    losses = 0

    def __init__(
        self,
        argv: Sequence[str],
        sample_rate_hz: int,
        sample_format: str = "s16le",
        channels: int = 1,
        *,
        limit: LogLimit | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """Start the program.

        Args:
            argv: the program, by its path or a name in PATH, and its arguments; no shell sees them.
            sample_rate_hz: of what it prints.
            sample_format: of what it prints, as in `stdin.SAMPLE_BYTES`.
            channels: of what it prints.
            limit: admits lines of its standard error into the log; one limit for all of its starts.
            clock: seconds.

        Raises:
            SourceError: there is no such program, or it cannot be started.
        """
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.description = description_of(argv)
        self._clock = clock
        self._limit = limit or LogLimit(f"messages of {self.description}")
        self._process = self._start(argv)
        output, messages = self._process.stdout, self._process.stderr
        assert output is not None  # noqa: S101 - both are pipes
        assert messages is not None  # noqa: S101
        with suppress(OSError):  # where this user has no more: the usual 64 KiB
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        os.set_blocking(messages.fileno(), False)
        self._output, self._messages = output, messages
        self._pcm = RawPcm(
            sample_rate_hz, sample_format, channels, fd=output.fileno(), description=self.description
        )
        self._line = b""
        self._last_message = ""
        self._started_s = clock()
        self._output_ended_s: float | None = None
        self.last_callback = (self._started_s, 0)
        """When output was last read, on `clock`, and the index after it; at first the start, and 0."""

    @property
    def full_scale(self) -> float:
        """1, or infinity for floats in a unit of their own."""
        return self._pcm.full_scale

    def read(self) -> AudioBlock | None:
        """What it printed since the last read, at most half a second of it.

        Raises:
            SourceError: it has ended, prints another format, or prints sound faster than time goes by.
        """
        self._take_messages()
        block = self._pcm.read()
        now_s = self._clock()
        if block is None:
            if self._pcm.ended:
                self._raise_end(now_s)
            return None
        end = block.start + len(block.samples)
        self.last_callback = (now_s, end)
        if end / self.sample_rate_hz - (now_s - self._started_s) > AHEAD_S:
            raise SourceError(
                f"{self.description}: prints sound faster than it can have sounded, "
                f"{AHEAD_S:g} s ahead after {now_s - self._started_s:.1f} s",
                "Are sample_rate_hz and channels right? ffmpeg reads a file in its own time with -re.",
            )
        return block

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: the end of the first block is when it was read."""
        return self._pcm.time_of(index)

    def close(self) -> None:
        """End the program and its children: SIGTERM, and after half a second SIGKILL. May be called twice."""
        if self._output.closed:
            return
        self._signal(signal.SIGTERM)
        deadline_s = time.monotonic() + TERM_S
        while self._exit() is None and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self._signal(signal.SIGKILL)  # children too; its number is its group's own until it is waited for
        try:
            self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            log.error("the program of a source does not end, even by SIGKILL", source=self.description)
        self._take_messages()
        self._output.close()
        self._messages.close()

    def _start(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        program = find_program(argv[0])
        try:
            return subprocess.Popen(
                argv,
                executable=program,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
                env={name: value for name, value in os.environ.items() if name not in OF_THE_SERVICE},
            )
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SourceError(
                f"{self.description} cannot be started: {reason}", "Start it by hand to see why."
            ) from error

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _exit(self) -> str | None:
        """How it ended; None while it runs. It is not waited for, so that its number stays its own."""
        found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        if found.si_code == os.CLD_EXITED:
            return f"ended with exit code {found.si_status}"
        return f"was ended by {signal.Signals(found.si_status).name}"

    def _raise_end(self, now_s: float) -> None:
        if self._output_ended_s is None:
            self._output_ended_s = now_s
        ended = self._exit()
        if ended is None and now_s - self._output_ended_s < END_S:
            return
        self._take_messages(whole=True)
        said = f": {self._last_message}" if self._last_message else ""
        raise SourceError(
            f"{self.description} {ended or 'closed its output'}{said}",
            "Its messages are in the log; start it by hand to see more.",
        )

    def _take_messages(self, whole: bool = False) -> None:
        """Log what it said on standard error, line by line; `whole`: the last line needs no end."""
        try:
            said = os.read(self._messages.fileno(), MESSAGE_BYTES)
        except OSError:  # nothing there now
            said = b""
        if not said and not whole:
            return
        *lines, self._line = re.split(rb"[\r\n]+", self._line + said)
        if whole or len(self._line) > LONGEST_LINE_BYTES:
            lines.append(self._line)
            self._line = b""
        for line in lines:
            text = clean_text(_LOGIN.sub("***@", line.decode("utf-8", "replace").strip()))
            if not text:
                continue
            self._last_message = text
            if self._limit.admits():
                log.info("a source's program says", source=self.description, text=text)


def description_of(argv: Sequence[str]) -> str:
    """What it is, for people; without its arguments, which may hold a password."""
    return f"command {Path(argv[0]).name!r}"
