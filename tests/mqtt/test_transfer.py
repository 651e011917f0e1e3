"""Transfers: what a stranger, an old message or a broken line can send is refused, each with words."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from echo_stream.core.errors import CommandRefused, ConfigError
from echo_stream.core.text import utc_text
from echo_stream.mqtt.command_models import Manifest
from echo_stream.mqtt.publisher import Publisher
from echo_stream.mqtt.signed import load_key, make_key, sign, verify
from echo_stream.mqtt.transfer import CHUNK_BYTES, SEEN, Incoming, Seen, from_chunk, to_chunk
from tests.mqtt.conftest import Subscriber, an_event, wait_until
from tests.support.broker import MosquittoBroker

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
DATA = bytes(range(256)) * 600  # three chunks, the last one shorter


def manifest(**said: Any) -> Manifest:
    usual: dict[str, Any] = {
        "kind": "config",
        "node": "pc7",
        "id": secrets.token_hex(16),
        "created": utc_text(NOW),
        "by": "J. Smith",
        "sha256": "0" * 64,
        "size": 10,
    }
    return Manifest.model_validate(usual | said)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    path = tmp_path_factory.mktemp("keys") / "own" / "plant.key"
    return path, make_key(path)


def test_a_signed_manifest_is_taken_by_its_node(key_file: tuple[Path, str]) -> None:
    path, public = key_file
    asked = manifest()
    assert path.stat().st_mode & 0o777 == 0o600
    assert verify(sign(asked, load_key(path)).encode(), [public], "pc7") == asked


def test_what_is_not_signed_for_this_node_is_refused(key_file: tuple[Path, str], tmp_path: Path) -> None:
    path, public = key_file
    key = load_key(path)
    good = json.loads(sign(manifest(), key))
    for change, reason in (
        ({"manifest": good["manifest"].replace("config", "bank")}, "the signature is not that"),
        ({"signature": "AAAA"}, "the signature is not that"),
        ({"signature": "no base64"}, "the signature is not that"),
        ({"manifest": "x" * 5000}, "manifest String should have at most 4096"),
        ({"more": 1}, "more Extra inputs"),
        ({"key": make_key(tmp_path / "other")}, "is not in plant.trust of pc7"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            verify(json.dumps(good | change).encode(), [public], "pc7")
    for asked, reason in (
        (manifest(node="pc8"), "the manifest is for pc8, this is pc7"),
        (manifest(sha256=None), "sha256 or size"),
        (manifest(kind="banks"), "sha256 or size"),
        (manifest(kind="bank"), "machine is missing"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            verify(sign(asked, key).encode(), [public], "pc7")
    for payload in (b"", b"[1]", b"\xff\xfe", b"[" * 10_000, b'{"manifest": "\\ud800"}'):
        with pytest.raises(CommandRefused, match="the transfer is not as expected"):
            verify(payload, [public], "pc7")


def test_keys_are_not_overwritten_and_not_shared(tmp_path: Path) -> None:
    path = tmp_path / "key"
    make_key(path)
    with pytest.raises(ConfigError, match="exists already"):
        make_key(path)
    path.chmod(0o640)
    with pytest.raises(ConfigError, match=r"other users may read this key \(mode 0640"):
        load_key(path)
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is no private key"):
        load_key(path)
    with pytest.raises(ConfigError, match="No such file"):
        load_key(tmp_path / "none")


def incoming(folder: Path, sha256: str = hashlib.sha256(DATA).hexdigest()) -> Incoming:
    return Incoming(folder / "file", len(DATA), sha256)


def chunk(number: int) -> bytes:
    return DATA[number * CHUNK_BYTES :][:CHUNK_BYTES]


def test_chunks_make_the_file_again(tmp_path: Path) -> None:
    file = incoming(tmp_path)
    for number in (0, 0, 1, 0, 2, 1):  # QoS 1 brings some twice
        found = from_chunk(to_chunk("ab" * 16, number, chunk(number)))
        assert found is not None
        assert found[0] == "ab" * 16
        file.add(found[1], found[2])
    assert file.whole
    assert not (tmp_path / "file").exists()
    assert file.keep().read_bytes() == DATA
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_chunks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = incoming(tmp_path)
    for number, data, reason in (
        (1, chunk(1), "chunk 1 came, expected 0"),
        (0, chunk(0)[:-1], "chunk 0 has 65535 bytes, expected 65536"),
        (0, chunk(0) + b"x", "chunk 0 has 65537 bytes, expected 65536"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            file.add(number, data)
    for number in range(3):
        file.add(number, chunk(number))
    with pytest.raises(CommandRefused, match="chunk 3 came, expected none"):
        file.add(3, b"x")
    other = incoming(tmp_path, sha256="0" * 64)
    for number in range(3):
        other.add(number, chunk(number))
    with pytest.raises(CommandRefused, match="announced was 0000"):
        other.keep()
    file.discard()
    assert list(tmp_path.iterdir()) == []
    for payload in (b"", b"\0", b"{}" * 30):
        assert from_chunk(payload) is None


def test_parts_of_files_wait_for_events(
    broker: MosquittoBroker, listen: Callable[..., Subscriber], publish: Callable[..., Publisher]
) -> None:
    heard = listen(broker, "echo-stream/pc7/#")
    publisher = publish(broker, start=False)
    part = to_chunk("ab" * 16, 0, DATA[:CHUNK_BYTES])
    assert publisher.offer(part)
    assert not publisher.offer(b"another")
    for seq in range(1, 101):
        publisher.event("event", an_event(seq=seq))
    publisher.start()
    wait_until(lambda: "echo-stream/pc7/transferred" in heard.topics(), "the part comes")
    topics = heard.topics()
    before = topics[: topics.index("echo-stream/pc7/transferred")]
    assert before.count("echo-stream/pc7/pump3/event") == 100
    assert heard.heard[topics.index("echo-stream/pc7/transferred")].payload == part
    assert publisher.offer(b"another")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CommandRefused, match="cannot be written"):
        Incoming(tmp_path / "file" / "below", 1, "0" * 64)


def test_a_manifest_is_taken_once_and_fresh(tmp_path: Path) -> None:
    path, asked = tmp_path / "seen", manifest()
    Seen(path, NOW).admit(asked, NOW)
    later = Seen(path, NOW)  # after a restart
    with pytest.raises(CommandRefused, match="was taken before"):
        later.admit(asked, NOW)
    later.admit(manifest(), NOW)
    for minutes, when in ((-11, "660 s ago"), (11, "660 s from now")):
        with pytest.raises(CommandRefused, match=when):
            later.admit(manifest(created=utc_text(NOW + timedelta(minutes=minutes))), NOW)
    with pytest.raises(CommandRefused, match="is no time"):
        later.admit(manifest(created="2026-13-99T00:00:00.000Z"), NOW)


def test_what_is_forgotten_stays_refused_whatever_the_clock_says(tmp_path: Path) -> None:
    path, first = tmp_path / "seen", manifest()
    ids = {f"{n:032x}": utc_text(NOW + timedelta(seconds=1)) for n in range(SEEN)}
    path.write_text(json.dumps({"until": "", "ids": ids}))
    seen = Seen(path, NOW)
    seen.admit(first, NOW)
    assert len(json.loads(path.read_text())["ids"]) == SEEN
    with pytest.raises(CommandRefused, match="was taken before"):
        Seen(path, NOW).admit(first, NOW)  # its id went, its time is known
    path.write_text("{")
    with pytest.raises(CommandRefused, match="was taken before"):
        Seen(path, NOW).admit(first, NOW)
    Seen(path, NOW).admit(manifest(created=utc_text(NOW + timedelta(seconds=1))), NOW)
