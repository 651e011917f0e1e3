"""Listens to microphones as the daemon does and tells what came, one JSON object a line. A subprocess.

Arguments: FOLDER DEVICE:RATE:CHANNELS...; until standard input ends. What was heard is left in FOLDER/<n>.npz
(samples (n, channels), index (n,)). `hold` on standard input holds the interpreter's lock for 5 s: a stall.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from echo_stream.capture.microphone import Microphone, boot_clock
from echo_stream.capture.reconnect import SupervisedSource


def tell(**what: Any) -> None:
    print(json.dumps({"at_s": boot_clock(), **what}), flush=True)


class Capture:
    """One supervised microphone and what it heard."""

    def __init__(self, number: int, device: str, rate: int, channels: int) -> None:
        self.number = number
        self.source = SupervisedSource(
            partial(Microphone, device, rate, channels),
            sample_rate_hz=rate,
            channels=channels,
            description=device,
        )
        self.samples: list[Any] = []
        self.index: list[Any] = []
        self.told: tuple[Any, ...] = ()

    def poll(self) -> None:
        source = self.source
        while (block := source.read()) is not None:
            n = len(block.samples)
            self.samples.append(block.samples)
            self.index.append(np.arange(block.start, block.start + n))
            if block.gap or block.start == 0:
                tell(ear=self.number, start=block.start, n=n, gap=block.gap, lost=source.lost_samples)
        state = (source.state, source.losses)
        if state != self.told:
            error, since = source.last_error, source.lost_since
            tell(
                ear=self.number,
                state=source.state,
                losses=source.losses,
                error=error and error.message,
                since=since and since.isoformat(),
            )
        self.told = state

    def save(self, folder: Path) -> None:
        index, samples = np.concatenate(self.index), np.concatenate(self.samples)
        utc = [self.source.time_of(int(i)).timestamp() for i in (index[0], index[-1])]
        np.savez(folder / f"{self.number}.npz", index=index, samples=samples, utc=utc)
        tell(ear=self.number, lost=self.source.lost_samples, end=int(index[-1]) + 1, utc=utc)


def main(folder: Path, devices: list[str]) -> None:
    ears = [
        Capture(number, device, int(rate), int(channels))
        for number, (device, rate, channels) in enumerate(spec.split(":") for spec in devices)
    ]
    commands = b""
    while True:
        for ear in ears:
            ear.poll()
        if select.select([0], [], [], 0.02)[0]:
            commands = os.read(0, 100)
            if not commands:
                break
            ctypes.PyDLL(None).sleep(5)  # unlike time.sleep, this keeps the interpreter's lock
    for ear in ears:
        if ear.index:
            ear.save(folder)
    began_s = time.monotonic()
    for ear in ears:
        ear.source.close()
    tell(closed_s=time.monotonic() - began_s)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
