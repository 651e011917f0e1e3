"""The real corridor over recordings, for benchmarks: fit as fit-normal does, replay as the daemon does."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Event as Stop
from typing import Any

import numpy as np
from numpy.typing import NDArray

from echo_stream.alarm.calibration import Calibration
from echo_stream.config.schema import Config, Machine
from echo_stream.core.types import AlarmEvent, AlarmLevel, AlarmPath, SensorEvent
from echo_stream.fit.fit import fit, recordings
from echo_stream.pipeline.factory import build_encoder, build_station, load_bank, trip_levels
from echo_stream.pipeline.loop import listen
from echo_stream.pipeline.sources import open_sources
from echo_stream.pipeline.station import BEGINS, Event, Scored, Station

Float64 = NDArray[np.float64]
RECORDINGS = "ECHO_STREAM_RECORDINGS"
"""Environment variable that names the folder of recordings, where no argument does."""
CROSSFADE_S = 0.01
"""Over which takes are joined, as in the shared streams."""


@dataclass(frozen=True, slots=True)
class Raised:
    """One time that a warning or an alarm stood; seconds of the stream."""

    onset_s: float
    """Where the newest hop of the first window above the trip level starts."""
    raised_s: float
    """When it is announced: after the on-delay."""
    cleared_s: float | None
    """None: it still stood when the stream ended."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the corridor made of one recording."""

    ends_s: Float64
    """(windows,) ends of the windows."""
    scores: Float64
    """(windows,)"""
    raised: dict[AlarmLevel, list[Raised]]
    sensor: list[tuple[float, str]]
    """When the sensor's state changed, in seconds, and to what; a broken one suppresses alarms."""
    announced: list[tuple[float, AlarmPath | None]] = field(default_factory=list)
    """When an alarm came, or came anew while one stood, in seconds, and by which way."""


class Rig:
    """One machine with the default configuration: fitted once, then replayed as often as wanted.

    Args:
        machine: its id.
        normal: files of normal sound, as they would be given to `fit-normal --recordings`.
        folder: where bank and state go.
        sound: any recording of the machine; its rate is the machine's.
        encoder: its settings; those of the default where there are none.
    """

    def __init__(
        self,
        machine: str,
        normal: Sequence[Path],
        folder: Path,
        sound: Path,
        encoder: Mapping[str, Any] | None = None,
    ) -> None:
        self._encoder_settings = dict(encoder or {})
        self._bank = folder / f"{machine}.safetensors"
        self._folder = folder
        config, settings = self._configuration(machine, sound)
        acquire = recordings(config, settings, normal)
        fit(config, settings, acquire, condition="normal", accept=True, progress=_quiet)
        self.machine, self.alarm = settings.id, settings.alarm
        self.window_s, self.hop_s = config.encoder.window_s, config.encoder.hop_s
        bank = load_bank(settings)
        self.held_out = np.concatenate(bank.held_out)
        self.levels = trip_levels(settings, Calibration.of(bank.calibration))
        self._encoder = build_encoder(config)
        source = open_sources([settings])[settings.id]
        self.sample_rate_hz = source.sample_rate_hz
        self._station = build_station(config, settings, source, self._encoder)
        source.close()

    def _configuration(self, machine: str, sound: Path) -> tuple[Config, Machine]:
        config = Config.model_validate(
            {
                "node": "benchmark",
                "state_dir": str(self._folder),
                "encoder": self._encoder_settings or {"kind": "spectral"},
                "machines": [
                    {
                        "id": machine,
                        "source": {"kind": "recording", "path": str(sound), "pace": "fast"},
                        "bank": str(self._bank),
                    }
                ],
            }
        )
        return config, config.machines[0]

    def replay(self, sound: Path) -> Replayed:
        """Let the corridor hear a recording from its beginning, with alarms that have heard nothing yet."""
        _, settings = self._configuration(self.machine, sound)
        source = open_sources([settings])[self.machine]
        fresh = self._station
        # Whatever state it has is copied; what nobody writes here need not be.
        only_read = {id(part): part for part in (fresh.reader, fresh.bank, fresh.scorer, fresh.health)}
        station = deepcopy(fresh, only_read)
        station.reader = replace(fresh.reader, source=source)
        events: list[Event] = []
        heard: list[Scored] = []

        def tell(_: Station, event: Event) -> None:
            events.append(event)

        listen(
            lambda: {self.machine: station}, self._encoder, on_event=tell, observe=heard.extend, stop=Stop()
        )
        source.close()
        return Replayed(
            ends_s=np.array([window.end / window.sample_rate_hz for window, _ in heard]),
            scores=np.array([score.value for _, score in heard]),
            raised={level: raised_of(events, level, self.sample_rate_hz) for level in AlarmLevel},
            sensor=[
                (event.at / self.sample_rate_hz, event.after.value if event.after else "well")
                for event in events
                if isinstance(event, SensorEvent)
            ],
            announced=[
                (event.at / self.sample_rate_hz, event.path)
                for event in events
                if isinstance(event, AlarmEvent)
                and event.level is AlarmLevel.ALARM
                and event.cause in BEGINS
                and event.active
            ],
        )

    def holds(self, scores: Float64) -> float:
        """The trip level up to which a contiguous run of scores raises an alarm; -inf: it is too short."""
        found = margins(
            scores,
            on_hops=self.levels[AlarmLevel.ALARM].on_delay_hops,
            dead_band=self.alarm.dead_band,
            median=float(np.median(self.held_out)),
        )
        return float(found.max(initial=-np.inf))

    @property
    def settle_s(self) -> dict[AlarmLevel, float]:
        """Window and on-delay: what comes so soon after a change still speaks of it."""
        return {level: self.window_s + self.alarm.on_delays_s[level] for level in AlarmLevel}

    def calibration_lines(self) -> list[str]:
        """Trip levels beside the scores of the normal sound that they come from."""
        low, median, high, most = np.quantile(self.held_out, [0.05, 0.5, 0.95, 1.0])
        lines = [
            f"{self.machine}: {len(self.held_out)} held-out scores, 5 % {low:.1f}, median {median:.1f}, "
            f"95 % {high:.1f}, largest {most:.1f}"
        ]
        for level, trip in self.levels.items():
            lines.append(
                f"  {level} above {trip.level:.1f}, clear at {trip.clear:.1f}; asked "
                f"{trip.asked_per_month:.1f} a month, with 95 % at most {trip.upper95_per_month:.0f}; "
                f"on-delay of {trip.on_delay_hops} hops, {trip.persistence_hops} in the calibration"
            )
        return lines


def raised_of(events: Sequence[Event], level: AlarmLevel, sample_rate_hz: int) -> list[Raised]:
    """Each time that the alarm of a level stood."""
    found: list[Raised] = []
    standing = False
    for event in events:
        if not isinstance(event, AlarmEvent) or event.level is not level:
            continue
        at_s = event.at / sample_rate_hz
        if event.active and not standing:
            onset = event.at if event.onset is None else event.onset
            found.append(Raised(onset / sample_rate_hz, at_s, None))
        elif standing and not event.active:
            found[-1] = replace(found[-1], cleared_s=at_s)
        standing = event.active
    return found


def join(takes: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> NDArray[np.float32]:
    """One stream of several takes, each (n,), with linear cross-fades of 10 ms."""
    n = round(CROSSFADE_S * sample_rate_hz)
    fade = np.linspace(0, 1, n, dtype=np.float32)
    joined = takes[0].copy()
    for take in takes[1:]:
        joined[-n:] = joined[-n:] * (1 - fade) + take[:n] * fade
        joined = np.concatenate([joined, take[n:]])
    return joined


def recordings_folder(argument: Path | None) -> Path:
    """The folder that an argument or the environment names; ends the program where neither does."""
    folder = argument or (Path(os.environ[RECORDINGS]) if os.environ.get(RECORDINGS) else None)
    if folder is None:
        sys.exit(f"name the folder of recordings, as the argument or in {RECORDINGS}")
    if not folder.is_dir():
        sys.exit(f"{folder}: no such folder")
    return folder


def _quiet(_done: float, _total: float, _what: str) -> None:
    """No progress bar."""


def margins(scores: Float64, *, on_hops: int, dead_band: float, median: float) -> Float64:
    """Above the trip level exactly where an inactive condition becomes active.

    With clear = trip - dead_band * (trip - median), a score above clear is one whose excess over the median,
    divided by (1 - dead_band), is above trip: so the condition, true since `on_hops` windows, is a minimum.

    Args:
        scores: (windows,), one contiguous run.
        on_hops: On-delay in hops.
        dead_band: Share of the way from trip to median; 0 to less than 1.
        median: Of normal scores.

    Returns:
        (windows - on_hops,), for the windows that have all they need; empty where there are none.
    """
    usable = len(scores) - on_hops
    if usable <= 0:
        return np.empty(0)
    if on_hops == 0:
        return scores
    stretched = median + (scores - median) / (1.0 - dead_band)
    rest = np.lib.stride_tricks.sliding_window_view(stretched[1:], on_hops).min(axis=-1)
    return np.asarray(np.minimum(scores[:usable], rest))
