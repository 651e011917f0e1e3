"""Devices are the microphones of this PC, each with a name that stays the same over restarts.

PortAudio knows only what was there when it was initialised, prints to standard error what it does not like,
and hangs with a sound server that hangs. Therefore a child process lists and opens devices (`main` here): it
is always fresh, can be silenced and can be killed. Any thread.

PortAudio also looks for a JACK server, and JACK's library keeps locks in /dev/shm that all processes of a
user share. One that is killed while it holds a lock leaves it locked, and every later one waits for ever. So
where a probe waits for such a lock, the files of the locks are deleted and it is started again.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from echo_stream.capture.portaudio import BAD_CHANNELS, BAD_RATE, Refused, Stream, list_alsa
from echo_stream.core.errors import SourceError
from echo_stream.core.text import DEVICE_NUMBER

DEFAULTS = ("default", "sysdefault")  # whatever the sound system picks: only for those who ask for it
CARD = re.compile(r"^(?P<label>.*?)(?: -)? \(hw:(?P<card>\d+),(?P<device>\d+)\)$")
PROBE_TIMEOUT_S = 8.0
FRESH_S = 1.0  # several microphones that went together are listed together
JACK_LOCKS = "__db.*"  # as Berkeley DB names the files of an environment
_probe_lock = threading.Lock()


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
    if DEVICE_NUMBER.search(device) or not device.strip():
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


_last_probe: tuple[float, list[Input] | SourceError] | None = None


def list_inputs() -> list[Input]:
    """All inputs that are there now (not older than a second).

    Raises:
        SourceError: PortAudio is not installed, or the sound system does not answer.
    """
    global _last_probe  # noqa: PLW0603 - one process, one sound system
    with _probe_lock:
        if _last_probe is None or time.monotonic() - _last_probe[0] > FRESH_S:
            try:
                answer: list[Input] | SourceError = [
                    Input(**{**row, "names": tuple(row["names"])}) for row in _probe()
                ]
            except SourceError as error:
                answer = error
            _last_probe = (time.monotonic(), answer)
        if isinstance(_last_probe[1], SourceError):
            raise SourceError(_last_probe[1].message, _last_probe[1].hint)
        return _last_probe[1]


def find(device: str, sample_rate_hz: int, channels: int) -> tuple[Input, int]:
    """The input that `device` names, and with how many channels it opens: `channels`, or all that it has.

    Raises:
        SourceError: no such input, or it does not open.
    """
    found = find_input(device, list_inputs())
    counts = (channels, max(channels, found.channels))  # a card may have no stream of less than all channels
    result = _probe(found.pcm, str(sample_rate_hz), *map(str, counts))[0]
    if "opened" in result:
        return found, result["opened"]
    why = result["why"]
    what = f"microphone {found.write!r} cannot be opened at {sample_rate_hz} Hz, {channels} channel(s): {why}"
    if result["code"] == BAD_RATE:
        raise SourceError(what, f"Its own rate is {found.sample_rate_hz} Hz: set sample_rate_hz to it.")
    if result["code"] == BAD_CHANNELS or channels > found.channels:
        raise SourceError(what, f"It has {found.channels} channels, counted from 0.")
    raise SourceError(what, "Is it plugged in? Does another program hold it? See: fuser -v /dev/snd/*")


def _probe(*arguments: str) -> list[dict[str, Any]]:
    for _again in range(2):
        code, stdout, stderr, jack = _run_probe(*arguments)
        if jack is None:
            break
        _delete_locks(jack)
    if code is None:
        raise SourceError(
            f"the sound system does not answer within {PROBE_TIMEOUT_S:.0f} s",
            "The sound server (PulseAudio, PipeWire) or a driver hangs: restart it.",
        )
    try:
        reply = json.loads(stdout)
    except ValueError as error:
        last = stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SourceError(
            f"looking for microphones failed with exit code {code}: {last}", "Try: echo-stream devices"
        ) from error
    if isinstance(reply, dict):
        raise SourceError(reply["message"], reply["hint"])
    return list(reply)


def _delete_locks(folder: Path) -> None:
    from echo_stream.core.log import get_logger  # noqa: PLC0415 - the probe stays light

    said = "a lock that a killed program left stops the sound system; it is deleted"
    get_logger().warning(said, folder=str(folder))
    try:
        for path in folder.glob(JACK_LOCKS):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SourceError(
            f"the sound system waits for a lock that a killed program left, which cannot be deleted: {error}",
            f"Delete it as its owner: sudo rm {folder}/{JACK_LOCKS}",
        ) from error


def _run_probe(*arguments: str) -> tuple[int | None, bytes, bytes, Path | None]:
    """The probe's exit code (None: it did not end), what it wrote, and in whose lock of JACK it hangs."""
    command = [sys.executable, "-P", "-m", "echo_stream.capture.devices", *arguments]
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path)},
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
    except OSError as error:
        raise SourceError(
            f"microphones cannot be looked for: {error}", "Is this PC out of memory?"
        ) from error
    with process:
        try:
            stdout, stderr = process.communicate(timeout=PROBE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return None, b"", b"", _jack_lock_of(process.pid)
        else:
            return process.returncode, stdout, stderr, None
        finally:
            process.kill()


def _jack_lock_of(pid: int) -> Path | None:
    """The folder of JACK's locks if the main thread of process `pid` waits for one of them, else None."""
    try:
        _call, address, *_ = _text(Path(f"/proc/{pid}/syscall")).split()  # of futex: where the lock is
        waits_at = int(address, 16)
        for line in _text(Path(f"/proc/{pid}/maps")).splitlines():
            span, *_fields, file = line.split(maxsplit=5)
            first, last = (int(end, 16) for end in span.split("-"))
            if first <= waits_at < last:
                folder = Path(file).parent
                return folder if folder.name.startswith("jack_db") else None
    except ValueError:  # "running", or a kernel that does not tell
        pass
    return None


# What the child process does: `python -m echo_stream.capture.devices`.


def main(arguments: list[str]) -> object:
    """Without arguments the inputs; with `pcm rate channels...` the first number of channels that opens."""
    try:
        if not arguments:
            return [asdict(found) for found in identify(list_alsa())]
        pcm, rate, *counts = arguments
        return [_try(pcm, int(rate), [int(count) for count in counts])]
    except SourceError as error:
        return {"message": error.message, "hint": error.hint}


def _try(pcm: str, sample_rate_hz: int, counts: list[int]) -> dict[str, object]:
    refused: dict[str, object] = {}
    for channels in dict.fromkeys(counts):
        try:
            stream = Stream(pcm, sample_rate_hz, channels, on_audio=lambda *_: None, on_end=lambda _: None)
        except Refused as error:
            refused = refused or {"code": error.code, "why": str(error)}
        else:
            stream.close()
            return {"opened": channels}
    return refused


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1:])))
