"""What goes wrong in the soak and when: five lanes of faults side by side, each with a thread of its own.

The schedule is a function of seed and length alone. Lanes know nothing of each other, so that faults meet:
the disk is full while the broker is away and the clock jumps.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.soak_scene import Fault, Scene

HOUR_S = 3600.0
APART_S = {"sound": (65.0, 100.0)}  # a device that lasts for less than a minute is reopened later and later
HOG_MB = 600
HOG = f"""
import time
hog = bytearray({HOG_MB} << 20)
while True:
    for at in range(0, len(hog), 4096):
        hog[at] = hog[at] + 1 & 255
    time.sleep(0.05)
"""


@dataclass(frozen=True)
class Kind:
    """A kind of fault."""

    name: str
    lasts_s: tuple[float, float]
    begin: Callable[[], None]
    end: Callable[[], None]


@dataclass(frozen=True)
class Planned:
    """One fault of the schedule; times count from the start of the daemon."""

    lane: str
    kind: str
    start_s: float
    end_s: float


@dataclass
class Happened:
    """A fault as it came; times on the monotonic clock."""

    lane: str
    kind: str
    start_s: float
    end_s: float = float("inf")
    error: str = ""


def machine_faults(rng: random.Random, start_s: float, end_s: float) -> tuple[Fault, ...]:
    """Faults of a simulated machine, long enough to be found and far enough apart to clear."""
    faults: list[Fault] = []
    at_s = start_s + rng.uniform(0, 10)
    apart_s = (15.0, 25.0) if end_s - start_s < 300 else (30.0, 150.0)
    while at_s + 20 < end_s:
        lasts_s = rng.uniform(8, 14)
        faults.append((at_s, at_s + lasts_s, rng.choice(("bearing", "rattle"))))
        at_s += lasts_s + rng.uniform(*apart_s)
    return tuple(faults)


def schedule(
    kinds: Mapping[str, list[tuple[str, tuple[float, float]]]], seed: int, start_s: float, end_s: float
) -> list[Planned]:
    """For each lane its faults one after another; every kind of a lane comes before one comes again."""
    planned = []
    short = end_s - start_s < 300
    for lane, choices in kinds.items():
        rng = random.Random(f"{seed} {lane}")
        deck: list[tuple[str, tuple[float, float]]] = []
        at_s = start_s + rng.uniform(0, 5 if short else 30)
        while True:
            deck = deck or rng.sample(choices, len(choices))
            kind, (least_s, most_s) = deck.pop()
            lasts_s = rng.uniform(least_s, min(most_s, least_s + 3) if short else most_s)
            if at_s + lasts_s > end_s:
                break
            planned.append(Planned(lane, kind, at_s, at_s + lasts_s))
            at_s += lasts_s + rng.uniform(*((4, 7) if short else APART_S.get(lane, (15, 90))))
    return planned


class Lanes:
    """Carries the schedule out."""

    def __init__(self, scene: Scene, reload: Callable[[], None], seed: int) -> None:
        self._scene = scene
        self._reload = reload
        self._seed = seed
        self._stop = threading.Event()
        self._hog: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self.happened: list[Happened] = []
        self.kinds = {lane: kinds for lane, kinds in self._lanes().items() if kinds}

    def start(self, start_s: float, end_s: float) -> list[Planned]:
        """Begin, with a schedule between two times that count from now."""
        known = {lane: [(kind.name, kind.lasts_s) for kind in kinds] for lane, kinds in self.kinds.items()}
        planned = schedule(known, self._seed, start_s, end_s)
        now_s = time.monotonic()
        for lane in self.kinds:
            own = [fault for fault in planned if fault.lane == lane]
            self._threads.append(threading.Thread(target=self._run, args=(own, now_s)))
            self._threads[-1].start()
        return planned

    def join(self) -> None:
        """Wait for the end of the last fault."""
        for thread in self._threads:
            thread.join()

    def stop(self) -> None:
        """End every fault now."""
        self._stop.set()
        self.join()

    def _run(self, planned: list[Planned], began_s: float) -> None:
        for fault in planned:
            kind = next(kind for kind in self.kinds[fault.lane] if kind.name == fault.kind)
            if self._stop.wait(max(0.0, began_s + fault.start_s - time.monotonic())):
                return
            came = Happened(fault.lane, fault.kind, time.monotonic())
            self.happened.append(came)
            for act in (kind.begin, kind.end):
                try:
                    act()
                except Exception as error:  # noqa: BLE001 - the report says it; the other lanes go on
                    came.error += f"{type(error).__name__}: {error} "
                if act == kind.begin:
                    self._stop.wait(max(0.0, began_s + fault.end_s - time.monotonic()))
            came.end_s = time.monotonic()

    def _lanes(self) -> dict[str, list[Kind]]:
        scene, broker, sound = self._scene, self._scene.broker, self._scene.sound
        well = self._configured()
        lanes = {
            "broker": [
                Kind("broker stopped", (4, 60), broker.stop, broker.start),
                Kind("broker killed", (4, 60), broker.kill, broker.start),
                Kind("broker frozen", (4, 60), broker.freeze, broker.thaw),
            ],
            "configuration": [
                Kind("SIGHUP, another delay", (2, 20), self._configured(on_delay_s=3), well),
                Kind("SIGHUP, a machine more", (8, 40), self._configured(guest=True), well),
                Kind("SIGHUP, a mistake", (2, 20), self._configured(wrong="    bnak: x\n"), well),
                Kind("SIGHUP, not YAML", (2, 20), self._configured(wrong="]{"), well),
            ],
            "computer": [Kind("memory pressure", (4, 30), self._press, self._relieve)],
        }
        if scene.jumping_clock:
            lanes["computer"] += [self._clock_jump(name, s) for name, s in JUMPS.items()]
        if scene.small_disk:
            lanes["disk"] = [Kind("disk full", (4, 60), self._fill, self._free)]
        if sound is not None:
            lanes["sound"] = [
                Kind("sound server frozen", (5, 20), sound.freeze, sound.thaw),
                Kind("sound server killed", (3, 20), sound.kill, sound.start),
            ]
            for name in scene.players:
                for kind, lasts_s, act in (
                    ("unplugged", (3, 30), self._plugged),
                    ("suspended", (3, 30), self._suspended),
                    ("faulty", (10, 15), self._faulty),
                ):
                    lanes["sound"].append(Kind(f"{name} {kind}", lasts_s, act(name, True), act(name, False)))
        return lanes

    def _configured(
        self, *, guest: bool = False, on_delay_s: float = 2, wrong: str = ""
    ) -> Callable[[], None]:
        def act() -> None:
            self._scene.configure(guest=guest, on_delay_s=on_delay_s, wrong=wrong)
            self._reload()

        return act

    def _clock_jump(self, name: str, offset_s: float) -> Kind:
        set_clock = self._scene.set_clock
        return Kind(name, (3, 30), lambda: set_clock(offset_s), lambda: set_clock(0))

    def _plugged(self, name: str, un: bool) -> Callable[[], None]:
        return lambda: self._scene.set_sink(name, plugged=not un)

    def _suspended(self, name: str, suspended: bool) -> Callable[[], None]:
        sound = self._scene.sound
        assert sound is not None
        return lambda: sound.suspend(name, suspended)

    def _faulty(self, name: str, faulty: bool) -> Callable[[], None]:
        return lambda: self._scene.players[name].set_fault(faulty)

    def _press(self) -> None:
        self._hog = subprocess.Popen(["nice", sys.executable, "-c", HOG])

    def _relieve(self) -> None:
        if self._hog is not None:
            self._hog.send_signal(signal.SIGKILL)
            self._hog.wait()

    def _fill(self) -> None:
        with (self._scene.state / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def _free(self) -> None:
        (self._scene.state / "filler").unlink()


JUMPS = {
    "clock 1 h ahead": HOUR_S,
    "clock 1 h behind": -HOUR_S,
    "clock 60 days ahead": 60 * 24 * HOUR_S,
    "clock 26 years behind": -26 * 365.25 * 24 * HOUR_S,
}
"""Two jumps each: there and back."""
