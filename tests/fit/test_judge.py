"""A sound called normal is a state of its own; every later bank finds confirmed faults, or it is said."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import Simulated
from echo_stream.config.load import load
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Verdict
from echo_stream.core.errors import BankError
from echo_stream.core.types import AlarmLevel
from echo_stream.detect.bank import NormalBank
from echo_stream.fit.fit import extend, recordings
from echo_stream.fit.judge import check_known_faults, known_faults, require_faults_found
from echo_stream.fit.summary import Fitted, compared, comparison_text
from echo_stream.fit.versions import BankVersions
from echo_stream.history.sample import FAULTS
from echo_stream.pipeline.factory import build_encoder
from tests.support.daemon import PUMP, fitted

RATE_HZ = 8000


def hear(folder: Path, name: str, seconds: float, start_s: float, kind: str | None = None) -> Path:
    faults = [] if kind is None else [(0.0, 1e6, kind)]
    source = Simulated(5, RATE_HZ, faults, pace="fast", duration_s=seconds, start_s=start_s)  # type: ignore[arg-type]
    blocks = []
    while not source.ended:
        if (block := source.read()) is not None:
            blocks.append(block.samples[:, 0])
    path = folder / name
    soundfile.write(path, np.concatenate(blocks), RATE_HZ, subtype="PCM_24")
    return path


class Site:
    """One machine whose normal sound was learnt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config.yaml").write_text(PUMP)
        fitted(folder)

    @property
    def config(self) -> Config:
        return load(self.folder / "config.yaml")

    @property
    def machine(self) -> Machine:
        return self.config.machines[0]

    def bank(self, bank_id: str) -> NormalBank:
        return NormalBank.load(BankVersions(self.machine.bank).path_of(bank_id))

    def answer(self, sound: Path, *, own_state: bool = True) -> Fitted:
        return extend(
            self.config,
            self.machine,
            self._sound(sound),
            condition=None,
            accept=False,
            progress=_quiet,
            trimmed=False,
            own_state=own_state,
        )

    def _sound(self, path: Path):  # type: ignore[no-untyped-def]
        return recordings(self.config, self.machine, [path])

    def confirm_fault(self, event_id: str, kind: str) -> Path:
        """As the daemon keeps the clip of an alarm that a person called a fault."""
        folder = self.config.state_dir / FAULTS / "pump3"
        folder.mkdir(parents=True, exist_ok=True)
        name = f"20261120T080000Z_pump3_{event_id}"
        clip = hear(folder, f"{name}.flac", 17, 3000, kind)
        event = {"event_id": event_id, "machine": "pump3", "ts": "2026-11-20T08:00:00Z", "level": "alarm"}
        document = {"event": event, "complete": True, "clip": {"onset_s": 0.0, "alarm_s": 7.0}}
        clip.with_suffix(".json").write_text(json.dumps(document))
        return clip


def _quiet(*_: object) -> None:
    pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site(tmp_path_factory.mktemp("site"))


def alarm_level(fitted: Fitted) -> float:
    return fitted.levels[AlarmLevel.ALARM].level


def test_far_sound_is_a_state_of_its_own_and_near_sound_joins_its_state(site: Site) -> None:
    rattle = site.answer(hear(site.folder, "rattle.wav", 17, 2000, "rattle"))
    assert rattle.change is not None
    before = rattle.change.levels[AlarmLevel.ALARM].level
    assert rattle.change.state.startswith("learnt-")
    assert set(rattle.conditions) == {"normal", rattle.change.state}
    assert alarm_level(rattle) < 1.1 * before
    within = site.answer(site.folder / "rattle.wav", own_state=False)
    assert alarm_level(within) > 5 * before, "what a state of its own saves"
    near = site.answer(hear(site.folder, "near.wav", 17, 700))
    assert near.change is not None
    assert near.change.state == "normal"
    assert near.conditions == ("normal",)


def test_confirmed_faults_are_a_regression_set(site: Site) -> None:
    config, machine = site.config, site.machine
    encoder, old = build_encoder(config, machine), site.bank("b1")
    assert known_faults(config, machine, encoder, old) == []
    assert check_known_faults(machine, old, []) == []
    clip = site.confirm_fault("01KB5GZ1P0W3V6F1Q2Z8Y7X5RT", "bearing")
    site.confirm_fault("01KB5GZ1P0W3V6F1Q2Z8Y7X5RV", "rattle")
    faults = known_faults(config, machine, encoder, old)
    assert [len(each.features) for each in faults] == [6, 6]
    assert [c.verdict for c in check_known_faults(machine, old, faults)] == [Verdict.OK]

    learnt = site.answer(hear(site.folder, "bearing.wav", 17, 2000, "bearing"))
    found = {each.event_id[-2:]: each for each in _events(learnt)}
    assert (found["RT"].confirmed, found["RT"].lost, found["RV"].lost) == (True, True, False)
    (check,) = [check for check in learnt.checks if check.name == "Known faults"]
    assert check.verdict is Verdict.WARN
    assert "1 of 2 confirmed faults would not be found again" in check.finding
    assert "CONFIRMED FAULT, NO LONGER FOUND" in learnt.to_text()
    new = site.bank(learnt.bank_id)
    with pytest.raises(BankError, match="would no longer be found: 2026-11-20T08:00:00"):
        require_faults_found(config, machine, encoder, old, new)
    require_faults_found(config, machine, encoder, old, old)
    beside = compared(config, machine, learnt.bank_id)
    assert "NO LONGER FOUND" in comparison_text(beside)

    clip.unlink()  # the features are kept beside the sound
    assert _features(known_faults(config, machine, encoder, old)) == pytest.approx(
        _features(faults), abs=1e-2
    )
    clip.with_suffix(".safetensors").write_bytes(b"damaged")
    assert len(known_faults(config, machine, encoder, old)) == 1


def _events(fitted: Fitted) -> Sequence:  # type: ignore[type-arg]
    assert fitted.change is not None
    return fitted.change.events


def _features(faults: Sequence) -> list[float]:  # type: ignore[type-arg]
    return [float(each.window.sum()) for fault in faults for each in fault.features]
