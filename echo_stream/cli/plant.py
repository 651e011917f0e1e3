"""plant lists and compares the machines of all nodes, sends commands, and brings files to nodes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echo_stream.cli.common import ConfigOption, JsonOption, print_json, print_table, quiet
from echo_stream.core.errors import CommandRefused, ConfigError
from echo_stream.core.text import person

if TYPE_CHECKING:
    from echo_stream.cli.plant_transfer import RollOut, Target

BrokerOption = Annotated[
    str | None, typer.Option("--broker", metavar="HOST[:PORT]", help="instead of the configuration's broker")
]
AssetOption = Annotated[
    list[str] | None,
    typer.Option("--asset", metavar="KEY=VALUE", help="only machines at this place, as line=3"),
]
WhichArgument = Annotated[str, typer.Argument(metavar="NODE/MACHINE", help="as pc7/pump3")]
ByOption = Annotated[
    str | None, typer.Option("--by", help="your name, for log and event; default: the user who runs this")
]
WhyOption = Annotated[str, typer.Option("--reason", help="why, for log and event")]

app = typer.Typer(
    name="plant",
    help="All machines of all nodes, by what the broker keeps of them. User, password and TLS for the broker "
    "come from the configuration.",
    no_args_is_help=True,
)


@app.command("list")
def list_(
    broker: BrokerOption = None,
    asset: AssetOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """All machines by what the broker keeps of them, the most urgent first."""
    from echo_stream.cli.plant_broker import Plant, collect, listed

    quiet()
    plant, wanted = Plant.of(broker, config), assets_of(asset or [])
    found = listed(collect(plant), wanted)
    if as_json:
        print_json({"broker": plant.broker.address, **found})
    else:
        _print(found)


@app.command()
def compare(
    like: Annotated[str, typer.Option(help="ids of machines of one kind, with * and ?: pump*")],
    seconds: Annotated[float, typer.Option(min=1.0, max=3600.0, help="how long to listen to scores")] = 30.0,
    broker: BrokerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Machines of one kind side by side: score, levels, trip levels; says which is unlike the others."""
    from echo_stream.cli.plant_broker import Plant
    from echo_stream.cli.plant_compare import show_comparison

    quiet()
    show_comparison(Plant.of(broker, config), like, seconds, as_json)


def _ask(
    which: str, command: Mapping[str, Any], by: str | None, why: str, broker: str | None, config: Path | None
) -> None:
    from echo_stream.cli.plant_broker import Plant, ask

    quiet()
    said = {"by": by or person(), **({"reason": why} if why else {})}
    print(f"{which}: {ask(Plant.of(broker, config), which, {**command, **said})}")


@app.command()
def ack(
    which: WhichArgument,
    by: ByOption = None,
    reason: WhyOption = "",
    broker: BrokerOption = None,
    config: ConfigOption = None,
) -> None:
    """Acknowledge the alarm of a machine: seen."""
    _ask(which, {"command": "ack"}, by, reason, broker, config)


@app.command()
def shelve(
    which: WhichArgument,
    hours: Annotated[float, typer.Option(help="how long, at most a week")],
    by: ByOption = None,
    reason: WhyOption = "",
    broker: BrokerOption = None,
    config: ConfigOption = None,
) -> None:
    """Silence the alarm of a machine for a time."""
    _ask(which, {"command": "shelve", "duration_s": hours * 3600}, by, reason, broker, config)


@app.command()
def unshelve(
    which: WhichArgument,
    by: ByOption = None,
    reason: WhyOption = "",
    broker: BrokerOption = None,
    config: ConfigOption = None,
) -> None:
    """End the silence of a machine's alarm."""
    _ask(which, {"command": "unshelve"}, by, reason, broker, config)


KeyOption = Annotated[Path, typer.Option("--key", help="your private key, made by `plant key`")]
OWN_KEY = Path("~/.config/echo-stream/plant.key")


@app.command()
def key(file: Annotated[Path, typer.Argument(help="file for the private key")] = OWN_KEY) -> None:
    """Make the keys for push and collect: the private one in a file; the public one is printed."""
    from echo_stream.mqtt.signed import make_key

    path = file.expanduser()
    public = make_key(path)
    print(public)
    print(
        f"the private key is in {path}: whoever has it can run any program on the nodes that trust it.\n"
        f'in the configuration of each node, then restart it: plant: {{trust: ["{public}"]}}',
        file=sys.stderr,
    )


class Pushed(StrEnum):
    """What is pushed."""

    CONFIG = "config"
    BANK = "bank"


class Collected(StrEnum):
    """What is collected."""

    BANKS = "banks"
    EVIDENCE = "evidence"


@app.command()
def push(
    what: Pushed,
    to: Annotated[
        list[str], typer.Argument(help="NODE for a config, NODE/MACHINE for a bank", metavar="TO...")
    ],
    file: Annotated[
        str,
        typer.Argument(
            help="what to send; its name may contain {node} and {machine}, as configs/{node}.yaml"
        ),
    ],
    by: ByOption = None,
    key: KeyOption = OWN_KEY,
    broker: BrokerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Bring a configuration or a bank to nodes: to the first one, then to a tenth, then to all others.

    Each node checks it and uses it. It goes back to the one before where its
    machines are not heard as before within a minute. If one node refuses it or
    goes back, the others do not get it.
    """
    from echo_stream.cli.plant_transfer import Target

    quiet()
    targets = [Target.parse(each, what is Pushed.BANK, file) for each in dict.fromkeys(to)]
    if what is Pushed.CONFIG and len(targets) > 1 and "{node}" not in file:
        raise ConfigError(
            f"{file}: each node has its own configuration", "expected {node} in the name of FILE"
        )
    roll_out = _roll_out(broker, config, key, by, as_json)
    _carried_out(what, targets, as_json, lambda: roll_out.push(what.value, targets))


@app.command()
def collect(
    what: Collected,
    of: Annotated[list[str], typer.Argument(help="NODE, or NODE/MACHINE", metavar="OF...")],
    into: Annotated[Path, typer.Option(help="folder for NODE/MACHINE/FILE")] = Path("collected"),
    most_mb: Annotated[
        float, typer.Option(min=0.001, max=10_000, help="most megabytes from each OF")
    ] = 200.0,
    by: ByOption = None,
    key: KeyOption = OWN_KEY,
    broker: BrokerOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch the banks in use, or sound and pictures of alarms (the newest first), at most 1 MB/s."""
    from echo_stream.cli.plant_transfer import Target

    quiet()
    targets = [Target.parse(each, None) for each in dict.fromkeys(of)]
    roll_out = _roll_out(broker, config, key, by, as_json)
    _carried_out(
        what, targets, as_json, lambda: roll_out.collect(what.value, targets, into, round(most_mb * 1e6))
    )


def _roll_out(broker: str | None, config: Path | None, key: Path, by: str | None, as_json: bool) -> RollOut:
    from echo_stream.cli.plant_broker import Plant
    from echo_stream.cli.plant_transfer import RollOut
    from echo_stream.mqtt.command_models import LONGEST_BY
    from echo_stream.mqtt.signed import load_key

    by = by or person()
    if len(by) > LONGEST_BY:
        raise ConfigError(f"--by: has {len(by)} characters, expected at most {LONGEST_BY}")
    tell: Callable[[str], None] = (lambda _: None) if as_json else lambda line: print(line, flush=True)
    return RollOut(Plant.of(broker, config), load_key(key.expanduser()), by, tell)


def _carried_out(what: str, targets: Sequence[Target], as_json: bool, work: Callable[[], None]) -> None:
    """Say in any case how far it came; an error where that is not to the end."""
    try:
        work()
    finally:
        if as_json:
            print_json({"what": what, "targets": [target.to_json() for target in targets]})
    if all(target.state == "done" for target in targets):
        return
    by_state: dict[str, list[str]] = {}
    for target in targets:
        by_state.setdefault(target.state.replace("_", " "), []).append(target.title)
    said = "; ".join(f"{state}: {', '.join(those)}" for state, those in by_state.items())
    raise CommandRefused(f"{what}: not all is done. {said}")


def assets_of(texts: Sequence[str]) -> dict[str, str]:
    """What --asset says, by key.

    Raises:
        ConfigError: one says no place.
    """
    pairs = [text.partition("=") for text in texts]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise ConfigError(f"--asset {key}{equals}{value}: says no place", "expected KEY=VALUE, as line=3")
    return {key: value for key, _, value in pairs}


def _print(found: Mapping[str, Any]) -> None:
    from rich.table import Table

    table = Table("", "machine", "node", "where", "state", "coverage", "bank", "version", "heard")
    for each in found["machines"]:
        where = ", ".join((each["asset"] or {}).values())
        coverage = "-" if each["coverage_10m"] is None else f"{each['coverage_10m']:.2f}"
        proposed = f" ({each['bank_proposed']} waits)" if each["bank_proposed"] else ""
        bank, version = f"{each['bank'] or '-'}{proposed}", each["versions"].get("echo-stream", "-")
        who = (each["urgency"], each["name"], each["node"], where, each["state"] or "-")
        table.add_row(*who, coverage, bank, version, _ago(each["heard"]))
    print_table(table, 140)
    for node in found["nodes"]:
        if not node["online"]:
            print(f"{node['node']}: offline, heard {_ago(node['heard'])}")
        for reason in node["reasons"] if node["online"] else ():
            print(f"{node['node']}: {reason}")
    if not found["machines"]:
        print("the broker keeps nothing of such machines", file=sys.stderr)


def _ago(ts: str | None) -> str:
    from echo_stream.cli.fleet import seconds_since

    seconds = seconds_since(ts)
    if seconds is None:
        return "-"
    for size_s, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size_s:
            return f"{seconds / size_s:.0f} {unit} ago"
    return f"{max(0.0, seconds):.0f} s ago"
