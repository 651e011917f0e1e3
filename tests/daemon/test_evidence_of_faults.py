"""The daemon's own evidence names the fault: real bank, real daemon, each kind of fault of the simulator."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from echo_stream.capture.simulator import FAULT_KINDS, FaultKind, SimulatedMachine
from echo_stream.detect.bank import NormalBank
from echo_stream.evidence.picture import draw
from echo_stream.evidence.store import list_events
from tests.support.broker import MosquittoBroker, mosquitto
from tests.support.daemon import SIMULATED, daemon, fitted

SEED, RATE_HZ, FAULT_S, PRE_ROLL_S = 5, 16_000, 20.0, 10.0
MACHINE = """\
  - id: {id}
    source:
      kind: simulated
      seed: {seed}
      sample_rate_hz: {rate}
      pace: fast
      duration_s: 60
      start_s: 200
      faults: [{{kind: {id}, start_s: {fault_s}, end_s: 1000}}]
    bank: banks/{id}.safetensors
"""


@pytest.fixture(scope="module")
def documents(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, dict[str, Any]], NormalBank]:
    """The document of the first alarm of each kind of fault, and the bank that all three machines have."""
    folder = tmp_path_factory.mktemp("faults")
    with mosquitto(folder) as broker:
        return _watch(folder, broker)


def _watch(folder: Path, broker: MosquittoBroker) -> tuple[dict[str, dict[str, Any]], NormalBank]:
    head = (
        f"node: pc7\nstate_dir: state\nmqtt: {{host: 127.0.0.1, port: {broker.port}}}\n"
        f"evidence: {{min_free_mb: 0, pre_roll_s: {PRE_ROLL_S:g}}}\nmachines:\n"
    )
    fitted(folder, SIMULATED.format(seed=SEED, rate_hz=RATE_HZ, enrolled_s=90))
    bank = folder / "banks" / "pump3.safetensors"
    for kind in FAULT_KINDS:
        shutil.copy(bank, folder / "banks" / f"{kind}.safetensors")
    machines = [MACHINE.format(id=kind, seed=SEED, rate=RATE_HZ, fault_s=FAULT_S) for kind in FAULT_KINDS]
    (folder / "config.yaml").write_text(head + "".join(machines))
    with daemon(folder) as process:
        assert process.wait(timeout=180) == 0, (folder / "log").read_text()
    found: dict[str, dict[str, Any]] = {}
    for kept in list_events(folder / "state" / "evidence"):
        if kept.machine not in found:
            draw(kept.document)  # which says what is louder; the end may have interrupted it
            found[kept.machine] = json.loads(kept.document.read_text())
    return found, NormalBank.load(bank)


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_the_document_names_the_louder_band(
    documents: tuple[dict[str, dict[str, Any]], NormalBank], kind: FaultKind
) -> None:
    found, _ = documents
    machine = SimulatedMachine(SEED, RATE_HZ)
    where_hz = {"bearing": machine.resonance_hz, "imbalance": machine.shaft_hz, "rattle": machine.rattle_hz}
    first = found[kind]["changes"][0]
    assert first["change"] == "louder"
    assert first["peak_hz"] == pytest.approx(where_hz[kind], rel=0.2)
    assert first["low_hz"] <= first["peak_hz"] <= first["high_hz"]
    assert first["by_db"] > 3


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_it_is_compared_with_the_normal_sound_of_the_bank(
    documents: tuple[dict[str, dict[str, Any]], NormalBank], kind: FaultKind
) -> None:
    found, bank = documents
    assert bank.calibration is not None
    assert found[kind]["normal"] == bank.calibration.spectra["normal"].to_json()


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_the_sound_before_the_alarm_counts_from_the_onset(
    documents: tuple[dict[str, dict[str, Any]], NormalBank], kind: FaultKind
) -> None:
    clip = documents[0][kind]["clip"]
    assert clip["onset_s"] == pytest.approx(PRE_ROLL_S, abs=0.1)
    assert clip["alarm_s"] > PRE_ROLL_S + 6  # the on-delay is 7 s from the first full window
