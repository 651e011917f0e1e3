"""The command line names every command with its options; each command is the file of its name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from echo_stream import __version__
from echo_stream.cli import bank as banks
from echo_stream.cli import ignore, plant
from echo_stream.cli import mqtt as broker
from echo_stream.cli.common import ConfigOption, JsonOption, print_json, quiet
from echo_stream.cli.fit import (
    ClusterOption,
    ColumnOption,
    RateOption,
    ResumeOption,
    ShardOption,
    StrictOption,
    columns_of,
    fit_normal,
    score,
)
from echo_stream.cli.history import events_app, history
from echo_stream.cli.replay import replay
from echo_stream.cli.web import web_app

app = typer.Typer(
    name="echo-stream",
    help="Listens to a machine and says, within seconds and with evidence, when it no longer sounds normal.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


PrintOption = Annotated[bool, typer.Option("--print", help="show what would be done, and do nothing")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"echo-stream {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print it and leave")
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigOption = None) -> None:
    """Listen to all machines of the configuration until SIGTERM or SIGINT."""
    from echo_stream.daemon.daemon import run_daemon

    run_daemon(config)


app.command("fit-normal")(fit_normal)
app.command()(score)
app.command()(replay)
app.command()(history)


@app.command()
def devices(as_json: JsonOption = False) -> None:
    """List inputs with what to write into the configuration for each."""
    from dataclasses import asdict

    from echo_stream.capture.devices import list_inputs

    quiet()
    inputs = list_inputs()
    if as_json:
        print_json([asdict(device) for device in inputs])
        return
    for device in inputs:
        rate = f"channel: 0, sample_rate_hz: {device.sample_rate_hz}"
        source = f'{{kind: microphone, device: "{device.write}", {rate}}}'
        print(f"{', '.join(device.names)}  ({device.host_api}, {device.channels} channels)")
        print(f"    source: {source}")
    if not inputs:
        print("no input devices; is the microphone plugged in, and are you in the group audio?")


@app.command("check-config")
def check_config(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check the configuration and the files that it names; every mistake with its line, exit code 78."""
    from echo_stream.cli.check_config import check_config

    quiet()
    path, settings = check_config(config)
    if as_json:
        print_json({"path": str(path), "ok": True, "machines": [m.id for m in settings.machines]})
        return
    print(f"{path}: ok: node {settings.node}, encoder {settings.encoder.kind}")
    for machine in settings.machines:
        fitted = "" if machine.bank.exists() else "  (no bank yet: run fit-normal)"
        print(f"  {machine.id}: {machine.source.kind}, bank {machine.bank}{fitted}")


@app.command("fetch-model")
def fetch_model(
    name: Annotated[str, typer.Argument(help="echo-tiny, echo-small or the id of a model on the hub")],
    into: Annotated[Path, typer.Option(help="folder; the model gets a folder of its own in it")] = Path(
        "models"
    ),
    revision: Annotated[str | None, typer.Option(help="commit, branch or tag; default: the newest")] = None,
) -> None:
    """Download ECHO's weights and write down which they are."""
    from echo_stream.encode.weights import fetch_model as fetch

    print(fetch(name, into / name.rpartition("/")[2], revision))


@app.command()
def demo(
    into: Annotated[Path, typer.Option(help="folder for recording, bank, log and picture")] = Path("demo"),
    keep: Annotated[bool, typer.Option("--keep", help="stay up until Ctrl-C, for the page")] = False,
) -> None:
    """Try it all in a minute: simulated machine, real daemon, real broker, a fault that comes and goes."""
    from echo_stream.cli.demo import run_demo

    run_demo(into, keep=keep)


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="machines in the layout of DCASE task 2")],
    resume: ResumeOption = None,
    cluster: ClusterOption = None,
    shard: ShardOption = None,
    strict: StrictOption = False,
    column: ColumnOption = None,
    rate_hz: RateOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit and score machines whose faults are known: AUC and pAUC for each machine and kind of fault.

    DIR holds MACHINE/train/normal_*, MACHINE/test/normal_* and MACHINE/test/anomaly_KIND_*, at any depth. The
    encoder is the configured one; without a configuration, the spectral one.
    """
    from echo_stream.cli.evaluate import run_evaluate

    run_evaluate(folder, config, as_json, resume, cluster, shard, strict, columns_of(column, rate_hz))


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Ask the running daemon how each machine is, and how it is itself."""
    from echo_stream.cli.status import show_status

    show_status(config, as_json)


@app.command()
def doctor(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look whether this PC is fit: CPU, disk, rights, devices, level, broker, clock. Listens some seconds."""
    from echo_stream.cli.doctor import run_doctor
    from echo_stream.core.checks import Verdict

    raise typer.Exit(1 if run_doctor(config, as_json) is Verdict.FAIL else 0)


@app.command()
def bench(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Measure what this PC can carry: runtimes, and machines by encoder and rate. Takes half a minute."""
    from echo_stream.cli.bench import run_bench

    run_bench(config, as_json)


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


app.add_typer(events_app, name="events")
app.add_typer(broker.app)
app.add_typer(banks.app)
app.add_typer(ignore.app)
app.add_typer(plant.app)
app.add_typer(web_app, name="web")
