"""Commands of those who operate it: status, events, doctor, bench, install-service, uninstall-service."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echo_stream.cli.common import (
    ConfigOption,
    JsonOption,
    print_json,
    quiet,
    read_config,
    read_config_or_defaults,
)
from echo_stream.core.errors import EchoStreamError

if TYPE_CHECKING:
    from echo_stream.cli.bench import Measured
    from echo_stream.evidence.store import Kept

app = typer.Typer()
events_app = typer.Typer(help="The evidence of alarms on this PC's disk.", invoke_without_command=True)
app.add_typer(events_app, name="events")

PrintOption = Annotated[bool, typer.Option("--print", help="show what would be done, and do nothing")]


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask the running daemon how each machine is, and how it is itself."""
    from echo_stream.daemon.status import ask, find_socket

    found = ask(find_socket(read_config(config).state_dir))
    if as_json:
        print_json(found)
    else:
        _print_status(found)


def _print_status(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    broker, uptime = found["broker"], timedelta(seconds=round(found["uptime_s"]))
    link = "connected" if broker["connected"] else f"AWAY ({broker['last_error'] or 'not yet connected'})"
    print(f"echo-stream {found['version']} on {found['node']}, up {uptime}, encoder {found['encoder']}")
    print(f"broker {broker['host']}:{broker['port']} {link}; outbox {found['outbox']['depth']}")
    table = Table("machine", "alarm", "warning", "score", "coverage", "level", "sound", "real-time factor")
    for machine in found["machines"]:
        states = [machine["alarms"][level]["state"] for level in ("alarm", "warning")]
        numbers = [
            _shown(machine["score"], ".2f"),
            _shown(machine["coverage_10m"], ".3f"),
            _shown(machine["level_dbfs"], ".1f", " dBFS"),
        ]
        factor = _shown(machine["real_time_factor"], ".4f")
        table.add_row(machine["machine"], *states, *numbers, machine["capture"], factor)
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


@events_app.callback()
def events(
    context: typer.Context,
    machine: Annotated[str | None, typer.Option("--machine", "-m", help="only of this one")] = None,
    since: Annotated[
        str | None, typer.Option(help="only since then: 2026-11-20, 2026-11-20T08:00, or 3d, 12h, 30min ago")
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
    folder = read_config(config).state_dir / "evidence"
    for kept in list_events(folder):
        if kept.event_id == event_id:
            print_json(_event(kept))
            return
    raise EchoStreamError(
        f"no evidence of event {event_id} in {folder}", "echo-stream events lists what there is"
    )


def _event(kept: Kept) -> dict[str, Any]:
    files = {"document": kept.document, "clip": kept.clip, "picture": kept.picture}
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
        if number != since and number.isdigit():
            return datetime.now(UTC) - int(number) * length
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        raise typer.BadParameter(f"--since {since}: expected a date, a time, or 3d, 12h, 30min") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


@app.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look whether this PC is fit: CPU, disk, rights, devices, level, broker, clock. Listens some seconds."""
    from dataclasses import asdict

    from echo_stream.cli.doctor import examine
    from echo_stream.core.checks import Verdict, worst

    quiet()
    checks = []
    for check in examine(read_config_or_defaults(config)):
        checks.append(check)
        if not as_json:
            advice = f"\n        {check.advice}" if check.advice else ""
            print(f"{check.verdict.upper():4}  {check.name}: {check.finding}{advice}", flush=True)
    if as_json:
        print_json({"verdict": worst(checks), "checks": [asdict(check) for check in checks]})
    raise typer.Exit(1 if worst(checks) is Verdict.FAIL else 0)


@app.command()
def bench(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Measure what this PC can carry: runtimes, and machines by encoder and rate. Takes half a minute."""
    from echo_stream.cli.bench import LOAD, measure, this_pc

    quiet()
    settings = read_config_or_defaults(config)
    cut = settings.encoder
    found = []
    if not as_json:
        print(f"{this_pc()}\nwindows of {cut.window_s:g} s, one every {cut.hop_s:g} s; ms are of one window")
    for one in measure(settings):
        found.append(one)
        if not as_json:
            _print_measured(one)
    if as_json:
        own = {"pc": this_pc(), "window_s": cut.window_s, "hop_s": cut.hop_s, "load": LOAD}
        print_json({**own, "encoders": [one.to_json() for one in found]})
    else:
        print(f"\nmachines: at a load of {LOAD:.0%}, all with the same rate and encoder; see docs/scaling.md")


def _print_measured(one: Measured) -> None:
    print(f"\n{one.encoder}" + (f", {one.about}" if one.about else ""), flush=True)
    for runtime, ms in one.runtimes_ms.items():
        used = "".join(
            [", auto picks it" if runtime == one.auto else "", ", in use" if runtime == one.runtime else ""]
        )
        print(f"  {runtime:20} {ms:8.2f} ms, the net alone, 2 s at 48 kHz{used}")
    for at in one.capacities:
        times = f"encoding {at.encode_ms:7.2f} ms  the rest {at.rest_ms:6.2f} ms"
        print(f"  {at.rate_hz / 1000:4.0f} kHz  {times}  {at.machines:6} machines", flush=True)


@app.command("install-service")
def install_service(only_print: PrintOption = False) -> None:
    """Write unit, user, directories and an example configuration; start nothing."""
    from echo_stream.cli.install import install_service as install

    install(Path(sys.argv[0]).absolute(), only_print=only_print)


@app.command("uninstall-service")
def uninstall_service(only_print: PrintOption = False) -> None:
    """Stop the service and remove what install-service made; banks, state and settings stay."""
    from echo_stream.cli.install import uninstall_service as uninstall

    uninstall(only_print=only_print)
