"""Fetching weights, from a small server of our own that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from echo_stream.core.errors import CheckpointError
from echo_stream.encode.echo import EchoWeights
from echo_stream.encode.weights import fetch_model, note_path
from tests.encode.conftest import GOLDEN_DIMENSIONS

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "89abcdef0123456789abcdef0123456789abcdef"


class Hub(ThreadingHTTPServer):
    """Repositories by name: a file, or an error as the hub words it (status, X-Error-Code)."""

    def __init__(self, weights: bytes) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.weights = weights
        self.sent = weights
        self.asked: list[str] = []
        self.refused: dict[str, tuple[int, str]] = {
            "nobody/nothing": (404, "RepoNotFound"),
            "some/private": (401, "RepoNotFound"),
            "some/gated": (403, "GatedRepo"),
            "some/other-format": (404, "EntryNotFound"),
            "some/overloaded": (503, ""),
        }


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *args: object) -> None:
        self.server.asked.append(f"{self.command} {self.path}")

    def answer(self) -> None:
        hub = self.server
        if self.path.startswith("/storage/"):
            self.reply(200, {"ETag": '"storage"', "Content-Length": str(len(hub.sent))}, hub.sent)
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None:
            self.reply(404, {"Content-Length": "0"})
            return
        repository, revision, file = match.groups()
        status, code = hub.refused.get(repository, (200, ""))
        commit = {"main": COMMIT, COMMIT: COMMIT, "v1": OLDER, OLDER: OLDER}.get(revision)
        if status == 200 and file != "model.safetensors":
            status, code = 404, "EntryNotFound"
        elif status == 200 and commit is None:
            status, code = 404, "RevisionNotFound"
        if status != 200:
            self.reply(status, {"X-Error-Code": code, "Content-Length": "0"})
            return
        # Large files live on another host: the hub redirects, and says size and SHA-256 of the target.
        self.reply(
            302,
            {
                "Location": f"http://localhost:{hub.server_port}/storage/blob",
                "X-Repo-Commit": str(commit),
                "X-Linked-Etag": f'"{hashlib.sha256(hub.weights).hexdigest()}"',
                "X-Linked-Size": str(len(hub.weights)),
                "Content-Length": "0",
            },
        )

    def reply(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def hub(golden_weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub(golden_weights.read_bytes())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def refusal(name: str, into: Path, revision: str | None = None) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        fetch_model(name, into, revision)
    assert caught.value.hint
    assert list(into.iterdir()) == [], "a failed fetch leaves nothing behind"
    return caught.value


def test_published_name(hub: Hub, tmp_path: Path) -> None:
    into = tmp_path / "models" / "echo-tiny"
    path = fetch_model("echo-tiny", into)
    assert path == into / "model.safetensors"
    assert path.read_bytes() == hub.weights
    assert sorted(file.name for file in into.iterdir()) == ["model.safetensors", "model.safetensors.json"]
    assert json.loads(note_path(path).read_text()) == {
        "repository": "yucongzh/echo-tiny-0828",
        "revision": None,
        "commit": COMMIT,
        "file": "model.safetensors",
        "sha256": hashlib.sha256(hub.weights).hexdigest(),
    }
    assert all("model.safetensors" in line or "/storage/" in line for line in hub.asked if "resolve" in line)
    EchoWeights.from_checkpoint(path, GOLDEN_DIMENSIONS)


def test_a_file_that_changed_later_is_refused(hub: Hub, tmp_path: Path) -> None:
    path = fetch_model("echo-small", tmp_path / "model")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="has changed since it was fetched"):
        EchoWeights.from_checkpoint(path, GOLDEN_DIMENSIONS)
    fetch_model("echo-small", tmp_path / "model")
    EchoWeights.from_checkpoint(path, GOLDEN_DIMENSIONS)


@pytest.mark.parametrize("revision", ["v1", OLDER])
def test_pinned_revision(hub: Hub, tmp_path: Path, revision: str) -> None:
    path = fetch_model("someone/their-echo", tmp_path / "model", revision)
    note = json.loads(note_path(path).read_text())
    assert (note["repository"], note["revision"], note["commit"]) == ("someone/their-echo", revision, OLDER)


@pytest.mark.parametrize(
    ("name", "revision", "words"),
    [
        ("nobody/nothing", None, "there is no repository nobody/nothing on http://127.0.0.1"),
        ("some/private", None, "there is no repository some/private"),
        ("some/gated", None, "asks for permission"),
        ("some/other-format", None, "repository some/other-format has no file model.safetensors"),
        ("some/overloaded", None, "refused some/overloaded.*503"),
        ("echo-tiny", "v9", "repository yucongzh/echo-tiny-0828 has no revision v9"),
        ("a/b/c", None, "'a/b/c' is no name of a repository"),
    ],
)
def test_refusals_in_plain_words(
    hub: Hub, tmp_path: Path, name: str, revision: str | None, words: str
) -> None:
    (into := tmp_path / "model").mkdir()
    assert re.search(words, refusal(name, into, revision).message)


def test_damage_on_the_way(hub: Hub, tmp_path: Path) -> None:
    hub.sent = hub.weights[:-1] + bytes([hub.weights[-1] ^ 1])
    (into := tmp_path / "model").mkdir()
    assert "arrived damaged" in refusal("echo-tiny", into).message


def test_no_connection(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    (into := tmp_path / "model").mkdir()
    assert "http://127.0.0.1:9 cannot be reached" in refusal("echo-tiny", into).message


def test_offline_by_choice(hub: Hub, tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is read when the hub's library is imported, so in a process of its own."""
    program = (
        "import sys; from pathlib import Path; from echo_stream.encode.weights import fetch_model\n"
        "from echo_stream.core.errors import CheckpointError\n"
        "try: fetch_model('echo-tiny', Path(sys.argv[1]))\n"
        "except CheckpointError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model"],
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"{hub.url} cannot be reached" in done.stdout
    assert "unset HF_HUB_OFFLINE" in done.stdout
    assert hub.asked == []


def test_not_a_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/storage")
    (into := tmp_path / "model").mkdir()
    assert "is no Hugging Face hub" in refusal("echo-tiny", into).message


def test_unwritable_folder(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        fetch_model("echo-tiny", tmp_path / "file" / "model")


def test_progress_bar_on_a_terminal(hub: Hub, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from echo_stream.encode.weights import fetch_model\n"
        "fetch_model('echo-tiny', Path(sys.argv[1]))"
    )
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", program, tmp_path / "model"], stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # Linux says so when the other end is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"100%" in shown
