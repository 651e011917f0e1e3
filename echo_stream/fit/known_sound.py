"""Teaching a known sound: from the clip of an event, or a recording, to the windows that explain it."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from echo_stream.alarm.calibration import Calibration
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import BankError, EchoStreamError
from echo_stream.core.types import AlarmLevel, Features, Float64, Window
from echo_stream.detect.known_sounds import KnownSound
from echo_stream.detect.reference import Sound
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.store import Kept, list_events
from echo_stream.fit.listen import recording_of
from echo_stream.pipeline.factory import load_fitting_bank, trip_levels
from echo_stream.pipeline.loop import encode_windows, read_windows

FINER = 4
"""Windows for one hop: the same sound next time begins anywhere between two hops."""
WITHIN = timedelta(minutes=2)
"""An event is meant that is no further than this from the time that a person gives."""
LONGEST_S = 120.0
"""A longer change is no passing sound; an operating state is learned with `bank extend`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Where to learn from."""

    file: Path
    onset_s: float | None
    """Where in the file the sound begins that is meant; None: the highest score is meant."""
    taught_from: str


def clip_at(folder: Path, machine: str, at: datetime) -> Clip:
    """The clip of the event at a time.

    Args:
        folder: of all evidence.
        machine: whose.
        at: with its zone.

    Raises:
        EchoStreamError: no evidence of that time, or its sound is gone.
    """
    events = list_events(folder, machine)
    if not events:
        raise EchoStreamError(
            f"machine {machine}: there is no evidence in {folder}",
            "teach it from a recording instead: ignore add --recording FILE",
        )
    away = {kept.event_id: _away(kept, at) for kept in events}
    nearest = min(events, key=lambda kept: away[kept.event_id])
    if away[nearest.event_id] > WITHIN:
        raise EchoStreamError(
            f"machine {machine}: no event at {at.astimezone():%Y-%m-%d %H:%M:%S %Z}; the nearest with "
            f"evidence is of {nearest.at.astimezone():%Y-%m-%d %H:%M:%S %Z}",
            "echo-stream events lists what there is",
        )
    if nearest.clip is None:
        raise EchoStreamError(
            f"machine {machine}: the sound of event {nearest.event_id} is not there any more",
            "name another event, or teach it from a recording: ignore add --recording FILE",
        )
    return Clip(nearest.clip, nearest.onset_s, f"event {nearest.event_id} of {nearest.event['ts']}")


def _away(kept: Kept, at: datetime) -> timedelta:
    """From a time to an event, which lasts from onset to alarm; 0 in between."""
    onset = datetime.fromisoformat(kept.event.get("onset_ts") or kept.event["ts"])
    return max(onset - at, at - kept.at, timedelta(0))


def learn_known_sound(
    config: Config, machine: Machine, encoder: Encoder, clip: Clip, name: str
) -> KnownSound:
    """What in a clip does not sound like the machine's normal sound, as a known sound.

    Raises:
        BankError, BankMismatch: no bank, or one that does not fit.
        EchoStreamError: all of the clip sounds normal, or the sound lasts too long.
    """
    cut = config.encoder
    hop_s = cut.hop_s / FINER
    with closing(recording_of(machine, clip.file)) as source:
        rate = source.sample_rate_hz
        bank = load_fitting_bank(config, machine, encoder, rate)
        windows: list[Window] = []
        features: list[Features] = []
        for window, found in encode_windows(
            encoder, read_windows(source, machine=machine.id, window_s=cut.window_s, hop_s=hop_s)
        ):
            windows.append(replace(window, samples=window.samples[:0]))  # the sound itself is not needed
            features.append(found)
    values = np.array([score.value for score in Scorer(bank).score(features)])
    clear = trip_levels(machine, Calibration.of(bank.calibration))[AlarmLevel.WARNING].clear
    starts_s = np.array([window.start / rate for window in windows])
    first, last = _stretch(values, starts_s, clip, clear, gap=round(cut.window_s / hop_s))
    length_s = max(hop_s, starts_s[last] - starts_s[first] - cut.window_s)
    if length_s > LONGEST_S:
        raise EchoStreamError(
            f"{clip.file}: the sound lasts {length_s:.0f} s; a known sound is at most {LONGEST_S:.0f} s long",
            f"an operating state is learned with: echo-stream bank extend --machine {machine.id}",
        )
    taught = features[first : last + 1]
    return KnownSound(
        name=name,
        sound=Sound.of(taught),
        loudest_dbfs=max(item.level_dbfs for item in taught),
        length_s=float(length_s),
        window_s=cut.window_s,
        sample_rate_hz=rate,
        encoder=encoder.identity,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        taught_from=clip.taught_from,
    )


def _stretch(values: Float64, starts_s: Float64, clip: Clip, clear: float, gap: int) -> tuple[int, int]:
    """First and last window of the strange stretch that is meant; shorter breaks than `gap` windows count."""
    strange = np.flatnonzero(values > clear)
    if not len(strange):
        highest = f"its highest score is {values.max():.1f}" if len(values) else "it is shorter than a window"
        raise EchoStreamError(
            f"{clip.file}: nothing in it is unlike normal sound: {highest}, the clear level is {clear:.1f}",
            "what raises no alarm need not be taught",
        )
    stretches = np.split(strange, np.flatnonzero(np.diff(strange) > gap) + 1)
    if clip.onset_s is None:
        meant = max(stretches, key=lambda own: values[own].max())
    else:
        onset_s = clip.onset_s
        meant = min(stretches, key=lambda own: _outside(onset_s, starts_s[own[0]], starts_s[own[-1]]))
    return int(meant[0]), int(meant[-1])


def _outside(at_s: float, start_s: float, end_s: float) -> float:
    return max(start_s - at_s, at_s - end_s, 0.0)


def require_new(path: Path, name: str) -> None:
    """Refuse to overwrite what was taught.

    Raises:
        BankError: there is one of this name.
    """
    if path.exists():
        raise BankError(
            f"known sound {name}: there is one of this name already, {path}",
            "choose another name (several takes of one sound may all be taught), or remove it first",
        )
