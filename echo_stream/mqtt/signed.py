"""A signed manifest says what an operator asks of one node: nobody else can, and no other node takes it.

The signature covers the manifest's text as it travels: node, machine, kind, file, time and id are in it. Any
thread. Needs the extra `plant`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from echo_stream.core.errors import CommandRefused, ConfigError, of_extra
from echo_stream.core.files import read_regular
from echo_stream.core.text import clean_text
from echo_stream.mqtt.command_models import Manifest, Transfer
from echo_stream.mqtt.models import Model

with of_extra("A signed transfer", "plant"):
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNED_AS = b"echo-stream transfer 1\n"
"""In front of what is signed: a signature for something else is none for this."""
PREFIX = "ed25519:"
_MOST_BYTES = 16_384


def make_key(path: Path) -> str:
    """Write a new private key (PEM, mode 0600), and return the public one as text.

    Raises:
        ConfigError: the file exists, or cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        raise ConfigError(
            f"{path}: exists already", "a key is never overwritten; name another file"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from None
    return public_text(key)


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a file.

    Raises:
        ConfigError: it cannot be read, others may read it, or it is no Ed25519 key.
    """
    try:
        mode = path.stat().st_mode
        data = read_regular(path, _MOST_BYTES)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "echo-stream plant key makes a key") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"{path}: other users may read this key (mode {stat.S_IMODE(mode):04o}, expected 0600)",
            f"chmod 600 {path}; if somebody may have read it, make another and have the nodes trust that",
        )
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path}: is no private key: {clean_text(str(error), 100)}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: is a key of another kind, expected Ed25519", "echo-stream plant key")
    return key


def public_text(key: Ed25519PrivateKey) -> str:
    """The public key as it stands in `plant.trust`."""
    return PREFIX + base64.b64encode(key.public_key().public_bytes_raw()).decode()


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> str:
    """The message that carries a manifest and its signature."""
    text = json.dumps(manifest.model_dump(exclude_none=True))
    signature = base64.b64encode(key.sign(SIGNED_AS + text.encode())).decode()
    return json.dumps({"manifest": text, "key": public_text(key), "signature": signature})


def verify(payload: bytes, trusted: Collection[str], node: str) -> Manifest:
    """The manifest of a message whose signature is that of a trusted key, for this node.

    Raises:
        CommandRefused: it is not; says why.
    """
    message = _parsed(Transfer, payload, "the transfer")
    if message.key not in trusted:
        raise CommandRefused(f"the key {clean_text(message.key, 60)} is not in plant.trust of {node}")
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(message.key.removeprefix(PREFIX)))
        public.verify(
            base64.b64decode(message.signature, validate=True), SIGNED_AS + message.manifest.encode()
        )
    except (binascii.Error, ValueError, InvalidSignature):
        raise CommandRefused("the signature is not that of the manifest by this key") from None
    manifest = _parsed(Manifest, message.manifest.encode(), "the manifest")
    if manifest.node != node:
        raise CommandRefused(f"the manifest is for {clean_text(manifest.node, 60)}, this is {node}")
    if (manifest.kind in ("config", "bank")) != (manifest.sha256 is not None) or manifest.size is None:
        raise CommandRefused(f"{manifest.kind}: sha256 or size does not belong to it, or is missing")
    if manifest.kind == "bank" and manifest.machine is None:
        raise CommandRefused("bank: machine is missing")
    return manifest


def claimed_id(payload: bytes) -> str | None:
    """The id in a message, for the reply to the sender; None where it has none."""
    with suppress(CommandRefused):
        text = _parsed(Transfer, payload, "").manifest
        return _parsed(Manifest, text.encode(), "").id
    return None


_M = TypeVar("_M", bound=Model)


def _parsed(model: type[_M], text: bytes, what: str) -> _M:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CommandRefused(clean_text(f"{what} is not as expected: {where} {first['msg']}", 300)) from None
