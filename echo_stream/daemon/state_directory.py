"""StateDirectory makes the state directory and locks it, so that two daemons never share one.

A disk that is full, read-only or gone is a state, not an error: listening goes on, events are delivered from
memory, and the directory is tried again. Main thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from echo_stream.core.errors import ConfigError, EchoStreamError
from echo_stream.core.log import get_logger

RETRY_S = 30.0
_WRONG_PATH = {errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EISDIR, errno.EEXIST}
"""Trying again cannot help: the configuration names what can never be a folder."""

log = get_logger()


class StateDirectory:
    """The lock on a state directory.

    Args:
        folder: made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: int | None = None
        self._retry_at_s = 0.0
        self.trouble = ""
        """Why the directory cannot be written; empty where it can."""

    def take(self, now_s: float) -> None:
        """Takes the lock if it is not held yet; at most every RETRY_S.

        Args:
            now_s: monotonic time.

        Raises:
            ConfigError: the path can never be a directory.
            EchoStreamError: another daemon holds the lock.
        """
        if self._lock is not None or now_s < self._retry_at_s:
            return
        self._retry_at_s = now_s + RETRY_S
        try:
            lock = self._open()
        except OSError as error:
            message = f"state_dir {self._folder} cannot be written: {error.strerror}"
            if error.errno in _WRONG_PATH:
                raise ConfigError(
                    message, "name a folder that the service may write, or give it the rights"
                ) from None
            if not self.trouble:
                log.error(
                    "the state directory cannot be written: listening goes on, events wait in memory",
                    state_dir=str(self._folder),
                    reason=error.strerror,
                    retry_s=RETRY_S,
                )
            self.trouble = message
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise EchoStreamError(
                f"another echo-stream runs already with the state directory {self._folder}",
                "stop it first (systemctl stop echo-stream), or give this one a state_dir of its own",
            ) from None
        self._lock = lock
        if self.trouble:
            self.trouble = ""
            log.info("the state directory can be written again", state_dir=str(self._folder))

    def release(self) -> None:
        """Gives the lock back."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> int:
        """A descriptor of the lock file; a symbolic link there is not followed, a pipe not waited for."""
        self._folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        lock = os.open(self._folder / "lock", flags, 0o600)
        if not stat.S_ISREG(os.fstat(lock).st_mode):
            os.close(lock)
            raise OSError(errno.EISDIR, "lock is no regular file; remove it")
        return lock
