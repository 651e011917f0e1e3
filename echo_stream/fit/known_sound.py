"""Teaching a known sound: from a recording, or what is kept of a time, to the windows that explain it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from echo_stream.alarm.calibration import Calibration
from echo_stream.config.schema import Config, Machine
from echo_stream.core.errors import BankError, EchoStreamError
from echo_stream.core.types import AlarmLevel, Features, Float64
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.known_sounds import KnownSound
from echo_stream.detect.reference import Sound
from echo_stream.detect.scorer import Scorer
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.store import Kept, list_events
from echo_stream.fit.listen import recording_of
from echo_stream.fit.propose import read_sample
from echo_stream.history.sample import MOST_EVENTS, Stretch
from echo_stream.pipeline.factory import load_bank, load_fitting_bank, trip_levels
from echo_stream.pipeline.loop import encode_windows, read_windows

FINER = 4
"""Windows for one hop: the same sound next time begins anywhere between two hops."""
WITHIN = timedelta(minutes=2)
"""An event is meant that is no further than this from the time that a person gives."""
UNFINISHED = timedelta(minutes=2)
"""Sound that is not complete so long after its event never will be: the daemon ended meanwhile."""
ELSE = "teach it from a recording: ignore add --recording FILE; echo-stream events lists alarms with sound"
LONGEST_S = 120.0
"""A longer change is no passing sound; an operating state is learned with `bank extend`."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Where to learn from."""

    file: Path
    onset_s: float | None
    """Where in the file the sound begins that is meant; None: the highest score is meant."""
    taught_from: str


def known_sound_at(config: Config, machine: Machine, encoder: Encoder, at: datetime, name: str) -> KnownSound:
    """What was strange at a time, as a known sound.

    Of an alarm its sound is kept; of the newest warnings features, a window each hop.

    Args:
        config: The configuration.
        machine: Whose sound.
        encoder: Makes the features.
        at: with its zone.
        name: What to call it.

    Raises:
        BankError, BankMismatch: no bank, or one that does not fit.
        EchoStreamError: neither is kept of that time, all of it sounds normal, or it lasts too long.
    """
    clip = clip_at(config.state_dir / "evidence", machine.id, at)
    if clip is not None:
        return learn_known_sound(config, machine, encoder, clip, name)
    bank = load_bank(machine)
    bank.require(encoder.identity, bank.sample_rate_hz, config.encoder.window_s, config.encoder.hop_s)
    local = f"{at.astimezone():%Y-%m-%d %H:%M:%S %Z}"
    try:
        kept = read_sample(config, machine, bank)
    except BankError as error:
        raise EchoStreamError(
            f"machine {machine.id}: no sound is kept of {local}, and no features: {error.message}", ELSE
        ) from error
    strange = [each for each in (*kept.events, *kept.stretches) if each.alarmed]
    nearest = min(strange, key=lambda each: _away_from(each, kept.about.hop_s, at), default=None)
    if nearest is None or _away_from(nearest, kept.about.hop_s, at) > WITHIN:
        found = "" if nearest is None else f"; the nearest is of {nearest.at}"
        raise EchoStreamError(
            f"machine {machine.id}: of {local} nothing is kept to learn from: sound is kept of alarms, "
            f"features of the newest {MOST_EVENTS} warnings and alarms, written every five minutes{found}",
            ELSE,
        )
    starts_s = kept.about.hop_s * np.arange(len(nearest.features), dtype=np.float64)
    sound = _EncodedSound(
        f"what was heard until {nearest.at}",
        nearest.features,
        starts_s,
        kept.about.hop_s,
        None,
        f"features of {nearest.at}",
    )
    return _learn(machine, bank, sound, name)


def clip_at(folder: Path, machine: str, at: datetime) -> Clip | None:
    """The clip of the event at a time; None where no sound is kept of it.

    Args:
        folder: of all evidence.
        machine: whose.
        at: with its zone.

    Raises:
        EchoStreamError: the sound after the event is still to come; what is there already would be too short.
    """
    events = [kept for kept in list_events(folder, machine) if kept.clip is not None]
    nearest = min(events, key=lambda kept: _away(kept, at), default=None)
    if nearest is None or nearest.clip is None or _away(nearest, at) > WITHIN:
        return None
    if not nearest.complete and datetime.now(UTC) - nearest.at < UNFINISHED:
        raise EchoStreamError(
            f"machine {machine}: the sound of event {nearest.event_id} is still being recorded",
            "try again in a minute: how long it lasts is learned, too",
        )
    return Clip(nearest.clip, nearest.onset_s, f"event {nearest.event_id} of {nearest.event['ts']}")


def _away(kept: Kept, at: datetime) -> timedelta:
    """From a time to an event, which lasts from onset to alarm; 0 in between."""
    onset = datetime.fromisoformat(kept.event.get("onset_ts") or kept.event["ts"])
    return max(onset - at, at - kept.at, timedelta(0))


def _away_from(stretch: Stretch, hop_s: float, at: datetime) -> timedelta:
    end = datetime.fromisoformat(stretch.at)
    return max(end - timedelta(seconds=hop_s * len(stretch.features)) - at, at - end, timedelta(0))


@dataclass(frozen=True, slots=True)
class _EncodedSound:
    """Windows in a row, in which the sound is that is meant."""

    source: str
    features: Sequence[Features]
    starts_s: Float64
    """(n,) where each begins."""
    hop_s: float
    onset_s: float | None
    """Where the sound begins that is meant; None: the highest score is meant."""
    taught_from: str


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
        starts_s: list[float] = []
        features: list[Features] = []
        for window, found in encode_windows(
            encoder, read_windows(source, machine=machine.id, window_s=cut.window_s, hop_s=hop_s)
        ):
            starts_s.append(window.start / rate)
            features.append(found)
    sound = _EncodedSound(str(clip.file), features, np.array(starts_s), hop_s, clip.onset_s, clip.taught_from)
    return _learn(machine, bank, sound, name)


def _learn(machine: Machine, bank: NormalBank, sound: _EncodedSound, name: str) -> KnownSound:
    window_s = bank.window_s
    values = np.array([score.value for score in Scorer(bank).score(sound.features)])
    clear = trip_levels(machine, Calibration.of(bank.calibration))[AlarmLevel.WARNING].clear
    first, last = _stretch(values, sound, clear, gap=round(window_s / sound.hop_s))
    length_s = max(sound.hop_s, sound.starts_s[last] - sound.starts_s[first] - window_s)
    if length_s > LONGEST_S:
        raise EchoStreamError(
            f"{sound.source}: the sound lasts {length_s:.0f} s; a known sound is at most {LONGEST_S:.0f} s "
            "long",
            f"an operating state is learned with: echo-stream bank extend --machine {machine.id}",
        )
    taught = sound.features[first : last + 1]
    return KnownSound(
        name=name,
        sound=Sound.of(taught),
        loudest_dbfs=max(item.level_dbfs for item in taught),
        length_s=float(length_s),
        window_s=window_s,
        sample_rate_hz=bank.sample_rate_hz,
        encoder=bank.encoder,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        taught_from=sound.taught_from,
    )


def _stretch(values: Float64, sound: _EncodedSound, clear: float, gap: int) -> tuple[int, int]:
    """First and last window of the strange stretch that is meant; shorter breaks than `gap` windows count."""
    strange = np.flatnonzero(values > clear)
    if not len(strange):
        highest = f"its highest score is {values.max():.1f}" if len(values) else "it is shorter than a window"
        raise EchoStreamError(
            f"{sound.source}: nothing in it is unlike normal sound: {highest}, the clear level is "
            f"{clear:.1f}",
            "what raises no alarm need not be taught",
        )
    stretches = np.split(strange, np.flatnonzero(np.diff(strange) > gap) + 1)
    if sound.onset_s is None:
        meant = max(stretches, key=lambda own: values[own].max())
    else:
        onset_s, starts_s = sound.onset_s, sound.starts_s
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
