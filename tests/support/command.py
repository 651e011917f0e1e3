"""A command of echo-stream, in this process or as a program of its own, and what it says.

A program takes a second to begin, which a command in this process takes once. What differs (that nothing was
imported before, signals, terminals) is proven by one program of each command: `program`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import structlog

from echo_stream.cli import main

ROOT = Path(__file__).parents[2]


def program(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m echo_stream` in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "echo_stream", *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


def command(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same without a new process: its arguments, streams, exit code; all that it sets is put back."""
    arguments = ["echo-stream", *map(str, words)]
    told, wrong = io.BytesIO(), io.BytesIO()
    out = io.TextIOWrapper(told, "utf-8", write_through=True)
    err = io.TextIOWrapper(wrong, "utf-8", errors="backslashreplace", write_through=True)
    code: object = 0
    with (
        logs_as_before(),
        _handlers_as_before(),
        contextlib.chdir(cwd),
        patch.object(sys, "argv", arguments),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as left:
            code = left.code
    status = code if isinstance(code, int) else int(code is not None)
    texts = (told.getvalue().decode(), wrong.getvalue().decode())
    return subprocess.CompletedProcess(arguments, status, *texts)


@contextlib.contextmanager
def logs_as_before() -> Iterator[None]:
    """Puts back what a command sets of logs, but for the root's handlers."""
    root, hook = logging.getLogger(), threading.excepthook
    level = root.level
    before = structlog.get_config() if structlog.is_configured() else None
    try:
        yield
    finally:
        threading.excepthook = hook
        root.setLevel(level)
        if before is None:
            structlog.reset_defaults()
        else:
            structlog.configure(**before)


@contextlib.contextmanager
def _handlers_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers = root.handlers
    try:
        yield
    finally:
        root.handlers = handlers
