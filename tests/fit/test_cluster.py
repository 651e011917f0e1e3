"""Archives on a cluster: a real scheduler and two workers over TLS, one of which is killed, and a real store.

The tests of the cluster go on where the one before has left it: the worker first, the scheduler last.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.cli.evaluate import run_evaluate
from echo_stream.core.errors import ClusterError, ConfigError
from echo_stream.core.types import Features, Window
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit.archive import Part, parts_of
from echo_stream.fit.archive_jobs import Encoded, encode_parts
from tests.support.broker import make_pki
from tests.support.command import ROOT
from tests.support.daemon import wait_for
from tests.support.object_store import ObjectStore, object_store

dask = pytest.importorskip("dask", reason="distributed is not installed: pip install 'echo-stream[cluster]'")
cluster = pytest.importorskip("echo_stream.fit.cluster")
cloudpickle = pytest.importorskip("cloudpickle")
Client = pytest.importorskip("distributed").Client

RATE = 4_000
ENCODER = SpectralEncoder(2.0)


@dataclass
class Dask:
    """A scheduler and its workers."""

    file: Path
    """Says the scheduler's address."""
    scheduler: subprocess.Popen[bytes]
    workers: list[subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def tls() -> dict[str, str | bool]:
    """What Dask's configuration says of TLS."""
    pki = make_pki()
    server = {f"{role}.cert": str(pki.server_cert) for role in ("scheduler", "worker")}
    keys = {f"{role}.key": str(pki.server_key) for role in ("scheduler", "worker")}
    client = {"client.cert": str(pki.client_cert), "client.key": str(pki.client_key)}
    found = {"ca-file": str(pki.ca), **server, **keys, **client}
    return {f"distributed.comm.tls.{name}": value for name, value in found.items()} | {
        "distributed.comm.require-encryption": True
    }


@pytest.fixture(scope="module")
def store() -> Iterator[ObjectStore]:
    """An object store that this PC and all workers reach."""
    with object_store() as found:
        yield found


@pytest.fixture(scope="module")
def plant(
    tmp_path_factory: pytest.TempPathFactory, tls: dict[str, str | bool], store: ObjectStore
) -> Iterator[Dask]:
    """Two workers of one thread each, in a folder of their own."""
    folder = tmp_path_factory.mktemp("dask")
    named = {f"DASK_{key.replace('.', '__').replace('-', '_').upper()}": str(v) for key, v in tls.items()}
    # The workers run an encoder of these tests, too.
    environment = {**os.environ, **named, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    file, log = folder / "scheduler.json", (folder / "log").open("wb")

    def start(what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(file)]
        command += ["--protocol", "tls", "--host", "127.0.0.1", "--no-dashboard", *options]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    scheduler = start("scheduler", "--port", "0")
    workers = [start("worker", "--no-nanny", "--nthreads", "1") for _ in range(2)]
    try:
        until_s = time.monotonic() + 90
        while not file.is_file():
            assert scheduler.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.05)
        with dask.config.set(tls), Client(scheduler_file=str(file), timeout=60) as client:
            client.wait_for_workers(2, timeout=90)
        yield Dask(file, scheduler, workers)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
        log.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy PC is no reason to fail."""
    monkeypatch.setattr(cluster, "CONNECT_S", 60.0)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> list[Part]:
    """Of a dozen recordings."""
    folder = tmp_path_factory.mktemp("sound")
    for n, samples in enumerate(0.1 * np.random.default_rng(3).standard_normal((12, 8 * RATE))):
        soundfile.write(folder / f"{n:02}.wav", samples, RATE)
    paths = sorted(folder.iterdir())
    return [part for path in paths for part in parts_of(path, window_s=2.0, hop_s=1.0, details=True)]


@pytest.fixture(scope="module")
def alone(parts: list[Part]) -> list[Encoded]:
    return list(encode_parts(parts, ENCODER, workers=1))


def bits(encoded: list[Encoded]) -> list[object]:
    """All that a bank is made of."""
    return [
        (part.figures, [(s, f.window.tobytes(), f.segments.tobytes(), f.level_dbfs) for s, f in part.windows])
        for part in encoded
    ] + [(each.start_s, each.columns_db.tobytes()) for part in encoded for each in part.slices]


def test_scores_are_those_of_one_pc(
    plant: Dask,
    parts: list[Part],
    tls: dict[str, str | bool],
    store: ObjectStore,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no configuration; the workers are in another folder
    for n, part in enumerate(parts):
        split = "train" if n < 6 else "test"
        name = f"anomaly_x_{n}.wav" if n > 8 else f"normal_{n}.wav"
        (tmp_path / "m" / split).mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / split / name).hardlink_to(part.path)
    of_bucket = store.put(tmp_path / "m", "m")
    said = []
    with dask.config.set(tls):
        for folder, where in itertools.product((Path("m"), of_bucket), (None, str(plant.file))):
            run_evaluate(folder, None, True, None, where, None, True)
            said.append(capsys.readouterr().out.replace("s3://sound/m/", "m/"))
    assert len(json.loads(said[0])["machines"][0]["files"]) == 6
    assert said[1:] == 3 * said[:1]


def test_versions_and_authority_agree_or_nothing_is_sent(
    plant: Dask, tls: dict[str, str | bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = {**tls, "distributed.comm.tls.ca-file": str(make_pki().other_ca)}
    with (
        dask.config.set(other),
        pytest.raises(ClusterError, match=r"tls://127\.0\.0\.1:\d+: no scheduler answers"),
        cluster.connected(str(plant.file)),
    ):
        pass
    (tmp_path / "numpy-0.9.dist-info").mkdir()
    (tmp_path / "numpy-0.9.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: numpy\nVersion: 0.9\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with (
        dask.config.set(tls),
        pytest.raises(ConfigError, match=r"worker tls://.*: has 2.* numpy, this PC has 0\.9"),
        cluster.connected(str(plant.file)),
    ):
        pass


class HeldUp(SpectralEncoder):
    """One that gets nowhere in one process until a file is there."""

    def __init__(self, pid: int, until: Path) -> None:
        super().__init__(2.0)
        self.pid, self.until = pid, until

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        while os.getpid() == self.pid and not self.until.exists():
            time.sleep(0.01)
        return super().encode(windows)


def test_what_a_slow_worker_is_late_with_another_one_computes(
    plant: Dask,
    parts: list[Part],
    alone: list[Encoded],
    tls: dict[str, str | bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "LATE_LEAST_S", 0.2)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not have it
    until = tmp_path / "go on"
    try:
        with dask.config.set(tls), cluster.connected(str(plant.file)) as engine:
            encoder = HeldUp(plant.workers[0].pid, until)
            found = list(encode_parts(parts, encoder, engine=engine))
            assert not until.exists(), "it waited for the slow one"
            until.touch()
    finally:
        until.touch()
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert bits(found) == bits(alone)


def test_features_that_a_frozen_worker_does_not_hand_over_are_computed_again(
    plant: Dask,
    parts: list[Part],
    alone: list[Encoded],
    tls: dict[str, str | bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "LATE_LEAST_S", 0.5)
    monkeypatch.setattr(cluster, "FETCH_S", 0.5)
    frozen = plant.workers[0]
    with dask.config.set(tls), cluster.connected(str(plant.file)) as engine:
        encoded = encode_parts(parts, ENCODER, engine=engine)
        found = [next(encoded)]
        with Client(scheduler_file=str(plant.file)) as looking:
            wait_for(lambda: not any(looking.processing().values()), 60, "all in flight are done")
        frozen.send_signal(signal.SIGSTOP)
        try:
            found += list(encoded)
        finally:
            frozen.send_signal(signal.SIGCONT)
    assert bits(found) == bits(alone)


def test_the_work_of_a_worker_that_is_killed_is_done_again(
    plant: Dask, parts: list[Part], alone: list[Encoded], tls: dict[str, str | bool]
) -> None:
    told: list[float] = []

    def tell(done_s: float, total_s: float, at: str) -> None:
        told.append(done_s)
        if done_s > 0 and plant.workers[0].poll() is None:  # both have work, or features nobody has fetched
            plant.workers[0].kill()

    with dask.config.set(tls), cluster.connected(str(plant.file)) as engine:
        found = list(encode_parts(parts, ENCODER, engine=engine, progress=tell))
    assert plant.workers[0].wait(60) == -signal.SIGKILL
    assert bits(found) == bits(alone)
    assert told[-1] == sum(part.seconds for part in parts)


def test_without_the_scheduler_the_work_goes_on_from_what_was_kept(
    plant: Dask, parts: list[Part], alone: list[Encoded], tls: dict[str, str | bool], tmp_path: Path
) -> None:
    with dask.config.set(tls), cluster.connected(str(plant.file)) as engine:
        encoded = encode_parts(parts, ENCODER, engine=engine, resume=tmp_path)
        found = [next(encoded), next(encoded)]
        plant.scheduler.kill()
        with pytest.raises(ClusterError, match=r"the scheduler is gone") as raised:
            found += list(encoded)
    assert "--resume" in raised.value.hint
    done = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert 2 <= len(done) < len(parts)
    assert bits(found) == bits(alone[: len(found)])
    assert bits(list(encode_parts(parts, ENCODER, resume=tmp_path))) == bits(alone)
    assert {path: path.stat().st_mtime_ns for path in done} == done


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("tcp://10.0.0.1:8786", "is not encrypted, and a scheduler runs any code"),
        ("tcp://plant:8786", "is not encrypted"),
        ("tls://10.0.0.1:8786", "does not name distributed.comm.tls.ca-file"),
        ("ucx://127.0.0.1:8786", "is not encrypted"),
        ("no-such-file.json", "neither an address nor a scheduler file"),
    ],
)
def test_nothing_is_sent_without_encryption(where: str, said: str) -> None:
    begins_s = time.monotonic()
    with pytest.raises(ConfigError, match=said) as raised, cluster.connected(where):
        pass
    assert raised.value.exit_code == 78
    assert time.monotonic() - begins_s < cluster.CONNECT_S, "it tried to connect"


def test_this_pc_alone_needs_no_encryption() -> None:
    assert all(map(cluster._on_this_pc, ("tcp://127.0.0.1:1", "tcp://[::1]:1", "tcp://localhost:1")))
    assert not any(
        map(cluster._on_this_pc, ("tcp://0.0.0.0:1", "tcp://192.168.0.2:1", "tcp://:1", "tls://x"))
    )


def test_a_worker_without_the_recording_says_which(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    assert cluster._unlike({path: 3}) == path
    path.write_bytes(b"abc")
    assert cluster._unlike({path: 3}) is None
    assert cluster._unlike({path: 4}) == path
