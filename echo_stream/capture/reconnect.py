"""A supervised source waits for a device, notices its loss and reopens it, and never raises for it.

A device is a microphone, a program that prints sound, or a sensor in the network. The steps: an open in the
background, a check that sound comes, a check that it comes at the right rate, and after a loss the next open
with backoff. Opening and closing may hang with the sound server, therefore each runs on a thread of its own
that nobody waits for; all else runs on the pipeline thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Protocol

from echo_stream.capture.microphone import boot_clock
from echo_stream.capture.source import Anchor, AudioSource, SourceState
from echo_stream.core.errors import SourceError
from echo_stream.core.log import get_logger
from echo_stream.core.types import AudioBlock

SILENT_S = 2.0  # lost: so long without a callback
GRACE_S = 3.0  # or so long without the first
POLL_S = 1.0  # a poll that comes later was held up with all of this process: no more of it counts as silence
RETRY_S = (1.0, 5.0)  # the next open of a device that is not there or does not open: first, and at most
FLAP_S = (1.0, 60.0)  # the next open of one that opens but does not last
STEADY_S = 60.0  # so long running, and it counts as lasting
CLOSE_S = 1.0  # close() waits as long for the sound server
HANGING = 3  # so many streams that do not close, and no more are opened
REANCHOR_S = 0.02
SPAN_S = 3.0  # the rate check takes the shortest delay of each span
STALL_S = 0.5  # longer without a callback, and a backlog may be on its way
STEP_S = 0.25  # bursts of callbacks vary by a tenth of a second
RATE_SPANS = 10  # 30 s
RATE_TOLERANCE = 0.01
FEW_STEPS = 2  # so many steps in 30 s are losses; more are a wrong rate

log = get_logger()


class RateCheck:
    """The rate check compares the samples of one stream with the clock, from its first callback.

    It finds samples that are missing without a word from the device, and a device whose rate is wrong.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._rate = sample_rate_hz
        self._began_s = 0.0
        self._came_s: float | None = None
        self._least_s = float("inf")
        self._delays_s: deque[float] = deque(maxlen=RATE_SPANS + 1)

    @property
    def delay_s(self) -> float:
        """When sample 0 of the stream sounded, on the clock, as far as is known."""
        return self._delays_s[-1] if self._delays_s else self._least_s

    @property
    def rate_error(self) -> float:
        """How far the rate was off over 30 s, as a share: -0.05 is 5 % too few; 0 until it is known."""
        if len(self._delays_s) <= RATE_SPANS:
            return 0.0
        growth_s = [after - before for before, after in pairwise(self._delays_s)]
        steps_s = [step_s for step_s in growth_s if step_s > STEP_S]
        lost_s = sum(steps_s) if len(steps_s) <= FEW_STEPS else 0.0
        return (lost_s - sum(growth_s)) / (RATE_SPANS * SPAN_S)

    def note(self, came_s: float, index: int) -> int:
        """Take in that the samples before `index` were there at `came_s`; returns how many are missing."""
        if self._came_s is None or came_s - self._came_s > STALL_S:
            self._began_s = came_s
        self._came_s = came_s
        self._least_s = min(self._least_s, came_s - index / self._rate)
        if came_s - self._began_s < SPAN_S:
            return 0
        step_s = self._least_s - self._delays_s[-1] if self._delays_s else 0.0
        self._delays_s.append(self._least_s)
        self._began_s, self._least_s = came_s, float("inf")
        return round(step_s * self._rate) if step_s > STEP_S else 0


class DeviceSource(AudioSource, Protocol):
    """A source that can be supervised: it tells when its last samples came."""

    @property
    def last_callback(self) -> tuple[float, int]:
        """When the last samples came, on the supervisor's clock, and the index after them."""
        ...


class BackgroundOpen:
    """A background open is one attempt on its own thread; it is done when the sound server has answered."""

    def __init__(self, open_source: Callable[[], DeviceSource]) -> None:
        self.done = False
        self.source: DeviceSource | None = None
        """What was opened, once done; None where that failed."""
        self.error = SourceError("opening failed", "It is tried again.")
        """Why it failed, where it did."""
        self._open_source = open_source
        self._cancelled = False
        self._lock = threading.Lock()
        in_background(self._attempt)

    def cancel(self) -> None:
        """Close the source, now or as soon as it is open."""
        with self._lock:
            self._cancelled = True
            unwanted = self.source if self.done else None
        if unwanted is not None:
            in_background(unwanted.close)

    def _attempt(self) -> None:
        try:
            self.source = self._open_source()
        except SourceError as error:
            self.error = error.with_traceback(None)  # whose frames would hold the device and its ring
        except Exception as error:
            log.exception("opening a source failed unexpectedly; it is tried again")
            self.error = SourceError(f"opening failed: {error!r}", "Its traceback is in the log.")
        finally:
            with self._lock:
                self.done = True
                unwanted = self.source if self._cancelled else None
            if unwanted is not None:
                unwanted.close()


def in_background(work: Callable[[], None]) -> threading.Thread:
    """Run `work` on a thread that does not keep the process alive; what it raises is logged."""

    def guarded() -> None:
        try:
            work()
        except Exception:
            log.exception("opening or closing a source failed unexpectedly")

    thread = threading.Thread(target=guarded, daemon=True)
    thread.start()
    return thread


def utc_now() -> datetime:
    """The time of day, which may jump."""
    return datetime.now(UTC)


class SupervisedSource:
    """An AudioSource that never raises for a lost device: it tries to open it again, for ever.

    The absolute index runs on over a loss by the time that passed, on a clock that counts suspend too; the
    first block afterwards says gap. Lost means: the device stopped; it was connected to another source by the
    sound server; no sound for `silent_s` (`grace_s` at first); or a rate more than 1 % off over 30 s.
    """

    ended = False

    def __init__(
        self,
        open_source: Callable[[], DeviceSource],
        *,
        sample_rate_hz: int,
        channels: int,
        description: str,
        silent_s: float = SILENT_S,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = boot_clock,
        utc_now: Callable[[], datetime] = utc_now,
    ) -> None:
        """Begin to open the device; returns at once.

        Args:
            open_source: opens it, or raises SourceError; called on a thread of its own.
            sample_rate_hz: the rate that it is opened with.
            channels: the channels that it is opened with.
            description: what it is, for people.
            silent_s: seconds without sound after which it is lost.
            grace_s: the same, for the first sound.
            clock: seconds; the same that the opened source uses.
            utc_now: the time of day.
        """
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.description = description
        self.full_scale = 1.0
        self.state: SourceState = "waiting"
        """`waiting` until its first sound, then `running` or `lost`."""
        self.last_error: SourceError | None = None
        """Why it is not running; None while it is."""
        self.lost_since: datetime | None = None
        """UTC of the last sample, while it is lost."""
        self.losses = 0
        """How often it was lost; `state` alone would hide a loss and return between two polls."""
        self._open_source = open_source
        self._silent_s, self._grace_s = silent_s, grace_s
        self._clock = clock
        self._utc_now = utc_now
        self._device: DeviceSource | None = None
        self._open_at_s = clock()
        self._retry_s, self._flap_s = RETRY_S[0], FLAP_S[0]
        self._closing: list[threading.Thread] = []
        self._polled_s = clock()
        self._quiet_s = 0.0
        self._rate_check = RateCheck(sample_rate_hz)
        self._running_since_s = 0.0
        self._offset = 0  # absolute index less the device's own
        self._end = 0  # absolute index after the last block
        self._end_s: float | None = None  # when that was, on the clock
        self._lost = 0  # of sources that are closed, and of the time between
        self._anchor: Anchor | None = None
        self._background_open: BackgroundOpen | None = BackgroundOpen(open_source)

    @property
    def lost_samples(self) -> int:
        """Reported by the device, overwritten, missing by the clock, and between loss and return.

        A loss that still lasts is counted when it is over.
        """
        return self._lost + (self._device.lost_samples if self._device is not None else 0)

    def read(self) -> AudioBlock | None:
        """What came since the last read; None while there is nothing, for whatever reason."""
        now_s = self._clock()
        passed_s, self._polled_s = min(now_s - self._polled_s, POLL_S), now_s
        device = self._device or self._collect(now_s)
        if device is None:
            return None
        try:
            block = device.read()
        except SourceError as error:
            self._lose(error)
            return None
        came_s, index = device.last_callback  # after the block, so that it is never the older of the two
        if block is not None:
            self._quiet_s = 0.0
            self.full_scale = device.full_scale
            return self._deliver(block, came_s, index)
        self._quiet_s += passed_s
        if problem := self._problem(index):
            self._lose(
                SourceError(f"{self.description}: {problem}", "Is it plugged in, is it the right one?")
            )
        return None

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index; it follows the time of day when that jumps."""
        return (self._anchor or Anchor.now(self._end, self.sample_rate_hz)).time_of(index)

    def close(self) -> None:
        """Give the device back; waits a second at most for a sound server that hangs."""
        self.ended = True
        device, self._device = self._device, None
        if self._background_open is not None:
            self._background_open.cancel()
        if device is not None:
            in_background(device.close).join(CLOSE_S)

    def _deliver(self, block: AudioBlock, came_s: float, index: int) -> AudioBlock:
        rate = self.sample_rate_hz
        gap = block.gap
        if self.state != "running":
            if self._end_s is not None:
                started_s = came_s - (index - block.start) / rate
                jump = max(1, block.start, round((started_s - self._end_s) * rate))
                self._offset = self._end + jump - block.start
                self._lost += jump - block.start  # what went before the block, the source counts itself
                gap = True
            self.state, self.last_error, self.lost_since = "running", None, None
            self._running_since_s = came_s
            self._retry_s = RETRY_S[0]
        missing = self._rate_check.note(came_s, index)
        if missing:
            self._offset += missing
            self._lost += missing
            gap = True
        start = block.start + self._offset
        self._end = start + len(block.samples)
        self._end_s = came_s - (index + self._offset - self._end) / rate
        self._re_anchor()
        return AudioBlock(block.samples, start, gap)

    def _re_anchor(self) -> None:
        """Follow the time of day where it jumps (NTP, suspend) and the drift of the device's rate."""
        sounded_s = (self._end - self._offset) / self.sample_rate_hz + self._rate_check.delay_s
        utc = self._utc_now() - timedelta(seconds=self._clock() - sounded_s)
        if self._anchor is None or abs((self._anchor.time_of(self._end) - utc).total_seconds()) > REANCHOR_S:
            self._anchor = Anchor(self._end, utc, self.sample_rate_hz)

    def _problem(self, index: int) -> str | None:
        limit_s = self._silent_s if index else self._grace_s
        if self._quiet_s > limit_s:
            return f"no sound came for {limit_s:.0f} s"
        error = self._rate_check.rate_error
        if abs(error) > RATE_TOLERANCE:
            return f"delivers {error:+.1%} against {self.sample_rate_hz} Hz"
        return None

    def _lose(self, error: SourceError) -> None:
        device, self._device = self._device, None
        now_s = self._clock()
        self.last_error = error.with_traceback(None)  # whose frames would hold the device and its ring
        self._rate_check = RateCheck(self.sample_rate_hz)
        self._quiet_s = 0.0
        if device is not None:
            self._lost += device.lost_samples
            self._closing.append(in_background(device.close))
        if self.state != "running":
            self._retry(now_s)
            return
        self.state = "lost"
        self.losses += 1
        self.lost_since = self.time_of(self._end)
        if now_s - self._running_since_s > STEADY_S:
            self._flap_s = FLAP_S[0]
        self._open_at_s = now_s + self._flap_s
        self._flap_s = min(2 * self._flap_s, FLAP_S[1])

    def _retry(self, now_s: float) -> None:
        self._open_at_s = now_s + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S[1])

    def _collect(self, now_s: float) -> DeviceSource | None:
        """The device, where it was opened meanwhile; starts the next attempt when it is due."""
        attempt = self._background_open
        if attempt is None:
            self._closing = [thread for thread in self._closing if thread.is_alive()]
            if now_s >= self._open_at_s and len(self._closing) < HANGING:
                self._background_open = BackgroundOpen(self._open_source)
            return None
        if not attempt.done:
            return None
        self._background_open, self._device = None, attempt.source
        if attempt.source is None:
            self.last_error = attempt.error
            self._retry(now_s)
        return self._device
