"""Which microphones there are, and what each is called for good. Pure but for /proc and /sys; any thread."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from echo_stream.errors import SourceError

DEFAULTS = ("default", "sysdefault")  # whatever the sound system picks: only for those who ask for it
CARD = re.compile(r"^(?P<label>.*?)(?: -)? \(hw:(?P<card>\d+),(?P<device>\d+)\)$")
NUMBERED = re.compile(r"^\d+$|hw:\d", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Input:
    """A microphone, or something that behaves like one."""

    pcm: str
    """ALSA's name of it at this moment, with which it is opened."""
    names: tuple[str, ...]
    """Names that stay over restarts: any of them may be configured. See identify()."""
    channels: int
    sample_rate_hz: int
    """Its default rate; it may offer others."""
    write: str
    """The name to write into the configuration: no other input has it."""
    host_api: str = "ALSA"

    @property
    def resamples(self) -> bool:
        """A sound server or ALSA plug-in gives any rate by resampling; a card gives its own rates only."""
        return not self.pcm.startswith("hw:")


def identify(
    listed: Iterable[tuple[str, int, int]],
    proc: Path = Path("/proc/asound"),
    sysfs: Path = Path("/sys/class/sound"),
) -> list[Input]:
    """What PortAudio lists (name, channels, default rate), with names that stay.

    A card's are, in this order: its label, `serial:` and its USB serial number (two of one kind may share
    it), `usb:` and the port that it is plugged into, `card:` and ALSA's card id (unique, but two of one kind
    are told apart by who came first). The first that no other input has is the one to write.
    """
    found = [_identify(name, channels, rate, proc, sysfs) for name, channels, rate in listed]
    return [_named(candidate, found) for candidate in found]


def find_input(device: str, inputs: Sequence[Input]) -> Input:
    """The one input that `device` names: exactly, else as a part of one of its names; case does not matter.

    Raises:
        SourceError: a number, no such input, or several.
    """
    if NUMBERED.search(device) or not device.strip():
        raise SourceError(
            f"microphone {device!r}: expected a name; numbers change when devices come and go",
            _hint(device, inputs),
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


def _identify(name: str, channels: int, rate: int, proc: Path, sysfs: Path) -> Input:
    card = CARD.match(name)
    if card is None:  # an ALSA plug-in (default, pulse, one of asoundrc): its name is all there is
        return Input(name, (name,), channels, rate, name)
    number, device = card["card"], card["device"]
    pcm, names = f"hw:{number},{device}", [card["label"]]
    usb = (sysfs / f"card{number}" / "device").resolve().parent
    if (usb / "idVendor").is_file():
        if serial := _text(usb / "serial"):
            names.append(f"serial:{serial}")
        names.append(f"usb:{usb.name}")
    if card_id := _text(proc / f"card{number}" / "id"):
        pcm = f"hw:CARD={card_id},DEV={device}"  # right even if the numbers change before it is opened
        names.append(f"card:{card_id},{device}")
    return Input(pcm, tuple(names), channels, rate, names[0])


def _named(candidate: Input, inputs: Sequence[Input]) -> Input:
    others = {name.casefold() for other in inputs if other is not candidate for name in other.names}
    own = [name for name in candidate.names if name.casefold() not in others]
    return replace(candidate, write=(own or candidate.names[-1:])[0])


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
