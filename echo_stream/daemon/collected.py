"""What is collected from a node is sent file by file: what it is, then its chunks; never the configuration.

Read while it is sent, one chunk in memory. Thread of the transfers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from echo_stream.config.schema import Config
from echo_stream.core.types import BANK_ID
from echo_stream.detect.bank_file import accepted_version
from echo_stream.evidence.store import own_files
from echo_stream.mqtt.command_models import Manifest
from echo_stream.mqtt.state_payloads import transferred
from echo_stream.mqtt.transfer import pieces, sha256_of, to_chunk


def collected(config: Config, manifest: Manifest) -> Iterator[dict[str, Any] | bytes]:
    """The messages that carry what a manifest asks for, the last one with the end of it.

    Raises:
        OSError: a file cannot be read to its end.
    """
    number, files, size, left_out = 0, 0, 0, 0
    most = manifest.size or 0
    said: dict[str, Any] = {"node": config.node, "transfer": manifest.id}
    machines = [each.id for each in config.machines if manifest.machine in (None, each.id)]
    for machine, name, path in _files(config, manifest.kind, machines):
        try:
            sha256, length = sha256_of(path)
        except OSError:  # removed meanwhile
            continue
        if size + length > most:
            left_out += 1
            continue
        files, size = files + 1, size + length
        about: dict[str, Any] = {"machine": machine, "name": name, "size": length, "sha256": sha256}
        yield transferred(
            **said, ts=datetime.now(UTC), state="file", outcome=f"{machine}/{name} follows", **about
        )
        for piece in pieces(path):
            yield to_chunk(manifest.id, number, piece)
            number += 1
    outcome = f"{files} file{'' if files == 1 else 's'}, {size} bytes sent"
    if left_out:
        outcome += f"; {left_out} were left out, as all together are more than {most} bytes"
    yield transferred(**said, ts=datetime.now(UTC), state="done", outcome=outcome)


def _files(config: Config, kind: str, machines: Sequence[str]) -> Iterator[tuple[str, str, Path]]:
    """Machine, name and place: the banks in use, or the sound of alarms, the newest first."""
    if kind == "evidence":
        found = [path for path in own_files(config.state_dir / "evidence") if path.parent.name in machines]
        for path in sorted(found, key=lambda path: path.name, reverse=True):
            if not path.is_symlink() and not path.parent.is_symlink():
                yield path.parent.name, path.name, path
        return
    for machine in config.machines:
        if machine.id in machines and machine.bank.exists():
            yield machine.id, f"{_version(machine.bank)}.safetensors", machine.bank


def _version(bank: Path) -> str:
    """Its id, or `bank` for a file that a person put there, whatever its name."""
    found = accepted_version(bank) or ""
    return found if re.fullmatch(BANK_ID, found) else "bank"
