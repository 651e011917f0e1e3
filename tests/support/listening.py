"""The test's end of listen.py: starts it beside a PulseServer, follows what it tells, reads what it heard."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.pulse import PulseServer

ROOT = Path(__file__).resolve().parents[2]


def now_s() -> float:
    """The clock of listen.py."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Listener:
    """A process that listens to DEVICE:RATE:CHANNELS..."""

    def __init__(self, server: PulseServer, *devices: str) -> None:
        self.folder = server.folder
        self.told: list[dict[str, Any]] = []
        self._news = threading.Condition()
        with (self.folder / "stderr").open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.listen", str(self.folder), *devices],
                env=server.env,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._follower = threading.Thread(target=self._follow)
        self._follower.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.told.append(json.loads(line))
                self._news.notify_all()

    def wait_for(
        self, ear: int = 0, timeout_s: float = 60, after_s: float = 0, **wanted: Any
    ) -> dict[str, Any]:
        """The first thing told of `ear` since `after_s` that has all the `wanted` values."""

        def found() -> dict[str, Any] | None:
            return next(
                (
                    told
                    for told in self.told
                    if told.get("ear") == ear
                    and told["at_s"] >= after_s
                    and all(told.get(key, ...) == value for key, value in wanted.items())
                ),
                None,
            )

        with self._news:
            if not self._news.wait_for(lambda: found() is not None, timeout_s):
                raise AssertionError(f"waited {timeout_s} s for {wanted} of ear {ear} in vain: {self.told}")
        return found() or {}

    def hold(self) -> None:
        """Make the process stall for 5 s, callbacks and all."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"hold\n")
        self.process.stdin.flush()

    def end(self) -> dict[str, Any]:
        """Close all and leave: returns {"closed_s": ...}; it must leave with 0, and without a traceback.

        PortAudio prints up to five lines when a device goes, which nobody can prevent.
        """
        assert self.process.stdin is not None
        self.process.stdin.close()
        code = self.process.wait(timeout=60)
        self._follower.join()
        self.kill()
        printed = (self.folder / "stderr").read_text().splitlines()
        losses = sum(told.get("state") == "lost" for told in self.told)
        assert code == 0, printed
        assert all(line.startswith(("Expression '", "ALSA lib ")) for line in printed), printed
        assert len(printed) <= 5 * losses, printed
        return self.told[-1]

    def kill(self) -> None:
        """End it at once, if it has not ended; may be called twice."""
        self.process.kill()
        self.process.wait()
        self._follower.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def heard(self, ear: int = 0) -> dict[str, Any]:
        """samples (n, channels), index (n,), utc of the first and last, after end()."""
        with np.load(self.folder / f"{ear}.npz") as file:
            return dict(file)


def gaps(index: Any) -> list[tuple[int, int]]:
    """(absolute index after the last sample, samples missing) of each jump."""
    at = np.flatnonzero(np.diff(index) != 1)
    return [(int(index[i]) + 1, int(index[i + 1] - index[i] - 1)) for i in at]
