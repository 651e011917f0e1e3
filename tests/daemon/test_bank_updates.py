"""A proposed bank is told over MQTT, and a command accepts it, as Home Assistant's update entity does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from echo_stream.config.load import load
from echo_stream.core.errors import CommandRefused
from echo_stream.daemon.bank_updates import BankState, BankUpdates, bank_state
from echo_stream.daemon.events import EventPublisher
from echo_stream.mqtt.commands import ReplyTo, parse
from echo_stream.mqtt.homeassistant import discovery
from echo_stream.pipeline.factory import build_publisher
from tests.support.broker import MosquittoBroker
from tests.support.daemon import subscriber, wait_for
from tests.support.stations import write_config


def test_a_proposed_bank_is_told_and_accepted(
    tmp_path: Path, simulated_bank: bytes, broker: MosquittoBroker
) -> None:
    write_config(tmp_path)
    text = (tmp_path / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(text + f"mqtt: {{host: {broker.host}, port: {broker.port}}}\n")
    config = load(tmp_path / "config.yaml")
    (machine,) = config.machines
    folder = tmp_path / "bank.versions"
    folder.mkdir()
    (folder / "b1.safetensors").write_bytes(simulated_bank)
    machine.bank.symlink_to("bank.versions/b1.safetensors")
    publisher = build_publisher(config)
    updates = BankUpdates(tmp_path / "config.yaml", EventPublisher("pc7", publisher))
    updates.start()
    publisher.start()
    replies: list[tuple[bool, str]] = []
    press = discovery(publisher.topics, "pump1", name="P", version="1")["cmps"]["bank"]["payload_install"]
    command = parse("pump1", press.encode(), ReplyTo(None))

    def ask() -> None:
        updates.ask(command, lambda *said: replies.append(said))

    try:
        with subscriber(broker.host, broker.port) as seen:

            def told(installed: str, latest: str) -> dict[str, Any]:
                return wait_for(  # type: ignore[no-any-return]
                    lambda: next(
                        (
                            found
                            for found in seen.of("bank", "pump1")
                            if (found["installed_version"], found["latest_version"]) == (installed, latest)
                        ),
                        None,
                    ),
                    30,
                    f"{installed} and {latest} are told",
                )

            updates.check(config.machines)
            assert told("b1", "b1")["release_summary"] == ""
            with pytest.raises(CommandRefused, match="no bank of pump1 is proposed"):
                ask()
            (folder / "b2.safetensors").write_bytes(simulated_bank)
            updates.check(config.machines)
            updates.check(config.machines)
            effect = told("b1", "b2")["release_summary"]
            assert effect.startswith("Alarm from a score of ")
            assert "windows of normal sound (now " in effect
            (event,) = wait_for(lambda: seen.of("enrolled", "pump1"), 30, "the event")
            assert (event["bank"], event["accepted"]) == ("b2", False)
            ask()
            assert wait_for(lambda: replies, 60, "a reply") == [(True, "pump1: b2 is in use instead of b1")]
            updates.check(config.machines)
            told("b2", "b2")
            assert len(seen.of("enrolled", "pump1")) == 1
    finally:
        updates.stop()
        publisher.stop()
    assert '"by": "Home Assistant"' in (folder / "accepted.jsonl").read_text()


def test_a_file_that_a_person_put_there_makes_no_version_a_proposal(tmp_path: Path) -> None:
    bank = tmp_path / "pump.safetensors"
    folder = tmp_path / "pump.versions"
    folder.mkdir()
    assert bank_state(bank) == BankState(None, None)
    for name in ("b9.safetensors", "b10.safetensors", "b11.enrolled.safetensors", "b12.html"):
        (folder / name).touch()
    assert bank_state(bank).proposed == "b10"
    bank.touch()
    assert bank_state(bank) == BankState("pump", "b10")
    assert bank_state(bank).proposed is None
