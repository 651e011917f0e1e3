"""Sounds that are no fault: ignore add | list | remove."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echo_stream.cli.common import (
    ConfigOption,
    JsonOption,
    MachineOption,
    pick,
    point_in_time,
    print_json,
    quiet,
    read_config,
)

app = typer.Typer(
    name="ignore",
    help="Sounds from around a machine that are no fault, such as a forklift: they raise no alarm.",
    no_args_is_help=True,
)

NameOption = Annotated[str, typer.Option("--name", "-n", help="what to call the sound, such as forklift")]


@app.command()
def add(
    machine: MachineOption,
    name: NameOption,
    at: Annotated[
        str | None,
        typer.Option(help="when it was heard: 14:03, 2026-11-20T14:03 (local time), 2026-11-20T13:03Z"),
    ] = None,
    recording: Annotated[
        Path | None, typer.Option("--recording", help="a recording of machine and sound, instead of a time")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Teach a sound that is no fault, from what is kept of a time or from a recording.

    Sound is kept of alarms, features of the newest warnings. The sound passes while it is not louder than now
    by more than 3 dB, and no longer than 1.5 times as long.
    """
    from echo_stream.detect.known_sound_file import path_of, save
    from echo_stream.fit.known_sound import Clip, known_sound_at, learn_known_sound, require_new
    from echo_stream.pipeline.factory import build_encoder

    quiet()
    settings = read_config(config)
    which = pick(settings, machine)
    path = path_of(which.bank, name)
    require_new(path, name)
    if (at is None) == (recording is None):
        raise typer.BadParameter("name either --at TIME or --recording FILE")
    encoder = build_encoder(settings, which)
    if recording is not None:
        clip = Clip(recording, None, f"recording {recording.name}")
        known = learn_known_sound(settings, which, encoder, clip, name)
    else:
        when = point_in_time(at or "", "--at")
        known = known_sound_at(settings, which, encoder, when, name)
    save(path, known)
    print(
        f"{name}: learned {known.length_s:.1f} s of sound up to {known.loudest_dbfs:.1f} dBFS from "
        f"{known.taught_from}; a running daemon takes it within seconds"
    )


@app.command("list")
def list_(machine: MachineOption, config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List what was taught; `status --json` says how often each came."""
    from echo_stream.core.errors import BankError
    from echo_stream.detect.known_sound_file import load, paths

    quiet()
    which = pick(read_config(config), machine)
    found: list[dict[str, str | float]] = []
    for path in paths(which.bank):
        try:
            known = load(path)
        except BankError as error:
            found.append({"name": path.stem, "error": str(error)})
        else:
            found.append(
                {
                    "name": known.name,
                    "length_s": round(known.length_s, 3),
                    "loudest_dbfs": round(known.loudest_dbfs, 2),
                    "created": known.created,
                    "from": known.taught_from,
                }
            )
    if as_json:
        print_json(found)
        return
    for one in found:
        if "error" in one:
            print(f"{one['name']}: {one['error']}")
        else:
            print(f"{one['name']}: {one['length_s']} s, up to {one['loudest_dbfs']} dBFS, from {one['from']}")
    if not found:
        print(f"no sound was taught: echo-stream ignore add --machine {machine} --name NAME --at TIME")


@app.command()
def remove(machine: MachineOption, name: NameOption, config: ConfigOption = None) -> None:
    """Forget a taught sound: from now on it counts as any other."""
    from echo_stream.core.errors import BankError
    from echo_stream.core.files import sync_folder
    from echo_stream.detect.known_sound_file import path_of, paths

    quiet()
    which = pick(read_config(config), machine)
    path = path_of(which.bank, name)
    if path not in paths(which.bank):
        known = ", ".join(file.stem for file in paths(which.bank)) or "none"
        raise BankError(f"machine {machine}: no known sound {name}", f"known are: {known}")
    try:
        path.unlink()
        sync_folder(path.parent)
    except OSError as error:
        raise BankError(f"{path} cannot be removed: {error.strerror}", "run it as its owner") from error
    print(f"{name}: removed; a running daemon takes it within seconds")
