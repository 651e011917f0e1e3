"""The month in the plant: what its machines go through, and how what was raised is sorted."""

from __future__ import annotations

import numpy as np

from benchmarks.month import judged, summary
from benchmarks.month_machines import (
    DAY_S,
    EVERY_S,
    FAULTS,
    HOUR_S,
    NOISES_DB,
    ON_S,
    SEVERITIES,
    Hall,
    Key,
    Machine,
    noise_db,
)
from echo_stream.core.types import OFF
from echo_stream.encode.spectral import SpectralEncoder


def machine(kind: str, seed: int = 2) -> Machine:
    return Machine(seed, kind, SpectralEncoder(2.0))


def test_states_come_by_shift_and_day() -> None:
    plant = machine("sudden")
    states = [plant.condition(at_s)[0] for at_s in np.arange(0, 7 * DAY_S, HOUR_S).tolist()]
    assert set(states) == {"load", "idle", OFF}
    assert states[0] == "load", "the first minutes are enrolled"
    assert set(states[6 * 24 :]) == {OFF}, "Sunday"
    gains = [plant.condition(at_s)[1] for at_s in np.arange(0, 10 * DAY_S, 600).tolist()]
    assert -3 <= min(gains) < -1.5 < 1.5 < max(gains) <= 3


def test_faults_come_as_their_kind_says() -> None:
    for kind in FAULTS:
        plant = machine(kind)
        assert plant.severity(plant.begins_s - 1) == 0
        assert plant.severity(plant.ends_s) == 0
        assert plant.condition(plant.begins_s)[0] != OFF
    creeping, intermittent = machine("creeping"), machine("intermittent")
    severities = [creeping.severity(creeping.begins_s + day * DAY_S) for day in range(10)]
    assert severities == sorted(severities)
    assert severities[-1] > SEVERITIES[-3]
    on = [intermittent.severity(intermittent.begins_s + at_s) for at_s in np.arange(0, EVERY_S, 10).tolist()]
    assert sum(on) * 10 == ON_S


def test_what_was_raised_is_sorted() -> None:
    plant = machine("sudden")
    raised = [
        (DAY_S / 2.0, "alarm", "step", Key("load", noise="hiss", noise_db=6.0)),
        (DAY_S / 2.0, "warning", "", Key("load")),
        (plant.begins_s + 30.0, "alarm", "strong", Key("load", severity=1.0, noise="hiss")),
        (plant.begins_s + 60.0, "alarm", "strong", Key("load", severity=1.0)),
        (plant.moved_s + 60.0, "alarm", "step", Key("load", moved=True)),
        (25.0 * DAY_S, "alarm", "slow", Key("load")),
    ]
    found = judged(plant, raised, 30)
    assert (found["first"], found["later"], found["microphone"], found["warnings"]) == (1, 1, 1, 1)
    assert found["of_noise"] == {"first": 1}
    assert (found["found_s"], found["path"]) == (60.0, "strong")
    line = summary([{"kind": "sudden", "ways": found}], "ways", 30)
    assert "sudden 1 of 1 (60 s)" in line
    assert judged(plant, raised[:1], 30)["found_s"] is None


def test_a_noise_is_heard_by_all_and_loudest_where_it_passes() -> None:
    heard_db = [noise_db(seed, 10.0) for seed in range(1, 9)]
    assert heard_db[2] == max(heard_db) == NOISES_DB[-1]
    assert heard_db[-1] == min(heard_db) == NOISES_DB[0]
    hall = Hall(2)
    begin_s, end_s, along_m, noise = hall.passing[5]
    assert hall.at((begin_s + end_s) / 2 - 1) == (along_m, noise)
