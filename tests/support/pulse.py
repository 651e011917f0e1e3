"""A private PulseAudio whose null sinks are microphones: real PortAudio streams without a sound card.

    with pulse_server(mic1=48_000, mic2=(16_000, 4)) as server:
        server.play("mic1", samples, 48_000)
        subprocess.run([...], env=server.env)      # listens to the devices "mic1" and "mic2"

ALSA and PulseAudio read their environment when they are first used in a process: what listens must be a
subprocess with `server.env`.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.core.types import Float32

MAPS = {
    1: "mono",
    2: "front-left,front-right",
    4: "front-left,front-right,rear-left,rear-right",
}
NEEDED = ("pulseaudio", "pactl", "paplay")


def missing() -> str:
    """What is not installed here, empty where all is."""
    lacks = [program for program in NEEDED if shutil.which(program) is None]
    lacks += [] if ctypes.util.find_library("portaudio") else ["libportaudio2"]
    lacks += (
        []
        if list(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so"))
        else ["libasound2-plugins"]
    )
    return ", ".join(lacks)


class PulseServer:
    """One PulseAudio, its null sinks, and what plays into them."""

    def __init__(self, folder: Path, sinks: dict[str, tuple[int, int]]) -> None:
        self.folder = folder
        self.sinks = sinks
        self.env = os.environ | {
            "PULSE_SERVER": f"unix:{folder}/native",
            "XDG_RUNTIME_DIR": str(folder),
            "HOME": str(folder),
            "ALSA_CONFIG_PATH": f"/usr/share/alsa/alsa.conf:{folder}/asoundrc",
        }
        self._server: subprocess.Popen[bytes] | None = None
        self._players: list[subprocess.Popen[bytes]] = []
        self._modules: dict[str, str] = {}
        (folder / "asoundrc").write_text(
            "\n".join(
                f'pcm.{name} {{ type pulse device "{name}.monitor" hint {{ show on description "{name}" }} }}'
                for name in [*sinks, "piped"]
            )
        )

    def start(self) -> None:
        """Start the server with all its sinks."""
        (self.folder / "native").unlink(missing_ok=True)
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit"]
        command += ["--use-pid-file=no", f"--log-target=file:{self.folder}/log"]
        command += ["-L", f"module-native-protocol-unix auth-anonymous=1 socket={self.folder}/native"]
        self._server = subprocess.Popen(
            command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 20
        while self._pactl("info", check=False).returncode != 0:
            if time.monotonic() > deadline or self._server.poll() is not None:
                raise RuntimeError(f"pulseaudio does not start: {(self.folder / 'log').read_text()}")
            time.sleep(0.05)
        for name in self.sinks:
            self.load(name)

    def load(self, name: str) -> None:
        """Plug the microphone `name` in."""
        rate, channels = self.sinks[name]
        arguments = [f"sink_name={name}", f"rate={rate}", f"channels={channels}"]
        # Without norewinds sound comes in blocks of 2 s, as of no microphone, and until the first one ALSA's
        # plug-in keeps a core busy.
        arguments += [f"channel_map={MAPS[channels]}", "format=float32le", "norewinds=1"]
        self._modules[name] = self._pactl("load-module", "module-null-sink", *arguments).stdout.strip()

    def load_pipe(self, rate: int) -> Path:
        """Plug the microphone `piped` in: it delivers what is written to the pipe returned, as mono s16le."""
        pipe = self.folder / "pipe"
        arguments = [
            "source_name=piped.monitor",
            f"file={pipe}",
            f"rate={rate}",
            "channels=1",
            "format=s16le",
        ]
        self._modules["piped"] = self._pactl("load-module", "module-pipe-source", *arguments).stdout.strip()
        return pipe

    def unload(self, name: str) -> None:
        """Unplug the microphone `name`."""
        self._pactl("unload-module", self._modules.pop(name))

    def suspend(self, name: str, suspended: bool) -> None:
        """The microphone `name` stays, but delivers nothing; or goes on."""
        self._pactl("suspend-sink", name, str(int(suspended)))

    def kill(self) -> None:
        """The server dies at once."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None

    def freeze(self) -> None:
        """The server hangs, with all of its connections open."""
        assert self._server is not None
        self._server.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """The server goes on after freeze()."""
        assert self._server is not None
        self._server.send_signal(signal.SIGCONT)

    def play(self, name: str, samples: Float32, rate: int) -> subprocess.Popen[bytes]:
        """Play `samples` (n,) or (n, channels) into the microphone `name`."""
        path = self.folder / f"play{len(self._players)}.wav"
        soundfile.write(path, samples, rate, subtype="FLOAT")
        player = subprocess.Popen(
            ["paplay", f"--device={name}", f"--channel-map={MAPS[samples[0].size]}", str(path)],
            env=self.env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._players.append(player)
        return player

    def stop(self) -> None:
        """End everything that was started."""
        for player in self._players:
            player.kill()
            player.wait()
        if self._server is not None:
            self.thaw()
        self.kill()

    def _pactl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pactl", *arguments], env=self.env, check=check, capture_output=True, text=True, timeout=60
        )


@contextmanager
def pulse_server(**sinks: int | tuple[int, int]) -> Iterator[PulseServer]:
    """A running PulseServer with one microphone for each `name=rate_hz` or `name=(rate_hz, channels)`.

    Skips the test, loudly, where the programs are not installed.
    """
    if lacks := missing():
        pytest.skip(f"NO REAL AUDIO TESTED: not installed: {lacks}")
    # The path of a Unix socket holds about 100 characters: pytest's tmp_path is too long.
    with tempfile.TemporaryDirectory(prefix="pulse-", ignore_cleanup_errors=True) as folder:
        server = PulseServer(
            Path(folder),
            {name: sink if isinstance(sink, tuple) else (sink, 1) for name, sink in sinks.items()},
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()


def tone(frequency_hz: float, level_dbfs: float, seconds: float, rate: int) -> Float32:
    """(n,): a sine whose root mean square is `level_dbfs`."""
    amplitude = np.sqrt(2) * 10 ** (level_dbfs / 20)
    samples: Float32 = np.sin(
        2 * np.pi * frequency_hz * np.arange(round(seconds * rate)) / rate, dtype=np.float32
    )
    return samples * np.float32(amplitude)
