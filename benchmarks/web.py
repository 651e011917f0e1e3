"""What the page costs: memory and CPU of the daemon without it, with it, and with viewers; first paint.

    python -m benchmarks.web [--machines 100] [--rate 16000] [--viewers 1 50] [--seconds 30] [--json]

Viewers are plain sockets that read the live stream of all machines. The first paint is measured in the
system's chromium, where it and playwright are installed.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import shutil
import socket
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.corridor import SETTLE_S
from benchmarks.plant import Machines, Plant, Settings, plant, prepare
from tests.support.broker import free_port
from tests.support.daemon import wait_for

PAINT_MS = "(performance.getEntriesByName('first-contentful-paint')[0] || {}).startTime || 0"


class Viewer:
    """Reads the live stream, and counts."""

    def __init__(self, port: int) -> None:
        self.received = 0
        self._line = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._line.sendall(f"GET /api/stream HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._line.recv(65536):
                self.received += len(data)

    def close(self) -> None:
        """Leaves."""
        self._line.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--machines", type=int, default=100)
    parser.add_argument("--rate", type=int, default=16_000)
    parser.add_argument("--viewers", type=int, nargs="+", default=[1, 50])
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    machines = Machines(given.machines, given.rate)
    with tempfile.TemporaryDirectory(prefix="web-") as folder:
        port = free_port()
        for name, extra in (("off", ""), ("on", f"web: {{enabled: true, port: {port}}}")):
            settings = Settings(Path(folder) / name, extra=extra)
            prepare(settings, [given.rate])
            with plant(settings, machines) as running:
                time.sleep(SETTLE_S)
                ready = {"ready_s": running.ready_s}
                found[f"page {name}"] = ready | measured(running, given.seconds)
                for count in given.viewers:
                    viewers = [Viewer(port) for _ in range(count)] if extra else []
                    time.sleep(2)
                    spent = measured(running, given.seconds)
                    for viewer in viewers:
                        viewer.close()
                    if (
                        not viewers
                    ):  # a daemon grows while it collects its ten minutes: the same age beside it
                        found[f"page off, at the age of {count} viewers"] = spent
                        continue
                    received = sum(viewer.received for viewer in viewers) / count
                    spent["kb_per_s_a_viewer"] = round(received / 1e3 / (given.seconds + 2), 1)
                    found[f"{count} viewers"] = spent
                if not extra:
                    continue
                found["first answer_s"] = first_answer_s(port)
                found["first paint_s"] = first_paint_s(port)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name}: {value}")


def measured(running: Plant, seconds: float) -> dict[str, float]:
    """CPU in cores and memory over so many seconds."""
    cpu_s, began_s = running.cpu_s(), time.monotonic()
    time.sleep(seconds)
    cores = (running.cpu_s() - cpu_s) / (time.monotonic() - began_s)
    coverage = min(machine["coverage_10m"] for machine in running.status()["machines"])
    return {"cpu_cores": round(cores, 3), "rss_mb": round(running.rss_mb(), 1), "coverage_lowest": coverage}


def first_answer_s(port: int) -> float:
    """Until page, style, all modules and the machines were read, one after the other; median of nine."""
    names = ["", "page.css", "app.js", "dom.js", "api.js", "wall.js", "machine.js", "charts.js", "actions.js"]
    names += ["alarms.js", "evidence.js", "health.js", "answers.js", "api/me", "api/machines"]
    times = []
    for _ in range(9):
        line = http.client.HTTPConnection("127.0.0.1", port)
        began_s = time.perf_counter()
        for name in names:
            line.request("GET", f"/{name}")
            line.getresponse().read()
        times.append(time.perf_counter() - began_s)
        line.close()
    return round(sorted(times)[4], 3)


def first_paint_s(port: int) -> float | None:
    """As chromium says; None where it is not installed."""
    chromium = shutil.which("chromium")
    if chromium is None:
        return None
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 - only here

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        times = []
        for _ in range(5):
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            times.append(float(wait_for(partial(page.evaluate, PAINT_MS), 20, "a paint")))
            page.close()
        browser.close()
    return round(sorted(times)[2] / 1000, 3)


if __name__ == "__main__":
    main()
