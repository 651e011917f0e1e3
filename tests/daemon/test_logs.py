"""Log lines as another program and an operator read them: each test runs a process of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from echo_stream.daemon import logs

SPEAK = """
import logging, structlog, sys
from echo_stream.daemon import logs
early = structlog.get_logger(room="early")
logs.configure({arguments})
early.info("started", machine="pump3", path=sys.path.__class__)
early.debug("whispered")
structlog.get_logger().warning("broker", password="hunter2", password_file="/etc/p", user="pc7")
logging.getLogger("somelib").warning("odd %s", "thing")
logging.getLogger("somelib").info("chatter")
import threading
thread = threading.Thread(target=lambda: [][1], name="publisher")
thread.start()
thread.join()
try:
    1 / 0
except ZeroDivisionError:
    early.exception("failed")
"""


def speak(arguments: str = "") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SPEAK.format(arguments=arguments)], capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_where_nobody_watches() -> None:
    lines = [json.loads(line) for line in speak()]
    assert [line["event"] for line in lines] == [
        "started",
        "broker",
        "odd thing",
        "a thread failed",
        "failed",
    ]
    assert lines[0]["machine"] == "pump3"
    assert lines[0]["room"] == "early"
    assert lines[2]["library"] == "somelib"
    assert lines[3]["thread"] == "publisher"
    assert "IndexError" in lines[3]["exception"]
    assert "ZeroDivisionError" in lines[4]["exception"]
    assert datetime.fromisoformat(lines[0]["ts"]).utcoffset() == timedelta(0)


def test_secrets_are_masked() -> None:
    broker = json.loads(speak()[1])
    assert (broker["password"], broker["password_file"], broker["user"]) == ("***", "/etc/p", "pc7")


def test_level_is_a_floor() -> None:
    assert [json.loads(line)["event"] for line in speak('level="error"')] == [
        "a thread failed",
        "failed",
    ]
    assert "whispered" in [json.loads(line)["event"] for line in speak('level="debug"')]
    with pytest.raises(ValueError, match="loud"):
        logs.configure(level="loud")


def test_console_lines_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "wb") as terminal:
        subprocess.run([sys.executable, "-c", SPEAK.format(arguments="")], stderr=terminal, check=True)
    text = os.read(ours, 65536).decode()
    os.close(ours)
    assert "started" in text
    assert "\x1b[" in text  # colours
    assert "hunter2" not in text
    assert not text.startswith("{")


def test_the_journal_gets_priorities() -> None:
    read, write = os.pipe()
    found = os.fstat(write)
    environ = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    with os.fdopen(write, "wb") as journal:
        subprocess.run(
            [sys.executable, "-c", SPEAK.format(arguments="")], stderr=journal, env=environ, check=True
        )
    with os.fdopen(read) as lines:
        prefixes = [line[:4] for line in lines]
    assert prefixes == ["<6>{", "<4>{", "<4>{", "<2>{", "<3>{"]
