"""install-service makes echo-stream a service of this PC, uninstall-service undoes it. Run by root.

The service has a system user of its own, who owns the state directory and nothing else: it can write neither
its code nor its configuration. Everything here may be done again without harm.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path

from echo_stream.core.errors import EchoStreamError

USER = "echo-stream"
UNIT = Path("/etc/systemd/system/echo-stream.service")
CONFIG = Path("/etc/echo-stream/config.yaml")
PASSWORD = Path("/etc/echo-stream/mqtt-password")
STATE = Path("/var/lib/echo-stream")
_PROGRAM = "/opt/echo-stream/bin/echo-stream"
_HIDDEN = tuple(Path(path) for path in ("/home", "/root", "/run/user", "/tmp", "/var/tmp"))  # noqa: S108 - not used
"""What ProtectHome and PrivateTmp hide from the service."""

Say = Callable[[str], None]


def install_service(program: Path, *, only_print: bool = False, say: Say = print) -> None:
    """Writes the unit, the user, the directories and an example configuration; starts nothing.

    A configuration, a password or state that is there already stays as it is.

    Args:
        program: the installed `echo-stream` that the service is to run.
        only_print: say what would be written, and write nothing.
        say: takes each line of the report.

    Raises:
        EchoStreamError: this is not root, or the service could not reach the program, or a tool failed.
    """
    if only_print:
        for line in _plan(program):
            say(line)
        return
    _require_root()
    _require_reachable(program)
    _make_user(say)
    _make_directory(CONFIG.parent, 0o755, "root", say)
    _make_file(CONFIG, example_configuration(), 0o644, say)
    _make_file(PASSWORD, "", 0o600, say)
    _make_directory(STATE, 0o750, USER, say)
    _make_directory(STATE / "banks", 0o750, USER, say)
    _write_unit(unit_text(program), say)
    _systemctl(say, "daemon-reload")
    say(f"next: edit {CONFIG}, then as the service's user learn what is normal, then start:")
    say(f"  sudo -u {USER} {program} fit-normal --config {CONFIG} --machine ID --minutes 30")
    say("  sudo systemctl enable --now echo-stream")


def uninstall_service(*, only_print: bool = False, say: Say = print) -> None:
    """Stops the service and removes what `install_service` made; banks, state and your settings stay.

    What is kept of the state directory belongs to root afterwards, because the user is gone.

    Raises:
        EchoStreamError: this is not root, or a tool failed.
    """
    kept = f"kept: {STATE}, and in {CONFIG.parent} what was changed"
    if only_print:
        say(f"systemctl disable --now echo-stream\nrm {UNIT}\nuserdel {USER}\n# {kept}")
        return
    _require_root()
    if UNIT.exists():
        _systemctl(say, "disable", "--now", UNIT.name)
        UNIT.unlink()
        say(f"{UNIT}: removed")
        _systemctl(say, "daemon-reload")
    if CONFIG.exists() and CONFIG.read_text(encoding="utf-8") == example_configuration():
        CONFIG.unlink()
    if PASSWORD.exists() and PASSWORD.stat().st_size == 0:
        PASSWORD.unlink()
    if CONFIG.parent.is_dir() and not any(CONFIG.parent.iterdir()):
        CONFIG.parent.rmdir()
    if _exists(USER):
        if STATE.is_dir():
            _own(STATE, "root")
        _run("userdel", USER)
        say(f"user {USER}: removed")
    say(kept)


def unit_text(program: Path) -> str:
    """The unit file, for a program at this place."""
    text = resources.files("echo_stream.cli").joinpath(UNIT.name).read_text(encoding="utf-8")
    return text.replace(_PROGRAM, str(program))


def example_configuration() -> str:
    """A configuration to begin with, with this PC's name in it."""
    text = resources.files("echo_stream.cli").joinpath("config.example.yaml").read_text(encoding="utf-8")
    node = re.sub(r"[^A-Za-z0-9_-]+", "-", socket.gethostname().partition(".")[0]).strip("-_")
    return text.replace("NODE ", (node or "pc").ljust(4) + " ")


def _plan(program: Path) -> Iterator[str]:
    yield f"# user: {' '.join(_useradd())}"
    yield f"# {STATE}, {STATE / 'banks'}: directories of {USER}, mode 0750"
    yield f"# {PASSWORD}: empty, of root, mode 0600; kept where it is there"
    yield f"# {CONFIG}: of root, mode 0644; kept where it is there"
    yield example_configuration()
    yield f"# {UNIT}: of root, mode 0644"
    yield unit_text(program)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise EchoStreamError(
            "the command needs root: it writes to /etc and makes a user",
            "run it with sudo; --print shows what it would do",
        )


def _require_reachable(program: Path) -> None:
    """The service sees no home directory and no /tmp: nothing that it runs may live there."""
    if not os.access(program, os.X_OK):
        raise EchoStreamError(f"{program} is not an executable file", f"install echo-stream as {_PROGRAM}")
    for what, path in (
        ("the program", program),
        ("its Python", Path(sys.executable)),
        ("its code", Path(__file__)),
    ):
        found = path.resolve()
        if any(found.is_relative_to(hidden) for hidden in _HIDDEN):
            raise EchoStreamError(
                f"{what} is {found}, where the service cannot see it (ProtectHome, PrivateTmp)",
                "install into /opt: /usr/bin/python3 -m venv /opt/echo-stream && "
                "/opt/echo-stream/bin/pip install PROJECT, then run install-service from there",
            )


def _useradd() -> list[str]:
    command = ["useradd", "--system", "--user-group", "--home-dir", str(STATE), "--no-create-home"]
    try:
        grp.getgrnam("audio")
        command += ["--groups", "audio"]
    except KeyError:  # a PC without sound packages; the unit names the group when it is needed
        pass
    return [*command, "--shell", "/usr/sbin/nologin", USER]


def _make_user(say: Say) -> None:
    if _exists(USER):
        say(f"user {USER}: is there")
        return
    _run(*_useradd())
    say(f"user {USER}: made")


def _make_directory(path: Path, mode: int, owner: str, say: Say) -> None:
    say(f"{path}: {'is there' if path.is_dir() else 'made'}")
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)
    if path.owner() != owner:  # new, or kept by an uninstallation
        _own(path, owner)


def _make_file(path: Path, content: str, mode: int, say: Say) -> None:
    if path.exists():
        say(f"{path}: is there, kept")
        return
    path.touch(0o600, exist_ok=False)
    path.write_text(content, encoding="utf-8")
    path.chmod(mode)  # whatever the umask of this shell is
    say(f"{path}: made")


def _write_unit(text: str, say: Say) -> None:
    if UNIT.exists() and UNIT.read_text(encoding="utf-8") == text:
        say(f"{UNIT}: is there")
        return
    UNIT.write_text(text, encoding="utf-8")
    UNIT.chmod(0o644)
    say(f"{UNIT}: written")


def _own(folder: Path, owner: str) -> None:
    """Gives a folder and all in it to a user and the group of the same name; links are not followed."""
    user = pwd.getpwnam(owner)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)


def _exists(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _systemctl(say: Say, *arguments: str) -> None:
    if Path("/run/systemd/system").is_dir():  # sd_booted(3)
        _run("systemctl", *arguments)
    else:
        say(f"systemd does not run here; later: systemctl {' '.join(arguments)}")


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    except FileNotFoundError as error:
        raise EchoStreamError(
            f"there is no {command[0]} on this PC", "install it, then do this again"
        ) from error
    except subprocess.CalledProcessError as error:
        raise EchoStreamError(f"{' '.join(command)}: {error.stderr.strip() or error.returncode}") from error
