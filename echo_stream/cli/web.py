"""web password writes the file that says who may see the page and who may answer on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

web_app = typer.Typer(help="The page for people.", no_args_is_help=True)


@web_app.callback()
def _root() -> None:
    pass


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
