"""Normal sound is kept beside a bank version: clips of what was enrolled, to be heard beside an alarm.

One folder a version, `b7.normal`, with an index and one FLAC file a clip. It is written aside, synced and
renamed, and never changed. fit-normal writes it; anybody may read it. Only to listen to: nothing is scored
against it, and a bank without it is as good.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from echo_stream.core.files import read_regular, sync_folder, write_whole
from echo_stream.core.log import get_logger
from echo_stream.core.sequences import Thinned
from echo_stream.core.types import BANK_ID, Float32, Window
from echo_stream.evidence.store import flac, full_scale_of

CLIP_S: Final = 10.0
"""Of one clip: long enough to hear what a machine sounds like."""
LEAST_S: Final = 2.0
"""A shorter rest of an enrolment is no clip."""
INDEX: Final = "index.json"
MOST_INDEX_BYTES: Final = 1 << 20
_FILE: Final = re.compile(r"[0-9]{2,4}\.flac")

T = TypeVar("T")

log = get_logger()


@dataclass(frozen=True, slots=True)
class NormalClip:
    """A stretch of enrolled sound."""

    recording: str
    """As the bank names it."""
    start_s: float
    """Where in that recording it begins."""
    condition: str
    sample_rate_hz: int
    samples: Float32
    """(n,)"""

    @property
    def end_s(self) -> float:
        """Where in the recording it ends."""
        return self.start_s + len(self.samples) / self.sample_rate_hz


@dataclass(frozen=True, slots=True)
class KeptClip:
    """The same on disk."""

    file: str
    """Its name in the folder."""
    recording: str
    start_s: float
    duration_s: float
    condition: str
    full_scale: float
    """What 1 in the file stands for."""


ClipsOf = Callable[[Collection[tuple[str, float, float]]], Sequence[NormalClip]]
"""Clips of an enrolment, spread over it, without what was left out: (recording, from, to) in seconds."""


def no_clips(_left_out: Collection[tuple[str, float, float]]) -> Sequence[NormalClip]:
    """Where no sound is to be kept."""
    return ()


def folder_of(bank: Path, version: str) -> Path:
    """Where the normal sound of a version of the bank that the configuration names lies, or would."""
    return bank.with_suffix(".versions") / f"{version}.normal"


def file_of(bank: Path, version: str, file: str) -> Path | None:
    """A clip by the names that a document gives; None where it is gone, or no file of ours."""
    if not (re.fullmatch(BANK_ID, version) and _FILE.fullmatch(file)):
        return None
    path = folder_of(bank, version) / file
    linked = path.is_symlink() or path.parent.is_symlink()
    return path if path.is_file() and not linked else None


def write_clips(folder: Path, clips: Sequence[NormalClip]) -> None:
    """Write a version's clips, all or nothing; the folder must not exist yet.

    Raises:
        OSError: they cannot be written; nothing is left behind.
    """
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        aside.mkdir(parents=True)
        kept = []
        for number, clip in enumerate(clips, start=1):
            kept.append(
                KeptClip(
                    file=f"{number:02d}.flac",
                    recording=clip.recording,
                    start_s=round(clip.start_s, 3),
                    duration_s=round(len(clip.samples) / clip.sample_rate_hz, 3),
                    condition=clip.condition,
                    full_scale=full_scale_of(clip.samples),
                )
            )
            write_whole(aside / kept[-1].file, flac(clip.samples, clip.sample_rate_hz))
        index = {"format": 1, "clips": [asdict(each) for each in kept]}
        write_whole(aside / INDEX, json.dumps(index, ensure_ascii=False).encode())
        aside.rename(folder)
    except OSError:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def read_clips(folder: Path) -> list[KeptClip]:
    """What a version keeps; nothing where it keeps none, or its index is damaged, which is logged."""
    try:
        plain = json.loads(read_regular(folder / INDEX, MOST_INDEX_BYTES))
        return [KeptClip(**each) for each in plain["clips"] if _FILE.fullmatch(each["file"])]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        log.warning("kept normal sound cannot be read", folder=str(folder), reason=str(error))
        return []


class ClipCollector:
    """Keeps clips spread over a stretch of listening whose length is not known before its end.

    Twice as many as wanted are in memory at most.

    Args:
        recording: Name of the stretch.
        condition: Operating state.
        keep_s: Seconds that are wanted in the end; 0: none.
    """

    def __init__(self, recording: str, condition: str, keep_s: float) -> None:
        self._recording, self._condition, self._keep_s = recording, condition, keep_s
        self._length_s, self._wanted = clip_lengths(keep_s)
        self._found: Thinned[NormalClip] = Thinned(2 * self._wanted)
        self._pieces: list[Float32] = []
        self._first: int | None = None
        self._end = 0

    def add(self, window: Window) -> None:
        """The next window; windows may overlap."""
        if self._keep_s <= 0:
            return
        if self._first is None or window.start > self._end:
            self._begin(window.start)
        new = window.samples[max(0, self._end - window.start) :]
        self._pieces.append(new.copy() if self._found.takes_next else new[:0])
        self._end = window.end
        assert self._first is not None  # noqa: S101 - begun above
        if self._end - self._first >= round(self._length_s * window.sample_rate_hz):
            self._close(window.sample_rate_hz)

    def clips(self, left_out: Collection[tuple[str, float, float]]) -> Sequence[NormalClip]:
        """At most as many as wanted, evenly spread."""
        clean = [
            each
            for each in self._found.items
            if not touches(each.recording, each.start_s, each.end_s, left_out)
        ]
        return evenly(clean, self._wanted)

    def finish(self, sample_rate_hz: int) -> None:
        """The end: what is under way counts where it is long enough."""
        if self._first is not None and self._end - self._first >= LEAST_S * sample_rate_hz:
            self._close(sample_rate_hz)

    def _begin(self, start: int) -> None:
        self._first, self._end, self._pieces = start, start, []

    def _close(self, rate: int) -> None:
        assert self._first is not None  # noqa: S101 - there are pieces
        start_s, pieces = self._first / rate, self._pieces
        self._found.add(
            lambda: NormalClip(self._recording, start_s, self._condition, rate, np.concatenate(pieces))
        )
        self._begin(self._end)


def clip_lengths(keep_s: float) -> tuple[float, int]:
    """Length of a clip in seconds, and how many of them."""
    length_s = min(CLIP_S, max(keep_s, LEAST_S))
    return length_s, max(1, int(keep_s / length_s))


def evenly(items: Sequence[T], most: int) -> Sequence[T]:
    """So many of them, evenly spread, or all."""
    if len(items) <= most:
        return items
    return [items[(2 * i + 1) * len(items) // (2 * most)] for i in range(most)]


def touches(
    recording: str, start_s: float, end_s: float, left_out: Collection[tuple[str, float, float]]
) -> bool:
    """Whether a stretch of a recording and something that was left out have a moment in common."""
    return any(
        name == recording and out_from_s < end_s and out_to_s > start_s
        for name, out_from_s, out_to_s in left_out
    )
