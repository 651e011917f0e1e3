"""What the daemon costs: start-up, CPU share and memory with one 48 kHz machine: spectral, ECHO tiny, gated.

    python -m benchmarks.daemon [--seconds 60] [--json]

ECHO runs with random weights of the published size; the simulated machine loops sound that is computed once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.corridor import RING_S, steady
from benchmarks.plant import Machines, Settings, prepare

RATE_HZ = 48_000
KEYS = ("ready_s", "scored_s", "coverage_lowest", "cpu_cores", "rss_mb", "lag_p50_s", "lag_p99_s_highest")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="40 or more, or memory is still growing")
    parser.add_argument(
        "--precision", default="auto", help="of ECHO; with random weights auto takes float32 (default: auto)"
    )
    parser.add_argument("--banks", type=Path, help="folder that keeps fitted banks for the next run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = {"help_s": _median_s(["--help"]), "version_s": _median_s(["--version"])}
    with tempfile.TemporaryDirectory(prefix="plant-") as folder:
        for encoder in ("spectral", "echo-tiny", "echo-tiny-gated"):
            settings = Settings(Path(folder) / encoder, encoder, given.banks, precision=given.precision)
            prepare(settings, [RATE_HZ])
            first = steady(settings, Machines(1, RATE_HZ), 5.0)  # chooses the runtime
            later = steady(settings, Machines(1, RATE_HZ), max(given.seconds, RING_S))
            found[encoder] = {"first_ready_s": first["ready_s"], **{key: later[key] for key in KEYS}}
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


def _median_s(words: list[str], runs: int = 7) -> float:
    spent = []
    for _ in range(runs):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "echo_stream", *words], check=True, stdout=subprocess.DEVNULL)
        spent.append(time.perf_counter() - began)
    return round(sorted(spent)[runs // 2], 3)


if __name__ == "__main__":
    main()
