"""What install-service would write; that it really does is tested in the container."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from echo_stream.cli.install import example_configuration, install_service, uninstall_service, unit_text
from echo_stream.config.load import load
from echo_stream.core.errors import EchoStreamError


def test_print_shows_all_and_writes_nothing() -> None:
    lines: list[str] = []
    install_service(Path("/srv/echo/bin/echo-stream"), only_print=True, say=lines.append)
    text = "\n".join(lines)
    assert "ExecStart=/srv/echo/bin/echo-stream run --config /etc/echo-stream/config.yaml" in text
    assert "useradd --system" in text
    assert example_configuration() in text
    assert not Path("/etc/systemd/system/echo-stream.service").exists()
    lines.clear()
    uninstall_service(only_print=True, say=lines.append)
    assert "userdel echo-stream" in lines[0]
    assert "kept: /var/lib/echo-stream" in lines[0]


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(example_configuration(), encoding="utf-8")
    config = load(path)
    assert config.state_dir == Path("/var/lib/echo-stream")
    assert config.machines[0].bank.is_relative_to(config.state_dir)


def test_the_unit_runs_the_program_that_was_named() -> None:
    text = unit_text(Path("/srv/e/bin/echo-stream"))
    assert "/opt/echo-stream" not in text
    assert unit_text(Path("/opt/echo-stream/bin/echo-stream")).count("ExecStart=/opt/echo-stream/bin/") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="ONLY ROOT gets past the first check: not tested")
def test_a_program_that_the_service_could_not_see_is_refused() -> None:
    with TemporaryDirectory(dir="/tmp") as hidden:  # by PrivateTmp
        program = Path(hidden) / "echo-stream"
        with pytest.raises(EchoStreamError, match="not an executable"):
            install_service(program)
        program.touch(0o755)
        with pytest.raises(EchoStreamError, match="cannot see it") as caught:
            install_service(program)
    assert "/opt/echo-stream" in caught.value.hint
    assert not Path("/etc/systemd/system/echo-stream.service").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="ONLY ROOT can become another user: not tested")
@pytest.mark.parametrize("call", ["install_service(Path('/bin/true'))", "uninstall_service()"])
def test_only_root_installs(call: str) -> None:
    code = (
        "import os; from pathlib import Path\n"
        "from echo_stream.cli.install import *\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        f"try: {call}\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("EchoStreamError the command needs root")
