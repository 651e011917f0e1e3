"""Value types check single values of the configuration: names, text, hosts, topics, paths.

Each refuses what could only fail later, at night and on another thread: text that no terminal shows, a URL
where a host name belongs, a wildcard in a topic, a variable that nobody has set. A refusal is a ValueError in
plain words; `config.load` adds file, line and key.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from echo_stream.core.text import DEVICE_NUMBER

LONGEST_TEXT = 250
LONGEST_ARGUMENT = 10_000
LONGEST_PATH_BYTES = 4095
LONGEST_NAME_BYTES = 255
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Set by systemd for the service alone; other commands must be able to read the same file."""


def check_text(text: str) -> str:
    """Text of one line that every terminal, log and JSON document can carry; not blank at either end."""
    if not text.strip():
        raise ValueError("expected text, found nothing but blanks" if text else "expected text, found none")
    if text != text.strip():
        raise ValueError(f"begins or ends with a blank: {text!r:.60}; remove it")
    if not text.isprintable():
        bad = next(character for character in text if not character.isprintable())
        raise ValueError(f"contains the control character {bad!r}, expected one line of text")
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"has {len(text)} characters, at most {LONGEST_TEXT} are possible")
    return text


def check_name(name: str) -> str:
    """Id of a node or machine: it becomes part of MQTT topics and of file names."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"expected 1 to 64 letters A to Z, digits, _ and -, the first no _ or -; found {name!r:.80}"
        )
    return name


def check_host(host: str) -> str:
    """A host name or an address, and nothing around it."""
    example = "expected a name or an address alone, such as broker.example.org or 192.168.0.5"
    if "://" in host:
        raise ValueError(f"{host!r:.80} is a URL; {example} (port and tls are keys of their own)")
    if host.startswith("[") or host.endswith("]"):
        raise ValueError(f"{host!r:.80} is in brackets; expected an IPv6 address without them, such as ::1")
    address = host.partition("%")[0]
    if ":" in host:
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            raise ValueError(
                f"{host!r:.80} is neither a name nor an address; {example} (the port is mqtt.port)"
            ) from None
        return host
    if re.fullmatch(r"[0-9.]+", host):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host!r:.80} is no IPv4 address; {example}") from None
        return host
    try:
        labels = host.removesuffix(".").encode("idna").decode().split(".")
    except UnicodeError:
        labels = [""]
    if not all(HOST_LABEL.fullmatch(label) for label in labels) or sum(map(len, labels)) > LONGEST_TEXT:
        raise ValueError(f"{host!r:.80} is no host name; {example}")
    return host


def check_address(host: str) -> str:
    """An address, no name: packets are told apart by it."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        raise ValueError(f"{host!r:.80} is no address; expected one such as 192.168.0.5") from None


def check_topic(topic: str) -> str:
    """One or more levels of an MQTT topic, to which further levels are added."""
    for level in topic.split("/"):
        if not level or level.startswith("$") or set(level) & set("+#"):
            problem = "an empty level" if not level else f"the level {level!r:.40}"
            raise ValueError(
                f"{topic!r:.80} has {problem}; expected levels like plant/hall: none is empty, begins with $ "
                "or contains + or #"
            )
        check_text(level)
    return topic


def check_foreign_topic(topic: str) -> str:
    """A topic on which another program publishes; some begin with a slash."""
    check_topic(topic.removeprefix("/"))
    return topic


def check_device(device: str) -> str:
    """A microphone's name; its number changes when devices come and go."""
    if DEVICE_NUMBER.search(device):
        raise ValueError(f"{device!r:.60} is a number, expected a name: echo-stream devices lists the names")
    return device


def check_argument(text: str) -> str:
    """An argument of a program: any text that one can be given, as long as it can be read in a log."""
    if not text.isprintable():
        raise ValueError(f"{text!r:.60} contains a control character")
    if len(text) > LONGEST_ARGUMENT:
        raise ValueError(f"has {len(text)} characters, at most {LONGEST_ARGUMENT} are possible")
    return text


def check_public_key(text: str) -> str:
    """An operator's public key, as `echo-stream plant key` prints it."""
    prefix, _, key = text.partition(":")
    try:
        good = prefix == "ed25519" and len(base64.b64decode(key, validate=True)) == 32
    except ValueError:
        good = False
    if not good:
        raise ValueError(
            f"{text!r:.80} is no public key; expected ed25519: and 44 characters, "
            "as `echo-stream plant key` prints it"
        )
    return text


def expand_path(given: Any, info: ValidationInfo) -> Any:
    """A path with ~ and ${VARIABLE} expanded; a relative one counts from the configuration's folder."""
    if not isinstance(given, str):
        return given
    if not given.strip():
        raise ValueError("expected a path, found nothing")
    if given != given.strip() or not given.isprintable():
        raise ValueError(f"{given!r:.60} begins or ends with a blank, or contains a control character")
    try:
        path = Path(_with_variables(given)).expanduser()
    except RuntimeError:
        raise ValueError(f"{given!r:.60}: there is no such user; write the whole path") from None
    folder = (info.context or {}).get("folder")
    if folder is not None:
        path = Path(os.path.normpath(folder / path))
    try:
        size, longest = len(os.fsencode(path)), max(map(len, map(os.fsencode, path.parts)), default=0)
    except UnicodeEncodeError:
        raise ValueError(f"{given!r:.60} cannot be a file name on this PC") from None
    if size > LONGEST_PATH_BYTES or longest > LONGEST_NAME_BYTES:
        raise ValueError(
            f"a path of {size} bytes and a name of {longest} in it; at most {LONGEST_PATH_BYTES} and "
            f"{LONGEST_NAME_BYTES} are possible"
        )
    return path


def _with_variables(text: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        found = os.environ.get(name)
        if found:
            return found
        if name == CREDENTIALS and "INVOCATION_ID" not in os.environ:
            return match[0]  # outside the service; nothing is ever written there
        service = " (only the service has it)" if name.endswith("_DIRECTORY") else ""
        raise ValueError(f"the variable {match[0]} is not set{service}; set it or write the whole path")

    return VARIABLE.sub(value, text)


Name = Annotated[str, AfterValidator(check_name)]
Text = Annotated[str, AfterValidator(check_text)]
TextOrEmpty = Annotated[str, AfterValidator(lambda text: check_text(text) if text else text)]
Host = Annotated[Text, AfterValidator(check_host)]
Topic = Annotated[Text, AfterValidator(check_topic)]
ForeignTopic = Annotated[Text, AfterValidator(check_foreign_topic)]
Argument = Annotated[str, AfterValidator(check_argument)]
PublicKey = Annotated[str, AfterValidator(check_public_key)]
Device = Annotated[Text, AfterValidator(check_device)]
ConfigPath = Annotated[Path, BeforeValidator(expand_path)]


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, found {str(value).lower()}")  # noqa: TRY004 - pydantic's protocol
    return value


Number = Annotated[float, BeforeValidator(_no_truth)]
Whole = Annotated[int, BeforeValidator(_no_truth)]
SampleRate = Annotated[Whole, Field(ge=1_000, le=192_000)]
Channel = Annotated[Whole, Field(ge=0, le=255)]
