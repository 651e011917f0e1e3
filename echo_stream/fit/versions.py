"""Versions of a machine's bank are immutable files and one link that says which is accepted.

`bank: banks/pump3.safetensors` is a symbolic link to `banks/pump3.versions/b7.safetensors`. Accepting
a version points the link elsewhere by one rename, so that a reader sees the old bank or the new one and a
power cut leaves one of them. A plain file in the link's place (copied there by hand) works as well.
Used by fit-normal and `bank`; the daemon only asks which is accepted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from echo_stream.core.errors import BankError
from echo_stream.core.files import read_regular, require_writable, sync_folder, write_whole
from echo_stream.detect.bank import SESSIONS, NormalBank
from echo_stream.detect.bank_file import MOST_BYTES, accepted_version
from echo_stream.fit.session import Enrolment, from_provenance, to_provenance

_NAME = re.compile(r"b(\d+)(?:(\.enrolled)?\.safetensors|(\.normal))")
LEAST_BYTES = 50_000_000  # what was enrolled takes more than the bank
_WRITABLE = "run it as a user who may write there, or name another place under machines[].bank"


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
        return [f"b{number}" for number in sorted(self._numbers(enrolled=False))]

    def path_of(self, bank_id: str) -> Path:
        """The file of a version.

        Raises:
            BankError: there is no such version.
        """
        path = self.folder / f"{bank_id}.safetensors"
        if bank_id not in self.ids():
            known = ", ".join(self.ids()) or "none"
            raise BankError(f"{self.path}: there is no version {bank_id}", f"versions: {known}")
        return path

    def report_of(self, bank_id: str) -> Path:
        """Where the report of a version lies, or would."""
        return self.folder / f"{bank_id}.html"

    def enrolled_of(self, bank_id: str) -> Path:
        """Where the features that were enrolled for a version lie, or would."""
        return self.folder / f"{bank_id}.enrolled.safetensors"

    @property
    def accepted(self) -> str | None:
        """Id of the version in use; the file's own name where it is not one of ours; None without a bank."""
        return accepted_version(self.path)

    def require_writable(self) -> None:
        """Refuse, before hours of listening, what could not be written after them.

        Raises:
            BankError: the folder cannot be written, or has too little space.
        """
        for folder in (self.path.parent, self.folder):
            try:
                require_writable(folder, LEAST_BYTES)
            except OSError as error:
                raise BankError(f"{folder}: cannot be written: {error.strerror}", _WRITABLE) from None

    def add(self, bank: NormalBank, *enrolments: Enrolment) -> str:
        """Saves a bank as the next version and returns its id; accepts nothing.

        Args:
            bank: The bank.
            enrolments: What was newly learnt for it, one an operating state: laid beside it, and added to the
                sessions in its provenance. The bank has the id of the last.

        Raises:
            BankError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder, prefix=".new-") as aside:
                return self._add(bank, enrolments, Path(aside))
        except OSError as error:
            raise BankError(f"{self.folder}: cannot be written: {error.strerror}", _WRITABLE) from None

    def take(self, file: Path) -> str:
        """Adds a bank that was made elsewhere, byte by byte, and returns its id; accepts nothing.

        One that is there already keeps its id.

        Raises:
            BankError: it cannot be read, or the folder cannot be written.
        """
        try:
            data = read_regular(file, MOST_BYTES)
            for bank_id in reversed(self.ids()):
                known = self.path_of(bank_id)
                if known.stat().st_size == len(data) and known.read_bytes() == data:
                    return bank_id
            self.folder.mkdir(parents=True, exist_ok=True)
            with TemporaryDirectory(dir=self.folder, prefix=".new-") as aside:
                write_whole(Path(aside) / "bank", data)
                bank_id = self._link_as_next(Path(aside) / "bank", ".safetensors")
            sync_folder(self.folder)
        except OSError as error:
            raise BankError(f"{error.filename or file}: {error.strerror}", _WRITABLE) from None
        return bank_id

    def _add(self, bank: NormalBank, enrolments: Sequence[Enrolment], aside: Path) -> str:
        """A hard link never replaces a file: two that fit at once get two numbers."""
        final = aside / "bank"
        for number, enrolment in enumerate(enrolments):
            enrolled = aside / f"enrolled{number}"
            enrolment.save(enrolled)
            bank_id = self._link_as_next(enrolled, ".enrolled.safetensors")
            sessions = [*from_provenance(bank.provenance), replace(enrolment.session, id=bank_id)]
            bank = replace(bank, provenance={**bank.provenance, SESSIONS: to_provenance(sessions)})
        bank.save(final)
        if not enrolments:
            bank_id = self._link_as_next(final, ".safetensors")
        else:
            final.chmod(0o444)
            os.link(final, self.folder / f"{bank_id}.safetensors")
        sync_folder(self.folder)
        return bank_id

    def _link_as_next(self, file: Path, suffix: str) -> str:
        file.chmod(0o444)
        number = max(self._numbers(enrolled=True), default=0) + 1
        while True:
            try:
                os.link(file, self.folder / f"b{number}{suffix}")
            except FileExistsError:
                number += 1
            else:
                return f"b{number}"

    def accept(self, bank_id: str, at: str, by: str = "") -> None:
        """Makes a version the one in use.

        Args:
            bank_id: Which.
            at: UTC, for the history.
            by: Who decided it, for the history.

        Raises:
            BankError: there is no such version, or the link cannot be written.
        """
        self._point_to(bank_id, at)
        self._write_down("accept", bank_id, at, by)

    def rollback(self, at: str, by: str = "") -> str:
        """Accepts again what was accepted before the present version, and returns its id.

        Raises:
            BankError: there was none, or the link cannot be written.
        """
        before = self.before_accepted
        self._point_to(before, at)
        self._write_down("rollback", before, at, by)
        return before

    @property
    def before_accepted(self) -> str:
        """Id of the version that `rollback` would accept.

        Raises:
            BankError: none was accepted before the present one.
        """
        stack = self._accepted_in_order()
        if len(stack) < 2:
            raise BankError(
                f"{self.path}: no version was accepted before {self.accepted or 'now'}",
                "see `echo-stream bank list`",
            )
        return stack[-2]

    def history(self) -> Iterator[dict[str, str]]:
        """What was accepted when, oldest first."""
        path = self.folder / "accepted.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            try:
                yield json.loads(line)
            except ValueError:  # cut short by a power failure; the link is what counts
                continue

    def _accepted_in_order(self) -> list[str]:
        """Accepted versions, without those that were rolled back; the last is in use."""
        stack: list[str] = []
        for entry in self.history():
            if entry["did"] == "rollback" and len(stack) > 1:
                stack.pop()
            elif stack[-1:] != [entry["id"]]:
                stack.append(entry["id"])
        if self.accepted is not None and stack[-1:] != [self.accepted]:
            stack.append(self.accepted)
        return stack

    def _point_to(self, bank_id: str, at: str) -> None:
        target = self.path_of(bank_id)
        new = self.path.with_suffix(".new")
        try:
            if self.path.exists() and not self.path.is_symlink():
                # A file that a person put in the link's place: kept as a version, and never away in between.
                self._write_down("adopt", self._link_as_next(self.path, ".safetensors"), at, "")
            new.unlink(missing_ok=True)
            new.symlink_to(target.relative_to(self.path.parent))
            new.replace(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise BankError(f"{self.path}: cannot be written: {error.strerror}", _WRITABLE) from None

    def _write_down(self, did: str, bank_id: str, at: str, by: str) -> None:
        path = self.folder / "accepted.jsonl"
        try:
            with path.open("a", encoding="utf-8") as history:
                history.write(json.dumps({"did": did, "id": bank_id, "at": at, "by": by}) + "\n")
                history.flush()
                os.fsync(history.fileno())
        except OSError as error:
            raise BankError(f"{path}: cannot be written: {error.strerror}", _WRITABLE) from None

    def _numbers(self, *, enrolled: bool) -> set[int]:
        """Numbers in use by banks, and with `enrolled` by what was enrolled, or kept, beside them."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("b*"))
        return {int(m[1]) for m in found if m and (enrolled or not (m[2] or m[3]))}
