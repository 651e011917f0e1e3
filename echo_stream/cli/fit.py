"""fit-normal and score learn what is normal and score against it; `bank extend` shares their options."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from echo_stream.cli.common import (
    ConfigOption,
    JsonOption,
    MachineOption,
    engine_of,
    pick,
    print_json,
    progress,
    quiet,
    read_config,
    shard_of,
)
from echo_stream.core.errors import ConfigError, EchoStreamError, Failures

if TYPE_CHECKING:
    from echo_stream.capture.table import Columns
    from echo_stream.config.schema import Config, Machine
    from echo_stream.fit.archive_jobs import Engine
    from echo_stream.fit.fit import Acquire
    from echo_stream.fit.shard import Shard
    from echo_stream.fit.summary import Fitted

MoreRecordings = Annotated[list[Path] | None, typer.Argument(help="further recordings", metavar="[PATH]...")]
RecordingsOption = Annotated[
    list[Path] | None, typer.Option("--recordings", help="files or folders instead of the machine's source")
]
MinutesOption = Annotated[
    float, typer.Option("--minutes", min=0.05, help="how long to listen to the machine's source")
]
TrimOption = Annotated[
    bool, typer.Option("--trim/--no-trim", help="leave out short sounds that do not belong, such as a knock")
]

StrictOption = Annotated[
    bool, typer.Option("--strict", help="end at the first bad recording instead of leaving it out")
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        help="folder that keeps what is finished of recordings: stopped, the same command goes on from there",
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="encode on the workers of this Dask scheduler: tls://HOST:8786, or its scheduler file",
        metavar="ADDRESS|FILE",
    ),
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        help="compute this share of the recordings into the folder of --resume, which several PCs have; the "
        "last one puts all together",
        metavar="NUMBER/OF",
    ),
]


ColumnOption = Annotated[
    str | None,
    typer.Option(
        "--column", help="of tables (CSV, MAT): name of the column or variable, or its number from 1"
    ),
]
RateOption = Annotated[
    int | None, typer.Option("--rate-hz", min=1, help="of tables (CSV, MAT): the sampling rate")
]


DaemonAction = Literal["pause", "resume", "finish", "cancel"]


def fit_normal(
    machine: Annotated[
        list[str],
        typer.Option("--machine", "-m", help="id of the machine; several, or all, where the daemon runs"),
    ],
    more: MoreRecordings = None,
    recordings: RecordingsOption = None,
    minutes: MinutesOption = 10.0,
    condition: Annotated[
        str | None,
        typer.Option(
            help="operating state of the machine, such as idle, load or off; default: normal, and where the "
            "daemon runs all that the bank knows",
            show_default=False,
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="forget the other operating states of the bank in use")
    ] = False,
    trim: TrimOption = True,
    resume: ResumeOption = None,
    cluster: ClusterOption = None,
    shard: ShardOption = None,
    strict: StrictOption = False,
    column: ColumnOption = None,
    rate_hz: RateOption = None,
    accept: Annotated[bool, typer.Option(help="use the new bank at once")] = True,
    daemon: Annotated[
        DaemonAction | None,
        typer.Option("--daemon", help="what the running daemon is to do with the enrolment that it is at"),
    ] = None,
    pieces: Annotated[Path | None, typer.Option("--heard", hidden=True)] = None,
    base: Annotated[str | None, typer.Option("--base", hidden=True)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn what normal sounds like, as a new version of the bank that the configuration names.

    Without --recordings it listens to the machine's own source; where the daemon runs, the daemon does so
    while it goes on watching, and Ctrl-C leaves it to that. A machine with several operating states is
    learnt one by one: --condition idle, then --condition load; each new one joins those that the bank knows.
    A report is laid beside the bank. Recordings that cannot be read are left out and named at the end, with
    exit code 1.
    """
    from echo_stream.fit.fit import fit
    from echo_stream.fit.pieces import read_pieces

    quiet()
    settings = read_config(config)
    names = [each.id for each in settings.machines] if machine == ["all"] else machine
    machines = [pick(settings, name) for name in names]
    paths = [*(recordings or []), *(more or [])]
    if (cluster or shard) and not paths:
        raise ConfigError("--cluster, --shard: only recordings can be shared out", "give --recordings, too")
    share = shard_of(shard, resume, cluster)
    if not paths and pieces is None:
        asked = {"minutes": minutes, "accept": accept, **({"condition": condition} if condition else {})}
        refused = "--fresh" if fresh else "" if trim else "--no-trim"
        if by_daemon(settings, names, daemon, asked, refused=refused, as_json=as_json):
            return
    if daemon is not None or len(machines) > 1:
        raise EchoStreamError(
            "no daemon runs with this configuration",
            "without one, one machine is learnt at a time, and Ctrl-C ends it",
        )
    which = machines[0]
    failures = Failures(strict)
    with progress("fitting" if paths else "listening") as report, engine_of(cluster) as engine:
        fitted = fit(
            settings,
            which,
            sound(
                settings,
                which,
                paths,
                minutes,
                resume=resume,
                engine=engine,
                shard=share,
                failures=failures,
                columns=columns_of(column, rate_hz),
            )
            if pieces is None
            else partial(read_pieces, settings, which, pieces),
            condition=condition or "normal",
            accept=accept,
            progress=report,
            trimmed=trim,
            fresh=fresh,
            base=base,
        )
    if pieces is None:
        print_fitted(fitted, as_json=as_json)
    else:  # the daemon asks, and tells the one who asked it
        print_json({"fitted": fitted.to_json(), "text": fitted.to_text()})
    failures.raise_any()


def score(
    machine: MachineOption,
    recordings: Annotated[list[Path], typer.Argument(help="files or folders", metavar="RECORDING...")],
    strict: StrictOption = False,
    column: ColumnOption = None,
    rate_hz: RateOption = None,
    config: ConfigOption = None,
) -> None:
    """Score recordings against the machine's bank: one JSON object a window.

    Recordings that cannot be scored are named at the end, with exit code 1.
    """
    from echo_stream.cli.score import score_recordings

    quiet()
    settings = read_config(config)
    columns = columns_of(column, rate_hz)
    for line in score_recordings(
        settings, pick(settings, machine), recordings, strict=strict, columns=columns
    ):
        print_json(line)


def by_daemon(
    settings: Config,
    machines: list[str],
    action: DaemonAction | None,
    asked: dict[str, Any],
    *,
    refused: str,
    as_json: bool,
) -> bool:
    """Has the daemon enrol machines, and waits for what comes of it; False where none runs."""
    from echo_stream.cli.enrol import follow, request, running_daemon
    from echo_stream.core.text import person

    socket = running_daemon(settings)
    if socket is None:
        return False
    if refused:
        raise EchoStreamError(
            f"{refused} is not possible while the daemon listens",
            "give --recordings, or stop it first (systemctl stop echo-stream)",
        )
    if action is not None:
        for name in machines:
            print(f"{name}: {request(socket, name, {'action': action, 'by': person()})}")
        return True
    for name in machines:
        said = request(socket, name, {**asked, "by": person()})
        print(f"{name}: the daemon is {said}", file=sys.stderr)
    try:
        with progress("listening") as report:
            found = follow(socket, machines, report)
    except KeyboardInterrupt:
        names = " ".join(f"--machine {name}" for name in machines)
        print(
            f"the daemon goes on; to end it: echo-stream fit-normal {names} --daemon cancel", file=sys.stderr
        )
        raise typer.Exit(130) from None
    for each in (fit for fits in found.values() for fit in fits):
        if as_json:
            print_json(each["fitted"])
        else:
            print(each["text"])
    return True


def columns_of(column: str | None, rate_hz: int | None) -> Columns | None:
    """What is said of tables; None where nothing is."""
    if rate_hz is None:
        if column is not None:
            raise EchoStreamError(
                "--column without --rate-hz", "a table does not say its rate: give --rate-hz"
            )
        return None
    from echo_stream.capture.table import Columns

    return Columns(rate_hz, column)


def sound(
    config: Config,
    machine: Machine,
    paths: list[Path],
    minutes: float,
    *,
    failures: Failures,
    resume: Path | None,
    engine: Engine | None = None,
    shard: Shard | None = None,
    columns: Columns | None = None,
) -> Acquire:
    """Recordings where some are named, otherwise the machine's own source."""
    from echo_stream.fit.fit import own_source
    from echo_stream.fit.listen import read_recordings

    if not paths:
        return own_source(config, machine, minutes)
    return partial(
        read_recordings,
        config,
        machine,
        paths,
        resume=resume,
        engine=engine,
        shard=shard,
        failures=failures,
        columns=columns,
    )


def print_fitted(fitted: Fitted, *, as_json: bool) -> None:
    """What was fitted, for a program or a person."""
    if as_json:
        print_json(fitted.to_json())
    else:
        print(fitted.to_text())
