"""The command of those who measure: evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from echo_stream.cli.common import (
    ConfigOption,
    JsonOption,
    print_json,
    progress,
    quiet,
    read_config_or_defaults,
)
from echo_stream.cli.fit import ResumeOption

app = typer.Typer()


@app.command()
def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="machines in the layout of DCASE task 2")],
    resume: ResumeOption = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fit and score machines whose faults are known: AUC and pAUC for each machine and kind of fault.

    DIR holds MACHINE/train/normal_*, MACHINE/test/normal_* and MACHINE/test/anomaly_KIND_*, at any depth. The
    encoder is the configured one; without a configuration, the spectral one.
    """
    from echo_stream.cli.evaluate import evaluate as evaluate_folder
    from echo_stream.pipeline.factory import build_encoder

    quiet()
    settings = read_config_or_defaults(config)
    cut = settings.encoder
    with progress("evaluating") as report:
        found = evaluate_folder(
            folder,
            build_encoder(settings),
            window_s=cut.window_s,
            hop_s=cut.hop_s,
            progress=report,
            resume=resume,
        )
    if as_json:
        print_json(found)
    else:
        _print(found)


def _print(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    columns = (
        "machine",
        "kind",
        "AUC",
        "pAUC 0.1",
        "normal clips",
        "recordings",
        "faulty clips",
        "recordings",
    )
    table = Table(*columns)
    for machine in found["machines"]:
        normal = machine["test_normal"]
        rows = [("all", machine, machine["test_anomaly"])]
        rows += [(kind, it, it) for kind, it in machine["kinds"].items()]
        for n, (kind, rates, faulty) in enumerate(rows):
            counts = [normal["clips"], normal["recordings"], faulty["clips"], faulty["recordings"]]
            name = machine["machine"] if n == 0 else ""
            table.add_row(name, kind, _shown(rates["auc"]), _shown(rates["pauc"]), *map(str, counts))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    means = [_shown(found[key]) for key in ("mean_auc", "mean_pauc", "harmonic_mean")]
    print(f"mean AUC {means[0]}, mean pAUC {means[1]}, harmonic mean of both {means[2]}")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
