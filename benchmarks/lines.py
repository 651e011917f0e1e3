"""Named lines are counted: right ones on simulated bearings, false ones on normal recordings.

`python -m benchmarks.lines` simulates; with a folder of recordings it also asks those: for each of many
speeds a bearing is assumed, and each line that is named on held-out normal sound is false. The broken tooth
of the gearboxes (their files are called 30 Hz) should be named 1x or 2x.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from echo_stream.core.types import Float32, Float64
from echo_stream.evidence.lines import lines_hz, name_lines

BEARING_6205 = (9, 7.94, 39.04, 0.0)
RATE_HZ = 16_000
NORMAL_CLIPS, NORMAL_S, PRESENT_S = 8, 10.0, 15.0
SPEEDS_RPM = (650, 750, 960, 1480, 1800, 2400, 2950, 3550)
MOST_CLIPS = 8
Defect = Literal["BPFO", "BPFI", "2xBSF", ""]


def bearing_sound(
    draw: np.random.Generator, seconds: float, rpm: float, defect: Defect, over_noise_db: float = 0.0
) -> Float32:
    """A shaft with its lines in noise, and impacts of a defect that make a resonance ring.

    After McFadden and Smith, 1984: the impacts of an inner race or a ball come and go on its way through the
    load zone; their times slip by 1 %, and the speed is up to 1 % off.

    Args:
        draw: of all that is random.
        seconds: length.
        rpm: as the nameplate says.
        defect: which race or ball; empty: none.
        over_noise_db: power of the impacts over that of the noise, over the whole bandwidth.
    """
    n, shaft_hz = round(seconds * RATE_HZ), rpm / 60 * draw.uniform(0.99, 1.01)
    at_s = np.arange(n) / RATE_HZ
    noise: Float64 = draw.normal(0, 1, n)
    sound = noise + sum(
        draw.uniform(0.2, 0.6) * np.sin(2 * np.pi * (k * shaft_hz * at_s + draw.uniform())) for k in (1, 2, 3)
    )
    if defect:
        every_s = 1 / (lines_hz(rpm, None, BEARING_6205)[defect] * shaft_hz / (rpm / 60))
        times_s = np.cumsum(every_s * draw.normal(1, 0.01, int(seconds / every_s)))
        turns_hz = {
            "BPFO": 0.0,
            "BPFI": shaft_hz,
            "2xBSF": lines_hz(60 * shaft_hz, None, BEARING_6205)["FTF"],
        }[defect]
        heights = np.maximum(0, np.cos(2 * np.pi * turns_hz * times_s)) if turns_hz else np.ones(len(times_s))
        hits = np.zeros(n)
        np.add.at(hits, np.minimum(n - 1, np.round(times_s * RATE_HZ).astype(int)), heights)
        after_s = np.arange(round(0.02 * RATE_HZ)) / RATE_HZ
        ring = np.exp(-after_s / 0.0012) * np.sin(2 * np.pi * 3_600 * after_s)
        rung = np.convolve(hits, ring)[:n]
        sound += rung * 10 ** (over_noise_db / 20) / np.sqrt(np.mean(rung**2))
    return (0.01 * sound).astype(np.float32)


def simulated(over_noise_db: float, machines: int) -> Iterator[tuple[str, list[str]]]:
    """Each defect, and the names that were found, of so many machines at speeds of their own."""
    for seed in range(machines):
        draw = np.random.default_rng(seed)
        rpm = float(draw.uniform(900, 3200))
        normals = [bearing_sound(draw, NORMAL_S, rpm, "") for _ in range(NORMAL_CLIPS)]
        expected = lines_hz(rpm, None, BEARING_6205)
        for defect in ("", "BPFO", "BPFI", "2xBSF"):
            present = bearing_sound(draw, PRESENT_S, rpm, defect, over_noise_db)
            band_hz = (3_200.0, 4_000.0) if defect else None
            yield defect, [each.name for each in name_lines(present, normals, RATE_HZ, expected, band_hz)]


def false_names(
    present: Sequence[Float32], normals: Sequence[Float32], rate_hz: int, *, louder: bool = False
) -> tuple[int, int]:
    """How many of all (clip, speed) have a line named, and how many there are."""
    named = asked = 0
    for clip in present:
        for rpm in SPEEDS_RPM:
            for band_hz in [(0.2 * rate_hz, 0.25 * rate_hz)] if louder else [None]:
                expected = lines_hz(rpm, 23, BEARING_6205)
                named += bool(name_lines(clip, normals, rate_hz, expected, band_hz))
                asked += 1
    return named, asked


def _read(paths: Sequence[Path]) -> tuple[list[Float32], int]:
    sounds, rate_hz = [], 0
    for path in paths:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
        sounds.append(samples[:, 0])
    return sounds, rate_hz


def recordings(folder: Path) -> None:
    """Print what is named on recordings."""
    for place in sorted({path.parents[1] for path in folder.glob("*/*/train/normal_*")}):
        normals, rate_hz = _read(sorted(place.glob("train/normal_*"))[: 2 * MOST_CLIPS])
        held_out, _ = _read(sorted(place.glob("test/normal_*"))[:MOST_CLIPS])
        if not held_out:
            normals, held_out = normals[::2], normals[1::2]
        named, asked = false_names(held_out, normals, rate_hz)
        in_band, asked_in_band = false_names(held_out, normals, rate_hz, louder=True)
        print(
            f"{place.name:14s} false names: {named} of {asked}, in a given band {in_band} of {asked_in_band}"
        )
        broken = sorted(place.glob("test/anomaly_brokentooth*"))
        if broken:
            faults, _ = _read(broken)
            for what, clips in (("broken tooth", faults), ("normal", held_out)):
                found = Counter(
                    f"{each.name}{' (envelope)' if each.modulates else ''}"
                    for clip in clips
                    for each in name_lines(clip, normals, rate_hz, lines_hz(1800))
                )
                print(f"  {what} at 1800 rpm, {len(clips)} clips: {dict(found) or 'nothing'}")


def main() -> None:
    """Print all."""
    for over_noise_db in (0.0, -6.0, -12.0, -18.0):
        found: dict[str, Counter[str]] = {}
        machines = 20
        for defect, names in simulated(over_noise_db, machines):
            of = found.setdefault(defect, Counter())
            of["named first" if names[:1] == [defect] else "named" if defect in names else "missed"] += bool(
                defect
            )
            of["another bearing line"] += any(
                name not in (defect, "1x", "2x", *(("FTF",) if defect == "2xBSF" else ())) for name in names
            )
            of["any line"] += bool(names)
        for defect, counts in found.items():
            print(
                f"{over_noise_db:5.0f} dB  {defect or 'none':6s} of {machines}: {dict(+counts)}", flush=True
            )
    if len(sys.argv) > 1:
        recordings(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
