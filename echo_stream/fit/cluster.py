"""Cluster computes the parts of an archive on the workers of a Dask scheduler, in place of this PC's cores.

A scheduler runs any code that is sent to it, so nothing is sent without TLS and client certificates except on
this PC itself (docs/adr/0061). Only parts and features travel: every worker reads the recordings at the same
paths. Runs in the caller's thread; the Dask client has one of its own.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import ipaddress
import json
import logging
import platform
import ssl
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import cast
from urllib.parse import urlsplit
from uuid import uuid4

from echo_stream.capture.stored import located, look_up, state_of
from echo_stream.core.errors import ClusterError, ConfigError, EchoStreamError, SourceError, of_extra
from echo_stream.core.text import path_text
from echo_stream.encode.encoder import Encoder
from echo_stream.fit.archive import Part, Tensors
from echo_stream.fit.archive_jobs import encode_or_say

with of_extra("--cluster", "cluster"):
    from distributed import Client, Future, KilledWorker, Security, Worker, WorkerPlugin, get_worker, wait

AHEAD = 4
"""Parts in flight for each worker. Their features stay on the workers until they are wanted, so a slow worker
holds nobody up at once, and the caller's memory does not grow with the cluster."""
LATE_TIMES, LATE_LEAST_S, LATE_OF, LATE_SHARE = 2.5, 10.0, 100, 0.9
"""What is in flight so many times as long as nine in ten of the last hundred parts, and at least so long, is
late: another worker computes it as well. Over 2, because the second part that a worker gets waits for the
first, and so is in flight twice as long."""
FETCH_S = 10.0
"""So long a worker may take to hand over features before others compute them; each time doubles it."""
WITHOUT_WORKERS_S = 60.0
"""So long the scheduler may have no worker at all: what restarts them needs a while."""
CONNECT_S = 10.0
_POLL_S = 0.5
_PACKAGES = ("echo-stream", "numpy", "soundfile", "distributed")
_GO_ON = "With --resume FOLDER the same command goes on where it was."


@contextlib.contextmanager
def connected(where: str) -> Iterator[Cluster]:
    """The workers of a scheduler, after what can be checked before any work is.

    Args:
        where: its address (`tls://host:8786`), or a scheduler file, which has it.

    Raises:
        ConfigError: no address there, no encryption or certificates, or a worker that is unlike this PC.
        ClusterError: no scheduler answers, or it has no worker.
    """
    address = _address(where)
    security = _security(address)
    # What it logs, tracebacks among it, is said here in words.
    for name in ("distributed", "distributed.client"):  # each has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        client = Client(address, timeout=CONNECT_S, security=security)
    except (OSError, ssl.SSLError) as error:
        raise ClusterError(
            f"--cluster {address}: no scheduler answers: {error}",
            "Is it up, and are its certificates of the authority that distributed.comm.tls.ca-file names?",
        ) from error
    try:
        cluster = Cluster(client, address)
        cluster.check()
        yield cluster
    finally:
        with contextlib.suppress(TimeoutError):  # nobody is there any more who could say good-bye
            client.close(timeout=5)


def _address(where: str) -> str:
    if "://" in where:
        return where
    try:
        return str(json.loads(Path(where).read_text(encoding="utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--cluster {where}: is neither an address nor a scheduler file: {error}",
            "expected tls://HOST:8786, or the file of `dask scheduler --scheduler-file FILE`",
        ) from error


def _security(address: str) -> Security | None:
    """What the client proves itself with; None on this PC alone."""
    if _on_this_pc(address):
        return None
    if not address.startswith("tls://"):
        raise _open(address)
    security = Security()  # as Dask's own configuration says
    given = security.get_tls_config_for_role("client")
    names = {"ca_file": "ca-file", "cert": "client.cert"}  # which may have the key in it
    missing = [f"distributed.comm.tls.{name}" for key, name in names.items() if not given[key]]
    try:
        if not missing:
            security.get_connection_args("client")
            return security
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--cluster {address}: its certificates cannot be read: {error}",
            "expected PEM files that distributed.comm.tls in Dask's configuration names (docs/scaling.md)",
        ) from error
    raise ConfigError(
        f"--cluster {address}: Dask's configuration does not name {', '.join(missing)}",
        "TLS needs the authority's certificate, and a certificate with its key for this PC (docs/scaling.md)",
    )


def _on_this_pc(address: str) -> bool:
    parts = urlsplit(address)
    if parts.scheme != "tcp" or parts.hostname is None:
        return False
    if parts.hostname == "localhost":
        return True
    try:
        return ipaddress.ip_address(parts.hostname).is_loopback
    except ValueError:  # the name of a host
        return False


def _open(address: str) -> ConfigError:
    return ConfigError(
        f"--cluster {address}: is not encrypted, and a scheduler runs any code that is sent to it",
        "start scheduler and workers with TLS and client certificates, and name tls://HOST:8786 "
        "(docs/scaling.md); without only with --host 127.0.0.1, for scheduler and workers on this PC",
    )


@dataclass(slots=True)
class _Sent:
    """A part in flight."""

    part: Part
    sent_s: float
    """On the monotonic clock."""
    futures: list[Future[Tensors | SourceError]]
    """The first worker's, and where that one is late, another's: whichever is done first counts."""
    noted: bool = False
    """It is done, and how long it took is known."""

    @property
    def done(self) -> Future[Tensors | SourceError] | None:
        """The one with the result."""
        return next((future for future in self.futures if future.done()), None)


class _Flight:
    """The parts in flight, in order; those of a slow worker are sent to another one as well.

    Args:
        client: sends them.
        name: of the plugin with the encoder.
        sizes: bytes of each recording.
    """

    def __init__(self, client: Client, name: str, sizes: Mapping[Path, int]) -> None:
        self._client, self._name, self._sizes = client, name, sizes
        self._slow: dict[str, Future[Tensors | SourceError]] = {}
        self._took_s: deque[float] = deque(maxlen=LATE_OF)
        self._fetch_s = FETCH_S
        self.waiting: deque[_Sent] = deque()

    def send(self, part: Part) -> None:
        """To any worker but those that have not finished yet what they are late with."""
        self.waiting.append(_Sent(part, time.monotonic(), [self._submit(part)]))

    def _submit(self, part: Part, others: list[str] | None = None) -> Future[Tensors | SourceError]:
        size, others = self._sizes[part.path], others or self._others
        return self._client.submit(
            _work, self._name, part, size, pure=False, workers=others, allow_other_workers=others is not None
        )

    @property
    def _others(self) -> list[str] | None:
        """The workers that are not slow; None where none is, or all are."""
        self._slow = {at: future for at, future in self._slow.items() if not future.done()}
        if not self._slow:
            return None
        return [at for at in self._client.nthreads() if at not in self._slow] or None

    def fetch(self, future: Future[Tensors | SourceError]) -> Tensors | SourceError | None:
        """What a part gave; None where its worker does not hand it over: others compute all it has, again."""
        try:
            return future.result(timeout=self._fetch_s)
        except TimeoutError:
            self._fetch_s *= 2
        done = [(sent, own) for sent in self.waiting if (own := sent.done) is not None]
        has = self._client.who_has([own for _, own in done])
        holders = set(has.get(future.key, ()))
        others = [at for at in self._client.nthreads() if at not in holders | self._slow.keys()]
        for sent, own in done if others else ():
            if holders.issuperset(has.get(own.key) or others):  # one that failed is held by nobody
                sent.futures = [self._submit(sent.part, others)]
        return None

    def look(self) -> None:
        """Note how long parts took, and send those that are late to another worker, too."""
        now_s = time.monotonic()
        done = [sent for sent in self.waiting if sent.done is not None]
        self._took_s.extend(now_s - sent.sent_s for sent in done if not sent.noted)
        for sent in done:
            sent.noted = True
        if not self._took_s:
            return
        usual_s = sorted(self._took_s)[int(LATE_SHARE * len(self._took_s))]
        limit_s = max(LATE_LEAST_S, LATE_TIMES * usual_s)
        late = [
            sent
            for sent in self.waiting
            if sent.done is None and len(sent.futures) == 1 and now_s - sent.sent_s > limit_s
        ]
        if not late:
            return
        where = {key: at for at, keys in self._client.processing().items() for key in keys}
        for sent in late:
            if (at := where.get(sent.futures[0].key)) is not None:
                self._slow.setdefault(at, sent.futures[0])
        if self._slow and self._others is not None:
            for sent in late:
                if where.get(sent.futures[0].key) in self._slow:
                    sent.futures.append(self._submit(sent.part))


class Cluster:
    """Workers that encode parts of an archive.

    Args:
        client: connected to their scheduler.
        address: how it was named.
    """

    def __init__(self, client: Client, address: str) -> None:
        self._client, self._address = client, address

    def check(self) -> None:
        """That there are workers, each encrypted, with one thread and the versions of this PC.

        Raises:
            ConfigError: one, or the scheduler, is not as this PC, or all can be reached by anybody.
            ClusterError: there is none.
        """
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            raise self._no_workers() from error
        threads: dict[str, int] = self._client.nthreads()
        encrypted = self._address.startswith("tls://")
        for address in (self._client.scheduler_info()["address"], *threads):
            if not (address.startswith("tls://") if encrypted else _on_this_pc(address)):
                raise _open(address)
        for address, count in threads.items():
            if count != 1:
                raise ConfigError(
                    f"worker {address}: has {count} threads, and an encoder works in one at a time",
                    "start workers with --nthreads 1 and --nworkers as many as cores (ECHO: 1, it uses all)",
                )
        self._agree("python", platform.python_version)
        for package in _PACKAGES:
            self._agree(package, importlib.metadata.version, package)

    def compute(
        self, parts: Sequence[Part], encoder: Encoder, tell: Callable[[float], None]
    ) -> Generator[Tensors | SourceError]:
        """The features of each part, in their order, or why its recording cannot be read.

        Args:
            parts: what to encode.
            encoder: for all of them; sent once to each worker, also to one that comes later.
            tell: called with the seconds of sound that are done.

        Raises:
            ConfigError: a worker does not see a recording, or has another version of the encoder's library.
            ClusterError: the scheduler is gone, no worker is left, or one part ended several workers.
            EncoderError: a window cannot be encoded.
        """
        library = encoder.computed_by.split()[0]
        if library in {"openvino", "torch"}:
            self._agree(library, importlib.metadata.version, library)
        parts = [replace(part, path=located(part.path)) for part in parts]  # a worker's folder is another
        sizes = {part.path: state_of(part.path)[0] for part in parts}
        for address, unlike in self._everywhere(_unlike, sizes).items():
            if unlike is not None:
                raise _not_there(address, unlike)
        name = f"echo-stream-{uuid4().hex}"
        try:
            self._client.register_plugin(_Encode(encoder), name)
        except Exception as error:
            raise ClusterError(
                f"--cluster {self._address}: a worker cannot make the encoder: {error}",
                "Is the same extra (echo, torch) installed there, and has its CPU the same precisions?",
            ) from error
        most = AHEAD * max(1, len(self._client.nthreads()))
        todo, flight, yielded_s = iter(parts), _Flight(self._client, name, sizes), 0.0

        def say() -> None:
            tell(yielded_s + sum(sent.part.seconds for sent in flight.waiting if sent.done is not None))

        try:
            while True:
                for part in islice(todo, most - len(flight.waiting)):
                    flight.send(part)
                if not flight.waiting:
                    return
                found = self._result(flight, say)
                say()
                yielded_s += flight.waiting.popleft().part.seconds  # which lets the worker forget it
                yield found
        finally:  # an error, Ctrl-C, or a caller who wants no more
            if self._client.status == "running":
                self._client.cancel([future for sent in flight.waiting for future in sent.futures])
                with contextlib.suppress(TimeoutError):  # a worker that is stopped does not answer
                    self._client.sync(
                        self._client._unregister_worker_plugin, name=name, callback_timeout=FETCH_S
                    )

    def _result(self, flight: _Flight, tell: Callable[[], None]) -> Tensors | SourceError:
        """What the first part in flight gave; waited for as long as there are workers."""
        with_workers_s, first = time.monotonic(), flight.waiting[0]
        try:
            while (future := first.done) is None or (found := flight.fetch(future)) is None:
                with contextlib.suppress(TimeoutError):
                    wait(first.futures, timeout=_POLL_S, return_when="FIRST_COMPLETED")
                tell()
                flight.look()
                if self._client.nthreads():
                    with_workers_s = time.monotonic()
                elif time.monotonic() - with_workers_s > WITHOUT_WORKERS_S:
                    raise self._no_workers()
            return found
        except (CancelledError, OSError) as error:
            raise ClusterError(f"--cluster {self._address}: the scheduler is gone", _GO_ON) from error
        except KilledWorker as error:
            raise ClusterError(
                f"--cluster {self._address}: one part ended {error.allowed_failures + 1} workers",
                f"Too little memory there? {_GO_ON}",
            ) from error

    def _no_workers(self) -> ClusterError:
        return ClusterError(
            f"--cluster {self._address}: the scheduler has no worker", f"Start some. {_GO_ON}"
        )

    def _agree(self, what: str, version: Callable[..., str], *of: str) -> None:
        """Raise a ConfigError where a worker, or the scheduler, has another version than this PC."""
        own = version(*of)
        everywhere = {f"worker {at}": found for at, found in self._everywhere(version, *of).items()}
        try:
            everywhere["the scheduler"] = self._client.run_on_scheduler(version, *of)
        except importlib.metadata.PackageNotFoundError as error:
            everywhere["the scheduler"] = error
        for who, found in everywhere.items():
            if found != own:
                has = "no" if isinstance(found, importlib.metadata.PackageNotFoundError) else found
                raise ConfigError(
                    f"{who}: has {has} {what}, this PC has {own}",
                    "its features may differ: install the same versions on all PCs (constraints.txt)",
                )

    def _everywhere(self, function: Callable[..., object], *arguments: object) -> dict[str, object]:
        """What it gives, or raises, on each worker."""
        try:
            found: dict[str, object] = self._client.run(function, *arguments, on_error="return")
        except OSError as error:
            raise ClusterError(f"--cluster {self._address}: the scheduler is gone", _GO_ON) from error
        return found


class _Encode(WorkerPlugin):
    """The encoder on a worker: Dask gives it to each one, also to those that come later."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder


def _work(name: str, part: Part, size: int) -> Tensors | SourceError:
    """On a worker: encode a part of a recording of so many bytes."""
    worker: Worker = get_worker()
    unlike = _unlike({part.path: size})
    if unlike is not None:  # it came after the others were asked
        raise _not_there(worker.address, unlike)
    plugin = cast(_Encode, worker.plugins[name])
    return encode_or_say(part, plugin.encoder)


def _unlike(sizes: dict[Path, int]) -> Path | None:
    """On a worker: the first recording that is not there as on the PC that asks."""
    if len(sizes) > 1:
        look_up(sizes)
    for path, size in sizes.items():
        try:
            if state_of(path)[0] != size:
                return path
        except (OSError, SourceError):
            return path
    return None


def _not_there(address: str, path: object) -> EchoStreamError:
    """Path of a recording, or why the worker could not look."""
    if not isinstance(path, Path):
        return ClusterError(f"worker {address}: cannot look for the recordings: {path}", _GO_ON)
    return ConfigError(
        f"worker {address}: {path_text(path)} is not there as on this PC",
        "every worker reads the recordings at the same absolute paths: mount the same folder everywhere, or "
        "give all of them the same object store (AWS_ENDPOINT_URL)",
    )
