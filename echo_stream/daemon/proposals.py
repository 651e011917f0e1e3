"""ProposalWriter keeps the sound that operators mark as normal, for `bank extend` to learn from.

The sender of commands decides how often this happens, so none of it is done on the pipeline's thread: a
worker encodes and syncs. Each machine has a shortest time between two proposals, and the folder a size.
"""

from __future__ import annotations

import queue
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from time import monotonic

import numpy as np
from numpy.typing import NDArray

from echo_stream.config.schema import Config
from echo_stream.core.errors import CommandRefused
from echo_stream.core.files import write_whole
from echo_stream.core.guard import GuardedThread
from echo_stream.evidence.store import flac, full_scale_of, wav

EVERY_S = 10.0
"""At most one proposal of a machine in this time."""
WAITING = 8

Done = Callable[[bool, str], None]
"""Gets whether the sound was kept, and the outcome or the reason in words."""


@dataclass(frozen=True, slots=True)
class _Proposal:
    machine: str
    samples: NDArray[np.float32]
    rate_hz: int
    done: Done


def build_proposals(config: Config) -> ProposalWriter:
    """The writer of proposals, not started yet; with the limits of the evidence."""
    limits = config.evidence
    return ProposalWriter(
        config.state_dir / "proposals", max_mb=limits.max_mb, min_free_mb=limits.min_free_mb
    )


def require_room(folder: Path, more_bytes: int, *, max_mb: float, min_free_mb: float) -> None:
    """Refuses sound for which there is no room.

    Args:
        folder: of all machines; it exists.
        more_bytes: that are to be written.
        max_mb: size of all in the folder; none is removed for another, somebody wanted to keep it.
        min_free_mb: what stays free on the disk.

    Raises:
        OSError: there is no room; its text says why.
    """
    used_mb = sum(file.stat().st_size for file in folder.glob("*/*.*")) / 1e6
    if used_mb + more_bytes / 1e6 > max_mb:
        raise OSError(f"{folder.name} take {used_mb:.0f} MB, at most {max_mb:g} MB are kept")
    free_mb = shutil.disk_usage(folder).free / 1e6
    if free_mb - more_bytes / 1e6 < min_free_mb:
        raise OSError(f"only {free_mb:.0f} MB are free, {min_free_mb:g} MB stay free")


def lossless(samples: NDArray[np.float32], rate_hz: int) -> tuple[str, bytes]:
    """Suffix and bytes of sound that is to be learnt: FLAC would scale what is beyond full scale."""
    if full_scale_of(samples) > 1:
        return "wav", wav(samples, rate_hz)
    return "flac", flac(samples, rate_hz)


class ProposalWriter:
    """Writes FLAC files below a folder, one folder a machine, on a thread of its own.

    Args:
        folder: where the proposals of all machines are.
        max_mb: size of all of them together; beyond it the next is refused, because none may be removed that
            somebody wanted to keep.
        min_free_mb: what stays free on the disk.
        every_s: shortest time between two proposals of a machine.
    """

    def __init__(self, folder: Path, *, max_mb: float, min_free_mb: float, every_s: float = EVERY_S) -> None:
        self._folder = folder
        self._max_mb = max_mb
        self._min_free_mb = min_free_mb
        self._every_s = every_s
        self._accepted_at_s: dict[str, float] = {}
        self._queue: queue.Queue[_Proposal | None] = queue.Queue(WAITING)
        self._stop = Event()
        self.thread = GuardedThread("the writer of proposals", self._work, self._stop)

    def start(self) -> None:
        """Begins to work."""
        self.thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Writes what waits, as far as the time allows."""
        try:
            self._queue.put(None, timeout=timeout_s)
            self.thread.join(timeout_s)
        except queue.Full:
            pass
        self._stop.set()

    def add(self, machine: str, samples: NDArray[np.float32], rate_hz: int, done: Done) -> None:
        """Has the sound of a machine written; returns at once. Pipeline thread.

        Args:
            machine: its id.
            samples: (n,) float32.
            rate_hz: of the samples.
            done: called by the worker when the sound is on the disk, or cannot be.

        Raises:
            CommandRefused: too many, too soon.
        """
        now_s = monotonic()
        left_s = self._accepted_at_s.get(machine, -self._every_s) + self._every_s - now_s
        if left_s > 0:
            raise CommandRefused(
                f"mark_normal of {machine} was accepted less than {self._every_s:g} s ago",
                f"send it again in {left_s:.0f} s",
            )
        try:
            self._queue.put_nowait(_Proposal(machine, samples, rate_hz, done))
        except queue.Full:
            raise CommandRefused("too many sounds wait to be written", "send it again later") from None
        self._accepted_at_s[machine] = now_s

    # The worker's thread.

    def _work(self) -> None:
        while (proposal := self._queue.get()) is not None:
            try:
                path = self._write(proposal)
            except OSError as error:
                proposal.done(False, f"the sound cannot be kept: {error.strerror or error}")
            except Exception as error:
                proposal.done(False, f"the sound cannot be kept: {error!r}")
                raise
            else:
                proposal.done(True, f"kept as {path}: echo-stream bank extend learns from it")

    def _write(self, proposal: _Proposal) -> Path:
        folder = self._folder / proposal.machine
        folder.mkdir(parents=True, exist_ok=True)
        suffix, data = lossless(proposal.samples, proposal.rate_hz)
        require_room(self._folder, len(data), max_mb=self._max_mb, min_free_mb=self._min_free_mb)
        path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}.{suffix}"
        write_whole(path, data)
        return path
