"""fit-normal and score learn what is normal and score against it; `bank extend` shares their options."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from echo_stream.cli.common import (
    ConfigOption,
    JsonOption,
    MachineOption,
    pick,
    print_json,
    progress,
    quiet,
    read_config,
)
from echo_stream.core.errors import Failures

if TYPE_CHECKING:
    from echo_stream.config.schema import Config, Machine
    from echo_stream.fit.fit import Acquire
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


def fit_normal(
    machine: MachineOption,
    more: MoreRecordings = None,
    recordings: RecordingsOption = None,
    minutes: MinutesOption = 10.0,
    condition: Annotated[
        str, typer.Option(help="operating state of the machine, such as idle, load or off")
    ] = "normal",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="forget the other operating states of the bank in use")
    ] = False,
    trim: TrimOption = True,
    resume: ResumeOption = None,
    strict: StrictOption = False,
    accept: Annotated[bool, typer.Option(help="use the new bank at once")] = True,
    heard: Annotated[Path | None, typer.Option("--heard", hidden=True)] = None,
    base: Annotated[str | None, typer.Option("--base", hidden=True)] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Learn what normal sounds like, as a new version of the bank that the configuration names.

    Without --recordings it listens to the machine's own source. A machine with several operating states is
    learnt one by one: --condition idle, then --condition load; each new one joins those that the bank knows.
    A report is laid beside the bank. Recordings that cannot be read are left out and named at the end, with
    exit code 1.
    """
    from echo_stream.fit.fit import fit
    from echo_stream.fit.heard import read_heard

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    paths = [*(recordings or []), *(more or [])]
    failures = Failures(strict)
    with progress("fitting" if paths else "listening") as report:
        fitted = fit(
            settings,
            which,
            sound(settings, which, paths, minutes, resume, failures)
            if heard is None
            else partial(read_heard, settings, which, heard),
            condition=condition,
            accept=accept,
            progress=report,
            trimmed=trim,
            fresh=fresh,
            base=base,
        )
    if heard is None:
        tell(fitted, as_json=as_json)
    else:  # the daemon asks, and tells whoever asked it
        print_json({"fitted": fitted.to_json(), "text": fitted.to_text()})
    failures.raise_any()


def score(
    machine: MachineOption,
    recordings: Annotated[list[Path], typer.Argument(help="files or folders", metavar="RECORDING...")],
    strict: StrictOption = False,
    config: ConfigOption = None,
) -> None:
    """Score recordings against the machine's bank: one JSON object a window.

    Recordings that cannot be scored are named at the end, with exit code 1.
    """
    from echo_stream.cli.score import score_recordings

    quiet()
    settings = read_config(config)
    for line in score_recordings(settings, pick(settings, machine), recordings, strict=strict):
        print_json(line)


def sound(
    config: Config,
    machine: Machine,
    paths: list[Path],
    minutes: float,
    resume: Path | None,
    failures: Failures,
) -> Acquire:
    """Recordings where some are named, otherwise the machine's own source."""
    from echo_stream.fit.fit import own_source
    from echo_stream.fit.listen import read_recordings

    if not paths:
        return own_source(config, machine, minutes)
    return partial(read_recordings, config, machine, paths, resume=resume, failures=failures)


def tell(fitted: Fitted, *, as_json: bool) -> None:
    """What was fitted, for a program or a person."""
    if as_json:
        print_json(fitted.to_json())
    else:
        print(fitted.to_text())
