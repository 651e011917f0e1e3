"""The node's side of transfers: what is refused, tried, taken back; the checks are the real commands."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from echo_stream.config.load import load
from echo_stream.core.errors import CommandRefused
from echo_stream.core.text import utc_text
from echo_stream.daemon.child import require_reachable
from echo_stream.daemon.transfers import _WAITING, Transfers
from echo_stream.daemon.trial import undo_path
from echo_stream.detect.bank import NormalBank
from echo_stream.mqtt.command_models import Manifest, Transferred
from echo_stream.mqtt.signed import load_key, make_key, sign
from echo_stream.mqtt.transfer import CHUNK_BYTES, MOST_BYTES, from_chunk, to_chunk
from echo_stream.pipeline.factory import build_publisher
from tests.support.stations import write_config

HEARD = [
    {"machine": "pump1", "listening": True, "windows_scored": 9, "last_window_age_s": 0.1, "bank": "bank"}
]


class Node:
    """A node whose messages are handled here, and what it said."""

    def __init__(self, folder: Path) -> None:
        self.path, self.machines, self.refusal, self.reloads = folder / "config.yaml", HEARD, "", 0
        key = folder / "key"
        trust = "" if key.exists() else f'plant: {{trust: ["{make_key(key)}"]}}\n'
        self.key = load_key(key)
        if trust:
            write_config(folder)
            self.path.write_text(self.path.read_text() + trust)
        config = load(self.path)
        self.publisher = build_publisher(config)
        self.transfers = Transfers(
            self.path, config, self.publisher, machines=lambda: self.machines, reload=self.reload
        )

    def reload(self) -> str:
        self.reloads += 1
        refusal, self.refusal = self.refusal, ""
        return refusal

    def ask(self, data: bytes | None = None, **said: Any) -> str:
        """Send a manifest, as it should be but for what is said; its id."""
        usual: dict[str, Any] = {
            "kind": "config",
            "node": "pc7",
            "id": secrets.token_hex(16),
            "created": utc_text(datetime.now(UTC)),
            "by": "J. Smith",
        }
        if data is not None:
            usual |= {"sha256": sha256(data).hexdigest(), "size": len(data)}
        manifest = Manifest.model_validate(usual | said)
        self.transfers.handle(sign(manifest, self.key).encode())
        return manifest.id

    def push(self, data: bytes, **said: Any) -> list[tuple[str, str]]:
        """Send a whole file; what the node says of it."""
        transfer = self.ask(data, **said)
        for number in range(0, len(data), CHUNK_BYTES):
            piece = data[number : number + CHUNK_BYTES]
            self.transfers.handle(to_chunk(transfer, number // CHUNK_BYTES, piece))
        return self.said()

    def said(self) -> list[tuple[str, str]]:
        """State and outcome of each answer since the last call."""
        taken = [m for m in self.publisher._mailbox.take(100) if m.topic.endswith("/pc7/transferred")]
        found = [Transferred.model_validate_json(message.payload) for message in taken]
        return [(each.state, each.outcome) for each in found]

    def last(self) -> tuple[str, str]:
        return self.said()[-1]

    def wait(self, seconds: int) -> None:
        """Time passes in which pump1 is listened to and scored."""
        for second in range(1, seconds + 1):
            self.machines = [{**HEARD[0], "windows_scored": 9 + second}]
            self.transfers.tick(monotonic() + second)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    made = Node(tmp_path)
    yield made
    made.publisher.stop(0.1)


def test_a_stranger_and_a_broken_line_do_no_harm(node: Node, tmp_path: Path) -> None:
    for payload in (b"", b"{}", b"x" * 200, to_chunk("ab" * 16, 0, b"of nobody")):
        node.transfers.handle(payload)
    assert {state for state, _ in node.said()} == {"refused"}
    for payload in [b"x" * 100_000, *[b"y"] * (_WAITING + 5)]:
        node.transfers.receive(payload)
    assert node.transfers.to_json() == {
        "done": 0,
        "refused": 3,
        "rolled_back": 0,
        "ignored": 7,
        "trouble": "",
    }
    node.key = load_key(make_other(tmp_path))
    node.ask(b"x")
    state, outcome = node.last()
    assert state == "refused"
    assert "is not in plant.trust of pc7" in outcome


def make_other(folder: Path) -> Path:
    make_key(folder / "other")
    return folder / "other"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"node": "pc8"}, "the manifest is for pc8, this is pc7"),
        ({"size": MOST_BYTES["config"] + 1}, "config: has 1000001 bytes, at most 1000000 are taken"),
        ({"kind": "bank", "machine": "pump9"}, "pc7 has no machine pump9; there are pump1"),
        ({"created": "2026-01-01T00:00:00.000Z"}, "expected at most 600 s; are both clocks right?"),
    ],
)
def test_what_is_not_begun(node: Node, said: dict[str, Any], reason: str) -> None:
    node.ask(b"node: pc7", **said)
    assert node.last()[0] == "refused"
    node.ask(b"node: pc7", **said)
    assert reason in node.last()[1]


def test_one_at_a_time_and_each_once(node: Node, tmp_path: Path) -> None:
    first = node.ask(b"x" * 10)
    node.ask(b"y")
    said = node.said()
    assert [state for state, _ in said] == ["send", "refused"]
    assert said[1][1] == "pc7 is busy with a transfer (config) by J. Smith; ask again when it is over"
    node.transfers.handle(to_chunk(first, 1, b"x"))
    assert node.last() == ("refused", "chunk 1 came, expected 0")
    node.transfers.stop()
    again = Node(tmp_path)  # after a restart
    again.ask(b"x" * 10, id=first)
    assert again.last() == ("refused", "the manifest was taken before; ask again with a new one")
    again.publisher.stop(0.1)
    assert [path.name for path in (tmp_path / "state" / "plant").iterdir()] == ["seen.json"]


def test_a_chunk_that_does_not_come_is_asked_for_again_and_then_given_up(node: Node) -> None:
    node.ask(b"x" * 10)
    node.said()
    node.transfers.tick(monotonic() + 6)
    assert node.said() == [("send", "chunk 0 is next")]
    node.transfers.tick(monotonic() + 61)
    assert node.said() == [("refused", "chunk 0 did not come within 60 s")]
    node.transfers.tick(monotonic() + 62)
    assert node.said() == []


def test_another_file_than_announced_is_refused(node: Node) -> None:
    said = node.push(b"node: pc7", sha256="0" * 64)
    assert said[-1][0] == "refused"
    assert "announced was 0000" in said[-1][1]


def test_a_node_whose_own_file_is_broken_by_now_says_so(node: Node) -> None:
    node.path.write_text("node: [")
    node.ask(kind="banks", size=10)
    state, outcome = node.last()
    assert state == "refused"
    assert "config.yaml" in outcome


def test_a_broken_configuration_is_refused_as_check_config_says(node: Node) -> None:
    before = node.path.read_bytes()
    text = before.decode().replace("seed: 3", "sed: 3")
    state, outcome = node.push(text.encode())[-1]
    assert state == "refused"
    assert f"{node.path}:5: machines[0].source.sed: unknown key; did you mean seed?" in outcome
    assert node.path.read_bytes() == before
    (node.path.parent / ".config.yaml.candidate").mkdir()  # nothing can be written there
    outcome = node.push(before + b"#")[-1][1]
    assert "cannot write" in outcome
    assert "--config /var/lib/echo-stream/config.yaml" in outcome
    assert node.reloads == 0


def test_what_would_cut_the_node_off_is_refused(node: Node) -> None:
    here = load(node.path)
    for change, reason in (
        ({"node": "pc8"}, "node: a push does not change these"),
        ({"mqtt": here.mqtt.model_copy(update={"port": 1})}, "mqtt: a push does not change these"),
        ({"plant": here.plant.model_copy(update={"trust": ()})}, "none of the keys that are trusted"),
        ({}, "bank.safetensors does not exist: pump1 is heard now"),
    ):
        with pytest.raises(CommandRefused, match=reason):
            require_reachable(here.model_copy(update=change), here, {"pump1"})
    later = here.model_copy(update={"metrics_port": 9, "machines": ()})
    assert require_reachable(later, here, {"pump1"}) == (
        "; not listened to any more: pump1; takes effect at the next restart: metrics_port"
    )


def test_a_configuration_that_the_daemon_refuses_is_put_back(node: Node, simulated_bank: bytes) -> None:
    (node.path.parent / "bank.safetensors").write_bytes(simulated_bank)
    before, node.refusal = node.path.read_bytes(), "no such microphone"
    state, outcome = node.push(before + b"# new\n")[-1]
    assert state == "refused"
    assert "refuses it: no such microphone; the configuration from before is in use again" in outcome
    assert node.path.read_bytes() == before
    assert node.reloads == 2
    assert not undo_path(node.path).exists()


def test_what_a_person_changes_during_a_trial_stays_and_is_said(node: Node, simulated_bank: bytes) -> None:
    (node.path.parent / "bank.safetensors").write_bytes(simulated_bank)
    node.machines = []
    before = node.path.read_bytes()
    assert node.push(before + b"# new\n")[-1][0] == "trial"
    node.path.write_bytes(before + b"# by hand\n")
    node.transfers.tick(monotonic() + 1)
    state, outcome = node.last()
    assert state == "rolled_back"
    assert outcome.startswith("somebody on the PC changed it meanwhile; ")
    assert node.path.read_bytes() == before + b"# by hand\n"


def test_a_bank_is_tried_and_taken_back_where_the_trial_is_interrupted(
    node: Node, simulated_bank: bytes, tmp_path: Path
) -> None:
    state, outcome = node.push(b"no bank at all", kind="bank", machine="pump1")[-1]
    assert state == "refused"
    assert "the file that was sent is no bank" in outcome
    assert node.push(simulated_bank, kind="bank", machine="pump1")[-1][0] == "trial"
    link = tmp_path / "bank.safetensors"
    assert link.resolve().name == "b1.safetensors"
    assert link.read_bytes() == simulated_bank
    again = Node(tmp_path)
    again.transfers._undo_interrupted()
    state, outcome = again.last()
    assert state == "rolled_back"
    assert outcome.endswith("pump1 has no bank again")
    assert not link.exists()
    again.transfers._undo_interrupted()
    assert again.said() == []
    link.write_bytes(simulated_bank)
    said = again.push(simulated_bank, kind="bank", machine="pump1")
    assert said[-1] == ("done", "pump1: that bank, bank, is in use already")
    again.publisher.stop(0.1)


def test_a_power_cut_after_a_good_trial_undoes_nothing(
    node: Node, simulated_bank: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.path.parent / "bank.safetensors").write_bytes(simulated_bank)
    sync, lasting = os.fsync, dict[Path, set[str]]()

    def recorded(handle: int) -> None:
        sync(handle)
        if (synced := Path(f"/proc/self/fd/{handle}").resolve()).is_dir():
            lasting[synced] = {path.name for path in synced.iterdir()}

    monkeypatch.setattr(os, "fsync", recorded)
    before = node.path.read_bytes()
    assert b"state_dir: state\n" in before, "which a push does not change, though it is relative"
    node.push(before + b"# new\n")
    undo = undo_path(node.path)
    assert undo.name in lasting[undo.parent.resolve()]
    node.wait(12)
    assert node.last() == ("done", "in use; 1 machine is heard as before")
    assert undo.name not in lasting[undo.parent.resolve()]


def test_a_bank_that_fails_its_trial_is_put_back(node: Node, simulated_bank: bytes, tmp_path: Path) -> None:
    place = tmp_path / "bank.safetensors"
    place.write_bytes(simulated_bank)
    bank = NormalBank.load(place)
    replace(bank, provenance={**bank.provenance, "note": "another"}).save(tmp_path / "other")
    other = (tmp_path / "other").read_bytes()
    assert node.push(other, kind="bank", machine="pump1")[-1][0] == "trial"
    assert place.read_bytes() == other
    node.wait(62)  # and its bank stays the one from before
    state, outcome = node.last()
    assert state == "rolled_back"
    assert "not heard as before within 60 s: pump1: expected bank b1, found bank" in outcome
    assert place.read_bytes() == simulated_bank
    assert not (tmp_path / "state" / "plant" / "undo.json").exists()


def test_what_cannot_be_put_back_is_trouble_and_what_the_next_failure_puts_back(
    node: Node, simulated_bank: bytes
) -> None:
    (node.path.parent / "bank.safetensors").write_bytes(simulated_bank)
    before, blocked = node.path.read_bytes(), node.path.with_name(".config.yaml.pushed")
    node.push(before + b"# first\n")
    node.machines = []
    blocked.mkdir()
    node.transfers.tick(monotonic() + 61)
    assert node.path.read_bytes() == before + b"# first\n"
    assert "cannot be taken back" in node.transfers.trouble
    blocked.rmdir()
    node.machines = HEARD
    node.push(before + b"# second\n")
    node.machines = []
    node.transfers.tick(monotonic() + 61)
    assert node.path.read_bytes() == before
    node.machines = HEARD
    node.push(before + b"# third\n")
    node.wait(12)
    assert node.last()[0] == "done"
    assert node.transfers.trouble == "", "it ends with the next push that goes well"


def test_a_bank_that_is_in_use_although_its_command_failed_is_put_back(
    node: Node, simulated_bank: bytes, tmp_path: Path
) -> None:
    (tmp_path / "bank.versions" / "accepted.jsonl").mkdir(parents=True)  # cannot be written any more
    state, outcome = node.push(simulated_bank, kind="bank", machine="pump1")[-1]
    assert state == "refused"
    assert "accepted.jsonl" in outcome
    assert not (tmp_path / "bank.safetensors").exists()
    assert not (tmp_path / "state" / "plant" / "undo.json").exists()


def test_banks_and_evidence_are_sent_within_the_size(node: Node, simulated_bank: bytes) -> None:
    folder = node.path.parent
    (folder / "bank.safetensors").write_bytes(simulated_bank)
    kept = folder / "state" / "evidence" / "pump1"
    kept.mkdir(parents=True)
    for name, size in (("20261120T081403Z_a.flac", 100), ("20261121T081403Z_b.flac", 90_000)):
        (kept / name).write_bytes(b"f" * size)
    (kept / "20261122T081403Z_c.flac").symlink_to(folder / "key")
    (kept / "own.txt").write_text("of a person")
    transfer = node.ask(kind="evidence", size=90_050)
    sent = collect(node)
    files = [each for each in sent if isinstance(each, dict) and each["state"] == "file"]
    assert [each["name"] for each in files] == ["20261121T081403Z_b.flac"]
    chunks = [found for each in sent if isinstance(each, bytes) and (found := from_chunk(each))]
    assert [(found[0], found[1], len(found[2])) for found in chunks] == [
        (transfer, 0, CHUNK_BYTES),
        (transfer, 1, 90_000 - CHUNK_BYTES),
    ]
    assert "1 file, 90000 bytes sent; 1 were left out" in sent[-1]["outcome"]
    node.ask(kind="banks", size=10**6)
    names = [f"{each['machine']}/{each['name']}" for each in collect(node)[:1]]
    assert names == ["pump1/bank.safetensors"]


def collect(node: Node) -> list[Any]:
    """What would be sent: each part is offered when the one before it went."""
    sent: list[Any] = []
    for _ in range(100):
        node.transfers.tick(monotonic())
        if (part := node.publisher._mailbox.take_bulk()) is not None:
            whole = isinstance(part.payload, bytes)
            sent.append(part.payload if whole else json.loads(part.payload))
    return sent
