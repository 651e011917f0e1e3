"""Versions of a machine's bank: immutable files and one link that says which is accepted.

`bank: banks/pump3.safetensors` is a symbolic link to `banks/pump3.versions/b7.safetensors`. Accepting
a version points the link elsewhere by one rename, so that a reader sees the old bank or the new one and a
power cut leaves one of them. A plain file in the link's place (copied there by hand) works as well.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from echo_stream.detect.bank import NormalBank
from echo_stream.errors import BankError

_NAME = re.compile(r"b(\d+)\.safetensors")


@dataclass(frozen=True, slots=True)
class BankVersions:
    """All banks that were fitted for one machine."""

    path: Path
    """What the configuration names."""

    @property
    def folder(self) -> Path:
        """Where the versions lie."""
        return self.path.with_suffix(".versions")

    def ids(self) -> list[str]:
        """Ids of the versions, oldest first: b1, b2, ..."""
        numbers = [int(m[1]) for p in self.folder.glob("b*") if (m := _NAME.fullmatch(p.name))]
        return [f"b{number}" for number in sorted(numbers)]

    def path_of(self, bank_id: str) -> Path:
        """The file of a version.

        Raises:
            BankError: there is no such version.
        """
        path = self.folder / f"{bank_id}.safetensors"
        if not path.is_file():
            known = ", ".join(self.ids()) or "none"
            raise BankError(f"{self.path}: there is no version {bank_id}", f"versions: {known}")
        return path

    @property
    def accepted(self) -> str | None:
        """Id of the version in use; the file's own name where it is not one of ours; None without a bank."""
        return self.path.resolve().stem if self.path.exists() else None

    def add(self, bank: NormalBank) -> str:
        """Saves a bank as the next version and returns its id; accepts nothing.

        Raises:
            BankError: the folder cannot be written.
        """
        bank_id = self._next_id()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{bank_id}.safetensors"
            bank.save(path)
            path.chmod(0o444)
        except OSError as error:
            raise BankError(f"{self.folder}: cannot be written: {error.strerror}", _WRITABLE) from None
        return bank_id

    def accept(self, bank_id: str, at: str) -> None:
        """Makes a version the one in use.

        Args:
            bank_id: Which.
            at: UTC, for the history.

        Raises:
            BankError: there is no such version, or the link cannot be written.
        """
        self._point_to(bank_id)
        self._write_down("accept", bank_id, at)

    def _point_to(self, bank_id: str) -> None:
        target = self.path_of(bank_id)
        new = self.path.with_suffix(".new")
        try:
            if self.path.exists() and not self.path.is_symlink():
                self._adopt()
            new.unlink(missing_ok=True)
            new.symlink_to(target.relative_to(self.path.parent))
            new.replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            raise BankError(f"{self.path}: cannot be written: {error.strerror}", _WRITABLE) from None

    def _write_down(self, did: str, bank_id: str, at: str) -> None:
        with (self.folder / "accepted.jsonl").open("a") as history:
            history.write(json.dumps({"did": did, "id": bank_id, "at": at}) + "\n")

    def rollback(self, at: str) -> str:
        """Accepts again what was accepted before the present version, and returns its id.

        Raises:
            BankError: there was none.
        """
        stack = self._accepted_in_order()
        if len(stack) < 2:
            raise BankError(
                f"{self.path}: no version was accepted before {self.accepted}", "see `echo-stream bank list`"
            )
        self._point_to(stack[-2])
        self._write_down("rollback", stack[-2], at)
        return stack[-2]

    def _accepted_in_order(self) -> list[str]:
        """Accepted versions, without those that were rolled back."""
        stack: list[str] = []
        for entry in self.history():
            if entry["did"] == "rollback":
                stack.pop()
            elif stack[-1:] != [entry["id"]]:
                stack.append(entry["id"])
        return stack

    def history(self) -> Iterator[dict[str, str]]:
        """What was accepted when, oldest first."""
        path = self.folder / "accepted.jsonl"
        for line in path.read_text().splitlines() if path.exists() else []:
            yield json.loads(line)

    def _adopt(self) -> None:
        """Keeps a file that a person put in the link's place, as a version."""
        self.path.replace(self.folder / f"{self._next_id()}.safetensors")

    def _next_id(self) -> str:
        last = self.ids()[-1:] or ["b0"]
        return f"b{int(last[0][1:]) + 1}"


_WRITABLE = "run fit-normal as a user who may write there, or name another place under machines[].bank"


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
