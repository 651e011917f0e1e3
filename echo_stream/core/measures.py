"""Measures are the physical figures of a calibrated sensor: their names, units and meaning, in one place.

`capture.physical` computes them; history, metrics, page and Home Assistant show whatever is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Final, NamedTuple


class Measure(NamedTuple):
    """What a figure is."""

    text: str
    unit: str
    """Empty where it has none."""


MEASURES: Final[Mapping[str, Measure]] = {
    "velocity_mm_s": Measure("Velocity, RMS 10 to 1000 Hz", "mm/s"),
    "acceleration_m_s2": Measure("Acceleration, RMS", "m/s²"),
    "acceleration_peak_m_s2": Measure("Acceleration, peak", "m/s²"),
    "crest_factor": Measure("Crest factor", ""),
    "kurtosis": Measure("Kurtosis", ""),
    "envelope_m_s2": Measure("Envelope, RMS", "m/s²"),
    "sound_level_db": Measure("Sound level", "dB"),
    "sound_level_dba": Measure("Sound level, A-weighted", "dBA"),
}
"""By name; each name ends with its unit."""

OF_SOUND: Final = frozenset({"sound_level_db", "sound_level_dba"})
"""Those of a microphone; all others are an accelerometer's."""


def middle_and_highest(found: Iterable[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """Median and maximum of each measure over windows, of those that have it."""
    columns: dict[str, list[float]] = {}
    for measured in found:
        for name, value in measured.items():
            columns.setdefault(name, []).append(value)
    return {name: (median(values), max(values)) for name, values in columns.items()}
