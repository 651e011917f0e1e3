"""The state directory: locked for one daemon; a disk that takes nothing is a state, a wrong path an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from echo_stream.core.errors import ConfigError, EchoStreamError
from echo_stream.daemon.state_directory import RETRY_S, StateDirectory


def test_it_is_made_and_locked_for_one(tmp_path: Path) -> None:
    first, second = StateDirectory(tmp_path / "a/b"), StateDirectory(tmp_path / "a/b")
    first.take(0)
    with pytest.raises(EchoStreamError, match="another echo-stream runs already"):
        second.take(0)
    first.release()
    second.take(RETRY_S)
    assert not second.trouble


def test_a_file_in_its_way_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        StateDirectory(tmp_path / "file/state").take(0)


def test_a_disk_that_takes_nothing_is_tried_again(tmp_path: Path) -> None:
    # What a read-only mount gives: here /proc, where nobody may make a folder.
    state = StateDirectory(Path("/proc/echo-stream-state"))
    state.take(0)
    assert "cannot be written" in state.trouble
    state.take(RETRY_S / 2)
    state._folder = tmp_path / "state"
    state.take(RETRY_S / 2)
    assert state.trouble, "it was tried again too early"
    state.take(RETRY_S)
    assert not state.trouble
    assert (tmp_path / "state/lock").exists()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_what_stands_for_the_lock_is_neither_followed_nor_waited_for(tmp_path: Path, kind: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    if kind == "link":
        (tmp_path / "lock").symlink_to(victim)
    else:
        os.mkfifo(tmp_path / "lock")
    with pytest.raises(ConfigError) as raised:
        StateDirectory(tmp_path).take(0)
    assert victim.read_text() == "precious"
    assert os.strerror(errno.ELOOP) in raised.value.message or "no regular file" in raised.value.message
