"""events lists the evidence of alarms on this PC's disk."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echo_stream.cli.common import ConfigOption, JsonOption, print_json, quiet, read_config
from echo_stream.core.errors import EchoStreamError

if TYPE_CHECKING:
    from pathlib import Path

    from echo_stream.evidence.store import Kept

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
    kept = list_events(folder, machine, _time(since) if since else None)
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


_UNITS = {
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def _time(since: str) -> datetime:
    for unit, length in _UNITS.items():
        number = since.removesuffix(unit)
        if number != since and number.isdecimal():
            try:
                return datetime.now(UTC) - int(number) * length
            except (OverflowError, ValueError):
                raise typer.BadParameter(f"--since {since:.40}: too long ago") from None
    try:
        return datetime.fromisoformat(since).astimezone(UTC)  # without a zone: this PC's
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"--since {since:.40}: expected a date, a time, or 3d, 12h, 30min") from None
