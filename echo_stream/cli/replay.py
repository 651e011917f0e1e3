"""replay sends recordings through the same pipeline as live sound, alarms included, as fast as it goes.

What `run` would have announced is known without waiting for a machine to break. Each recording is a life of
its own: it begins with alarms that have seen nothing yet, and its times count from its start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from threading import Event as Stop
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echo_stream.cli.common import ConfigOption, MachineOption, pick, print_json, quiet, read_config
from echo_stream.cli.fit import ColumnOption, RateOption, columns_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from echo_stream.capture.table import Columns
    from echo_stream.config.schema import Config, Machine
    from echo_stream.encode.encoder import Encoder
    from echo_stream.pipeline.station import Event, Scored, Station

COLOURS = {"strong": "#D55E00", "step": "#0072B2", "slow": "#009E73"}


@dataclass(slots=True)
class Replayed:
    """What became of one recording; all times in seconds from its start."""

    file: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    ends_s: list[float] = field(default_factory=list)
    """Ends of the windows, with their scores and with the levels of each way to an alarm at that time."""
    scores: list[float] = field(default_factory=list)
    levels: dict[str, list[float]] = field(default_factory=dict)


def replay(
    machine: MachineOption,
    recordings: Annotated[list[Path], typer.Argument(help="files or folders", metavar="RECORDING...")],
    config: ConfigOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object an event, for programs")] = False,
    picture: Annotated[
        Path | None, typer.Option("--picture", help="PNG with score, levels and events of all recordings")
    ] = None,
    column: ColumnOption = None,
    rate_hz: RateOption = None,
) -> None:
    """Show what would have been announced in recordings, with the machine's bank and settings."""
    from echo_stream.capture.recording import find_recordings
    from echo_stream.pipeline.factory import build_encoder

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    columns = columns_of(column, rate_hz)
    files = find_recordings(recordings, columns)
    encoder = build_encoder(settings, which)
    show = print_json if as_json else _print_line
    explain = (lambda _: None) if as_json else _print_why
    replayed = []
    for file in files:
        name = {"file": str(file)} if len(files) > 1 else {}
        replayed.append(
            replay_one(
                settings,
                which,
                encoder,
                file,
                tell=partial(_tell, show=show, name=name),
                why=explain,
                columns=columns,
            )
        )
        if not as_json and not replayed[-1].events:
            print(f"{file}: nothing is announced in {_clock(replayed[-1].ends_s[-1])}")
    if picture is not None:
        draw(replayed, picture)


def replay_one(
    config: Config,
    machine: Machine,
    encoder: Encoder,
    file: Path,
    *,
    tell: Callable[[dict[str, Any]], None] = lambda _: None,
    why: Callable[[str], None] = lambda _: None,
    columns: Columns | None = None,
) -> Replayed:
    """Walk one recording through the pipeline.

    Args:
        config: the whole configuration.
        machine: whose bank and alarm settings hold.
        encoder: the configuration's.
        file: the recording.
        tell: gets each event as a JSON object when it is decided.
        why: gets the reason in words right after it, where there is one.
        columns: where the recording is a table.

    Raises:
        BankError, BankMismatch: no bank, a damaged one, or one for another encoder, rate or window.
        SourceError: the recording is missing, damaged or shorter than a window.
    """
    from echo_stream.config.sources import RecordingSource
    from echo_stream.core.errors import SourceError
    from echo_stream.fit.listen import recording_of
    from echo_stream.pipeline.factory import build_station
    from echo_stream.pipeline.loop import listen

    found = Replayed(file)
    with closing(recording_of(machine, file, columns)) as source:
        fast = RecordingSource(kind="recording", path=file, pace="fast", channel=machine.source.channel)
        station = build_station(config, machine.model_copy(update={"source": fast}), source, encoder)

        def on_event(_: Station, event: Event) -> None:
            found.events.append(event_of(event, source.sample_rate_hz))
            tell(found.events[-1])
            if said := getattr(event, "why", ""):
                why(said)

        def observe(scored: Sequence[Scored]) -> None:
            for window, score in scored:
                found.ends_s.append(window.end / window.sample_rate_hz)
                found.scores.append(score.value)
                for name, level in levels_of(station).items():
                    found.levels.setdefault(name, []).append(level)

        listen(lambda: {machine.id: station}, encoder, on_event=on_event, observe=observe, stop=Stop())
    if not found.ends_s:
        raise SourceError(
            f"{file}: shorter than one window of {config.encoder.window_s:g} s",
            "give a longer recording, or set a shorter encoder.window_s and fit the bank again",
        )
    return found


def levels_of(station: Station) -> dict[str, float]:
    """The score over which each way leads to an alarm now."""
    now = station.ways.levels_now
    levels = {path.value: nan if level is None else level for path, level in now.items()}
    return {"warning": station.alarms[0].trip} | levels


def event_of(event: Event, sample_rate_hz: int) -> dict[str, Any]:
    """An event as replay prints it; a sensor's and a drift's have the same keys as an alarm's."""
    from echo_stream.core.types import AlarmEvent, SensorEvent

    onset = getattr(event, "onset", None)
    times = {
        "at_s": round(event.at / sample_rate_hz, 3),
        "onset_s": None if onset is None else round(onset / sample_rate_hz, 3),
    }
    if isinstance(event, AlarmEvent):
        return times | {
            "level": event.level.value,
            "path": event.path and event.path.value,
            "from": event.before.value,
            "to": event.after.value,
            "cause": event.cause,
            "active": event.active,
            "score": round(event.score, 4),
            "threshold": round(event.threshold, 4),
        }
    if isinstance(event, SensorEvent):
        before, after = event.before and event.before.value, event.after and event.after.value
        active, score, threshold = event.after is not None, None, None
        level = "sensor"
    else:
        before, after = ("drift", "well")[event.active], ("well", "drift")[event.active]
        active, score, threshold = event.active, round(event.median, 4), round(event.limit, 4)
        level = "drift"
    return times | {
        "level": level,
        "path": None,
        "from": before or "well",
        "to": after or "well",
        "cause": level,
        "active": active,
        "score": score,
        "threshold": threshold,
    }


def _tell(event: dict[str, Any], show: Callable[[Any], None], name: dict[str, str]) -> None:
    show(name | event)


def _print_line(event: dict[str, Any]) -> None:
    where = f"{event['file']}: " if "file" in event else ""
    way = f" by {event['path']}" if event["path"] else ""
    since = f", since {_clock(event['onset_s'])}" if event["onset_s"] is not None else ""
    score = (
        f", score {event['score']:.1f} over {event['threshold']:.1f}" if event["score"] is not None else ""
    )
    print(
        f"{where}{_clock(event['at_s'])} {event['level']}{way}: {event['from']} to {event['to']} "
        f"({event['cause']}{since}{score})"
    )


def _print_why(said: str) -> None:
    print(f"        {said}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{seconds % 60:04.1f}"


def draw(replayed: Sequence[Replayed], path: Path) -> None:
    """Write a PNG: a panel a recording with score, levels and events."""
    from echo_stream.core.errors import EchoStreamError
    from echo_stream.core.files import write_whole
    from echo_stream.evidence.picture import png_of

    drawn = png_of(_figure(replayed))
    try:
        write_whole(path, drawn)
    except OSError as error:
        raise EchoStreamError(f"--picture {path} cannot be written: {error.strerror}") from None


def _figure(replayed: Sequence[Replayed]) -> Figure:
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2 * len(replayed) + 0.6), dpi=110, layout="constrained", facecolor="white")
    for axes, one in zip(figure.subplots(len(replayed), 1, squeeze=False)[:, 0], replayed, strict=True):
        axes.plot(one.ends_s, one.scores, color="black", lw=1.0, label="anomaly score")
        for i, (name, levels) in enumerate(one.levels.items()):
            colour = COLOURS.get(name, ("#999999", "#D55E00", "#0072B2", "#009E73")[i % 4])
            axes.plot(one.ends_s, levels, color=colour, lw=1.0, ls="--", label=f"level: {name}")
        for event in one.events:
            if event["level"] == "alarm":
                axes.axvline(event["at_s"], color="#D55E00" if event["active"] else "#009E73", lw=1.4)
                text = f" {event['to']}" + (f" ({event['path']})" if event["path"] else "")
                axes.text(event["at_s"], 0.98, text, transform=axes.get_xaxis_transform(), va="top", size=8)
            elif event["level"] == "warning":
                axes.axvline(event["at_s"], color="#E69F00", lw=0.8, ls=":")
        axes.set_yscale("symlog", linthresh=10)
        axes.set_ylim(min(-1.0, float(np.min(one.scores))), None)
        axes.set(title=one.file.name, ylabel="anomaly score", xlabel="time from the start (s)")
        axes.legend(loc="upper left", fontsize=8)
        axes.margins(x=0.01)
    return figure
