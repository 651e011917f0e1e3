"""A real mosquitto on 127.0.0.1 for tests: plain, with a password, with TLS; restarted and killed at will.

    with mosquitto(tmp_path) as broker:
        ... broker.host, broker.port ...
        broker.kill()
        broker.start()

With `tls=True` the certificates are made by openssl: `broker.pki.ca`, `.client_cert`, `.client_key`, and
`.other_ca`, an authority that signed nothing of ours.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Pki:
    """Certificates and keys, PEM."""

    ca: Path
    server_cert: Path
    server_key: Path
    client_cert: Path
    client_key: Path
    other_ca: Path


class MosquittoBroker:
    """One mosquitto; its port stays the same over restarts.

    Args:
        folder: Where its files go.
        users: Name and password of each user; None lets everybody in.
        tls: Listen with TLS only.
        client_certs: With TLS: ask for a certificate signed by the authority.
        persistent: Keep retained messages and sessions on disk at a proper stop.
        listen_on: Another address of the loopback; the certificates name 127.0.0.1 only.
        extra: Further lines for its configuration.
        log: What it logs; a line a message costs it more than the message.
    """

    def __init__(
        self,
        folder: Path,
        *,
        users: Mapping[str, str] | None = None,
        tls: bool = False,
        client_certs: bool = False,
        persistent: bool = False,
        listen_on: str = HOST,
        extra: str = "",
        log: str = "all",
    ) -> None:
        self.host = listen_on
        self.port = free_port()
        self.folder = folder
        self.log_path = folder / "mosquitto.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "mosquitto.conf"
        self._config.write_text(self._configuration(users, tls, client_certs, persistent, log) + extra + "\n")

    def _configuration(
        self,
        users: Mapping[str, str] | None,
        tls: bool,
        client_certs: bool,
        persistent: bool,
        log: str,
    ) -> str:
        lines = ["per_listener_settings true"]
        lines += ["user root"] if os.geteuid() == 0 else []
        lines += [f"persistence {str(persistent).lower()}", f"persistence_location {self.folder}/"]
        lines += ["max_queued_messages 0", f"log_type {log}", f"log_dest file {self.log_path}"]
        lines += [f"listener {self.port} {self.host}", f"allow_anonymous {str(users is None).lower()}"]
        if users is not None:
            lines.append(f"password_file {self.set_passwords(users)}")
        if tls:
            lines += [f"cafile {self.pki.ca}", f"certfile {self.pki.server_cert}"]
            lines += [f"keyfile {self.pki.server_key}"]
            lines += [f"require_certificate {str(client_certs).lower()}"]
        return "\n".join(lines) + "\n"

    def set_passwords(self, users: Mapping[str, str]) -> Path:
        """Write the password file; takes effect at the next start."""
        path = self.folder / "passwords"
        path.touch(mode=0o600)
        for name, password in users.items():
            subprocess.run(["mosquitto_passwd", "-b", str(path), name, password], check=True)
        return path

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        assert self._process is None
        self._process = subprocess.Popen(
            ["mosquitto", "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended: {self.log}")
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1):
                return
            time.sleep(0.01)
        raise RuntimeError("mosquitto does not accept connections")

    def stop(self) -> None:
        """Stop it properly: it says good-bye and writes what it is to keep."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it with SIGKILL: it forgets what it had in memory."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Its connections stay open and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def reload(self) -> None:
        """Have it read its password and access files again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    @property
    def pki(self) -> Pki:
        """Certificates, the same for every broker of a test run."""
        return make_pki()

    @property
    def running(self) -> bool:
        """It was started, and neither stopped nor killed."""
        return self._process is not None

    @property
    def pid(self) -> int:
        """Of its process, which is another after a restart."""
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def _end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        self._process.wait(60)
        self._process = None


@contextlib.contextmanager
def mosquitto(
    folder: Path,
    *,
    users: Mapping[str, str] | None = None,
    tls: bool = False,
    client_certs: bool = False,
    persistent: bool = False,
    listen_on: str = HOST,
    extra: str = "",
    log: str = "all",
    started: bool = True,
) -> Iterator[MosquittoBroker]:
    """A broker for the length of a test (arguments as MosquittoBroker); skips, loudly, without mosquitto."""
    if shutil.which("mosquitto") is None:
        pytest.skip("MOSQUITTO MISSING: no test with a real broker was run (apt-get install mosquitto)")
    own = folder / f"mosquitto-{free_port()}"
    own.mkdir()
    broker = MosquittoBroker(
        own,
        users=users,
        tls=tls,
        client_certs=client_certs,
        persistent=persistent,
        listen_on=listen_on,
        extra=extra,
        log=log,
    )
    if started:
        broker.start()
    try:
        yield broker
    finally:
        if broker.running:
            broker.kill()


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def make_pki() -> Pki:
    """Two authorities; the first signs a server certificate for 127.0.0.1 and localhost, and a client's."""
    folder = Path(tempfile.mkdtemp(prefix="pki-"))
    ca = _authority(folder, "ca")
    other = _authority(folder, "other")
    server = _signed(folder, ca, "server", "subjectAltName=IP:127.0.0.1,DNS:localhost")
    client = _signed(folder, ca, "client", "extendedKeyUsage=clientAuth")
    return Pki(ca[0], server[0], server[1], client[0], client[1], other[0])


def _authority(folder: Path, name: str) -> tuple[Path, Path]:
    cert, key = folder / f"{name}.crt", folder / f"{name}.key"
    _openssl(
        *(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
        ),
        *("-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name} authority"),
        *("-addext", "keyUsage=critical,keyCertSign,cRLSign"),
    )
    return cert, key


def _signed(folder: Path, ca: tuple[Path, Path], name: str, extension: str) -> tuple[Path, Path]:
    cert, key, request, extensions = (folder / f"{name}.{end}" for end in ("crt", "key", "csr", "ext"))
    extensions.write_text(extension + "\n")
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}"),
    )
    _openssl(
        *("x509", "-req", "-in", str(request), "-CA", str(ca[0]), "-CAkey", str(ca[1]), "-CAcreateserial"),
        *("-days", "30", "-extfile", str(extensions), "-out", str(cert)),
    )
    return cert, key


def dated_certificate(folder: Path, begins_s: float, ends_s: float) -> tuple[Path, Path]:
    """Certificate and key for 127.0.0.1, valid between two times from now in seconds; see make_pki."""
    authority = make_pki().ca
    cert, key, request = (folder / f"dated.{end}" for end in ("crt", "key", "csr"))
    (folder / "index.txt").write_text("")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1\n")
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=c\n[c]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\nrand_serial=yes\n"
        "default_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
    )
    _openssl(
        *("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", str(key), "-out", str(request), "-subj", "/CN=dated"),
    )
    begins, ends = (
        time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + at)) for at in (begins_s, ends_s)
    )
    _openssl(
        *(
            "ca",
            "-batch",
            "-notext",
            "-config",
            str(folder / "ca.cnf"),
            "-in",
            str(request),
            "-out",
            str(cert),
        ),
        *("-cert", str(authority), "-keyfile", str(authority.with_suffix(".key"))),
        *("-startdate", begins, "-enddate", ends, "-extfile", str(folder / "extensions")),
    )
    return cert, key


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
