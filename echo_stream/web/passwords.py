"""The password file names who may see the page and who may answer on it: one line a person.

    name:role:scrypt$n$r$p$salt$hash        role is viewer or operator; salt and hash in base64

scrypt, because Python has it without a further library. `echo-stream web password` writes the file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast

from echo_stream.core.errors import ConfigError
from echo_stream.core.files import read_regular

Role = Literal["viewer", "operator"]
ROLES: Final = ("viewer", "operator")
_N: Final = 2**14
"""16 MB and about 50 ms a try."""
_R: Final = 8
_P: Final = 1
LONGEST_FILE_BYTES: Final = 100_000
SHORTEST: Final = 8


@dataclass(frozen=True, slots=True)
class Person:
    """A line of the file."""

    name: str
    role: Role
    hashed: str


def hash_password(password: str, salt: bytes | None = None, n: int = _N, r: int = _R, p: int = _P) -> str:
    """The third field of a line."""
    salt = secrets.token_bytes(16) if salt is None else salt
    found = hashlib.scrypt(password.encode(), salt=salt, n=n, r=r, p=p, dklen=32)
    return f"scrypt${n}${r}${p}${base64.b64encode(salt).decode()}${base64.b64encode(found).decode()}"


NOBODY: Final = Person("", "viewer", hash_password("", b"0" * 16))
"""Checked where a name is unknown, so that the time says nothing about which names there are."""


def matches(person: Person, password: str) -> bool:
    """Whether it is this person's password; takes about 50 ms."""
    _, n, r, p, salt, _ = person.hashed.split("$")
    tried = hash_password(password, base64.b64decode(salt), int(n), int(r), int(p))
    return hmac.compare_digest(tried, person.hashed) and person is not NOBODY


def read_passwords(path: Path) -> dict[str, Person]:
    """People by name.

    Raises:
        ConfigError: the file cannot be read, or a line of it is wrong; says which.
    """
    how = "write it with: echo-stream web password"
    try:
        text = read_regular(path, LONGEST_FILE_BYTES).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}", how
        ) from None
    people: dict[str, Person] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        role, _, hashed = rest.partition(":")
        if not name or role not in ROLES or not _is_hash(hashed):
            raise ConfigError(f"{path}:{number}: expected name:viewer|operator:scrypt$...", how)
        if name in people:
            raise ConfigError(f"{path}:{number}: {name} stands twice", how)
        people[name] = Person(name, cast("Role", role), hashed)
    if not people:
        raise ConfigError(f"{path}: names nobody", how)
    return people


def with_person(text: str, name: str, role: Role, password: str) -> str:
    """The text of a password file with this person's line new or replaced.

    Raises:
        ConfigError: the name or the password will not do.
    """
    if not name or not name.isprintable() or ":" in name or name != name.strip() or name.startswith("#"):
        raise ConfigError(f"name {name!r}: expected printable text without a colon", "such as anna")
    if len(password) < SHORTEST:
        raise ConfigError(f"the password has {len(password)} characters, expected at least {SHORTEST}")
    kept = [line for line in text.splitlines() if line.partition(":")[0] != name]
    return "\n".join([*kept, f"{name}:{role}:{hash_password(password)}"]) + "\n"


def _is_hash(text: str) -> bool:
    parts = text.split("$")
    if len(parts) != 6 or parts[0] != "scrypt" or not all(part.isdecimal() for part in parts[1:4]):
        return False
    n, r, p = (int(part[:9]) for part in parts[1:4])
    try:
        salt, digest = (base64.b64decode(part, validate=True) for part in parts[4:])
    except ValueError:
        return False
    return (
        n > 1
        and n & (n - 1) == 0
        and n * r <= 2**17
        and 0 < p <= 4
        and r > 0
        and bool(salt)
        and len(digest) == 32
    )
