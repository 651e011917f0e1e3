"""Commands share options, the configuration, tables and progress on a terminal."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from echo_stream.core.errors import ConfigError
from echo_stream.core.text import Progress

if TYPE_CHECKING:
    from rich.table import Table

    from echo_stream.config.schema import Config, Machine
    from echo_stream.fit.archive_jobs import Engine
    from echo_stream.fit.shard import Shard

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="./config.yaml, else /etc/echo-stream/config.yaml", show_default=False
    ),
]
MachineOption = Annotated[str, typer.Option("--machine", "-m", help="id of the machine in the configuration")]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON document for programs")]


def quiet() -> None:
    """Only what is wrong is logged, on standard error: standard output is the command's own."""
    from echo_stream.daemon.logs import configure

    configure(level="warning")


def read_config(path: Path | None) -> Config:
    """The configuration at path, or at one of the usual places."""
    from echo_stream.config.load import load

    return load(path)


def read_config_or_defaults(path: Path | None) -> Config:
    """The same; where none is named and none lies in a usual place, the defaults, without any machine.

    `machines: []` is allowed: it is of a PC from which a plant is looked at.
    """
    from echo_stream.config.load import DEFAULT_PATHS, load
    from echo_stream.config.schema import Config

    if path is None and not any(usual.is_file() for usual in DEFAULT_PATHS):
        return Config.model_construct(node="pc", machines=())
    return load(path, without_machines=True)


def pick(config: Config, machine_id: str) -> Machine:
    """The machine of this id; a ConfigError that names the nearest where there is none."""
    machine = config.machine(machine_id)
    if machine is None:
        known = ", ".join(m.id for m in config.machines)
        raise ConfigError(f"--machine {machine_id}: no such machine", f"the configuration has: {known}")
    return machine


_UNITS = {
    "min": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def point_in_time(text: str, option: str, now: datetime | None = None) -> datetime:
    """A past time as people give it, in UTC; without a zone it is local, without a day the last such time.

    Args:
        text: 14:03, 2026-11-20, 2026-11-20T14:03, 2026-11-20T13:03Z, or 3d, 12h, 30min, 2w ago.
        option: which says so, for the error.
        now: with its zone; None: the clock.

    Raises:
        typer.BadParameter: it is none of these.
    """
    now = now or datetime.now().astimezone()
    for unit, length in _UNITS.items():
        number = text.removesuffix(unit)
        if number != text and number.isdecimal():
            try:
                return (now - int(number) * length).astimezone(UTC)
            except (OverflowError, ValueError):
                raise typer.BadParameter(f"{option} {text:.40}: too long ago") from None
    try:
        if "-" not in text and ":" in text:
            at = datetime.fromisoformat(f"{now.date()}T{text}").astimezone()
            return (at if at <= now else at - timedelta(days=1)).astimezone(UTC)
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{option} {text:.40}: expected 14:03, 2026-11-20T14:03 (local time), or 3d, 12h, 30min"
        ) from None


def print_json(document: Any) -> None:
    """One line of JSON on standard output; text that is no UTF-8 (names of files) as escapes."""
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    print(LONE_SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text), flush=True)


def print_table(table: Table, width: int) -> None:
    """Print it as wide as the terminal, or `width` letters; brackets in a cell are no markup."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else width, markup=False, emoji=False).print(table)


@contextmanager
def engine_of(cluster: str | None) -> Iterator[Engine | None]:
    """The workers of a scheduler where one is named."""
    if cluster is None:
        yield None
        return
    from echo_stream.fit.cluster import connected

    with connected(cluster) as engine:
        yield engine


def shard_of(text: str | None, resume: Path | None, cluster: str | None) -> Shard | None:
    """The share of the work that --shard names."""
    from echo_stream.fit.shard import Shard

    if text is None:
        return None
    if cluster is not None:
        raise ConfigError("--shard: shares out the work by hand, and --cluster by itself", "give one of them")
    return Shard.parse(text, resume)


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A progress bar on a terminal's standard error; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f} %"))
    with Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: float, total: float, at: str) -> None:
            bar.update(task, completed=done, total=total, description=f"{what} {at}".rstrip())

        yield update
