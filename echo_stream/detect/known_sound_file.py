"""Known sounds on disk: one safetensors file each, in a folder beside the machine's bank.

`ignore` writes, the daemon reads; no thread of its own. The form is that of a bank file, checksum included:
never a pickle.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path

import numpy as np

from echo_stream.core.errors import BankError
from echo_stream.core.log import get_logger
from echo_stream.core.types import EncoderIdentity
from echo_stream.detect import bank_file
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.known_sounds import KnownSound
from echo_stream.detect.reference import Sound

log = get_logger()

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
PLAIN = ("name", "loudest_dbfs", "length_s", "window_s", "sample_rate_hz", "created", "taught_from")
WHAT = "known sound"
TEACH_AGAIN = "Remove it and teach it again: echo-stream ignore remove, ignore add."


def known_sounds_folder(bank: Path) -> Path:
    """The folder of the known sounds of the machine whose bank the configuration names so."""
    return bank.with_suffix(".known")


def path_of(bank: Path, name: str) -> Path:
    """The file of a known sound.

    Raises:
        BankError: the name cannot be one.
    """
    if not NAME.fullmatch(name):
        raise BankError(
            f"name of a known sound {name!r:.60}: expected up to 40 letters, digits, _ and -",
            "choose another name, such as forklift",
        )
    return known_sounds_folder(bank) / f"{name}.safetensors"


def save(path: Path, known: KnownSound) -> None:
    """Write it, all or nothing.

    Raises:
        BankError: the file cannot be written.
    """
    metadata = {key: getattr(known, key) for key in PLAIN} | {"encoder": asdict(known.encoder)}
    tensors = {"window": known.sound.window, "segments": known.sound.segments}
    bank_file.write(path, bank_file.to_bytes(metadata, tensors), what=WHAT)


def load(path: Path) -> KnownSound:
    """Read what `save` wrote.

    Raises:
        BankError: missing, damaged, or no known sound.
    """
    metadata, tensors = bank_file.read(path, what=WHAT, hint=TEACH_AGAIN)
    try:
        window, segments = tensors["window"], tensors["segments"]
        plain = {key: metadata[key] for key in PLAIN}
        known = KnownSound(
            sound=Sound(window, segments), encoder=EncoderIdentity(**metadata["encoder"]), **plain
        )
        numbers = known.loudest_dbfs, known.length_s, known.window_s
        whole = (
            window.ndim == segments.ndim == 4
            and len(window) == len(segments) > 0
            and window.shape[1] == 1
            and known.name == path.stem
            and all(np.isfinite(part).all() for part in (window, segments, np.array(numbers)))
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BankError(f"{WHAT} {path} lacks a part: {error}", TEACH_AGAIN) from error
    if not whole:
        raise BankError(f"{WHAT} {path} is damaged: its parts do not fit each other", TEACH_AGAIN)
    return known


def paths(bank: Path) -> list[Path]:
    """The files of a machine's known sounds, sorted by name."""
    return sorted(
        path for path in known_sounds_folder(bank).glob("*.safetensors") if NAME.fullmatch(path.stem)
    )


def load_fitting(path: Path, bank: NormalBank) -> list[KnownSound]:
    """The known sounds beside a bank that windows of it can be compared with; of others a log line says so.

    Args:
        path: what the configuration names as the bank.
        bank: the bank itself.
    """
    found = []
    for file in paths(path):
        try:
            known = load(file)
        except BankError as error:
            log.error("the known sound is not used", file=str(file), reason=error.message, hint=error.hint)
            continue
        shapes = known.sound.window.shape[2:], known.sound.segments.shape[2:]
        own = bank.references[0]
        if (known.encoder, known.sample_rate_hz, known.window_s) != (
            bank.encoder,
            bank.sample_rate_hz,
            bank.window_s,
        ) or shapes != (own.window.normals.shape[1:], own.segments.normals.shape[1:]):
            reason = "it was taught with another encoder, sample rate or window than the bank has"
            log.error("the known sound is not used", file=str(file), reason=reason, hint=TEACH_AGAIN)
            continue
        found.append(known)
    return found


def fingerprint(bank: Path) -> object:
    """Changes when another bank is accepted, the file is written anew, or a known sound comes or goes."""
    try:
        found = bank.stat()
        link = bank.readlink() if bank.is_symlink() else None
    except OSError:
        return None
    try:
        known = known_sounds_folder(bank).stat().st_mtime_ns
    except OSError:
        known = 0  # nothing was taught
    return known, link, found.st_ino, found.st_mtime_ns  # not `resolve`: it looks at every folder of the path
