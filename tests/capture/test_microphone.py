"""A real PortAudio stream: what is played into a null sink is heard, with its frequency and level."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.listening import ROOT, Listener, gaps
from tests.support.pulse import PulseServer, pulse_server, tone

OPEN = """
from echo_stream.capture.microphone import Microphone
from echo_stream.core.errors import SourceError
import sys
try:
    Microphone(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
except SourceError as error:
    print(error)
"""

LEFT_LOCKED = """
import pathlib, struct
from echo_stream.capture import devices
devices.list_inputs()  # makes the locks
locked = 0
for path in pathlib.Path("/dev/shm").glob("jack_db*/__db.*"):
    data = bytearray(path.read_bytes())
    for at in range(0, len(data) - 20, 8):
        # pthread_mutex_t: lock, count, owner, nusers, kind; 128: shared by processes
        if struct.unpack_from("<5i", data, at) == (0, 0, 0, 0, 128):
            struct.pack_into("<4i", data, at, 2, 0, 999999, 1)
            locked += 1
    path.write_bytes(data)
devices._last_probe = None
print(devices.list_inputs(), "answered" if locked else "no locks")
"""


def run(code: str, *arguments: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[PulseServer]:
    with pulse_server(mic=48_000, slow=16_000, four=(48_000, 4)) as server:
        yield server


def spectrum(samples: Any, rate: int) -> tuple[float, float]:
    """Frequency of the strongest line in Hz, and the level in dBFS."""
    whole = samples[: len(samples) // rate * rate]  # whole seconds: 1 Hz a bin at most
    line = int(np.argmax(np.abs(np.fft.rfft(whole * np.hanning(len(whole))))))
    return line * rate / len(whole), float(20 * np.log10(np.std(whole)))


def test_tones_are_heard_with_their_frequency_and_level(server: PulseServer) -> None:
    """48 kHz, 16 kHz, and the third channel of a device of four, all at once in one process."""
    channels = np.stack([tone(f, -10, 20, 48_000) for f in (500, 600, 700, 800)], axis=1)
    server.play("mic", tone(997, -20, 20, 48_000), 48_000)
    server.play("slow", tone(3001, -40, 20, 16_000), 16_000)
    server.play("four", channels, 48_000)
    listener = Listener(server, "mic:48000:1", "slow:16000:1", "four:48000:4")
    try:
        for ear in range(3):
            listener.wait_for(ear, state="running")
        time.sleep(4)
        listener.end()
    finally:
        listener.kill()
    for ear, rate, channel, frequency_hz, level_dbfs in [
        (0, 48_000, 0, 997, -20),
        (1, 16_000, 0, 3001, -40),
        (2, 48_000, 0, 500, -10),
        (2, 48_000, 2, 700, -10),
        (2, 48_000, 3, 800, -10),
    ]:
        heard = listener.heard(ear)
        assert gaps(heard["index"]) == []
        samples = heard["samples"][-3 * rate :, channel]
        assert len(samples) == 3 * rate
        frequency, level = spectrum(samples, rate)
        assert frequency == pytest.approx(frequency_hz, abs=1)
        assert level == pytest.approx(level_dbfs, abs=0.1)
        assert heard["utc"][1] == pytest.approx(time.time(), abs=15)


def test_devices_are_listed_with_what_to_write(server: PulseServer) -> None:
    code = (
        "from echo_stream.capture.devices import list_inputs; import json; from dataclasses import asdict\n"
    )
    code += "print(json.dumps([asdict(i) for i in list_inputs()]))"
    listed = {one["write"]: one for one in json.loads(run(code, env=server.env))}
    assert {"mic", "slow", "four", "default"} <= set(listed)
    assert listed["mic"]["host_api"] == "ALSA"
    assert listed["mic"]["channels"] >= 1


@pytest.mark.parametrize(
    ("device", "rate", "channels", "message", "hint"),
    [
        ("micc", 48_000, 1, "'micc': no such input", "Did you mean 'mic'?"),
        ("0", 48_000, 1, "expected a name", "There are: "),
        ("piped", 48_000, 1, "cannot be opened at 48000 Hz", "Is it plugged in?"),
        ("mic", 48_000, 99, "cannot be opened at 48000 Hz, 99 channel(s)", "It has 32 channels"),
    ],
)
def test_what_cannot_be_opened(
    server: PulseServer, device: str, rate: int, channels: int, message: str, hint: str
) -> None:
    told = run(OPEN, device, str(rate), str(channels), env=server.env)
    assert message in told
    assert hint in told


def test_a_server_that_hangs_is_said_within_seconds(server: PulseServer) -> None:
    server.freeze()
    try:
        assert "does not answer within 8 s" in run(OPEN, "mic", "48000", "1", env=server.env)
    finally:
        server.thaw()


def test_without_a_server_or_card_there_is_no_input(tmp_path: Path) -> None:
    env = os.environ | {
        "PULSE_SERVER": f"unix:{tmp_path}/nowhere",
        "ALSA_CONFIG_PATH": "/usr/share/alsa/alsa.conf",
    }
    if list(Path("/proc").glob("asound/card*")):
        pytest.skip("this PC has a sound card")
    told = run(OPEN, "mic", "48000", "1", env=env)
    assert "no such input" in told or "PortAudio cannot be loaded" in told


def test_a_lock_that_a_killed_program_left_is_deleted() -> None:
    """JACK's library, which PortAudio loads, keeps locks in /dev/shm: here in one that no other test sees."""
    private = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"]), "sh", "-c"]
    mount = "mount -t tmpfs tmpfs /dev/shm"
    if subprocess.run([*private, mount], capture_output=True, check=False).returncode:
        pytest.skip(
            "NOT TESTED: no mount namespace may be made here, and the real /dev/shm is not for this test"
        )
    done = subprocess.run(
        [*private, f'{mount} && exec "$0" -c "$1"', sys.executable, LEFT_LOCKED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "no locks" in done.stdout:
        pytest.skip("this PC's PortAudio has no JACK in it")
    assert "answered" in done.stdout, done.stderr
    assert "a lock that a killed program left stops the sound system" in done.stdout


def test_without_portaudio_the_error_says_what_to_install(tmp_path: Path) -> None:
    """As on a PC where only pip was run: the loader finds no libportaudio."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes.util\nfind = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda name: None if 'portaudio' in name else find(name)\n"
    )
    told = run(OPEN, "mic", "48000", "1", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert "PortAudio cannot be loaded" in told
    assert "apt-get install libportaudio2" in told


@pytest.mark.parametrize("frozen", [False, True])
def test_a_process_that_ends_without_closing_ends_at_once_and_in_order(
    server: PulseServer, frozen: bool
) -> None:
    code = """
import sys, time
from echo_stream.capture.microphone import Microphone
microphone = Microphone("mic", 48000)
while microphone.read() is None:
    time.sleep(0.05)
print("heard", flush=True)
sys.stdin.read()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], env=server.env, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            assert process.stdout.readline() == b"heard\n"
            if frozen:
                server.freeze()
            process.stdin.close()
            assert process.wait(timeout=60) == 0
        finally:
            process.kill()
            server.thaw()


RAISING = """
import sys, time
from echo_stream.capture import microphone
from echo_stream.capture.reconnect import SupervisedSource
real, failing = microphone.CaptureBuffer.on_audio, [True]
def on_audio(self, samples, overflow):
    if failing and failing.pop():
        raise ValueError("nobody thought of this")
    real(self, samples, overflow)
microphone.CaptureBuffer.on_audio = on_audio
source = SupervisedSource(
    lambda: microphone.Microphone("mic", 48000), sample_rate_hz=48000, channels=1, description="mic"
)
said, until_s = set(), time.monotonic() + 25
while source.state != "running" and time.monotonic() < until_s:
    source.read()
    said.add(str(source.last_error))
    time.sleep(0.05)
print(source.state, any("nobody thought of this" in each for each in said))
source.close()
"""


def test_an_exception_in_the_callback_is_a_loss_with_its_reason(server: PulseServer) -> None:
    assert run(RAISING, env=server.env).split() == ["running", "True"]
