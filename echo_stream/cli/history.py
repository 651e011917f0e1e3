"""history lists what was measured of a machine, events the evidence of alarms; both from this PC's disk."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echo_stream.cli.common import (
    ConfigOption,
    JsonOption,
    MachineOption,
    pick,
    point_in_time,
    print_json,
    quiet,
    read_config,
)
from echo_stream.core.errors import EchoStreamError
from echo_stream.core.sequences import commonest

if TYPE_CHECKING:
    from pathlib import Path

    from echo_stream.evidence.store import Kept
    from echo_stream.history.minutes import MinuteRow

DAY_S = 86_400
HOUR_S = 3600


def history(
    machine: MachineOption,
    days: Annotated[float, typer.Option("--days", min=0.001, help="so many days back from now")] = 1.0,
    as_csv: Annotated[bool, typer.Option("--csv", help="one line a minute, with a head")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print scores, level and coverage of a machine: by the hour, or by the minute as --csv or --json."""
    import sqlite3

    from echo_stream.core.errors import EchoStreamError
    from echo_stream.history.read import read_history, rows_to_csv
    from echo_stream.history.store import HISTORY_FILE

    quiet()
    settings = read_config(config)
    path = settings.state_dir / HISTORY_FILE
    try:
        rows = read_history(path, pick(settings, machine).id, since_s=time.time() - days * DAY_S)
    except sqlite3.Error as error:
        raise EchoStreamError(
            f"history {path} cannot be read: {error}",
            "stop the daemon, move the file away, and start it: it begins a new history",
        ) from None
    if as_json:
        print_json([asdict(row) for row in rows])
    elif as_csv:
        for line in rows_to_csv(rows):
            print(line)
    elif rows:
        _print_hours(rows)
    else:
        print(f"no minute of {machine} in the last {days:g} days is in {path}")


def _print_hours(rows: list[MinuteRow]) -> None:
    from statistics import median

    from rich.console import Console
    from rich.table import Table

    table = Table("hour (local time)", "score", "highest", "over alarm level", "level", "state", "coverage")
    hours: dict[float, list[MinuteRow]] = {}
    for row in rows:
        hours.setdefault(row.minute_s // HOUR_S * HOUR_S, []).append(row)
    for start_s, members in hours.items():
        states = [row.operating_state for row in members]
        table.add_row(
            time.strftime("%Y-%m-%d %H:%M %Z", time.localtime(start_s)),
            f"{median(row.score_median for row in members):.2f}",
            f"{max(row.score_max for row in members):.1f}",
            f"{sum(row.over_alarm * row.windows for row in members) / sum(r.windows for r in members):.1%}",
            f"{median(row.level_dbfs for row in members):.1f} dBFS",
            commonest(states),
            f"{sum(row.coverage for row in members) / 60:.3f}",
        )
    Console(width=110).print(table)


events_app = typer.Typer(help="The evidence of alarms on this PC's disk.", invoke_without_command=True)


@events_app.callback()
def events(
    context: typer.Context,
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="only of this one")] = None,
    since: Annotated[
        str | None,
        typer.Option(
            help="only since then: 2026-11-20, 2026-11-20T08:00 (local time, or with Z or +01:00), "
            "or 3d, 12h, 30min ago"
        ),
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the alarms whose evidence is on the disk, oldest first."""
    if context.invoked_subcommand is not None:
        return
    from echo_stream.evidence.store import list_events

    quiet()
    folder = read_config(config).state_dir / "evidence"
    kept = list_events(folder, machine, point_in_time(since, "--since") if since else None)
    if as_json:
        print_json([_event(one) for one in kept])
        return
    for one in kept:
        print(f"{one.at:%Y-%m-%d %H:%M:%S}Z  {one.machine}  score {one.event['score']:.2f}  {one.event_id}")
    if not kept:
        print(f"no evidence in {folder}")


@events_app.command()
def show(event_id: Annotated[str, typer.Argument(metavar="ID")], config: ConfigOption = None) -> None:
    """Say where the files of one alarm are."""
    from echo_stream.evidence.store import list_events

    quiet()
    settings = read_config(config)
    folder = settings.state_dir / "evidence"
    for kept in list_events(folder):
        if kept.event_id == event_id:
            machine = settings.machine(kept.machine)
            print_json(_event(kept, machine.bank if machine else None))
            return
    raise EchoStreamError(
        f"no evidence of event {event_id} in {folder}", "echo-stream events lists what there is"
    )


def _event(kept: Kept, bank: Path | None = None) -> dict[str, Any]:
    from echo_stream.evidence.normal_sound import file_of

    files = {"document": kept.document, "clip": kept.clip, "picture": kept.picture}
    if bank and (nearest := kept.nearest_normal):
        files["nearest_normal"] = file_of(bank, str(nearest.get("version")), str(nearest.get("file")))
    paths = {name: str(path) if path else None for name, path in files.items()}
    return {**kept.event, "complete": kept.complete, "files": paths}
