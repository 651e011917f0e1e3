"""An environment of its own, outside of the checkout, with the built wheel and nothing of this test run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
CONFIGURATION = """\
node: stranger
state_dir: state
encoder: ENCODER
mqtt: {host: 127.0.0.1, port: 1}
machines:
  - id: pump3
    source: {kind: simulated, seed: 3, start_s: START, pace: PACE, faults: [FAULT]}
    bank: banks/pump3.safetensors
    alarm: {on_delay_s: 1, warning_on_delay_s: 1, false_alarms_per_month: 100}
"""
FAULT = "{kind: bearing, start_s: 4, end_s: 100000}"
SPECTRAL = "{kind: spectral}"


def build_wheel(into: Path) -> Path:
    """The wheel that is built from the sdist that is built from this checkout: what an index would offer.

    Built from a copy: two test runs at once would write into one echo_stream.egg-info.
    """
    source = into / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(
        REPOSITORY / "echo_stream", source / "echo_stream", ignore=shutil.ignore_patterns("__pycache__")
    )
    command = [sys.executable, "-m", "build", "--outdir", str(into), str(source)]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=600, env=_environ(), cwd=into
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = into.glob("*.whl")
    assert len(list(into.glob("*.tar.gz"))) == 1
    return wheel


class Installed:
    """One environment and one folder to work in."""

    def __init__(self, folder: Path) -> None:
        self.venv = folder / "venv"
        self.work = folder / "work"
        self.work.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", str(self.venv)], check=True, timeout=120)
        self.empty_mb = _size_mb(self.venv)
        self.added_mb = 0.0
        self.install_s = 0.0

    def install(self, requirement: str) -> None:
        """By pip, with the versions that are tested."""
        began = time.monotonic()
        pip = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
        done = self.python(*pip, "-c", str(REPOSITORY / "constraints.txt"), requirement, timeout_s=600)
        assert done.returncode == 0, done.stderr
        self.install_s = time.monotonic() - began
        self.added_mb = _size_mb(self.venv) - self.empty_mb

    def python(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs its Python in the working folder."""
        return self._run("python", *arguments, timeout_s=timeout_s)

    def attempt(self, *arguments: str, timeout_s: float = 300) -> subprocess.CompletedProcess[str]:
        """Runs `echo-stream` in the working folder."""
        return self._run("echo-stream", *arguments, timeout_s=timeout_s)

    def command(self, *arguments: str) -> str:
        """What `echo-stream` prints; it must succeed."""
        done = self.attempt(*arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def configure(self, encoder: str, pace: str = "fast", start_s: int = 0, fault: str = "") -> None:
        """Writes config.yaml into the working folder."""
        values = {"ENCODER": encoder, "START": str(start_s), "PACE": pace, "FAULT": fault}
        text = CONFIGURATION
        for name, value in values.items():
            text = text.replace(name, value)
        (self.work / "config.yaml").write_text(text, encoding="utf-8")

    @contextmanager
    def daemon(self) -> Iterator[Path]:
        """`echo-stream run`, for as long as this lasts; yields its log."""
        log = self.work / "run.log"
        with log.open("wb") as out:
            command = [str(self.venv / "bin" / "echo-stream"), "run"]
            running = subprocess.Popen(command, cwd=self.work, env=_environ(), stdout=out, stderr=out)
        try:
            yield log
            assert running.poll() is None, log.read_text(encoding="utf-8")
        finally:
            running.terminate()
            running.wait(60)
        assert running.returncode == 0, log.read_text(encoding="utf-8")

    def status(self) -> dict[str, Any]:
        """What the running daemon says of its one machine; empty while it does not answer."""
        done = self.attempt("status", "--json")
        if done.returncode != 0:
            return {}
        machine: dict[str, Any] = json.loads(done.stdout)["machines"][0]
        return machine

    def _run(self, program: str, *arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        command = [str(self.venv / "bin" / program), *arguments]
        return subprocess.run(
            command,
            cwd=self.work,
            env=_environ(),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def wait_until(found: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
    """Returns when `found` is true, asked twice a second."""
    until = time.monotonic() + timeout_s
    while not found():
        assert time.monotonic() < until, f"not within {timeout_s:g} s: {what()}"
        time.sleep(0.5)


def _environ() -> dict[str, str]:
    """Nothing that leads back to the checkout or to this test run's environment."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}


def _size_mb(folder: Path) -> float:
    """What it takes on the disk, as `du -sm` counts."""
    done = subprocess.run(["du", "-sk", str(folder)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[0]) / 1024
