"""Notifications arrive at a real receiver on loopback, whatever happens in between, and name no secret."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from echo_stream.cli.check_config import check_config
from echo_stream.config.schema import NotifySettings
from echo_stream.core.errors import ConfigError
from echo_stream.daemon.notify import Receiver, to_text, wanted
from echo_stream.mqtt.payloads import Payload, schema
from tests.support.broker import MosquittoBroker
from tests.support.daemon import asked, daemon, subscriber, wait_for
from tests.support.stations import FAULTY, NORMAL, write_config

pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated")  # apprise imports it
SECRET = "T0KEN-of-nobody"


@dataclass
class Webhook:
    """A receiver of a person: what it got, and what it answers next."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    """For the next requests; then 200."""
    got: list[tuple[int, dict[str, Any], dict[str, str]]] = field(default_factory=list)
    """Answer, payload and headers of each request."""

    @property
    def taken(self) -> list[Any]:
        return [payload.get("event_id") for answer, payload, _ in self.got if answer == 200]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/{SECRET}"


@contextmanager
def serving(webhook: Webhook) -> Iterator[Webhook]:
    """On the port that it had, or a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            answer = webhook.answers.pop(0) if webhook.answers else 200
            webhook.got.append((answer, body, dict(self.headers)))
            self.send_response(answer)
            if answer in (301, 302):
                self.send_header("Location", webhook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", webhook.port), Handler)
    webhook.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield webhook
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def an_event(event_id: str, **more: Any) -> Payload:
    example: Payload = schema("event")["examples"][0]
    return {**example, "event_id": event_id, **more}


def receiver(folder: Path, url: str, on: str = "alarm") -> Receiver:
    settings = NotifySettings.model_validate({"url": url, "on": on})
    return Receiver(settings, folder, retry_min_s=0.01, retry_max_s=0.05)


def test_what_fails_is_sent_again_and_nothing_is_lost_by_a_kill_or_a_restart(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    webhook = Webhook(answers=[503, 404, 302, 500])
    with serving(webhook):
        told = receiver(tmp_path, webhook.url)
        told.start()
        for name in ("E1", "E2"):
            told.take("event", an_event(name))
        wait_for(lambda: webhook.taken == ["E1", "E2"], 30, "both, in order, after four failures")
        assert [answer for answer, *_ in webhook.got] == [503, 404, 302, 500, 200, 200]
        _, payload, headers = webhook.got[-1]
        assert payload == an_event("E2", delayed=False)
        assert (headers["Content-Type"], headers["Idempotency-Key"]) == ("application/json", "E2")
        wait_for(lambda: told.to_json()["waiting"] == 0, 30, "both are forgotten")
    told.take("event", an_event("E3"))  # nobody is there
    wait_for(lambda: told.trouble, 30, "that is said")
    standing = told.to_json()
    assert (standing["sent"], standing["waiting"], standing["failed"] >= 5) == (2, 1, True)
    told._stop.set()  # as a process that is killed: nothing is closed
    again = receiver(tmp_path, webhook.url)
    again.take("event", an_event("E4"))
    with serving(webhook):
        again.start()
        wait_for(lambda: webhook.taken == ["E1", "E2", "E3", "E4"], 30, "what an earlier run left, first")
        again.stop()
    said = capfd.readouterr()
    assert "a notification waits" in said.out + said.err
    assert SECRET not in said.out + said.err + json.dumps([standing, again.to_json()])
    assert not [path for path in tmp_path.iterdir() if SECRET in path.name]


def test_what_is_never_taken_is_given_up_and_those_behind_go_on(tmp_path: Path) -> None:
    with serving(Webhook(answers=[422])) as webhook:
        told = receiver(tmp_path, webhook.url)
        told.start()
        told.take("event", an_event("E1"))
        told.take("event", an_event("E2"))
        wait_for(lambda: webhook.taken == ["E2"], 30, "the second")
        told.stop()
        assert (told.to_json()["refused"], told.to_json()["sent"], told.trouble) == (1, 1, "")


def test_user_and_password_of_the_url_become_a_header(tmp_path: Path) -> None:
    with serving(Webhook()) as webhook:
        told = receiver(tmp_path, webhook.url.replace("//", "//jo:p%40ss@"))
        told.start()
        told.take("event", an_event("E1"))
        wait_for(lambda: webhook.taken, 30, "it")
        told.stop()
        assert webhook.got[0][2]["Authorization"] == "Basic am86cEBzcw=="
        assert told.name == "http://127.0.0.1"


def test_apprise_tells_people(tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    with serving(Webhook(answers=[500])) as webhook:
        told = receiver(tmp_path, f"json://127.0.0.1:{webhook.port}/{SECRET}")
        told.start()
        told.take("event", an_event("E1", why="11 dB louder"))
        wait_for(lambda: told.to_json()["sent"], 30, "it, at the second try")
        told.stop()
        assert told.name == "json:"
    assert [answer for answer, *_ in webhook.got] == [500, 200]
    assert webhook.got[1][1]["title"] == "pump3: alarm"
    assert "11 dB louder\nmost of it at " in webhook.got[1][1]["message"]


@pytest.mark.parametrize(
    ("on", "kind", "more", "told"),
    [
        ("alarm", "event", {}, True),
        ("alarm", "event", {"level": "warning"}, False),
        ("warning", "event", {"level": "warning"}, True),
        ("warning", "event", {"level": "warning", "merged": True}, False),
        ("warning", "event", {"to": "ACKED"}, False),
        ("warning", "event", {"active": False}, False),
        ("warning", "flood", {}, True),
        ("alarm", "flood", {}, False),
        ("warning", "sensor", {}, False),
        ("all", "sensor", {}, True),
    ],
)
def test_who_is_told_of_what(on: str, kind: str, more: Payload, told: bool) -> None:
    assert wanted(on, kind, {**schema(kind)["examples"][0], **more}) is told


@pytest.mark.parametrize("kind", ["event", "sensor", "drift", "flood", "enrolled", "evidence"])
def test_each_kind_can_be_said_in_words(kind: str) -> None:
    title, text = to_text(kind, schema(kind)["examples"][0])
    assert title.startswith("pc7: " if kind == "flood" else "pump3: ")
    assert re.search(r"2026-11-20 08:14:\d\d UTC$", text)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{}", "notify[0]: expected either url or url_file"),
        (f"{{url: 'https://a/{SECRET}', url_file: b}}", "notify[0]: expected either url or url_file"),
        (f"{{url: 'https://a/{SECRET}', on: sometimes}}", "notify[0].on: "),
        (f"{{url: 'hooks.example.org/{SECRET}'}}", "notify[0].url: notify: this is no URL"),
        (f"{{url: 'https:///{SECRET}'}}", "notify[0].url: notify: this is no URL"),
        (f"{{url: 'http://a:port/{SECRET}'}}", "notify[0].url: notify: this is no URL"),
        (f"{{url: 'nobodyknows://{SECRET}'}}", "notify[0].url: notify: apprise cannot use"),
        ("{url_file: absent}", "notify[0].url_file: "),
        ("{url_file: empty}", "its first line is empty"),
    ],
)
def test_a_bad_entry_is_found_by_check_config(tmp_path: Path, entry: str, said: str) -> None:
    write_config(tmp_path)
    (tmp_path / "empty").touch()
    with (tmp_path / "config.yaml").open("a") as file:
        file.write(f"notify:\n  - {entry}\n")
    with pytest.raises(ConfigError) as refused:
        check_config(tmp_path / "config.yaml")
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_an_alarm_of_a_daemon_that_is_killed_is_told_after_its_restart(
    tmp_path: Path, simulated_bank: bytes, broker: MosquittoBroker
) -> None:
    with serving(Webhook()) as webhook:
        pass  # from here on nobody is there
    (tmp_path / "hook").write_text(webhook.url + "\n")
    (tmp_path / "bank.safetensors").write_bytes(simulated_bank)
    more = f"mqtt: {{host: {broker.host}, port: {broker.port}}}\nnotify:\n  - url_file: hook\n    on: alarm\n"

    def configure(source: str) -> None:
        write_config(tmp_path, source)
        with (tmp_path / "config.yaml").open("a") as file:
            file.write(more)

    configure(FAULTY.replace("duration_s: 100,", "duration_s: 100000,"))
    with subscriber(broker.host, broker.port) as seen, daemon(tmp_path) as process:
        alarms = wait_for(
            lambda: [e for e in seen.events if e["level"] == "alarm" and e["to"] == "UNACK"], 60, "an alarm"
        )
        process.send_signal(signal.SIGKILL)
        process.wait()
    configure(NORMAL.replace("duration_s: 100", "duration_s: 100000"))
    with serving(webhook), daemon(tmp_path):
        wait_for(lambda: webhook.taken, 60, "the alarm of the run before")
        assert webhook.taken[0] == alarms[0]["event_id"]
        # Receivers begin before the status socket answers.
        said = wait_for(lambda: asked(tmp_path), 60, "the daemon answers")["notify"]
        assert [(each["to"], each["on"]) for each in said] == [("http://127.0.0.1", "alarm")]
    assert SECRET not in (tmp_path / "log").read_text()
