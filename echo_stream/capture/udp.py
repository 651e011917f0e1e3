"""A UDP source takes sound that a thin sensor, such as an ESP32, sends in numbered packets.

UDP because a lost packet then costs its own 20 ms: over TCP, and so over MQTT, a sensor with a weak radio
link stalls and must keep what waits. Each packet says where in the sensor's stream it lies, so what is
missing is counted exactly. docs/sources.md has the format; runs on its reader's thread, polled.

Packets (little-endian, at most 1,472 bytes, so that none is cut in pieces on its way):
    0   4  b"ECS1"
    4   1  format: 1 s16le, 2 s24le, 3 s32le, 4 f32le
    5   1  channels
    6   2  number of frames (one sample of each channel) in this packet
    8   4  sample rate in Hz
    12  4  session: any number that is new after each start of the sensor
    16  8  index of the first frame since that start
    24     the samples, interleaved
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from datetime import datetime

import numpy as np

from echo_stream.capture.microphone import boot_clock
from echo_stream.capture.source import Anchor, SourceState
from echo_stream.capture.stdin import SAMPLE_BYTES, decode
from echo_stream.core.errors import SourceError
from echo_stream.core.level import OVERSHOOT
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.types import AudioBlock, Float32

HEADER = struct.Struct("<4sBBHIIQ")
MAGIC = b"ECS1"
FORMATS = {1: "s16le", 2: "s24le", 3: "s32le", 4: "f32le"}
LONGEST_PACKET_BYTES = 65_535
MOST_PACKETS = 200  # of one read, so that a flood does not keep the pipeline
RECEIVE_BYTES = 1 << 20  # what the kernel keeps while the pipeline is busy, where it allows so much
LONGEST_GAP_S = 3600.0  # a packet that claims more is from another session, or no sensor of ours
SILENT_S = 3.0

log = get_logger()


class Udp:
    """An AudioSource of one sensor's packets.

    Samples lost on the way are a gap of their number; a packet that comes after a later one is lost.
    A sensor that starts anew (another session) goes on after a gap of the time that passed.
    """

    ended = False
    state: SourceState = "running"
    last_error: SourceError | None = None
    losses = 0

    def __init__(
        self,
        host: str,
        port: int,
        sender: str,
        sample_rate_hz: int,
        channels: int = 1,
        *,
        limit: LogLimit | None = None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """Listen on a port.

        Args:
            host: address of this PC to listen on.
            port: of this PC.
            sender: address of the sensor; packets of others are passed over.
            sample_rate_hz: what the sensor must send.
            channels: what the sensor must send.
            limit: admits lines about refused packets into the log; one limit for all that it is opened.
            clock: seconds.

        Raises:
            SourceError: the port cannot be opened.
        """
        self.sample_rate_hz = sample_rate_hz
        self.channels = channels
        self.description = f"sensor {sender} on UDP port {port}"
        self.full_scale = 1.0
        self.lost_samples = 0
        self.refused_packets = 0
        """Packets of others, and packets that are not as they should be."""
        self._sender = sender
        self._clock = clock
        self._limit = limit or LogLimit(f"refused packets at UDP port {port}")
        self._session: int | None = None
        self._expected = 0  # index of the next packet, as the sensor counts
        self._end = 0
        self._pending: tuple[int, Float32] | None = None
        self._anchor: Anchor | None = None
        self.last_callback = (clock(), 0)
        """When the last packet came, on `clock`, and the index after it; at first the start, and 0."""
        self._socket = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.setblocking(False)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            self._socket.bind((host, port))
        except OSError as error:
            self._socket.close()
            raise SourceError(
                f"{self.description}: cannot listen on {host}: {error.strerror}",
                "Does another program, or another echo-stream, listen there?",
            ) from error

    def read(self) -> AudioBlock | None:
        """The frames that came since the last read, up to the next gap.

        Raises:
            SourceError: the sensor sends another rate or other channels than the configuration says.
        """
        parts: list[Float32] = []
        start, gap = self._end, False
        for _ in range(MOST_PACKETS):
            packet = self._next()
            if packet is None:
                break
            lost, samples = packet
            if lost and parts:  # what follows a gap is for the next read
                self._pending = packet
                break
            if lost:
                start, gap = self._end + lost, True
                self.lost_samples += lost
            parts.append(samples)
            self._end += lost + len(samples)
        if not parts:
            return None
        samples = np.concatenate(parts)
        if np.abs(samples).max() > OVERSHOOT:
            self.full_scale = float("inf")
        self.last_callback = (self._clock(), self._end)
        if self._anchor is None:
            self._anchor = Anchor.now(self._end, self.sample_rate_hz)
        return AudioBlock(samples, start, gap)

    def time_of(self, index: int) -> datetime:
        """UTC of an absolute sample index: the end of the first block is when it was read."""
        return (self._anchor or Anchor.now(0, self.sample_rate_hz)).time_of(index)

    def close(self) -> None:
        """Give the port back."""
        self._socket.close()

    def _next(self) -> tuple[int, Float32] | None:
        """Frames lost before the next good packet, and its samples (n, channels); None: none is there."""
        pending, self._pending = self._pending, None
        if pending is not None:
            return pending
        for _ in range(MOST_PACKETS):
            try:
                packet, (address, *_) = self._socket.recvfrom(LONGEST_PACKET_BYTES)
            except OSError:  # none there now
                return None
            try:
                return self._unpack(packet, address)
            except _Refused as why:
                self.refused_packets += 1
                if str(why) and self._limit.admits():
                    log.warning(f"a packet {why}; it is passed over", source=self.description)
        return None

    def _unpack(self, packet: bytes, address: str) -> tuple[int, Float32]:
        if address != self._sender:
            raise _Refused(f"comes from {address}")
        if len(packet) < HEADER.size or packet[:4] != MAGIC:
            raise _Refused("does not begin as a packet of sound")
        _, code, channels, frames, rate_hz, session, index = HEADER.unpack_from(packet)
        if (rate_hz, channels) != (self.sample_rate_hz, self.channels):
            raise SourceError(
                f"{self.description}: sends {rate_hz} Hz and {channels} channels, configured are "
                f"{self.sample_rate_hz} and {self.channels}",
                "Set sample_rate_hz and channels of the source to what is sent.",
            )
        name = FORMATS.get(code)
        if name is None or frames == 0 or len(packet) - HEADER.size != frames * channels * SAMPLE_BYTES[name]:
            raise _Refused(f"of format {code} has {len(packet)} bytes for {frames} frames")
        if self._session in (None, session):
            lost = index - self._expected if self._session == session else 0
        else:  # the sensor began anew: what is missing is what the clock says
            lost = max(1, round((self._clock() - self.last_callback[0]) * self.sample_rate_hz) - frames)
        if lost < 0:
            raise _Refused  # late, or sent twice to be safe: counted, and no news
        if lost > LONGEST_GAP_S * self.sample_rate_hz:
            raise _Refused(f"leaves out {lost / self.sample_rate_hz:.0f} s")
        samples = decode(packet[HEADER.size :], name).reshape(frames, channels)
        if not np.isfinite(samples).all():
            raise _Refused("has samples that are not finite")
        self._session, self._expected = session, index + frames
        return lost, samples


class _Refused(Exception):
    """A packet that is passed over, and why; without a word where that is usual."""
