"""`echo-stream status` asks the running daemon over a Unix socket. The daemon's side has a thread of its own.

One connection, one answer: the daemon writes its snapshot as a JSON object and hangs up. A client may send
one line before, a JSON object that asks for something else (an enrolment); only root and the daemon's own
user are obeyed. One that sends nothing within WAIT_S gets the snapshot. The snapshot is a callable of the
daemon, so that the socket, Prometheus and MQTT say the same:

    {"version", "node", "uptime_s", "alive": the pipeline makes progress or waits by design,
     "encoder": its kind, "encoder_computed_by": library and precision,
     "broker": {"connected", "host", "port"}, "outbox": {"depth", "dropped"},
     "machines": [{what `Health.snapshot` gives, "listening": sound comes and is scored, "device",
                   "alarms": {"warning" | "alarm": {"state", "active"}}}, ...]}

There is no secret in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import stat
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event
from typing import Any

from echo_stream.core.errors import EchoStreamError
from echo_stream.core.guard import GuardedThread
from echo_stream.core.log import get_logger
from echo_stream.core.log_limit import LogLimit

Snapshot = Callable[[], Mapping[str, Any]]
"""Gives the daemon's state as plain JSON values; called from several threads, answers at once."""

Answer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
"""Carries out what a client asks and says what came of it; may wait for some seconds."""

_may_log_failure = LogLimit("unanswered questions for the status").admits
_FILE = "status.sock"
_RUNTIME = Path("/run/echo-stream")
_PATIENCE_S = 3.0
"""A client that does not read for so long is dropped."""
WAIT_S = 0.2
"""For the line of a client that asks for something else; ours say at once that none comes."""
_MOST_ASKED = 4096
_ANSWER_S = 10.0
"""A PC that is busy answers later; who asks waits so long."""
_LONGEST = 107
"""Bytes of a path that a Unix socket can have on Linux."""


def daemon_socket(state_dir: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the daemon listens: in systemd's runtime directory, without systemd in its state directory."""
    return Path(environ.get("RUNTIME_DIRECTORY") or state_dir) / _FILE


def find_socket(state_dir: Path, runtime: Path = _RUNTIME) -> Path:
    """Where a client finds the daemon: the state directory's socket if there is one, else the service's."""
    own = state_dir / _FILE
    try:
        return own if own.exists() else runtime / _FILE
    except PermissionError:  # the service's state directory is closed to others, its runtime directory is not
        return runtime / _FILE


class StatusServer:
    """Serves the snapshot at `path` until closed.

    The socket belongs to the daemon's user and group, mode 0660.

    Args:
        path: of the socket.
        snapshot: what is answered.
        answer: what else can be asked for; None: nothing.

    Raises:
        EchoStreamError: another daemon answers there, or the socket cannot be made.
    """

    def __init__(self, path: Path, snapshot: Snapshot, answer: Answer | None = None) -> None:
        self.path = path
        _make_room(path)
        try:
            self._server = _Server(path, snapshot, answer)
        except OSError as error:
            raise EchoStreamError(
                f"status socket {path}: {error.strerror or error}",
                "its directory must exist and belong to the user that runs echo-stream",
            ) from error
        self._stop = Event()
        self.thread = GuardedThread(
            "the status socket", self._server.serve_forever, self._stop, name="status"
        )
        self.thread.start()

    def close(self) -> None:
        """Hangs up and removes the socket."""
        self._stop.set()
        self._server.shutdown()
        self.thread.join(_PATIENCE_S)
        self._server.server_close()
        self.path.unlink(missing_ok=True)


def ask(path: Path, timeout_s: float = _ANSWER_S, asked: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The snapshot of the daemon that listens at `path`, or its answer to something else.

    Args:
        path: of its socket.
        timeout_s: how long to wait.
        asked: what is asked for instead of the snapshot.

    Raises:
        EchoStreamError: nothing runs there, or it does not answer, or this user may not ask.
    """
    try:
        return _read(path, timeout_s, asked)
    except FileNotFoundError as error:
        raise EchoStreamError(f"no daemon runs: there is no {path}", _START) from error
    except ConnectionRefusedError as error:
        raise EchoStreamError(
            f"no daemon runs: no process answers at {path}, it was killed", _START
        ) from error
    except PermissionError as error:
        raise EchoStreamError(
            f"{path}: permission denied",
            "ask with sudo, or join the group of the service: usermod -aG echo-stream USER",
        ) from error
    except TimeoutError as error:
        raise EchoStreamError(
            f"the daemon at {path} does not answer within {timeout_s:g} s",
            "see what it does: journalctl -u echo-stream -n 50",
        ) from error
    except ValueError as error:
        raise EchoStreamError(f"{path}: the answer is no JSON object", "is another program there?") from error
    except OSError as error:
        raise EchoStreamError(f"{path}: {error.strerror or error}", _START) from error


_START = "start it: systemctl start echo-stream (or echo-stream run)"


def _read(path: Path, timeout_s: float, asked: Mapping[str, Any] | None) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(timeout_s)
        line.connect(str(path))
        if asked:
            line.sendall(json.dumps(dict(asked)).encode() + b"\n")
        line.shutdown(socket.SHUT_WR)
        with line.makefile("rb") as answer:
            found = json.loads(answer.read())
    if not isinstance(found, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one answer to whatever is no JSON object
    return found


def _make_room(path: Path) -> None:
    """Removes the socket of a daemon that was killed; never that of one that runs."""
    if len(os.fsencode(path)) > _LONGEST:
        raise EchoStreamError(
            f"status socket {path}: {len(os.fsencode(path))} bytes, at most {_LONGEST} are possible",
            "choose a state_dir with a shorter path",
        )
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISSOCK(mode):  # neither removed nor followed: it is not ours
            raise EchoStreamError(
                f"status socket {path}: something else stands there ({stat.filemode(mode)})",
                "remove it, and start echo-stream again",
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
            line.settimeout(_PATIENCE_S)
            line.connect(str(path))
    except FileNotFoundError:
        pass
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise EchoStreamError(f"status socket {path}: {error.strerror or error}") from error
    else:
        raise EchoStreamError(
            f"another echo-stream runs already: it answers at {path}",
            "stop it first (systemctl stop echo-stream), or give this one a state_dir of its own",
        )


class _Answer(socketserver.StreamRequestHandler):
    """One client: gets the snapshot, or what it asks for."""

    timeout = _PATIENCE_S  # a client that does not read is dropped
    server: _Server

    def handle(self) -> None:
        asked = self._asked()
        found = self._answer(asked) if asked else self.server.snapshot()
        answer = json.dumps(found, allow_nan=False, default=str).encode() + b"\n"
        with contextlib.suppress(OSError):  # who asked has hung up, or does not read
            self.wfile.write(answer)

    def _asked(self) -> Mapping[str, Any]:
        """The line that the client sends; empty where it sends none, or no JSON object."""
        self.connection.settimeout(WAIT_S)
        try:
            line = self.rfile.readline(_MOST_ASKED)
            found = json.loads(line) if line.endswith(b"\n") else {}
        except (OSError, ValueError, RecursionError):
            found = {}
        self.connection.settimeout(_PATIENCE_S)
        return found if isinstance(found, dict) else {}

    def _answer(self, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        credentials = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, user, _ = struct.unpack("3i", credentials)
        if user not in {0, os.getuid()}:
            return {"ok": False, "outcome": "only root and the user of the service may ask for that"}
        if self.server.answer is None:
            return {"ok": False, "outcome": "nothing can be asked for here"}
        return self.server.answer(asked)


class _Server(socketserver.UnixStreamServer):
    """The socket, closed to other users before anybody can connect."""

    request_queue_size = 64  # beyond it Linux refuses at once, also those who would wait

    def __init__(self, path: Path, snapshot: Snapshot, answer: Answer | None) -> None:
        self.snapshot, self.answer = snapshot, answer
        super().__init__(str(path), _Answer)

    def server_activate(self) -> None:
        Path(str(self.server_address)).chmod(0o660)
        super().server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's signature
        if _may_log_failure():
            get_logger().warning("status not answered", exc_info=True)
