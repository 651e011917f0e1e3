"""Lines of the rotating parts are named where an alarm shows them: shaft, gear mesh, bearing.

A mechanic who reads 'modulated with 87.4 Hz = BPFO (87.2)' knows which part to look at. Named is only what
stands out of its surroundings and was not there in the normal sound that is kept beside the bank. Pure numpy;
runs in the process that draws the picture.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from echo_stream.core.types import Float32, Float64

FRAME_S: Final = 2.0
"""Of a spectrum: lines 0.5 Hz apart are told from each other."""
TOLERANCE: Final = 0.02
"""How far a line may be from where it is expected: slip of motor and balls, a rounded nameplate."""
LEAST_RISE_DB: Final = 6.0
"""So much more than in every normal clip: a machine's own lines come and go with its load."""
_RARE_Z: Final = 4.26
"""A bin of noise stands out so far once in 100,000."""
_MARGIN_DB: Final = 2.0
"""Beyond what chance allows: surroundings are not quite flat."""
_AROUND_HZ: Final = 8.0
"""The surroundings of a line, to either side."""
_LEAST_WIDTH: Final = 4.0
"""Width of a band whose envelope is looked at, in units of the highest line: or that could not be in it."""
_TOLD: Final = 3
SHAFT: Final = ("1x", "2x")
MESH: Final = "gear mesh"
_RACES: Final = ("BPFO", "BPFI", "2xBSF")


def lines_hz(
    rpm: float, gear_teeth: int | None = None, bearing: tuple[int, float, float, float] | None = None
) -> dict[str, float]:
    """Where the lines of a shaft, its gear and its bearing lie (Randall and Antoni, 2011, equations 1 to 4).

    Args:
        rpm: turns of the shaft in a minute; the bearing's outer race stands still.
        gear_teeth: of the gear on this shaft.
        bearing: balls, their diameter, the pitch diameter in the same unit, the contact angle in degrees.

    Returns:
        By name: 1x, 2x, gear mesh; BPFO and BPFI (a ball passes a defect of the outer, the inner race),
        2xBSF (a defect of a ball meets both races), FTF (the cage).
    """
    shaft_hz = rpm / 60
    found = {"1x": shaft_hz, "2x": 2 * shaft_hz}
    if gear_teeth is not None:
        found[MESH] = gear_teeth * shaft_hz
    if bearing is not None:
        balls, ball, pitch, angle_deg = bearing
        ratio = ball / pitch * math.cos(math.radians(angle_deg))
        found["BPFO"] = balls / 2 * shaft_hz * (1 - ratio)
        found["BPFI"] = balls / 2 * shaft_hz * (1 + ratio)
        found["2xBSF"] = pitch / ball * shaft_hz * (1 - ratio**2)
        found["FTF"] = shaft_hz / 2 * (1 - ratio)
    return found


@dataclass(frozen=True, slots=True)
class NamedLine:
    """A line that an alarm has and normal sound has not."""

    name: str
    expected_hz: float
    found_hz: float
    by_db: float
    """Above the strongest of all normal clips."""
    modulates: bool
    """It is in the envelope of a band, not in the sound itself."""

    def to_text(self) -> str:
        """For people, such as `modulated with 87.4 Hz = BPFO (87.2)`."""
        is_line = f"{self.found_hz:.1f} Hz = {self.name} ({self.expected_hz:.1f})"
        return (
            f"modulated with {is_line}" if self.modulates else f"louder by {self.by_db:.0f} dB at {is_line}"
        )


def name_lines(
    present: Float32,
    normals: Iterable[Float32],
    sample_rate_hz: int,
    expected_hz: Mapping[str, float],
    band_hz: tuple[float, float] | None = None,
) -> list[NamedLine]:
    """Lines that stand out in the sound of an alarm, or in the envelope of a band; the greatest rise first.

    Args:
        present: (n,) from the onset on; nothing is found in less than a second.
        normals: clips of normal sound in the same unit, each (n,); without any, nothing is named.
        sample_rate_hz: of all of them.
        expected_hz: as `lines_hz` gives it.
        band_hz: what became louder; None: all from 500 Hz on.
    """
    sounds = [each for each in normals if len(each) >= sample_rate_hz]
    if len(present) < sample_rate_hz or not sounds:
        return []
    band_hz = _demodulated_hz(band_hz, sample_rate_hz, expected_hz)
    named = []
    for modulates in (False, True):
        now, *normal = (
            _envelope_lines(each, sample_rate_hz, band_hz) if modulates else _lines(each, sample_rate_hz)
            for each in (present, *sounds)
        )
        for name, hz in expected_hz.items():
            if _looked_for(name, modulates) and hz * (1 + TOLERANCE) < now.top_hz:
                level_db, found_hz = now.peak(hz)
                rise_db = level_db - max(each.peak(hz)[0] for each in normal)
                if (
                    now.stands_out(hz)
                    and rise_db >= LEAST_RISE_DB
                    and _is_its_own(name, found_hz, expected_hz)
                ):
                    named.append(
                        NamedLine(name, round(hz, 2), round(found_hz, 2), round(rise_db, 1), modulates)
                    )
    return _without_sidebands(sorted(named, key=lambda each: -each.by_db), expected_hz)[:_TOLD]


def _without_sidebands(named: list[NamedLine], expected_hz: Mapping[str, float]) -> list[NamedLine]:
    """Without weaker lines that are a stronger one, shifted by the turns of cage or shaft.

    2xBSF + 2 FTF of a ball's defect often lies where BPFI is looked for.
    """
    own: list[NamedLine] = []
    turns_hz = [k * expected_hz[name] for name in ("FTF", "1x") if name in expected_hz for k in (1, 2, 3)]
    for line in named:
        apart_hz = [abs(line.found_hz - other.found_hz) for other in own if other.name in _RACES]
        shifted = any(abs(hz - turn_hz) < 0.5 + turn_hz / 100 for hz in apart_hz for turn_hz in turns_hz)
        if line.name not in _RACES or not shifted:
            own.append(line)
    return own


def _looked_for(name: str, modulates: bool) -> bool:
    """A bearing's lines are weak in the sound itself; a mesh is far too fast for an envelope."""
    return name in SHAFT or (name != MESH if modulates else name == MESH)


def _demodulated_hz(
    band_hz: tuple[float, float] | None, sample_rate_hz: int, expected_hz: Mapping[str, float]
) -> tuple[float, float]:
    """The band whose envelope is looked at: wide enough for the fastest modulation to be in it."""
    top_hz = 0.48 * sample_rate_hz
    if band_hz is None:
        return min(500.0, top_hz / 2), top_hz
    fastest_hz = max(hz for name, hz in expected_hz.items() if name != MESH)
    middle_hz, half_hz = sum(band_hz) / 2, max((band_hz[1] - band_hz[0]) / 2, _LEAST_WIDTH / 2 * fastest_hz)
    return max(1.0, middle_hz - half_hz), min(top_hz, middle_hz + half_hz)


def _is_its_own(name: str, found_hz: float, expected_hz: Mapping[str, float]) -> bool:
    """Whether nothing else is expected nearer to it: another line, or a harmonic of the shaft."""
    if name in SHAFT or name == MESH:
        return True
    harmonic_hz = max(1, round(found_hz / expected_hz["1x"])) * expected_hz["1x"]
    others_hz = [hz for other, hz in expected_hz.items() if other != name]
    return all(abs(found_hz - expected_hz[name]) < abs(found_hz - hz) for hz in (harmonic_hz, *others_hz))


@dataclass(frozen=True, slots=True)
class _Lines:
    """A spectrum in which lines are looked for."""

    levels_db: Float64
    """(bins,)"""
    bin_hz: float
    chance_db: float
    """So far over its surroundings a bin of noise is once in 100,000."""

    @property
    def top_hz(self) -> float:
        return (len(self.levels_db) - 1) * self.bin_hz

    def _bins(self, hz: float, width_hz: float) -> slice:
        return slice(
            max(1, math.floor((hz - width_hz) / self.bin_hz)), math.ceil((hz + width_hz) / self.bin_hz) + 1
        )

    def peak(self, hz: float) -> tuple[float, float]:
        """Level and place of the highest bin where a line may be; the place between bins by a parabola."""
        near = self._bins(hz, TOLERANCE * hz)
        at = near.start + int(np.argmax(self.levels_db[near]))
        level_db = float(self.levels_db[at])
        left, right = (
            float(self.levels_db[at - 1]),
            float(self.levels_db[min(at + 1, len(self.levels_db) - 1)]),
        )
        bend = left - 2 * level_db + right
        shift = 0.5 * (left - right) / bend if bend < 0 else 0.0
        return level_db, (at + max(-0.5, min(0.5, shift))) * self.bin_hz

    def stands_out(self, hz: float) -> bool:
        """Whether the highest bin is further over the middle of its surroundings than noise would be."""
        around = self._bins(hz, TOLERANCE * hz + _AROUND_HZ)
        over_db = self.peak(hz)[0] - float(np.median(self.levels_db[around]))
        return over_db >= self.chance_db + _MARGIN_DB


def _lines(samples: Float32 | Float64, sample_rate_hz: float) -> _Lines:
    """Mean spectrum of frames of 2 s that overlap by half; of shorter sound one frame of all of it."""
    n = min(len(samples), round(FRAME_S * sample_rate_hz))
    window = np.hanning(n)
    frames = range(0, len(samples) - n + 1, max(1, n // 2))
    power = np.zeros(n // 2 + 1)
    for start in frames:
        frame = samples[start : start + n]
        power += np.square(np.abs(np.fft.rfft((frame - frame.mean()) * window)))
    # Frames that overlap by half are worth 1.9 of 2 alone; each gives two degrees of freedom (Welch, 1967).
    part = 2 / (9 * 2 * (0.95 * (len(frames) - 1) + 1))
    chance = (1 - part + _RARE_Z * math.sqrt(part)) ** 3 / (
        1 - part
    ) ** 3  # Wilson and Hilferty, over the median
    levels_db = 10 * np.log10(power / (len(frames) * np.square(window).sum()) + 1e-30)
    return _Lines(levels_db, sample_rate_hz / n, 10 * math.log10(chance))


def _envelope_lines(samples: Float32, sample_rate_hz: int, band_hz: tuple[float, float]) -> _Lines:
    """The same of the squared envelope in a band, in units of its mean: 0 dB does not depend on loudness."""
    first, last = (round(hz * len(samples) / sample_rate_hz) for hz in band_hz)
    band = np.fft.rfft(samples - samples.mean())[first:last]
    # Twice as many samples as bins: a square reaches twice as far up.
    envelope = np.square(np.abs(np.fft.ifft(band, 2 * len(band))))
    mean = float(envelope.mean())
    return _lines(envelope / mean if mean > 0 else envelope, 2 * len(band) * sample_rate_hz / len(samples))
