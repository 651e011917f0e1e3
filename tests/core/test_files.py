"""Pipes, devices and folders in place of files; folders that cannot be written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from echo_stream.core.files import read_regular, require_writable


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    with pytest.raises(OSError, match="is larger than 4 bytes"):
        read_regular(path, 4)


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "is a named pipe"),
        (tmp_path, "is a folder"),
        (Path("/dev/zero"), "is a device"),
    ):
        with pytest.raises(OSError, match=said):
            read_regular(path, 10)


def test_a_folder_that_can_be_made_is_writable(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b" / "c")
    assert not (tmp_path / "a").exists()


def test_a_folder_in_place_of_which_a_file_stands_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OSError, match="is a file, expected a folder"):
        require_writable(tmp_path / "a" / "b")


def test_too_little_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="MB left"):
        require_writable(tmp_path, least_bytes=1 << 60)


@pytest.mark.skipif(os.geteuid() != 0, reason="takes another user, which only root may")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from echo_stream.core.files import require_writable\n"
        "os.setgroups([]); os.setgid(12345); os.setuid(12345)\n"
        "require_writable(Path('/usr/share') / 'banks')"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert b"PermissionError: [Errno 13] Permission denied: '/usr/share'" in found.stderr
