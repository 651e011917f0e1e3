"""The command line imports heavy libraries only in the commands that use them: `--help` answers at once."""

from __future__ import annotations

import sys

from echo_stream.core.errors import EchoStreamError


def main() -> None:
    """Runs the command line; exit code 0, 1 (failed), 2 (usage), 78 (configuration)."""
    from echo_stream.cli.app import app

    try:
        app()
    except EchoStreamError as error:
        print(f"echo-stream: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `echo-stream score ... | head`
        sys.stderr.close()
        sys.exit(0)
