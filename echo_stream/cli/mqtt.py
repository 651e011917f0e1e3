"""mqtt check, mqtt purge-discovery and watch talk to the broker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import typer

from echo_stream.cli.common import ConfigOption, JsonOption, print_json, quiet, read_config

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from echo_stream.cli.fleet import Fleet, MachineNow

app = typer.Typer()
mqtt_app = typer.Typer(help="Look into the connection to the broker.", no_args_is_help=True)
app.add_typer(mqtt_app, name="mqtt")


@mqtt_app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Try name, TCP, TLS, authentication, subscribe, publish in turn; say which fails, and why."""
    from dataclasses import asdict

    from echo_stream.cli.mqtt_check import check as steps_of
    from echo_stream.mqtt.topics import Topics
    from echo_stream.pipeline.factory import broker_settings

    quiet()
    settings = read_config(config)
    steps = []
    topics = Topics(settings.mqtt.topic_root, settings.node)
    for step in steps_of(broker_settings(settings), topics, protocol=settings.mqtt.protocol):
        steps.append(step)
        if not as_json:
            hint = f"\n        {step.hint}" if step.hint else ""
            print(f"{'ok' if step.ok else 'FAIL':4}  {step.name}: {step.found}{hint}", flush=True)
    if as_json:
        print_json([asdict(step) for step in steps])
    raise typer.Exit(0 if all(step.ok for step in steps) else 1)


@mqtt_app.command("purge-discovery")
def purge_discovery(config: ConfigOption = None) -> None:
    """Take this node's machines out of Home Assistant: empty its retained discovery messages."""
    from echo_stream.cli.mqtt_check import purge_discovery as purge
    from echo_stream.mqtt.topics import Topics
    from echo_stream.pipeline.factory import broker_settings

    quiet()
    settings = read_config(config)
    mqtt = settings.mqtt
    emptied = purge(
        broker_settings(settings),
        Topics(mqtt.topic_root, settings.node),
        [machine.id for machine in settings.machines],
        prefix=mqtt.discovery_prefix or "homeassistant",
        protocol=mqtt.protocol,
    )
    for topic in emptied:
        print(f"emptied {topic}")


@app.command()
def watch(config: ConfigOption = None) -> None:
    """Show the live state of all machines of all nodes, as the broker has it; Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    from echo_stream.cli.fleet import Fleet
    from echo_stream.cli.plant_broker import Plant, follow

    quiet()
    read_config(config)  # which must be there
    plant = Plant.of(None, config)
    stop = threading.Event()
    # Names in brackets are no markup.
    console = Console(markup=False, emoji=False)
    with Live(_table(Fleet(plant.topic_root)), console=console, auto_refresh=False) as live:
        try:
            topics = ("+/status", "+/+/+")
            follow(plant, topics, lambda fleet: live.update(_table(fleet), refresh=True), stop)
        except KeyboardInterrupt:
            stop.set()


def _table(fleet: Fleet) -> Table:
    from rich.table import Table

    table = Table("node", "machine", "sound", "alarm", "warning", "score", "threshold", "level", "coverage")
    for key in sorted(fleet.machines):
        table.add_row(*_row(fleet, fleet.machines[key]))
    table.caption = fleet.trouble or ("" if fleet.machines else "nothing received yet")
    return table


def _row(fleet: Fleet, now: MachineNow) -> list[str | Text]:
    from rich.text import Text

    levels = (now.alarm or {}).get("levels", {})
    states = [levels.get(level, {}).get("state", "-") for level in ("alarm", "warning")]
    active = [levels.get(level, {}).get("active") for level in ("alarm", "warning")]
    marks = [Text(s, "bold red" if on else "") for s, on in zip(states, active, strict=True)]
    score, health = now.score or {}, now.health or {}
    numbers = [
        score.get("score"),
        score.get("threshold"),
        score.get("level_dbfs"),
        health.get("coverage_10m"),
    ]
    sound = "yes" if fleet.listening(now) else Text("no", "yellow")
    return [now.node, now.machine, sound, *marks, *(f"{n:.2f}" if n is not None else "-" for n in numbers)]
