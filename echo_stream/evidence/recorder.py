"""The recorder keeps the sound around each alarm on disk, with a document and a picture. A worker of its own.

The pipeline thread only copies samples out of memory (`alarm`, `on_samples_buffered`); the worker encodes,
writes, tidies and has the picture drawn by a short-lived process of low priority, so that neither
matplotlib's computing nor its memory is felt where sound is scored. What fails here is logged once and
counted, and never stops scoring.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

import numpy as np

from echo_stream.core.calibration import NormalSpectrum
from echo_stream.core.errors import DeliveryError
from echo_stream.core.files import write_whole
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.types import BandScore, Float32
from echo_stream.evidence.store import (
    Kept,
    advance_clock,
    bytes_of,
    document_path,
    flac,
    full_scale_of,
    list_events,
    read_event,
    remove_parts,
    telephone_path,
    tidy,
)

History = Callable[[int, int], Float32 | None]
"""Samples (n,) from one absolute index up to another, or None where they are not all there."""

NormalSound = Callable[[], Sequence[Mapping[str, Any]]]
"""All kept normal sound of the operating state: `path` and `full_scale` of each clip; asked likewise."""

Nearest = Callable[[], Mapping[str, Any] | None]
"""The kept normal sound that is most like the alarm, as plain JSON; asked on the worker's thread."""

_GRAIN_S: Final = 0.05
"""How exactly the end of what is in memory is found."""


@dataclass(frozen=True, slots=True)
class Job:
    """An alarm, with the sound that is there so far."""

    path: Path
    event: Mapping[str, Any]
    at: int
    onset: int | None
    rate: int
    bands: Sequence[BandScore]
    normal: NormalSpectrum | None
    history: History
    before: Float32
    after: Float32 | None = None
    nearest: Nearest = lambda: None
    lines_hz: Mapping[str, float] = field(default_factory=dict)
    speed: Mapping[str, Any] | None = None
    normal_sound: NormalSound = tuple

    @property
    def samples(self) -> Float32:
        """(n,) what there is: the sound before the alarm, and after it once that is there."""
        return self.before if self.after is None else np.concatenate([self.before, self.after])

    def document(self) -> dict[str, Any]:
        """What is written beside the sound: all that the picture is drawn from, and the event itself."""
        start = self.at - len(self.before)
        start_at = datetime.fromisoformat(self.event["ts"]) - timedelta(seconds=len(self.before) / self.rate)
        return {
            "schema": 1,
            "event": self.event,
            "complete": self.after is not None,
            "clip": {
                "file": self.path.with_suffix(".flac").name,
                "sample_rate_hz": self.rate,
                "full_scale": full_scale_of(self.samples),
                "start_ts": start_at.isoformat(timespec="milliseconds"),
                "duration_s": len(self.samples) / self.rate,
                "alarm_s": len(self.before) / self.rate,
                "onset_s": None if self.onset is None else max(0, self.onset - start) / self.rate,
            },
            "bands_hz": [[band.low_hz, band.high_hz, band.contribution] for band in self.bands],
            "normal": self.normal and self.normal.to_json(),
            "nearest_normal": self.nearest(),
            "lines_hz": dict(self.lines_hz),
            "speed": self.speed,
            "normal_sound": list(self.normal_sound()) if self.lines_hz else [],
        }


def longest(history: History, at: int, n: int, rate: int) -> Float32:
    """The n samples from `at` on, or the -n before it; where not all are there, as many as touch `at`."""

    def take(length: int) -> Float32 | None:
        return history(at, at + length) if n > 0 else history(at - length, at)

    whole = take(abs(n)) if n else None
    if whole is not None:
        return whole
    grain = max(1, round(_GRAIN_S * rate))
    least, most = 0, abs(n) // grain
    while least < most:  # the longest that there is: bisection, because longer pieces hold shorter ones
        middle = (least + most + 1) // 2
        least, most = (middle, most) if take(middle * grain) is not None else (least, middle - 1)
    found = take(least * grain) if least else None
    return np.zeros(0, np.float32) if found is None else found


log = get_logger()

_QUEUE: Final = 16
"""Alarms whose sound waits in memory to be written; 20 s at 48 kHz are 4 MB."""
_DRAW_S: Final = 60.0
_TIDY_EVERY: Final = timedelta(hours=1)
_CATCH_UP: Final = 8
"""Pictures that an earlier run owed and that are drawn at start."""


class Evidence:
    """Keeps the evidence of alarms in a folder, within its quotas."""

    def __init__(
        self,
        folder: Path,
        *,
        pre_roll_s: float = 10.0,
        post_roll_s: float = 10.0,
        max_mb: float = 1000.0,
        max_days: float = 90.0,
        min_free_mb: float = 500.0,
        on_complete: Callable[[Kept], None] = lambda _: None,
        on_picture: Callable[[str, bytes], None] = lambda _machine, _picture: None,
    ) -> None:
        """A keeper that is not at work before `start`.

        Args:
            folder: holds a folder for each machine; made when first needed.
            pre_roll_s: sound before the onset: an alarm comes its on-delay later.
            post_roll_s: sound after it.
            max_mb: the oldest events go beyond this size.
            max_days: and beyond this age.
            min_free_mb: nothing is written while the disk has less.
            on_complete: called on the worker's thread with each event whose sound and picture are complete.
            on_picture: called there with a machine and the small picture (PNG) of its newest event: at start,
                soon after an alarm, and when its sound is complete.
        """
        self._folder = folder
        self._pre_roll_s = pre_roll_s
        self._post_roll_s = post_roll_s
        self._max_bytes = max_mb * 1e6
        self._max_days = max_days
        self._min_free_bytes = min_free_mb * 1e6
        self._on_complete = on_complete
        self._on_picture = on_picture
        self._waiting: list[Job] = []
        self._queue: queue.Queue[Job | datetime | None] = queue.Queue(_QUEUE)
        self._tidied_at: datetime | None = None
        self._retention_now: datetime | None = None
        self._ended = Event()
        self.thread = GuardedThread("the evidence recorder", self._work, self._ended, name="evidence")
        self._drawing: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._lock = Lock()  # between stopping and starting a picture
        self.trouble = ""
        """Why evidence cannot be kept at present; empty where it can."""
        self.kept = 0
        """Events that were kept, sound complete."""
        self.bytes = 0
        """Size of what is in the folder; counted at start, after each event and once an hour."""
        self.failed = 0
        """Events that could not be, or without what came after: disk full, too many at once, no sound."""

    def names(self, machine: str, at: datetime, event_id: str) -> tuple[str, str]:
        """File names of sound and picture, for the event's message, before anything is written."""
        path = document_path(self._folder, machine, at, event_id)
        return path.with_suffix(".flac").name, path.with_suffix(".png").name

    def clip_path(self, machine: str, at: datetime, event_id: str) -> Path:
        """Where the sound of an event will be."""
        return document_path(self._folder, machine, at, event_id).with_suffix(".flac")

    def start(self) -> None:
        """Begin to work."""
        self.thread.start()

    def alarm(
        self,
        event: Mapping[str, Any],
        *,
        at: int,
        onset: int | None,
        sample_rate_hz: int,
        bands: Sequence[BandScore],
        history: History,
        normal: NormalSpectrum | None = None,
        nearest: Nearest = lambda: None,
        lines_hz: Mapping[str, float] | None = None,
        speed: Mapping[str, Any] | None = None,
        normal_sound: NormalSound = tuple,
    ) -> None:
        """Keep the evidence of an alarm. Pipeline thread; copies what is in memory and returns at once.

        Args:
            event: its payload, with `event_id`, `machine`, `ts`, `level`, `score` and `threshold`.
            at: absolute index of the alarm.
            onset: absolute index at which the condition became true.
            sample_rate_hz: of the machine's sound.
            bands: all that the score is made of.
            history: gives the machine's sound; called from this thread only.
            normal: the normal spectrum; without it the picture compares with the sound before the onset.
            nearest: finds the normal sound to hear beside it.
            lines_hz: where the machine's parts have their lines, by name; None: none is looked for.
            speed: what its topic said of the machine's speed at the alarm; None: it has none.
            normal_sound: finds the normal sound that lines are compared with.
        """
        when = datetime.fromisoformat(event["ts"])
        path = document_path(self._folder, event["machine"], when, event["event_id"])
        first = (at if onset is None else min(onset, at)) - round(self._pre_roll_s * sample_rate_hz)
        before = longest(history, at, -min(at, at - first), sample_rate_hz)
        job = Job(
            path,
            event,
            at,
            onset,
            sample_rate_hz,
            bands,
            normal,
            history,
            before,
            nearest=nearest,
            lines_hz=lines_hz or {},
            speed=speed,
            normal_sound=normal_sound,
        )
        self._waiting.append(job)
        self._put(job)  # a power cut leaves at least this

    def on_samples_buffered(self, machine: str, index: int, captured_at: datetime) -> None:
        """The machine's sound up to `index` is in memory. Pipeline thread, once a window."""
        for job in [job for job in self._waiting if job.event["machine"] == machine]:
            if index >= job.at + round(self._post_roll_s * job.rate):
                self._finish(job)
        if self._tidied_at is None or abs(captured_at - self._tidied_at) >= _TIDY_EVERY:
            self._tidied_at = captured_at
            self._put(captured_at)

    def stop(self, timeout_s: float = 3.0) -> None:
        """Write what waits, with the sound that there is. Only after the pipeline has ended."""
        for job in list(self._waiting):
            self._finish(job)
        with self._lock:
            self._stopping = True
            if self._drawing is not None:
                self._drawing.kill()  # drawn at the next start
        if self.thread.alive:
            with suppress(queue.Full):
                self._queue.put(None, timeout=timeout_s)
            self.thread.join(timeout_s)
        self._ended.set()

    def _finish(self, job: Job) -> None:
        self._waiting.remove(job)
        n = round(self._post_roll_s * job.rate)
        self._put(replace(job, after=longest(job.history, job.at, n, job.rate)))

    def _put(self, item: Job | datetime) -> None:
        try:
            self._queue.put_nowait(item)
        except queue.Full:
            self._trouble("too many alarms at once", item)

    # ------------------------------------------------------------------ the worker's thread

    def _work(self) -> None:
        remove_parts(self._folder)
        with suppress(OSError):
            self.bytes = bytes_of(self._folder)
        known = list_events(self._folder)
        for kept in [kept for kept in known if kept.clip and not kept.picture][-_CATCH_UP:]:
            self._draw(kept.document)
        for kept in {kept.machine: kept for kept in known}.values():
            self._show(kept.machine, kept.document)
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, Job):
                    self._keep(item)
                else:
                    self._tidy(item)
            except OSError as error:
                self._trouble(error.strerror or str(error), item)
            except Exception as error:
                self._trouble(repr(error), item)
                raise

    def _keep(self, job: Job) -> None:
        if len(job.samples) == 0:
            self._trouble("the sound is no longer in memory", job)
            return
        self._require_space()
        write_whole(job.path.with_suffix(".flac"), flac(job.samples, job.rate))
        write_whole(job.path, json.dumps(job.document(), ensure_ascii=False).encode())
        if self.trouble:
            self.trouble = ""
            log.info("evidence is kept again", missed=self.failed)
        if job.after is None:
            if self._queue.empty():  # otherwise the sound of others comes first
                self._draw(job.path, "--telephone")
                self._show(job.event["machine"], job.path)
            return
        self._draw(job.path)
        self._show(job.event["machine"], job.path)
        self.kept += 1
        self._tidy(None)
        try:
            self._on_complete(read_event(job.path) or Kept(job.path, dict(job.event), complete=True))
        except DeliveryError as error:
            log.warning("complete evidence could not be announced", reason=str(error))

    def _require_space(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self._folder).free
        if free < self._min_free_bytes:
            raise OSError(
                f"only {free / 1e6:.0f} MB free, evidence.min_free_mb is {self._min_free_bytes / 1e6:.0f}"
            )

    def _show(self, machine: str, document: Path) -> None:
        with suppress(FileNotFoundError):  # not drawn, as on a PC without room
            self._on_picture(machine, telephone_path(document).read_bytes())

    def _draw(self, document: Path, *options: str) -> None:
        """Have the pictures drawn; without them the sound is evidence all the same."""
        command = [sys.executable, "-m", "echo_stream.evidence.picture", str(document), *options]
        # A service has no home; a list of fonts that is there already saves a second of computing.
        environment = {"MPLCONFIGDIR": str(self._folder / ".matplotlib")} | os.environ
        with self._lock:
            if self._stopping:
                return
            self._drawing = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        try:
            _, said = self._drawing.communicate(timeout=_DRAW_S)
        except subprocess.TimeoutExpired:
            self._drawing.kill()
            _, said = self._drawing.communicate()
        if self._drawing.returncode != 0 and not self._stopping:
            reason = said.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1]
            log.warning("the picture of an alarm could not be drawn", document=str(document), reason=reason)
        self._drawing = None

    def _tidy(self, now: datetime | None) -> None:
        """Remove what is over the quotas; `now` once an hour, None after an event was kept."""
        if now is not None:
            if self.trouble:
                self._require_space()
                self.trouble = ""
            self._retention_now = advance_clock(self._folder, now)
        gone = tidy(self._folder, max_bytes=self._max_bytes, max_days=self._max_days, now=self._retention_now)
        self.bytes = bytes_of(self._folder)
        if gone:
            log.info("old evidence removed", events=gone)

    def _trouble(self, reason: str, item: Job | datetime) -> None:
        """Count it, once an event; say it once until something is kept again."""
        if isinstance(item, Job) and item.after is not None:
            self.failed += 1
        if not self.trouble:
            log.error("evidence cannot be kept", reason=reason, folder=str(self._folder))
        self.trouble = reason
