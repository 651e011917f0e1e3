"""Real programs as sources: that print sound, stop, flood, freeze, print nothing, leave children behind."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
import structlog

from echo_stream.capture.command import Command
from echo_stream.capture.reconnect import SupervisedSource
from echo_stream.capture.source import AudioSource
from echo_stream.core.errors import SourceError
from echo_stream.core.level import level_dbfs
from echo_stream.core.log_limit import LogLimit
from echo_stream.core.types import AudioBlock

RATE = 8000
PRINTER = """
import sys, time, math, struct
wave = struct.pack('<800h', *[int(8000 * math.sin(2 * math.pi * 440 * n / 8000)) for n in range(800)])
began = time.monotonic()
for piece in range(int(sys.argv[1])):
    sys.stdout.buffer.write(wave)
    sys.stdout.buffer.flush()
    time.sleep(max(0.0, began + 0.1 * (piece + 1) - time.monotonic()))
"""
PRINT = [sys.executable, "-c", PRINTER]
LIMIT_S = 60.0


def until(found: Callable[[], bool], step: Callable[[], object] = lambda: None) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not found():
        assert time.monotonic() < deadline, "it never came"
        step()
        time.sleep(0.01)


def drain(source: AudioSource, blocks: list[AudioBlock]) -> None:
    while (block := source.read()) is not None:
        blocks.append(block)


def samples_of(blocks: list[AudioBlock]) -> int:
    return sum(len(block.samples) for block in blocks)


def error_of(source: Command) -> SourceError:
    """Reads until the source raises."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            source.read()
        except SourceError as error:
            return error
        time.sleep(0.005)
    raise AssertionError("it never raised")


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


@pytest.fixture
def supervised() -> Iterator[Callable[..., SupervisedSource]]:
    made: list[SupervisedSource] = []

    def make(argv: list[str], *, silent_s: float = 5.0, grace_s: float = 30.0) -> SupervisedSource:
        limit = LogLimit("messages")
        made.append(
            SupervisedSource(
                lambda: Command(argv, RATE, limit=limit),
                sample_rate_hz=RATE,
                channels=1,
                description="command",
                silent_s=silent_s,
                grace_s=grace_s,
            )
        )
        return made[-1]

    yield make
    for source in made:
        source.close()


def test_what_a_program_prints_is_heard_with_its_level_and_every_sample() -> None:
    with closing(Command([*PRINT, "10"], RATE)) as source:
        blocks: list[AudioBlock] = []
        with pytest.raises(SourceError, match=r"command 'python.*' ended with exit code 0"):
            until(lambda: False, lambda: drain(source, blocks))
    heard = np.concatenate([block.samples[:, 0] for block in blocks])
    assert len(heard) == RATE
    assert [block.start for block in blocks] == [0, *np.cumsum([len(b.samples) for b in blocks])[:-1]]
    assert level_dbfs(heard) == pytest.approx(20 * np.log10(8000 / 2**15 / np.sqrt(2)), abs=0.1)


def test_no_shell_sees_the_arguments(tmp_path: Path) -> None:
    odd = f"$(touch {tmp_path}/shell); touch {tmp_path}/shell"
    with closing(Command(["/bin/echo", odd, "x" * 100], RATE, "s16le")) as source:
        error_of(source)
    assert list(tmp_path.iterdir()) == []


def test_a_program_that_ends_is_started_again_with_a_gap_of_the_time_between(
    supervised: Callable[..., SupervisedSource],
) -> None:
    source, blocks = supervised([*PRINT, "5"]), list[AudioBlock]()
    until(lambda: source.losses == 1, lambda: drain(source, blocks))
    assert (source.state, samples_of(blocks)) == ("lost", 4000)
    assert "ended with exit code 0" in str(source.last_error)
    until(lambda: samples_of(blocks) > 6000, lambda: drain(source, blocks))
    assert source.state == "running"
    back = next(block for block in blocks if block.gap)
    assert back.start >= 4000 + RATE  # the first wait is a second
    assert source.lost_samples == back.start - 4000


def test_a_program_that_freezes_is_ended_and_started_again(
    supervised: Callable[..., SupervisedSource], tmp_path: Path
) -> None:
    """SIGSTOP: it neither prints nor ends, and does not take SIGTERM."""
    pids = tmp_path / "pids"
    program = f"import os; open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n{PRINTER}"
    source = supervised([sys.executable, "-c", program, "1000"], silent_s=0.6)
    blocks: list[AudioBlock] = []
    until(lambda: samples_of(blocks) > 1600, lambda: drain(source, blocks))
    frozen = int(pids.read_text())
    os.kill(frozen, signal.SIGSTOP)
    until(lambda: source.losses == 1, lambda: drain(source, blocks))
    assert "no sound came for 1 s" in str(source.last_error)
    until(lambda: not lives(frozen))
    until(lambda: source.state == "running", lambda: drain(source, blocks))
    assert len(pids.read_text().split()) == 2


def test_a_program_that_prints_nothing_keeps_waiting_and_is_said(
    supervised: Callable[..., SupervisedSource],
) -> None:
    source = supervised(["/bin/sleep", "1000"], grace_s=0.5)
    until(lambda: source.last_error is not None, source.read)
    assert (source.state, source.losses) == ("waiting", 0)
    assert "no sound came for" in str(source.last_error)


def test_a_program_that_floods_is_an_error_before_it_fills_anything() -> None:
    with closing(Command(["/bin/cat", "/dev/zero"], RATE)) as source:
        began_s = time.monotonic()
        error = error_of(source)
        assert "prints sound faster than it can have sounded" in error.message
        assert source.last_callback[1] / RATE < 10.5 + time.monotonic() - began_s + 0.5
    assert not lives(source._process.pid)


def test_silence_that_goes_on_for_ever_is_still_sound_here() -> None:
    """A program that prints zeros runs; that its sensor is dead is for the sensor's watch to say."""
    zeros = "while dd if=/dev/zero bs=1600 count=1; do sleep 0.1; done 2>/dev/null"
    with closing(Command(["/bin/sh", "-c", zeros], RATE)) as source:
        blocks: list[AudioBlock] = []
        until(lambda: samples_of(blocks) > 2000, lambda: drain(source, blocks))
        assert not np.concatenate([block.samples for block in blocks]).any()


@pytest.mark.parametrize("stubborn", [False, True])
def test_close_ends_a_program_with_its_children(tmp_path: Path, stubborn: bool) -> None:
    pids = tmp_path / "pids"
    trap = "trap '' TERM; " if stubborn else ""
    script = f"{trap}sleep 1000 & echo $! > {pids}.part; mv {pids}.part {pids}; wait; wait; wait"
    source = Command(["/bin/sh", "-c", script], RATE)
    until(pids.exists, source.read)
    child = int(pids.read_text())
    assert lives(child)
    began_s = time.monotonic()
    source.close()
    source.close()
    assert not lives(source._process.pid)
    until(lambda: not lives(child))
    assert time.monotonic() - began_s < 5


def test_children_that_outlive_their_parent_go_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    source = Command(["/bin/sh", "-c", f"sleep 1000 & echo $! > {pids}; exit 3"], RATE)
    until(lambda: pids.exists() and bool(pids.read_text()), source.read)
    child = int(pids.read_text())
    source.close()
    until(lambda: not lives(child))


def test_messages_are_logged_clean_limited_and_without_passwords() -> None:
    """Progress by carriage returns, escape sequences, a login in an address, no line's end."""
    script = (
        "import sys; e = sys.stderr.buffer; e.write(b'opening rtsp://me:geheim@cam/1\\n\\x1b[31mred\\xff\\n')\n"
        "for n in range(500): e.write(b'frame %d\\r' % n)\n"
        "e.write(b'x' * 100000 + b'\\nrtsp://me:geheim@cam/1: 401 Unauthorized'); e.flush(); sys.exit(7)"
    )
    with (
        structlog.testing.capture_logs() as logs,
        closing(Command([sys.executable, "-c", script], RATE)) as source,
    ):
        error = error_of(source)
    said = [line["text"] for line in logs if "text" in line]
    assert said[:3] == ["opening rtsp://***@cam/1", "?[31mred\ufffd", "frame 0"]
    assert len(said) == 10
    assert "geheim" not in str(logs) + str(error)
    assert "ended with exit code 7: rtsp://***@cam/1: 401 Unauthorized" in error.message


def test_a_flood_of_messages_does_not_hold_the_sound_up() -> None:
    flood = "for _ in range(3000): sys.stderr.write('x' * 999 + chr(10))"
    script = (
        f"import sys, threading\ndef flood():\n    {flood}\nthreading.Thread(target=flood).start()\n{PRINTER}"
    )
    with closing(Command([sys.executable, "-c", script, "10"], RATE, limit=LogLimit("messages"))) as source:
        blocks: list[AudioBlock] = []
        until(lambda: samples_of(blocks) == RATE, lambda: drain(source, blocks))


def test_a_program_learns_nothing_of_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    with closing(Command(["/bin/sh", "-c", "echo got $NOTIFY_SOCKET $PPID >&2; exit 1"], RATE)) as source:
        assert f"got {os.getpid()}" in error_of(source).message


def test_floats_in_a_unit_of_their_own_have_no_full_scale() -> None:
    program = "import sys, struct, time; sys.stdout.buffer.write(struct.pack('<80f', *[9.81] * 80)); "
    program += "sys.stdout.flush(); time.sleep(100)"
    source = SupervisedSource(
        lambda: Command([sys.executable, "-c", program], RATE, "f32le"),
        sample_rate_hz=RATE,
        channels=1,
        description="command",
    )
    with closing(source):
        assert source.full_scale == 1.0
        until(lambda: source.state == "running", source.read)
        assert source.full_scale == np.inf


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no-such-program"], "'no-such-program' is not in "),
        (["/no/such/program"], "'/no/such/program' is not there"),
        ([__file__], "is not there, or may not be executed"),
    ],
)
def test_what_cannot_be_started(argv: list[str], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        Command(argv, RATE)


def test_a_file_that_is_no_program_cannot_be_started(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("no program")
    path.chmod(0o755)
    with pytest.raises(SourceError, match="cannot be started: Exec format error"):
        Command([str(path)], RATE)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed (apt-get install ffmpeg)")
def test_ffmpeg_hears_an_rtsp_stream_that_goes_and_comes_back(
    supervised: Callable[..., SupervisedSource], tmp_path: Path
) -> None:
    """ffmpeg is both ends: one waits for the stream that the other announces, as a camera's recorder does."""
    import socket
    import subprocess

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"rtsp://127.0.0.1:{free.getsockname()[1]}/mic"
    quiet = ["ffmpeg", "-hide_banner", "-loglevel", "warning"]
    source = supervised(
        [*quiet, "-rtsp_flags", "listen", "-i", url, "-ac", "1", "-ar", f"{RATE}", "-f", "s16le", "-"]
    )
    blocks: list[AudioBlock] = []

    def camera() -> subprocess.Popen[bytes]:
        tone = ["-re", "-f", "lavfi", "-i", "sine=frequency=440:sample_rate=8000"]
        sent = ["-c:a", "pcm_mulaw", "-f", "rtsp", "-rtsp_transport", "tcp", url]
        return subprocess.Popen([*quiet, *tone, *sent], stdin=subprocess.DEVNULL)

    for loss in range(2):
        sending = camera()
        try:
            wanted = samples_of(blocks) + 3 * RATE

            def listen() -> None:
                nonlocal sending
                drain(source, blocks)
                if sending.poll() is not None:  # nobody listened yet
                    time.sleep(0.3)
                    sending = camera()

            until(lambda wanted=wanted: samples_of(blocks) > wanted, listen)  # type: ignore[misc]
        finally:
            sending.kill()
            sending.wait()
        until(lambda loss=loss: source.losses > loss, lambda: drain(source, blocks))  # type: ignore[misc]
    heard = np.concatenate([block.samples[:, 0] for block in blocks])[-2 * RATE :]
    line = int(np.argmax(np.abs(np.fft.rfft(heard)[5:]))) + 5
    assert line / 2 == pytest.approx(440, abs=2)
