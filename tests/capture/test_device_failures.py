"""Every way in which a microphone fails, on a real PortAudio and PulseAudio, at real time.

All scenarios run at once, each with a sound server of its own; the tests then look at what each has seen.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.listening import Listener, gaps, now_s
from tests.support.pulse import PulseServer, missing, pulse_server, tone

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

Seen = dict[str, Any]
SCENARIOS: dict[str, Callable[[], Seen]] = {}


def scenario(run: Callable[[], Seen]) -> Callable[[], Seen]:
    SCENARIOS[run.__name__] = run
    return run


@pytest.fixture(scope="module")
def seen() -> Iterator[dict[str, Future[Seen]]]:
    if lacks := missing():
        pytest.skip(f"NO REAL AUDIO TESTED: not installed: {lacks}")
    with ThreadPoolExecutor(len(SCENARIOS)) as pool:
        yield {name: pool.submit(run) for name, run in SCENARIOS.items()}


class Scene:
    """A server with a 1 kHz tone in every microphone, and a listener that hears all of them."""

    def __init__(self, server: PulseServer, **rates: int) -> None:
        self.server = server
        for name, rate in server.sinks.items():
            server.play(name, tone(1000, -20, 120, rate[0]), rate[0])
        self.rates = list(rates.values())
        self.began_s = now_s()
        self.listener = Listener(server, *(f"{name}:{rate}:1" for name, rate in rates.items()))

    def __enter__(self) -> Scene:
        try:
            for ear in range(len(self.rates)):
                self.listener.wait_for(ear, state="running")
        except BaseException:
            self.listener.kill()
            raise
        time.sleep(2)
        return self

    def __exit__(self, *error: object) -> None:
        self.listener.kill()

    def finish(self) -> Seen:
        """Close; for each ear: its gaps, what was counted as lost, and clock time not accounted for."""
        closed_s = self.listener.end()["closed_s"]
        ears = []
        for ear, rate in enumerate(self.rates):
            heard = self.listener.heard(ear)
            told = [line for line in self.listener.told if line.get("ear") == ear]
            first, last = told[[("start" in line) for line in told].index(True)], told[-1]
            between_s = last["at_s"] - first["at_s"]
            ears.append(
                {
                    "gaps_s": [missing / rate for _, missing in gaps(heard["index"])],
                    "missing": sum(missing for _, missing in gaps(heard["index"])),
                    "lost": last["lost"],
                    "unaccounted_s": between_s - (last["end"] - first["n"]) / rate,
                    "jumps": phase_jumps(heard["samples"][:, 0], heard["index"], rate),
                    "utc_error_s": abs((heard["utc"][1] - heard["utc"][0]) - len_s(heard["index"], rate)),
                    "told": told,
                }
            )
        return {"closed_s": closed_s, "ears": ears}


def len_s(index: Any, rate: int) -> float:
    return float(index[-1] - index[0]) / rate


def phase_jumps(samples: Any, index: Any, rate: int) -> int:
    """How often the 1 kHz tone loses its phase against the absolute index, gaps aside: samples lost unsaid.

    A server's player and its sink share one clock, so that the phase drifts by next to nothing.
    """
    block = rate // 50  # 20 periods
    whole = len(samples) // block * block
    start = index[:whole:block]
    straight = index[block - 1 : whole : block] - start == block - 1
    turns = np.exp(-2j * np.pi * 1000 * np.arange(block) / rate)
    phasor = samples[:whole].reshape(-1, block) @ turns * np.exp(-2j * np.pi * 1000 * start / rate)
    loud = np.abs(phasor) > 0.01 * block * 0.1
    neighbours = straight[1:] & straight[:-1] & loud[1:] & loud[:-1] & (np.diff(start) == block)
    turned = np.abs(np.angle(phasor[1:] / np.where(loud[:-1], phasor[:-1], 1)))
    return int(np.count_nonzero(turned[neighbours] > 0.3))


def account(ear: Seen, jumps: int = 0) -> None:
    """What holds after any failure: nothing is missing that is not counted, and time runs on."""
    assert ear["lost"] == ear["missing"]
    assert abs(ear["unaccounted_s"]) < 1  # 0.7 was seen of a sound server on a busy PC
    assert ear["utc_error_s"] < 1  # what is promised of an event's time
    assert ear["jumps"] <= jumps


def undisturbed(ear: Seen, jumps: int = 0) -> None:
    account(ear, jumps)
    assert ear["gaps_s"] == []
    assert ear["lost"] == 0


@scenario
def unloaded() -> Seen:
    """The only microphone is unplugged for 4 s."""
    with pulse_server(mic=16_000) as server, Scene(server, mic=16_000) as scene:
        gone_s = now_s()
        server.unload("mic")
        lost = scene.listener.wait_for(state="lost")
        time.sleep(4)
        there_s = now_s()
        server.load("mic")
        server.play("mic", tone(1000, -20, 60, 16_000), 16_000)
        back = scene.listener.wait_for(state="running", losses=1)
        time.sleep(2)
        return scene.finish() | {
            "noticed_s": lost["at_s"] - gone_s,
            "back_s": back["at_s"] - there_s,
            "lost": lost,
        }


def test_unplugged_and_back(seen: dict[str, Future[Seen]]) -> None:
    got = seen["unloaded"].result()
    account(got["ears"][0])
    (gap_s,) = got["ears"][0]["gaps_s"]
    assert got["noticed_s"] < 5
    assert got["back_s"] < 30
    assert gap_s == pytest.approx(4 + got["back_s"], abs=1)
    assert "stopped" in got["lost"]["error"]
    assert got["lost"]["since"] is not None


@scenario
def moved() -> Seen:
    """One of two is unplugged: PulseAudio feeds its stream from the other one, without a word."""
    with (
        pulse_server(mic=48_000, other=16_000) as server,
        Scene(server, mic=48_000, other=16_000) as scene,
    ):
        gone_s = now_s()
        server.unload("mic")
        lost = scene.listener.wait_for(state="lost")
        time.sleep(3)
        there_s = now_s()
        server.load("mic")
        back = scene.listener.wait_for(state="running", losses=1)
        time.sleep(2)
        return scene.finish() | {
            "noticed_s": lost["at_s"] - gone_s,
            "back_s": back["at_s"] - there_s,
            "lost": lost,
        }


def test_moved_to_another_source_is_noticed_and_the_other_loses_nothing(
    seen: dict[str, Future[Seen]],
) -> None:
    got = seen["moved"].result()
    assert got["lost"]["error"].endswith("connected it to another source: from mic.monitor to other.monitor")
    assert got["noticed_s"] < 20
    assert got["back_s"] < 30
    (gap_s,) = got["ears"][0]["gaps_s"]
    assert gap_s == pytest.approx(3 + got["back_s"], abs=1)
    assert got["ears"][0]["lost"] == got["ears"][0]["missing"]
    # A null sink may render anew, with a jump in its sound, when a second listener is moved to it; on a
    # busy PC more than once. Nothing is lost all the same, which is what `undisturbed` looks at.
    undisturbed(got["ears"][1], jumps=3)


@scenario
def killed() -> Seen:
    """The sound server dies, and is there again after 3 s."""
    with pulse_server(mic=16_000, other=16_000) as server, Scene(server, mic=16_000, other=16_000) as scene:
        server.kill()
        time.sleep(3)
        there_s = now_s()
        server.start()
        backs = [scene.listener.wait_for(ear, state="running", losses=1) for ear in (0, 1)]
        time.sleep(2)
        return scene.finish() | {"back_s": [back["at_s"] - there_s for back in backs]}


def test_sound_server_killed_and_back(seen: dict[str, Future[Seen]]) -> None:
    got = seen["killed"].result()
    for ear, back_s in zip(got["ears"], got["back_s"], strict=True):
        account(ear)
        (gap_s,) = ear["gaps_s"]
        assert back_s < 10
        assert gap_s == pytest.approx(3 + back_s, abs=1)


@scenario
def frozen() -> Seen:
    """The sound server hangs for 20 s; later it hangs again while the listener closes."""
    with pulse_server(mic=16_000) as server, Scene(server, mic=16_000) as scene:
        frozen_s = now_s()
        server.freeze()
        lost = scene.listener.wait_for(state="lost")
        time.sleep(20 - (now_s() - frozen_s))
        server.thaw()
        thawed_s = now_s()
        back = scene.listener.wait_for(state="running", losses=1)
        time.sleep(2)
        server.freeze()
        time.sleep(0.3)
        return scene.finish() | {
            "noticed_s": lost["at_s"] - frozen_s,
            "back_s": back["at_s"] - thawed_s,
            "lost": lost,
        }


def test_sound_server_frozen_for_20_s(seen: dict[str, Future[Seen]]) -> None:
    got = seen["frozen"].result()
    assert 1.5 <= got["noticed_s"] < 15
    assert "no sound came for 2 s" in got["lost"]["error"]
    assert got["back_s"] < 30
    account(got["ears"][0])
    (gap_s,) = got["ears"][0]["gaps_s"]
    assert gap_s == pytest.approx(20 + got["back_s"], abs=1.5)
    assert got["closed_s"] < 2  # though the server was frozen again


@scenario
def suspended() -> Seen:
    """The microphone is there, but delivers nothing for 4 s."""
    with pulse_server(mic=16_000) as server, Scene(server, mic=16_000) as scene:
        server.suspend("mic", True)
        scene.listener.wait_for(state="lost")
        time.sleep(2)
        server.suspend("mic", False)
        on_s = now_s()
        back = scene.listener.wait_for(state="running", losses=1)
        time.sleep(2)
        return scene.finish() | {"back_s": back["at_s"] - on_s}


def test_source_suspended_and_resumed(seen: dict[str, Future[Seen]]) -> None:
    got = seen["suspended"].result()
    assert got["back_s"] < 30
    account(got["ears"][0])
    assert len(got["ears"][0]["gaps_s"]) == 1


@scenario
def stalled() -> Seen:
    """This process holds the interpreter's lock for 5 s: no callback can run."""
    with pulse_server(mic=48_000) as server, Scene(server, mic=48_000) as scene:
        scene.listener.hold()
        time.sleep(14)
        return scene.finish()


@scenario
def stopped() -> Seen:
    """This process is stopped for 35 s: longer than PulseAudio keeps a backlog."""
    with pulse_server(mic=48_000) as server, Scene(server, mic=48_000) as scene:
        scene.listener.process.send_signal(signal.SIGSTOP)
        time.sleep(35)
        scene.listener.process.send_signal(signal.SIGCONT)
        time.sleep(12)
        return scene.finish()


def test_callbacks_stalled_for_5_s_lose_nothing(seen: dict[str, Future[Seen]]) -> None:
    undisturbed(seen["stalled"].result()["ears"][0])  # the sound server kept the backlog


def test_what_neither_server_nor_ring_kept_while_the_process_was_stopped_is_counted(
    seen: dict[str, Future[Seen]],
) -> None:
    """PulseAudio drops what does not fit without a word: the clock tells, some seconds later."""
    ear = seen["stopped"].result()["ears"][0]
    account(ear, jumps=10)  # until the clock told, and PulseAudio may drop it piece by piece
    assert 5 <= sum(ear["gaps_s"]) <= 35


@scenario
def slow() -> Seen:
    """A device whose crystal is 5 % slow: 45600 samples a second that call themselves 48000."""
    ended = threading.Event()
    with contextlib.ExitStack() as last, pulse_server() as server:
        pipe = server.load_pipe(48_000)
        feeder = threading.Thread(target=feed, args=(pipe, 45_600, ended))
        last.callback(feeder.join)  # after the server: a pipe that it no longer reads holds a write for ever
        feeder.start()
        listener = Listener(server, "piped:48000:1")
        try:
            running = listener.wait_for(state="running")
            lost = listener.wait_for(state="lost", timeout_s=60)
            listener.end()
        finally:
            listener.kill()
            ended.set()
    return {"lost": lost, "after_s": lost["at_s"] - running["at_s"]}


def feed(pipe: Path, rate: int, ended: threading.Event) -> None:
    samples = (1000 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)).astype("<i2")
    with pipe.open("wb", buffering=0) as out, contextlib.suppress(BrokenPipeError):
        began_s, written = time.monotonic(), 0
        while not ended.wait(0.01):
            due = int((time.monotonic() - began_s) * rate)
            out.write(np.take(samples, np.arange(written, due), mode="wrap").tobytes())
            written = due


def test_a_wrong_rate_is_noticed(seen: dict[str, Future[Seen]]) -> None:
    got = seen["slow"].result()
    assert 30 <= got["after_s"] < 60
    assert "against 48000 Hz" in got["lost"]["error"]


@scenario
def absent() -> Seen:
    """A microphone that is not there at start, while another one is; then it comes."""
    with pulse_server(mic=16_000, other=16_000) as server:
        server.unload("mic")
        listener = Listener(server, "mic:16000:1", "other:16000:1")
        try:
            listener.wait_for(1, state="running")
            time.sleep(6)
            states = [told["state"] for told in listener.told if told.get("ear") == 0]
            server.load("mic")
            there_s = now_s()
            back = listener.wait_for(state="running")
            time.sleep(1)
            listener.end()
        finally:
            listener.kill()
        return {"states": states, "back_s": back["at_s"] - there_s, "other": gaps(listener.heard(1)["index"])}


def test_a_device_that_is_missing_at_start_is_waited_for(seen: dict[str, Future[Seen]]) -> None:
    got = seen["absent"].result()
    assert got["states"] == ["waiting"]
    assert got["back_s"] < 30
    assert got["other"] == []
