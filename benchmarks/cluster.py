"""Archives on a cluster against the local pool: time, what it costs, memory of the process that asks.

    python -m benchmarks.cluster [--hours 1 6 24] [--processes 1 2 4] [--rate 16000] [--weights FILE] [--kill]

Makes recordings of an hour each of a simulated machine (the first of them; more are copies) in a temporary
folder, and encodes all of them with so many processes here, and with so many workers of a Dask scheduler on
127.0.0.1, set up as docs/scaling.md says. `--kill` kills a worker as soon as a tenth is done; Dask starts
another. On a quiet PC only: the figure that matters is a quotient of two times. At the end: what a year of
2,000 machines takes, by arithmetic.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from distributed import Client, get_client

from benchmarks.archive import DIFFERENT_H, make_hour
from echo_stream.encode.encoder import make_encoder
from echo_stream.fit.archive import parts_of
from echo_stream.fit.archive_jobs import encode_parts
from echo_stream.fit.cluster import connected

WINDOW_S, HOP_S = 2.0, 1.0
CONFIG = "distributed: {nanny: {pre-spawn-environ: {MALLOC_TRIM_THRESHOLD_: null}}}"
MACHINES, YEAR_H = 2000, 365 * 24


@contextmanager
def workers(count: int, folder: Path) -> Iterator[Path]:
    """A scheduler file with so many workers behind it."""
    file = folder / f"scheduler{count}.json"
    (folder / "dask.yaml").write_text(CONFIG)
    environment = {**os.environ, "DASK_CONFIG": str(folder / "dask.yaml")}

    def start(what: str, *options: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.dask_{what}", "--scheduler-file", str(file)]
        command += ["--host", "127.0.0.1", "--no-dashboard", *options]
        with (folder / "dask.log").open("ab") as log:
            return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)

    scheduler = start("scheduler", "--port", "0")
    nanny = start("worker", "--nworkers", str(count), "--nthreads", "1")
    try:
        while not file.is_file():
            time.sleep(0.1)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(count, timeout=60)
        yield file
    finally:
        for process in (nanny, scheduler):
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def encode_all(folder: Path, count: int, weights: Path | None, file: Path | None, kill: bool) -> None:
    """Encode a folder in this process and print what it took."""
    encoder = make_encoder("echo" if weights else "spectral", window_s=WINDOW_S, weights=weights)
    parts = [
        part
        for path in sorted(folder.iterdir())
        for part in parts_of(path, window_s=WINDOW_S, hop_s=HOP_S, details=True)
    ]
    digest, killed = hashlib.sha256(), not kill

    def progress(done_s: float, total_s: float, _: str) -> None:
        nonlocal killed
        if not killed and done_s > total_s / 10:
            killed = True
            os.kill(min(get_client().run(os.getpid).values()), signal.SIGKILL)

    begins_s = time.perf_counter()
    with connected(str(file)) if file else nullcontext() as engine:
        for part in encode_parts(parts, encoder, workers=count, engine=engine, progress=progress):
            for _, features in part.windows:
                digest.update(features.window.tobytes())
    took_s = time.perf_counter() - begins_s
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(json.dumps({"s": took_s, "mb": float(peak.split()[1]) / 1024, "sha256": digest.hexdigest()}))


def main() -> None:
    """Print a line for each length and number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hours", type=int, nargs="+", default=[1, 6, 24])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rate", type=int, default=16_000, metavar="HZ")
    parser.add_argument("--weights", type=Path, help="of ECHO tiny; without, the spectral encoder")
    parser.add_argument("--kill", action="store_true", help="a worker, at a tenth of the work")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        folder, count, file = asked.one
        encode_all(Path(folder), int(count), asked.weights, Path(file) if file else None, asked.kill)
        return
    more = ["--weights", str(asked.weights.resolve())] if asked.weights else []

    def measure(folder: Path, count: int, file: str = "", *options: str) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.cluster", "--one", str(folder), str(count), file]
        done = subprocess.run([*command, *more, *options], stdout=subprocess.PIPE, check=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    with tempfile.TemporaryDirectory() as temporary:
        made = [Path(temporary) / f"{hour}.flac" for hour in range(min(DIFFERENT_H, max(asked.hours)))]
        for hour, path in enumerate(made):
            make_hour(path, asked.rate, hour)
        folders = {hours: Path(temporary) / f"{hours}h" for hours in asked.hours}
        for hours, folder in folders.items():
            folder.mkdir()
            for hour in range(hours):
                os.link(made[hour % len(made)], folder / f"{hour:03}.flac")
        for count in asked.processes:
            with workers(count, Path(temporary)) as file:
                for hours, folder in folders.items():
                    here, there = measure(folder, count), measure(folder, count, str(file))
                    same = "same bytes" if here["sha256"] == there["sha256"] else "OTHER BYTES"
                    times = f"here {here['s']:.1f} s, on the cluster {there['s']:.1f} s"
                    more_by = f"{there['s'] / here['s'] - 1:+.1%}"
                    memory = f"this process {here['mb']:.0f} and {there['mb']:.0f} MB"
                    print(
                        f"{hours:3} h, {count} processes: {times} ({more_by}), {memory}, {same}", flush=True
                    )
                    core_h = there["s"] * count / 3600 / hours
                if asked.kill:
                    lost = measure(folder, count, str(file), "--kill")
                    same = "same bytes" if here["sha256"] == lost["sha256"] else "OTHER BYTES"
                    print(
                        f"{hours:3} h, {count} processes, one killed: {lost['s']:.1f} s, {same}", flush=True
                    )
        year = core_h * YEAR_H * MACHINES
        print(f"by arithmetic: a day's archive of {MACHINES} machines takes {year / 365:,.0f} core-hours")
        print(f"by arithmetic: a year of {MACHINES} machines takes {year:,.0f} core-hours like the last ones")


if __name__ == "__main__":
    main()
