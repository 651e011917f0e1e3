"""A throw-away computer: systemd-nspawn boots the host's own systemd on a root of a few small files.

The root has the host's /usr, read-only, a handful of its /etc, and nothing of its /root, /home, /var or
network. The packages of this test run and the code under test are bound read-only under /opt/echo-stream,
around an interpreter of /usr: ProtectHome would hide one that lives in a home.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

T = TypeVar("T")
REPOSITORY = Path(__file__).parents[2]
PROGRAM = "/opt/echo-stream/bin/echo-stream"
_ETC = [
    *("passwd", "group", "login.defs", "nsswitch.conf", "ld.so.cache", "ld.so.conf", "ld.so.conf.d"),
    *("pam.d", "security", "dbus-1", "alternatives", "ssl", "localtime", "alsa"),
]
_FOLDERS = [
    *("usr", "proc", "sys", "dev", "run", "tmp", "root", "home", "mnt", "srv"),
    *("var/lib", "var/tmp", "var/log/journal"),
]
_COMMAND = """#!/opt/echo-stream/bin/python3
import sys
sys.path.insert(0, "/opt/echo-stream/src")
from echo_stream.cli import main
sys.exit(main())
"""


def missing() -> str:
    """Why no container can be booted here; empty where one can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "booting a container needs root"
    for tool in ("systemd-nspawn", "nsenter"):
        if shutil.which(tool) is None:
            return f"there is no {tool} (apt-get install systemd-container util-linux)"
    if not Path("/usr/lib/systemd/systemd").exists():
        return "there is no systemd to boot (apt-get install systemd)"
    if not all(Path(f"/{name}").is_symlink() for name in ("bin", "sbin", "lib")):
        return "/bin, /sbin and /lib are not merged into /usr here"
    ask = "import sys; print(*sys.version_info[:2])"
    python = subprocess.run(["/usr/bin/python3", "-c", ask], capture_output=True, text=True, check=False)
    if python.stdout.split() != [str(n) for n in sys.version_info[:2]]:
        return f"/usr/bin/python3 is not {sys.version_info[0]}.{sys.version_info[1]}, as this test run is"
    return ""


class Container:
    """One booted systemd. Files under `root` may be written before and after the boot."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._turn = os.open("/run/echo-stream-test.lock", os.O_CREAT | os.O_RDWR)
        self._log = root.with_suffix(".log")
        _lay_out(root)

    def boot(self, timeout_s: float = 60) -> None:
        """Returns when systemd takes orders. Waits for the container of another test run to end first."""
        fcntl.flock(self._turn, fcntl.LOCK_EX)  # two would share one control group
        command = ["systemd-nspawn", "--quiet", "--directory", str(self.root), "--boot", "--register=no"]
        command += ["--keep-unit", "--private-network", "--console=pipe", "--machine=echo-stream-test"]
        command += self._mounts()
        unshare = ["unshare", "--mount", "--propagation", "private"]
        with self._log.open("wb") as log:
            self._nspawn = subprocess.Popen(
                [*unshare, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._is_up, timeout_s, lambda: f"no systemd: {self._log.read_text(errors='replace')}")

    def run(self, *command: str, check: bool = True, timeout_s: float = 60) -> str:
        """What a command, run as root inside, writes to stdout."""
        done = self.attempt(*command, timeout_s=timeout_s)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def attempt(self, *command: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """The same, with its exit code."""
        process = self.spawn(*command)
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def spawn(self, *command: str) -> subprocess.Popen[str]:
        """Starts a command as root inside."""
        environ = {
            "PATH": "/usr/sbin:/usr/bin",
            "SYSTEMD_PAGER": "",
            "SYSTEMD_COLORS": "0",
            "LC_ALL": "C.UTF-8",
        }
        inside = ["nsenter", "--target", str(self._leader), "--all", *command]
        pipe = subprocess.PIPE
        return subprocess.Popen(inside, stdout=pipe, stderr=pipe, text=True, env=environ)

    def inside(self, path: str) -> Path:
        """A file of the booted computer, its /run included, as this process may open it."""
        return Path(f"/proc/{self._leader}/root{path}")

    def property(self, name: str, unit: str = "echo-stream.service") -> str:
        """A property of a unit, as `systemctl show` gives it."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self, unit: str = "echo-stream.service", *more: str) -> list[dict[str, Any]]:
        """Every entry of a unit's journal."""
        self.run("journalctl", "--sync")
        text = self.run("journalctl", "--no-pager", "--output=json", f"--unit={unit}", *more)
        return [json.loads(line) for line in text.splitlines()]

    @contextlib.contextmanager
    def overruled(self, text: str) -> Iterator[None]:
        """A drop-in of the service, as `systemctl edit` writes it, for as long as this lasts."""
        override = self.root / "etc/systemd/system/echo-stream.service.d/override.conf"
        override.parent.mkdir(exist_ok=True)
        override.write_text(text)
        self.run("systemctl", "daemon-reload")
        try:
            yield
        finally:
            override.unlink()
            self.run("systemctl", "daemon-reload")

    def install(self) -> str:
        """What `install-service` reports."""
        return self.python(f"install_service(Path({PROGRAM!r}))")

    def python(self, call: str) -> str:
        """What code that uses `service.install` and `service.status`, run as root, writes to stdout."""
        code = (
            "import sys; sys.path.insert(0, '/opt/echo-stream/src')\nfrom pathlib import Path\nimport json\n"
        )
        code += "from echo_stream.cli.install import *\nfrom echo_stream.daemon.status import ask\n"
        code += call
        return self.run("/opt/echo-stream/bin/python3", "-c", code)

    def shut_down(self) -> None:
        """Powers off, by force after 20 s."""
        if self._nspawn is None:
            return
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.run("systemctl", "poweroff", "--no-block", check=False, timeout_s=10)
        try:
            self._nspawn.wait(60)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._leader, signal.SIGKILL)
            self._nspawn.kill()
            self._nspawn.wait()
        os.close(self._turn)

    def _mounts(self) -> list[str]:
        """Options of systemd-nspawn: what it sees of this PC's files."""
        packages = sysconfig.get_paths()["purelib"]
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        binds = {"/usr": "/usr", packages: f"/opt/echo-stream/lib/{version}/site-packages"}
        binds[str(REPOSITORY / "echo_stream")] = "/opt/echo-stream/src/echo_stream"
        return [f"--bind-ro={here}:{there}" for here, there in binds.items()]

    def _is_up(self) -> bool:
        assert self._nspawn is not None
        if self._nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended: {self._log.read_text(errors='replace')}")
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children").read_text().split()
        if not children:
            return False
        self._leader = int(children[0])
        state = self.attempt("systemctl", "is-system-running").stdout.strip()
        return state in ("running", "degraded")


def wait_until(found: Callable[[], T], timeout_s: float, what: str | Callable[[], str]) -> T:
    """The first true value of `found`, asked for a minute at least: a PC that runs tests is busy."""
    timeout_s = max(timeout_s, 60.0)
    until = time.monotonic() + timeout_s
    while not (value := found()):
        if time.monotonic() > until:
            pytest.fail(f"not within {timeout_s:g} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.2)
    return value


def _lay_out(root: Path) -> None:
    """Files of a Debian that has no services of its own."""
    for name in _FOLDERS:
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path(f"/{name}").exists():
            (root / name).symlink_to(f"usr/{name}")
    etc = root / "etc"
    (etc / "systemd" / "system").mkdir(parents=True)
    for name in _ETC:
        here = Path("/etc") / name
        if here.is_dir():
            shutil.copytree(here, etc / name, symlinks=True)
        elif here.exists():
            shutil.copy2(here, etc / name, follow_symlinks=False)
    shutil.copy2("/usr/lib/os-release", etc / "os-release")
    users = [line.partition(":")[0] for line in (etc / "passwd").read_text().splitlines()]
    (etc / "shadow").write_text("".join(f"{user}:*:20000:0:99999:7:::\n" for user in users))
    (etc / "shadow").chmod(0o600)
    (etc / "machine-id").write_text(
        "e5" * 16 + "\n"
    )  # a first boot would enable whatever is installed in /usr
    (etc / "hostname").write_text("echo-stream-test\n")
    (etc / "systemd" / "system" / "default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    home = root / "opt" / "echo-stream"
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "python3").symlink_to("/usr/bin/python3")
    (home / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    (home / "bin" / "echo-stream").write_text(_COMMAND)
    (home / "bin" / "echo-stream").chmod(0o755)
    root.chmod(0o755)
