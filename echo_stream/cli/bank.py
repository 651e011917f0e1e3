"""bank lists, shows, accepts and extends the versions of a machine's bank."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from echo_stream.cli.fit import (
    ColumnOption,
    MinutesOption,
    MoreRecordings,
    RateOption,
    RecordingsOption,
    ResumeOption,
    StrictOption,
    TrimOption,
    columns_of,
    print_fitted,
    sound,
)
from echo_stream.core.errors import Failures

if TYPE_CHECKING:
    from datetime import datetime

    from echo_stream.config.schema import Config, Machine

app = typer.Typer(
    name="bank",
    help="The versions of a machine's normal sound: what there is, which is in use.",
    no_args_is_help=True,
)

IdArgument = Annotated[str, typer.Argument(help="which version, such as b7", metavar="ID")]
ByOption = Annotated[str | None, typer.Option("--by", help="who decides it; default: who runs this")]
ShownArgument = Annotated[
    str | None, typer.Argument(help="which version; default: the one in use", metavar="[ID]")
]


@app.command("list")
def list_(machine: MachineOption, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """All versions; the one in use has a star."""
    from echo_stream.fit.summary import summaries

    quiet()
    settings = read_config(config)
    found = summaries(pick(settings, machine))
    if as_json:
        print_json(found)
        return
    for bank in found:
        star = "*" if bank["accepted"] else " "
        if "error" in bank:
            print(f"{star} {bank['id']:5s} {bank['error']}")
        else:
            minutes = f"{bank['minutes']:.1f} min"
            print(
                f"{star} {bank['id']:5s} {bank['created'][:16]}  {minutes:>10s}  "
                f"{', '.join(bank['conditions'])}  by {bank['by'] or 'unknown'}"
            )
    if not found:
        print(f"no bank yet: echo-stream fit-normal --machine {machine}")


@app.command()
def show(
    machine: MachineOption,
    bank_id: ShownArgument = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """One version: which sound, when, which device, who fitted it, and what it promises."""
    from echo_stream.fit.summary import bank_summary, facts

    quiet()
    settings = read_config(config)
    found = facts(pick(settings, machine), bank_id)
    if as_json:
        print_json(found)
    else:
        print(bank_summary(found))


@app.command()
def compare(
    machine: MachineOption, bank_id: IdArgument, config: ConfigOption = None, as_json: JsonOption = False
) -> None:
    """One version beside the one in use: levels, what they learnt, past events and known faults they find."""
    from echo_stream.fit.summary import compared, comparison_text

    quiet()
    settings = read_config(config)
    found = compared(settings, pick(settings, machine), bank_id)
    if as_json:
        print_json(found)
    else:
        print(comparison_text(found))


@app.command()
def accept(
    machine: MachineOption,
    bank_id: IdArgument,
    by: ByOption = None,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="also where a confirmed fault would no longer be found")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Use this version from now on; a running daemon takes it at once.

    It is refused where a confirmed fault that is found now would no longer be found.
    """
    from echo_stream.core.text import person
    from echo_stream.fit.learn import now
    from echo_stream.fit.versions import BankVersions

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    versions = BankVersions(which.bank)
    _require_fitting(settings, which, versions.path_of(bank_id), faults_found=not anyway)
    before = versions.accepted
    versions.accept(bank_id, at=now(), by=by or person())
    print(_in_use(machine, bank_id, before))


@app.command()
def add(
    machine: MachineOption,
    file: Annotated[Path, typer.Argument(help="a bank (safetensors) that was made elsewhere")],
    use: Annotated[bool, typer.Option("--accept", help="use it at once")] = False,
    by: ByOption = None,
    config: ConfigOption = None,
) -> None:
    """Add a bank from another PC as a version; one that does not fit the configuration is refused."""
    from echo_stream.core.text import person
    from echo_stream.fit.learn import now
    from echo_stream.fit.versions import BankVersions

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    versions = BankVersions(which.bank)
    _require_fitting(settings, which, file, faults_found=use)
    before, bank_id = versions.accepted, versions.take(file)
    if use:
        versions.accept(bank_id, at=now(), by=by or person())
        print(_in_use(machine, bank_id, before))
    else:
        print(f"{machine}: {bank_id} waits: echo-stream bank accept {bank_id} --machine {machine}")


def _in_use(machine: str, bank_id: str, before: str | None) -> str:
    instead = f" instead of {before}" if before not in (None, bank_id) else ""
    return f"{machine}: {bank_id} is in use{instead}"


@app.command()
def rollback(machine: MachineOption, by: ByOption = None, config: ConfigOption = None) -> None:
    """Use again what was in use before the present version."""
    from echo_stream.core.text import person
    from echo_stream.fit.learn import now
    from echo_stream.fit.versions import BankVersions

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    versions = BankVersions(which.bank)
    before = versions.accepted
    _require_fitting(settings, which, versions.path_of(versions.before_accepted))
    print(f"{machine}: {versions.rollback(at=now(), by=by or person())} is in use again instead of {before}")


@app.command()
def extend(
    machine: MachineOption,
    more: MoreRecordings = None,
    recordings: RecordingsOption = None,
    minutes: MinutesOption = 10.0,
    condition: Annotated[
        str | None, typer.Option(help="operating state of the machine; needed where the bank has several")
    ] = None,
    trim: TrimOption = True,
    resume: ResumeOption = None,
    strict: StrictOption = False,
    own_state: Annotated[
        bool,
        typer.Option(
            "--own-state",
            help="sound that is far from all that the bank knows becomes an operating state of its own, "
            "named by --condition or after the day",
        ),
    ] = False,
    column: ColumnOption = None,
    rate_hz: RateOption = None,
    accept: Annotated[bool, typer.Option("--accept", help="use the new version at once")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add more normal sound (a new season, a new product) to the bank in use, as a proposal.

    It says how strange the new sound is to the bank and what accepting would change; nothing is learnt until
    `bank accept`.
    """
    from echo_stream.fit.fit import extend as extend_bank

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    paths = [*(recordings or []), *(more or [])]
    failures = Failures(strict)
    with progress("fitting" if paths else "listening") as report:
        how: dict[str, Any] = {"condition": condition, "accept": accept, "progress": report, "trimmed": trim}
        how["own_state"] = own_state
        columns = columns_of(column, rate_hz)
        recorded = sound(settings, which, paths, minutes, resume=resume, failures=failures, columns=columns)
        fitted = extend_bank(settings, which, recorded, **how)
    print_fitted(fitted, as_json=as_json)
    failures.raise_any()


@app.command()
def propose(
    machine: MachineOption,
    fault: Annotated[
        list[str] | None, typer.Option("--fault", help="id of an event that was a fault: is it still found?")
    ] = None,
    alarms_were_normal: Annotated[
        bool,
        typer.Option(
            "--alarms-were-normal", help="learn also what was heard while an alarm or warning stood"
        ),
    ] = False,
    begin: Annotated[
        str | None,
        typer.Option("--from", help="learn only what was heard from this time on: 2026-11-20T08:00Z"),
    ] = None,
    end: Annotated[str | None, typer.Option("--to", help="and until this time")] = None,
    condition: Annotated[
        str | None, typer.Option(help="with --from and --to: the operating state that it was")
    ] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a version of the bank in use and what the daemon heard since, as a proposal.

    It says what accepting would change: levels, past events that would not have been announced, faults that
    are still found. Nothing is learnt until `bank accept`.
    """
    from echo_stream.fit.propose import propose as propose_bank

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    with progress("proposing") as report:
        found = propose_bank(
            settings,
            which,
            alarms_were_normal=alarms_were_normal,
            faults=fault or [],
            progress=report,
            span=_span(begin, end),
            condition=condition,
        )
    if as_json:
        print_json(found.to_json())
    else:
        print(found.to_text())


def _span(begin: str | None, end: str | None) -> tuple[datetime, datetime] | None:
    from datetime import UTC, datetime

    if begin is None and end is None:
        return None
    try:
        first, last = (datetime.fromisoformat(each or "").astimezone(UTC) for each in (begin, end))
    except (ValueError, OverflowError):
        raise typer.BadParameter("--from and --to: expected two times, such as 2026-11-20T08:00Z") from None
    return first, last


def _require_fitting(config: Config, machine: Machine, file: Path, *, faults_found: bool = False) -> None:
    """A bank that the daemon would refuse is not accepted; nor, if asked, one that misses known faults."""
    from echo_stream.detect.bank import NormalBank
    from echo_stream.pipeline.factory import build_encoder

    bank = NormalBank.load(file)
    cut = config.encoder
    rate = machine.source.fixed_rate_hz or bank.sample_rate_hz
    encoder = build_encoder(config, machine)
    bank.require(encoder.identity, rate, cut.window_s, cut.hop_s)
    if faults_found and machine.bank.exists():
        from echo_stream.fit.judge import require_faults_found

        require_faults_found(config, machine, encoder, NormalBank.load(machine.bank), bank)
