"""Loggers: what they import."""

from __future__ import annotations

import subprocess
import sys


def test_a_logger_comes_without_rich_which_others_can_import_all_the_same() -> None:
    code = (
        "import sys; from echo_stream.core.log import get_logger; get_logger().info('heard')\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'rich'])\n"
        "import rich.table, echo_stream.daemon.logs"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said, imported = done.stdout.splitlines()
    assert "heard" in said
    assert imported == "[]"
