"""A bank's calibration through JSON: every part, those of older versions, and damaged ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from echo_stream.core.calibration import BankCalibration, NormalSpectrum, SensorLimits
from echo_stream.core.errors import BankError

SPECTRUM = {
    "sample_rate_hz": 16_000,
    "low_db": [-80.0, -70.5],
    "median_db": [-70.0, -60.0],
    "high_db": [-60.0, -50.0],
}
SAVED: dict[str, Any] = {
    "version": 1,
    "hop_s": 1.0,
    "runs": [[0.5, -0.25, 1.0], [2.125]],
    "sensor": {"quietest_dbfs": -31.0, "loudest_dbfs": -28.0, "most_hum": 0.3, "most_rumble": 0.05},
    "spectra": {"idle": SPECTRUM, "load": SPECTRUM},
}


@pytest.mark.parametrize("without", [(), ("spectra",), ("spectra", "sensor")])
def test_a_calibration_is_written_as_it_was_read(without: tuple[str, ...]) -> None:
    """A bank's id is the hash of its file: an older bank must not get another one by being read."""
    saved = {key: value for key, value in SAVED.items() if key not in without}
    calibration = BankCalibration.from_json(saved)
    assert json.dumps(calibration.to_json()) == json.dumps(saved)
    assert set(calibration.spectra) == (set() if "spectra" in without else {"idle", "load"})
    assert (calibration.sensor is None) == ("sensor" in without)


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"hop_s": 0.0},
        {"hop_s": "soon"},
        {"runs": "no"},
        {"runs": [[[1.0]]]},
        {"runs": [[float("nan")]]},
        {"sensor": {"quietest_dbfs": "low"}},
        {"sensor": {"loudness": 3.0}},
        {"sensor": {**SAVED["sensor"], "most_hum": float("inf")}},
        {"spectra": [1]},
        {"spectra": {"idle": {}}},
        {"spectra": {"idle": {**SPECTRUM, "low_db": [-80.0]}}},
        {"spectra": {"idle": {**SPECTRUM, "low_db": [-80.0, None]}}},
        {"spectra": {"idle": {**SPECTRUM, "sample_rate_hz": 0}}},
    ],
)
def test_a_damaged_calibration_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(BankError, match=r"calibration|limits|spectrum"):
        BankCalibration.from_json({**SAVED, **damage})


@pytest.mark.parametrize("missing", ["version", "hop_s", "runs"])
def test_a_calibration_that_lacks_a_part_is_refused(missing: str) -> None:
    with pytest.raises(BankError, match=missing):
        BankCalibration.from_json({key: value for key, value in SAVED.items() if key != missing})


def test_limits_of_the_sensor() -> None:
    limits = SensorLimits.fit([-31.0, -28.0], [0.1, 0.3], [0.05])
    assert limits == SensorLimits(-31.0, -28.0, 0.3, 0.05)
    assert SensorLimits.widest([limits, SensorLimits(-40.0, -29.0, 0.1, 0.2)]) == SensorLimits(
        -40.0, -28.0, 0.3, 0.2
    )
    with pytest.raises(BankError, match="no level"):
        SensorLimits.fit([])


def test_two_enrolments_of_one_state_are_one_spectrum() -> None:
    a, b = (
        NormalSpectrum(16_000, m - 5, m, m + 5) for m in (np.array([-60.0, -50.0]), np.array([-54.0, -53.0]))
    )
    both = NormalSpectrum.joined([a, b], [30, 10])
    assert both.low_db.tolist() == [-65.0, -58.0]
    assert both.high_db.tolist() == [-49.0, -45.0]
    assert both.median_db.tolist() == [-58.5, -50.75]
