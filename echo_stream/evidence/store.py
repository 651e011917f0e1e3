"""The evidence store names the files of an event, finds them again and removes the oldest.

One folder a machine, four files an event, named by its time and id: sound (FLAC), document (JSON), picture
(PNG) and a small one (small.png). The worker of recorder.py writes; anybody may read at any time.
"""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np

from echo_stream.core.files import write_whole
from echo_stream.core.types import Float32

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]")
_OURS: Final = re.compile(r"(\d{8}T\d{6}Z)_[A-Za-z0-9_-]+\.(flac|json|png|small\.png)")
_TIME: Final = "%Y%m%dT%H%M%SZ"
_CLOCK: Final = ".clock"
_CLOCK_SET: Final = "2020"
"""A name from before this year comes from a clock that was not set yet: nobody knows how old the event is."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The evidence of one event; files other than the document may be missing."""

    document: Path
    event: dict[str, Any]
    """The payload of the event, as it was sent."""
    complete: bool
    """The sound after the alarm is in it."""
    onset_s: float | None = None
    """Where in the sound the change begins; None: not known."""
    alarm_s: float | None = None
    """Where in the sound the alarm comes."""
    duration_s: float | None = None
    """Of the sound."""
    changes: tuple[Mapping[str, Any], ...] = ()
    """Bands that are louder or quieter than normal; known once the picture is drawn."""
    lines: tuple[str, ...] = ()
    """Lines of shaft, gear and bearing that stand out, in words; known likewise."""
    speed: str = ""
    """What a topic said of the machine's speed, in words; empty where it has none."""
    full_scale: float = 1.0
    """What 1 in the sound stands for."""
    nearest_normal: Mapping[str, Any] | None = None
    """The normal sound to hear beside it, as `pipeline.nearest_normal` gives it."""

    @property
    def event_id(self) -> str:
        """Of the event."""
        return str(self.event["event_id"])

    @property
    def machine(self) -> str:
        """What was watched."""
        return str(self.event["machine"])

    @property
    def at(self) -> datetime:
        """UTC of the alarm."""
        return datetime.fromisoformat(self.event["ts"])

    @property
    def clip(self) -> Path | None:
        """The sound, if it is there."""
        return _if_there(self.document.with_suffix(".flac"))

    @property
    def picture(self) -> Path | None:
        """The picture, if it is there."""
        return _if_there(self.document.with_suffix(".png"))


def document_path(folder: Path, machine: str, at: datetime, event_id: str) -> Path:
    """Where the document of an event lies; sound and picture have its name with another suffix."""
    own = machine_folder(folder, machine)
    safe_id = _UNSAFE.sub("_", event_id)[:64] or "_"
    return own / f"{at.astimezone(UTC):{_TIME}}_{own.name}_{safe_id}.json"


def telephone_path(document: Path) -> Path:
    """Where the small picture of an event lies, or would."""
    return document.with_suffix(".small.png")


def machine_folder(folder: Path, machine: str) -> Path:
    """Where the files of a machine lie, in a folder of all."""
    return folder / (_UNSAFE.sub("_", machine)[:64] or "_")


def list_events(folder: Path, machine: str | None = None, since: datetime | None = None) -> list[Kept]:
    """Evidence in the folder, oldest first; what cannot be read is said in the log and left out.

    Args:
        folder: of all evidence; need not exist.
        machine: only of this one.
        since: only events from this time on.
    """
    kept = [
        read
        for path in own_files(folder)
        if path.suffix == ".json" and (read := read_event(path)) is not None
    ]
    wanted = (k for k in kept if machine in (None, k.machine) and (since is None or k.at >= since))
    return sorted(wanted, key=lambda k: (k.at, k.event_id))


def find_event(folder: Path, event_id: str) -> Kept | None:
    """The evidence of one event by its id; a file that is a link is none of ours.

    Args:
        folder: of all evidence; need not exist.
        event_id: may come from anybody: what is no part of a file name is found nowhere.
    """
    if not event_id or _UNSAFE.search(event_id):
        return None
    for path in folder.glob(f"*/*_{event_id}.json"):
        if _OURS.fullmatch(path.name) and not _is_linked(folder, path):
            kept = read_event(path)
            if kept is not None and kept.event_id == event_id:
                return kept
    return None


def newest_events(folder: Path, machine: str | None = None, limit: int = 50) -> list[Kept]:
    """The newest evidence, newest first, without reading all of it: names begin with the time."""
    paths = (path for path in own_files(folder) if path.suffix == ".json" and not _is_linked(folder, path))
    found: list[Kept] = []
    for path in sorted(paths, key=lambda path: path.name, reverse=True):
        if machine is not None and path.parent.name != _UNSAFE.sub("_", machine)[:64]:
            continue
        kept = read_event(path)
        if kept is not None and machine in (None, kept.machine):
            found.append(kept)
            if len(found) == limit:
                break
    return found


def _is_linked(folder: Path, path: Path) -> bool:
    """Whether it leads elsewhere: through a link of its own, or of its folder's."""
    return path.is_symlink() or (path.parent != folder and path.parent.is_symlink())


def remove_parts(folder: Path) -> None:
    """Remove what an interrupted write left behind."""
    for part in folder.glob("*/.*.part"):
        part.unlink(missing_ok=True)


def advance_clock(folder: Path, now: datetime) -> datetime:
    """UTC that the age of evidence counts with: at most a day further than the time before, and never back.

    Called once an hour. A clock that jumps forward by years, as one without a battery does, must not remove
    the evidence of months: the age limit waits until the clock is right again. After a long pause it catches
    up by 24 days a day.

    Args:
        folder: of all evidence; the time is kept in it from run to run.
        now: what the clock says.

    Raises:
        OSError: the time cannot be kept.
    """
    path = folder / _CLOCK
    try:
        before = datetime.fromisoformat(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        before = max((kept.at for kept in list_events(folder)), default=now)
    if before.tzinfo is None:
        before = before.replace(tzinfo=UTC)
    if now > before:
        before = min(now, before + timedelta(days=1))
    if folder.is_dir():
        write_whole(path, before.isoformat(timespec="seconds").encode())
    return before


def tidy(folder: Path, *, max_bytes: float, max_days: float, now: datetime | None) -> int:
    """Remove events that are too old, and the oldest beyond the size; returns how many events went.

    Args:
        folder: of all evidence.
        max_bytes: of all files together.
        max_days: an event is too old after so long.
        now: UTC, as `advance_clock` gives it; None: age does not count.

    Raises:
        OSError: a file cannot be removed.
    """
    events: dict[Path, list[Path]] = {}
    for path in own_files(folder):
        events.setdefault(path.with_name(path.name.partition(".")[0]), []).append(path)
    too_old = f"{now.astimezone(UTC) - timedelta(days=max_days):{_TIME}}" if now else ""
    sizes = {stem: sum(path.stat().st_size for path in paths) for stem, paths in events.items()}
    total = sum(sizes.values())
    gone = 0
    for stem in sorted(events, key=lambda stem: stem.name):  # names begin with the time
        if total <= max_bytes and not _CLOCK_SET <= stem.name < too_old:
            continue
        for path in events[stem]:
            path.unlink(missing_ok=True)
        total -= sizes[stem]
        gone += 1
    return gone


def bytes_of(folder: Path) -> int:
    """Size of all evidence in the folder.

    Raises:
        OSError: a file cannot be looked at.
    """
    return sum(path.stat().st_size for path in own_files(folder))


def own_files(folder: Path) -> Iterator[Path]:
    """Files that evidence wrote; a person's own files in these folders are not touched."""
    return (path for path in folder.glob("*/*") if _OURS.fullmatch(path.name))


def read_event(path: Path) -> Kept | None:
    """The evidence whose document lies there; None, and a line in the log, where it cannot be read."""
    try:
        return _checked(path, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError, RecursionError) as error:
        from echo_stream.core.log import get_logger  # noqa: PLC0415 - heavy for the process that draws

        get_logger().warning("the evidence document cannot be read", file=str(path), reason=str(error))
        return None


def _checked(path: Path, document: Any) -> Kept:
    """The evidence that a document describes.

    Raises:
        TypeError, ValueError: a value is missing, or not what it must be.
    """
    event = document.get("event") if isinstance(document, dict) else None
    if not isinstance(event, dict):
        raise TypeError("event is missing, or no object")
    for name in ("event_id", "machine", "ts"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise ValueError(f"event.{name} is {event.get(name)!r:.60}, expected is a text")
    if datetime.fromisoformat(event["ts"]).tzinfo is None:
        raise ValueError(f"event.ts is {event['ts']!r:.60}, expected is a time with its zone")
    if not isinstance(document.get("complete"), bool):
        raise TypeError(f"complete is {document.get('complete')!r:.60}, expected is true or false")
    clip, changes = document.get("clip"), document.get("changes")
    times = {name: _seconds(clip, name) for name in ("onset_s", "alarm_s", "duration_s")}
    bands = changes if isinstance(changes, list) else []
    nearest, lines, speed = (document.get(name) for name in ("nearest_normal", "lines", "speed"))
    lines = lines if isinstance(lines, list) else []
    return Kept(
        path,
        event,
        document["complete"],
        **times,
        changes=tuple(b for b in bands if isinstance(b, dict)),
        lines=tuple(str(each.get("text", "")) for each in lines if isinstance(each, dict)),
        speed=str(speed.get("text", "")) if isinstance(speed, dict) else "",
        full_scale=_seconds(clip, "full_scale") or 1.0,
        nearest_normal=nearest if isinstance(nearest, dict) else None,
    )


def _seconds(clip: Any, name: str) -> float | None:
    """A time in the sound; None where it is not known, or damaged."""
    value = clip.get(name) if isinstance(clip, dict) else None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _if_there(path: Path) -> Path | None:
    return path if path.exists() and not path.is_symlink() else None


def full_scale_of(samples: Float32) -> float:
    """What 1 in the file stands for: 1, or of sound beyond it (floats in m/s2) the next power of two."""
    peak = float(np.abs(samples).max(initial=0.0))
    return 1.0 if peak <= 1 or not np.isfinite(peak) else 2.0 ** np.ceil(np.log2(peak))


def flac(samples: Float32, rate: int) -> bytes:
    """Lossless, 24 bit: a quiet machine is 60 dB under full scale. Sound beyond it is scaled, not clipped."""
    import soundfile  # noqa: PLC0415 - only who writes sound pays

    data = io.BytesIO()
    scaled = np.clip(samples / np.float32(full_scale_of(samples)), -1, 1)
    soundfile.write(data, scaled, rate, format="FLAC", subtype="PCM_24")
    return data.getvalue()


def wav(samples: Float32, rate: int) -> bytes:
    """Float samples as they are, with their unit."""
    import soundfile  # noqa: PLC0415 - only who writes sound pays

    data = io.BytesIO()
    soundfile.write(data, samples, rate, format="WAV", subtype="FLOAT")
    return data.getvalue()
