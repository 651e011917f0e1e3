"""Which microphones there are, and what each is called for good. Runs wherever one is listed or opened."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from echo_stream.errors import SourceError

LOOK_TIMEOUT_S = 8.0
NO_PORTAUDIO_HINT = "Try: sudo apt-get install libportaudio2"
DEFAULTS = ("default", "sysdefault")  # whatever the sound system picks: only for those who ask for it
CARD = re.compile(r"^(?P<label>.*?)(?: -)? \(hw:(?P<card>\d+),(?P<device>\d+)\)$")
NUMBERED = re.compile(r"^(?:\d+|.*\b(?:plug)?hw:\d.*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Input:
    """A microphone, or something that behaves like one."""

    pcm: str
    """ALSA's name of it at this moment, with which it is opened."""
    names: tuple[str, ...]
    """Names that stay over a restart or another USB port's device: any of them may be configured."""
    host_api: str
    channels: int
    sample_rate_hz: int
    """Its default rate; it may offer others."""
    write: str
    """The name to write into the configuration: it names no other input."""


def list_inputs(proc: Path = Path("/proc/asound"), sysfs: Path = Path("/sys/class/sound")) -> list[Input]:
    """All inputs that are there now, fresh from a child process.

    Raises:
        SourceError: PortAudio is not installed, or the sound system does not answer.
    """
    found = [_identify(name, channels, rate, proc, sysfs) for name, channels, rate in _look()]
    return [_named(candidate, found) for candidate in found]


def find_input(device: str, inputs: Sequence[Input]) -> Input:
    """The one input that `device` names: exactly, else as a part of one of its names; case does not matter.

    Raises:
        SourceError: a number, no such input, or several.
    """
    if NUMBERED.match(device) or not device.strip():
        raise SourceError(
            f"microphone {device!r}: a number, which changes when devices come and go", _hint(device, inputs)
        )
    wanted = device.casefold()
    exact = [i for i in inputs if any(wanted == name.casefold() for name in i.names)]
    part = [i for i in inputs if i.pcm not in DEFAULTS and any(wanted in name.casefold() for name in i.names)]
    matches = exact or part
    if not matches:
        raise SourceError(f"microphone {device!r}: no such input", _hint(device, inputs))
    if len(matches) > 1:
        names = ", ".join(repr(match.write) for match in matches)
        raise SourceError(
            f"microphone {device!r}: {len(matches)} inputs have this name", f"Write one of {names}."
        )
    return matches[0]


def _look() -> list[tuple[str, int, int]]:
    command = [sys.executable, "-P", str(Path(__file__).with_name("look.py"))]
    try:
        # A session of its own: what the sound system prints, and a terminal's Ctrl-C, stay out of it.
        answer = subprocess.run(
            command, capture_output=True, timeout=LOOK_TIMEOUT_S, check=False, start_new_session=True
        )
    except subprocess.TimeoutExpired as error:
        raise SourceError(
            f"the sound system did not answer within {LOOK_TIMEOUT_S:.0f} s",
            "The sound server (PulseAudio, PipeWire) hangs: restart it.",
        ) from error
    if answer.returncode != 0:
        lines = answer.stderr.decode(errors="replace").strip().splitlines() or [f"exit {answer.returncode}"]
        raise SourceError(f"inputs cannot be listed: {lines[-1]}", NO_PORTAUDIO_HINT)
    told = json.loads(answer.stdout)
    if "error" in told:
        raise SourceError(f"PortAudio cannot be loaded: {told['error']}", NO_PORTAUDIO_HINT)
    return [(name, channels, rate) for name, channels, rate in told["inputs"]]


def _identify(name: str, channels: int, rate: int, proc: Path, sysfs: Path) -> Input:
    card = CARD.match(name)
    if card is None:  # an ALSA plug-in (default, pulse, one of asoundrc): its name is all there is
        return Input(name, (name,), "ALSA", channels, rate, name)
    number, device = card["card"], card["device"]
    names = [card["label"]]
    usb = (sysfs / f"card{number}" / "device").resolve().parent
    if serial := _text(usb / "serial"):
        names.append(f"serial:{serial}")
    if (usb / "idVendor").is_file():
        names.append(f"usb:{usb.name}")
    pcm = f"hw:{number},{device}"
    if card_id := _text(proc / f"card{number}" / "id"):
        pcm = f"hw:CARD={card_id},DEV={device}"
        names.append(f"card:{card_id},{device}")
    return Input(pcm, tuple(names), "ALSA", channels, rate, names[0])


def _named(candidate: Input, inputs: Sequence[Input]) -> Input:
    """With the first of its names that no other input has (the ALSA card id, last, is unique)."""
    others = {name.casefold() for other in inputs if other is not candidate for name in other.names}
    own = [name for name in candidate.names if name.casefold() not in others]
    return Input(
        candidate.pcm,
        candidate.names,
        candidate.host_api,
        candidate.channels,
        candidate.sample_rate_hz,
        own[0] if own else candidate.names[-1],
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _hint(device: str, inputs: Sequence[Input]) -> str:
    if not inputs:
        return "There is no input at all: is it plugged in, and is this user in the group audio?"
    every = [candidate.write for candidate in inputs]
    nearest = difflib.get_close_matches(device, every, n=1)
    return (
        f"Did you mean {nearest[0]!r}? " if nearest else ""
    ) + f"There are: {', '.join(map(repr, every))}."
