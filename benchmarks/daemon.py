"""What the daemon costs: start-up, CPU share and memory with one 48 kHz machine, spectral and ECHO tiny.

    python -m benchmarks.daemon [--seconds 30] [--json]

The simulated machine makes its sound inside the daemon; what that costs by itself is measured beside it, on a
thread at the same pace, and printed. ECHO runs with random weights of the published size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import save_file

from echo_stream.capture.simulated import Simulated
from echo_stream.encode.echo import SIZES, EchoModel

RATE_HZ = 48_000
CONFIG = """\
node: bench
state_dir: state
encoder: {encoder}
mqtt: {{host: 127.0.0.1, port: 9}}
evidence: {{enabled: false}}
machines:
  - id: machine
    source: {{kind: simulated, seed: 3, sample_rate_hz: 48000, {source}}}
    bank: banks/machine.safetensors
"""
ENCODERS = {
    "spectral": "{kind: spectral}",
    "echo tiny": "{kind: echo, size: tiny, weights: tiny.safetensors}",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"help_s": _median_s(["--help"]), "version_s": _median_s(["--version"])}
    with tempfile.TemporaryDirectory() as folder:
        _write_weights(Path(folder) / "tiny.safetensors")
        found["simulator"] = {"cpu_share": round(_simulator_share(), 4)}
        for name, encoder in ENCODERS.items():
            found[name] = _measure(Path(folder), encoder, arguments.seconds)
    if arguments.json:
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


def _write_weights(path: Path) -> None:
    torch.manual_seed(0)
    state = {
        name: torch.ones_like(tensor)
        if "norm" in name and "weight" in name
        else torch.randn_like(tensor) * 0.02
        for name, tensor in EchoModel(SIZES["tiny"]).state_dict().items()
    }
    save_file(state, path)


def _simulator_share(seconds: float = 10.0) -> float:
    source, cpu = Simulated(3, RATE_HZ), time.process_time()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        source.read()
        time.sleep(0.05)
    return (time.process_time() - cpu) / seconds


def _measure(folder: Path, encoder: str, seconds: float) -> dict[str, float]:
    config = folder / "config.yaml"
    config.write_text(CONFIG.format(encoder=encoder, source="pace: fast, duration_s: 60"))
    echo = [sys.executable, "-m", "echo_stream"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    fit = [*echo, "fit-normal", "-m", "machine"]
    subprocess.run(fit, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    config.write_text(CONFIG.format(encoder=encoder, source="start_s: 100"))
    began = time.monotonic()
    process = subprocess.Popen([*echo, "run"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        ready_s = next(time.monotonic() - began for line in process.stderr if '"listening"' in line)
        status = [*echo, "status", "--json"]
        while True:
            asked = subprocess.run(
                status, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            if asked.returncode == 0 and json.loads(asked.stdout)["machines"][0]["windows_scored"]:
                break
        first_s = time.monotonic() - began
        daemon = psutil.Process(process.pid)
        time.sleep(3)
        before = daemon.cpu_times()
        time.sleep(seconds)
        after = daemon.cpu_times()
        spent = after.user + after.system - before.user - before.system
        return {
            "ready_s": round(ready_s, 2),
            "first_window_s": round(first_s, 2),
            "cpu_share_of_one_core": round(spent / seconds, 4),
            "rss_mb": round(daemon.memory_info().rss / 1e6, 1),
        }
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
