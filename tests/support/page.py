"""A real daemon with a page: simulated machines, a broker, a subscriber, and a plain HTTP client."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.broker import free_port, mosquitto
from tests.support.daemon import Subscriber, daemon, fitted, subscriber, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="CHROMIUM MISSING: the page was tried in no browser (apt-get install chromium)"
)
MACHINE = """\
  - id: {id}
    name: {name}
    source: {{kind: simulated, seed: 5, sample_rate_hz: 8000, {source}}}
    bank: banks/pump3.safetensors
    rpm: {{topic: plant/{id}/rpm, key: drive.rpm}}
    bearing: {{balls: 9, d: 7.94, D: 39.04}}
    alarm: {{on_delay_s: 2, warning_on_delay_s: 1, off_delay_s: 2}}
"""
NODE = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
evidence: {{pre_roll_s: 3, post_roll_s: 4}}
web: {{enabled: true, port: {page}{web}}}
machines:
"""
FAULTY = "start_s: 200, faults: [{kind: rattle, start_s: 8, end_s: 5000}]"
QUIET = "start_s: 200, calibration: {unit: Pa, full_scale: 20}"


@dataclass(frozen=True)
class RunningPage:
    """Where the page is, and what belongs to it."""

    port: int
    folder: Path
    process: subprocess.Popen[str]
    told: Subscriber

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def ask(
        self, path: str, body: Any = None, *, method: str = "", headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers in lower case, body; a body makes it a POST as a browser would send it."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        posted = (
            {"Origin": self.url.rstrip("/"), "Content-Type": "application/json"} if body is not None else {}
        )
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        try:
            line.request(
                method or ("GET" if body is None else "POST"), path, data, {**posted, **(headers or {})}
            )
            answer = line.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            line.close()

    def json(self, path: str, body: Any = None) -> Any:
        """The answer's body, whatever the status."""
        return json.loads(self.ask(path, body)[2])

    def machine(self, machine: str = "pump3") -> Any:
        return self.json(f"/api/machines/{machine}")["machine"]


@contextlib.contextmanager
def running_page(
    folder: Path, *, web: str = "", source: str = FAULTY, machines: int = 2, more: str = ""
) -> Iterator[RunningPage]:
    """The daemon with pump3, which has `source`, fans that are quiet, and `more` of the configuration."""
    with mosquitto(folder) as broker:
        port = free_port()
        fitted(folder)
        text = config_of(broker.host, broker.port, port, web, source, machines) + more
        (folder / "config.yaml").write_text(text)
        with subscriber(broker.host, broker.port) as told, daemon(folder) as process:
            page = RunningPage(port, folder, process, told)
            wait_for(lambda: _answers(page), 20, f"the page: {(folder / 'log').read_text()}")
            yield page


@contextlib.contextmanager
def browser_window(**how: Any) -> Iterator[tuple[Page, list[str]]]:
    """A window of the system's chromium, and what went wrong in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        window = browser.new_page(**how)
        wrong: list[str] = []
        window.on("pageerror", lambda error: wrong.append(str(error)))
        yield window, wrong
        browser.close()


def config_of(host: str, mqtt_port: int, page_port: int, web: str, source: str, machines: int) -> str:
    """pump3 with `source`, and fans that are quiet."""
    text = NODE.format(host=host, port=mqtt_port, page=page_port, web=web)
    text += MACHINE.format(id="pump3", name="Pump 3", source=source)
    for n in range(1, machines):
        text += MACHINE.format(id=f"fan{n}", name=f"Fan {n}", source=QUIET)
    return text


def _answers(page: RunningPage) -> bool:
    with contextlib.suppress(OSError):
        return page.ask("/api/me")[0] == 200
    return False
