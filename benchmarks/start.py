"""How long a daemon of many machines takes to its start: seconds until it listens, CPU of a machine.

    python -m benchmarks.start [--machines 1 200 1000] [--rate 16000] [--runs 3] [--json]

Machines are simulated, spectral, each with a bank file of its own. On a busy PC the CPU seconds say more than
those of the clock; both are printed, with the load at the time. `a machine` is what each further one
costs, from the first number of machines to this one: where it stays the same, the start grows linearly.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.plant import Machines, Settings, bank_path, plant, prepare


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, nargs="+", default=[1, 200, 1000])
    parser.add_argument("--rate", type=int, default=16_000, help="Hz")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--banks", type=Path, help="folder that keeps the fitted bank for the next run")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="start-") as folder:
        settings = Settings(Path(folder), banks=given.banks)
        prepare(settings, [given.rate])
        for count in sorted(given.machines):
            runs = [_start(settings, Machines(count, given.rate)) for _ in range(given.runs)]
            middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
            first = found[0] if found else None
            if first:
                more = count - first["machines"]
                middle["cpu_ms_a_machine"] = round(1000 * (middle["cpu_s"] - first["cpu_s"]) / more, 2)
                middle["ms_a_machine"] = round(1000 * (middle["ready_s"] - first["ready_s"]) / more, 2)
            found.append({"machines": count, **middle})
    for line in found:
        print(
            json.dumps(line) if given.json else "  ".join(f"{name} {value}" for name, value in line.items())
        )


def _start(settings: Settings, machines: Machines) -> dict[str, float]:
    """One start; the banks are copies, so that each machine reads a file of its own."""
    bank = bank_path(settings, machines.rate_hz).read_bytes()
    for name in machines.names():
        own = bank_path(settings, machines.rate_hz).with_name(f"{name}.safetensors")
        if not own.exists():
            own.write_bytes(bank)
    settings.own_banks = True
    with plant(settings, machines) as running:
        return {
            "ready_s": running.ready_s,
            "cpu_s": running.ready_cpu_s,
            "scored_s": running.scored_s,
            "rss_mb": round(running.rss_mb()),
            "load": round(os.getloadavg()[0], 1),
        }


if __name__ == "__main__":
    main()
