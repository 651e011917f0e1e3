"""web serves the page of a plant; web password writes who may see a page, and who may answer on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from echo_stream.cli.common import ConfigOption
from echo_stream.cli.plant import AssetOption

web_app = typer.Typer()
LISTEN = "127.0.0.1:8766"
"""Beside the page of a daemon on the same PC."""


@web_app.callback(invoke_without_command=True)
def plant_page(
    context: typer.Context,
    broker: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="the broker that the nodes publish to")
    ] = None,
    listen: Annotated[
        str, typer.Option(metavar="ADDRESS:PORT", help="open to other PCs, it needs --passwords")
    ] = LISTEN,
    passwords: Annotated[
        Path | None, typer.Option(help="file of who may look and who may answer, made by `web password`")
    ] = None,
    asset: AssetOption = None,
    config: ConfigOption = None,
) -> None:
    """Serve one page for all machines of all nodes that publish to --broker, until Ctrl-C.

    A daemon serves its own page. User, password and TLS for the broker, and
    `web.hosts`, come from the configuration.
    """
    if context.invoked_subcommand is not None:
        return
    if broker is None:
        print(context.get_help())
        raise typer.Exit(2)
    from echo_stream.cli.common import read_config_or_defaults
    from echo_stream.cli.plant import assets_of
    from echo_stream.cli.plant_broker import Plant
    from echo_stream.core.errors import MissingExtra
    from echo_stream.daemon.logs import configure
    from echo_stream.web import installed

    if not installed():
        raise MissingExtra("the page of a plant (web --broker)", "web")
    from echo_stream.cli.plant_page import serve, settings_of

    configure()
    web = settings_of(
        listen, str(passwords) if passwords else None, read_config_or_defaults(config).web.hosts
    )
    serve(Plant.of(broker, config), web, assets_of(asset or []))


@web_app.command()
def password(
    file: Annotated[Path, typer.Option("--file", "-f", help="made where it is missing; web.password_file")],
    name: Annotated[str, typer.Option("--name", "-n", help="who; stands in the journal")],
    viewer: Annotated[bool, typer.Option("--viewer", help="may look, and change nothing")] = False,
) -> None:
    """Set the password of a person, which is asked for, or read from a pipe."""
    import os
    import sys

    from echo_stream.cli.common import quiet
    from echo_stream.core.errors import ConfigError
    from echo_stream.core.files import read_regular, write_whole
    from echo_stream.web.passwords import LONGEST_FILE_BYTES, read_passwords, with_person

    quiet()
    try:
        text = read_regular(file, LONGEST_FILE_BYTES).decode() if file.exists() else ""
        if text.strip():
            read_passwords(file)  # a file of something else is not changed
        if sys.stdin.isatty():
            given = typer.prompt("Password", hide_input=True, confirmation_prompt=True)
        else:
            given = sys.stdin.readline().rstrip("\r\n")
        new = with_person(text, name, "viewer" if viewer else "operator", given)
        os.umask(0o077)
        write_whole(file, new.encode())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    print(f"{file}: {name} is {'a viewer' if viewer else 'an operator'}; restart echo-stream to use it")
