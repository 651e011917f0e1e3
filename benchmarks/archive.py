"""Memory of fit-normal on archives of growing length: the largest resident size of each of its processes.

    python -m benchmarks.archive --hours 1 6 24 [--rate 16000] [--weights FILE]

Makes recordings of an hour each of a simulated machine (the first of them; more are copies) in a temporary
folder, and learns them with the spectral encoder, or with ECHO where weights are named. No timing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile

from echo_stream.capture.simulator import Scenario, SimulatedMachine

CONFIG = """\
node: bench
state_dir: state
encoder: {encoder}
machines:
  - id: m
    source: {{kind: simulated, seed: 3, sample_rate_hz: {rate}}}
    bank: banks/m.safetensors
"""
HOUR_S, PIECE_S = 3600, 60
DIFFERENT_H = 6
"""So many hours are different; more are copies of them."""


def make_hour(path: Path, rate: int, hour: int) -> None:
    """An hour of one machine's life."""
    life = Scenario(SimulatedMachine(3, rate), [])
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for start_s in range(hour * HOUR_S, (hour + 1) * HOUR_S, PIECE_S):
            file.write(life.render(start_s * rate, PIECE_S * rate))


def peaks_mb(process: subprocess.Popen[bytes]) -> list[float]:
    """Largest resident size of a process and of all that it starts, itself first."""
    found: dict[int, float] = {process.pid: 0.0}
    while process.poll() is None:
        for pid in _family(process.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
            except (OSError, StopIteration):  # it ends just now
                continue
            found[pid] = max(found.get(pid, 0.0), float(peak_kb) / 1024)
        time.sleep(0.2)
    return list(found.values())


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(each for child in children for each in _family(int(child)))]


def main() -> None:
    """Print a line for each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hours", type=int, nargs="+", default=[1, 6, 24])
    parser.add_argument("--rate", type=int, default=16_000, metavar="HZ")
    parser.add_argument("--weights", type=Path, help="of ECHO tiny; without, the spectral encoder")
    asked = parser.parse_args()
    encoder = (
        "{kind: spectral}" if asked.weights is None else f"{{kind: echo, weights: {asked.weights.resolve()}}}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        made = [Path(temporary) / f"{hour}.flac" for hour in range(min(DIFFERENT_H, max(asked.hours)))]
        for hour, path in enumerate(made):
            make_hour(path, asked.rate, hour)
        for hours in asked.hours:
            folder = Path(temporary) / f"{hours}h"
            (folder / "sound").mkdir(parents=True)
            (folder / "config.yaml").write_text(CONFIG.format(encoder=encoder, rate=asked.rate))
            for hour in range(hours):
                os.link(made[hour % len(made)], folder / "sound" / f"{hour:03}.flac")
            command = [sys.executable, "-m", "echo_stream", "fit-normal", "-m", "m", "sound"]
            fitting = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
            own, *others = peaks_mb(fitting)
            workers = ", ".join(f"{mb:.0f}" for mb in sorted(others)) or "none"
            print(f"{hours:4} h: {own:6.0f} MB, processes that it starts: {workers} MB", flush=True)
            if fitting.returncode:
                sys.exit(f"fit-normal ended with {fitting.returncode}")


if __name__ == "__main__":
    main()
