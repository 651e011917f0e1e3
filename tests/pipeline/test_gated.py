"""A gated encoder in the corridor, with the bank that it needs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Stop

import numpy as np
import pytest
import soundfile
from safetensors.numpy import save_file

from echo_stream.capture.simulator import Simulated
from echo_stream.config.load import load
from echo_stream.config.schema import EvidenceSettings
from echo_stream.core.calibration import BankCalibration, SensorLimits
from echo_stream.core.errors import BankMismatch, EncoderError
from echo_stream.core.types import AlarmEvent, Enrolled, Features, Window
from echo_stream.daemon.answers import Answers
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.detect.bank import NormalBank
from echo_stream.encode.echo import EchoDimensions, EchoWeights
from echo_stream.encode.encoder import Encoder, GatedEncoder
from echo_stream.encode.runtime import cpu
from echo_stream.encode.runtime_openvino import require_whole_cpu
from echo_stream.evidence.store import Kept
from echo_stream.fit.learn import calibrated, joined_held_out
from echo_stream.fit.propose import propose
from echo_stream.fit.recorded import held_out_places
from echo_stream.fit.session import Enrolment, Session
from echo_stream.fit.versions import BankVersions
from echo_stream.history import sample
from echo_stream.history.sample import STRETCH
from echo_stream.pipeline.factory import build_encoder, build_gate, build_station, load_fitting_bank
from echo_stream.pipeline.looking import Looked, look
from echo_stream.pipeline.loop import encode_windows, listen, read_windows
from echo_stream.pipeline.sources import open_sources
from echo_stream.pipeline.station import Event, Scored, Station
from tests.support.daemon import wait_for

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATE_HZ = 8000
SIZES = EchoDimensions(embed_dim=24, encoder_depth=2, num_heads=3)
ENCODER = (
    "encoder: {kind: echo, weights: net.safetensors, dimensions: {embed_dim: 24, depth: 2, heads: 3}, "
    "runtime: openvino, precision: float32%s}\n"
)
NORMAL, FAULTY = "", ", faults: [{kind: bearing, start_s: 14, end_s: 32}]"


def write_config(
    folder: Path,
    machines: Sequence[str],
    faults: str,
    gate: str = ", gate: auto",
    duration_s: int = 32,
    bank: str = "bank.safetensors",
) -> None:
    lines = ["node: pc7\nstate_dir: state\nevidence: {enabled: false}\n" + ENCODER % gate + "machines:"]
    for name in machines:
        source = (
            f"{{kind: simulated, seed: 3, sample_rate_hz: {RATE_HZ}, pace: fast, "
            f"duration_s: {duration_s}{faults}}}"
        )
        lines.append(f"  - {{id: {name}, bank: {bank}, source: {source}}}")
    (folder / "config.yaml").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a bank of a minute."""
    try:
        require_whole_cpu(os.environ, cpu())
    except EncoderError as error:
        pytest.skip(f"THE GATE WAS NOT TRIED: {error.message}")
    found = tmp_path_factory.mktemp("gated")
    save_file(dict(EchoWeights.random(SIZES).tensors), found / "net.safetensors")
    write_config(found, ["a"], NORMAL)
    config = load(found / "config.yaml")
    encoder = build_encoder(config)
    source = Simulated(3, RATE_HZ, pace="fast", duration_s=61.0, start_s=500.0)
    windows = read_windows(source, window_s=2.0, hop_s=1.0)
    enrolled = [
        Enrolled(features, "take", window.start / RATE_HZ)
        for window, features in encode_windows(encoder, windows)
    ]
    bank = NormalBank.fit(enrolled, encoder=encoder.identity, sample_rate_hz=RATE_HZ, window_s=2.0, hop_s=1.0)
    places = held_out_places(enrolled, window_s=2.0, hop_s=1.0)
    runs = calibrated(joined_held_out(bank, enrolled, places), 1.0).runs
    levels_dbfs = [item.features.level_dbfs for item in enrolled]
    calibration = BankCalibration(hop_s=1.0, runs=runs, sensor=SensorLimits.fit(levels_dbfs), spectra={})
    replace(bank, calibration=calibration).save(found / "bank.safetensors")
    session = Session("normal", "simulated", "", RATE_HZ, "", len(enrolled), 1.0, ("take",))
    enrolment = Enrolment(session, enrolled, {"sensor": SensorLimits.fit(levels_dbfs).to_json()})
    versions = BankVersions(found / "versioned.safetensors")
    versions.add(replace(bank, calibration=calibration), enrolment)
    versions.accept("b1", at="2026-01-01T00:00:00+00:00")
    return found


def walk(
    folder: Path, sampler: FeatureSampler | None = None
) -> tuple[list[Scored], list[Event], dict[str, Station]]:
    config = load(folder / "config.yaml")
    encoder, sources = build_encoder(config), open_sources(config.machines)
    stations = {m.id: build_station(config, m, sources[m.id], encoder) for m in config.machines}
    scored: list[Scored] = []
    events: list[Event] = []
    if sampler is not None:
        for station in stations.values():
            sampler.add_station(station)
    listen(
        lambda: stations,
        encoder,
        on_event=lambda _, event: events.append(event),
        observe=scored.extend,
        stop=Stop(),
        sampled=sampler.add if sampler else lambda *_: None,
        asked=sampler.keeps_next if sampler else lambda _: False,
    )
    return scored, events, stations


def test_normal_sound_is_encoded_now_and_then_and_a_fault_at_once(folder: Path) -> None:
    write_config(folder, ["m1", "m2"], FAULTY)
    scored, events, stations = walk(folder)
    raised = {event.machine for event in events if isinstance(event, AlarmEvent) and event.active}
    assert raised == {"m1", "m2"}
    for name, station in stations.items():
        values = np.array([score.value for window, score in scored if window.machine == name])
        held = np.diff(values) == 0
        assert held[:12].mean() > 0.4, "normal sound"
        assert not held[18:].any(), "the fault"
        watch = station.encoder_gate
        assert watch is not None
        assert watch.counts() == {"left_out": held.sum(), "encoded": (~held).sum() + 1}
        after = build_gate(station.bank, watch)
        assert after is not None
        assert after.counts() == watch.counts(), "a new bank counts on"


class Counted:
    """An encoder that counts its calls."""

    def __init__(self, encoder: Encoder) -> None:
        self.identity, self.computed_by = encoder.identity, encoder.computed_by
        self._encoder, self.calls = encoder, 0

    def encode(self, windows: Sequence[Window]) -> list[Features]:
        self.calls += 1
        return self._encoder.encode(windows)


def test_what_the_gate_leaves_out_waits_for_nobody_and_each_has_its_own_features(folder: Path) -> None:
    """Every third of sixty windows is wanted; those that are not keep the gate's features."""
    encoder = build_encoder(load(folder / "config.yaml"))
    assert isinstance(encoder, GatedEncoder)
    echo = encoder.echo = Counted(encoder.echo)
    rng = np.random.default_rng(0)
    windows = [
        Window(f"m{n}", rng.uniform(-0.1, 0.1, 2 * RATE_HZ).astype(np.float32), 0, 2 * RATE_HZ, RATE_HZ, NOW)
        for n in range(60)
    ]
    found, calls = [], []
    for batch in look(encoder, windows, lambda window, _: int(window.machine[1:]) % 3 == 0):
        found += [each for each in batch if isinstance(each, Looked)]
        calls.append(echo.calls)
    assert calls == [0, 0, 0, 1, 2], "40 left out, then 20 as they are encoded"
    assert sorted(each.window.machine for each in found) == sorted(window.machine for window in windows)
    for each in found:
        assert each.encoded == (int(each.window.machine[1:]) % 3 == 0)
        (alone,) = (encoder.echo if each.encoded else encoder.spectral).encode([each.window])
        assert each.features.window.shape[1] == (24 if each.encoded else 6)
        assert each.features.level_dbfs == alone.level_dbfs


def test_hops_that_a_late_pc_skips_are_not_encoded_at_once_lost_sound_is(folder: Path) -> None:
    """Else what makes a round late makes the next one later: a PC would stay overloaded for minutes."""
    write_config(folder, ["a"], NORMAL)
    config = load(folder / "config.yaml")
    encoder, sources = build_encoder(config), open_sources(config.machines)
    station = build_station(config, config.machines[0], sources["a"], encoder)
    assert isinstance(encoder, GatedEncoder)
    assert station.encoder_gate is not None
    sound = Simulated(3, RATE_HZ, pace="fast", duration_s=60.0, start_s=500.0)
    samples = np.concatenate([block.samples for block in iter(sound.read, None)])[:, 0]
    slicer, needed = station.reader.slicer, []

    def take() -> None:
        cut = slicer.pop()
        assert cut is not None
        start, own = cut
        window = Window("a", own, start, start + len(own), RATE_HZ, NOW)
        (features,) = encoder.spectral.encode([window])
        needed.append(station.needs(window, features, asked=False))
        if needed[-1]:
            (features,) = encoder.encode([window])
        station.score_of(features, encoded=needed[-1])

    at = 0
    for step, lost_s in (
        (2, 0),
        *[(1, 0)] * 11,
        (5, 0),
        *[(5, 0)] * 4,
        *[(1, 0)] * 4,
        (2, 3),
        (2, 3),
        (2, 3),
    ):
        slicer.push(samples[at : at + step * RATE_HZ], at + lost_s * RATE_HZ, gap=lost_s > 0)
        at += (step + lost_s) * RATE_HZ
        slicer.skip_to_newest()
        take()
    assert slicer.skipped_hops >= 16
    assert sum(needed[12:17]) <= 2, "five hops skipped each time: its turn, and no more"
    assert needed[-3:] == [True] * 3, "sound was lost"


def test_what_was_enrolled_keeps_what_the_gate_needs(folder: Path) -> None:
    features = (
        Enrolment.load(BankVersions(folder / "versioned.safetensors").enrolled_of("b1"), "b1")
        .enrolled[0]
        .features
    )
    assert features.gate is not None
    assert features.gate.window.shape[1] == 6


def test_what_is_kept_for_a_proposal_is_encoded_and_proposed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No window of a stretch that is kept repeats the score of the one before."""
    monkeypatch.setattr(sample, "EVERY_S", 6.0)  # times gate_every
    monkeypatch.chdir(folder)
    write_config(folder, ["a"], NORMAL, duration_s=170)
    sampler = FeatureSampler(folder / "state")
    sampler.start()
    _, _, stations = walk(folder, sampler)
    sampler.stop()
    watch = stations["a"].encoder_gate
    assert watch is not None
    assert watch.left_out > 15
    config = load(folder / "config.yaml")
    machine = config.machines[0].model_copy(update={"bank": folder / "versioned.safetensors"})
    found = propose(config, machine, alarms_were_normal=True, faults=[], progress=lambda *_: None)
    assert found.windows["normal"] >= 5 * STRETCH
    learnt = Enrolment.load(BankVersions(machine.bank).enrolled_of(found.bank_id), found.bank_id)
    windows = np.array([item.features.window for item in learnt.enrolled])
    assert np.abs(np.diff(windows, axis=0)).max(axis=(1, 2)).min() > 0
    assert NormalBank.load(found.path).gate is not None


def test_an_alarm_that_was_normal_is_learnt_with_its_gate(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `bank extend`, as a state of its own: no alarm any more, and its sound may be left out."""
    monkeypatch.chdir(folder)  # where the child finds the weights
    write_config(folder, ["a"], NORMAL, bank="versioned.safetensors")
    rattling = Simulated(3, RATE_HZ, [(0.0, 99.0, "bearing")], pace="fast", duration_s=24.0)
    sound = np.concatenate([block.samples for block in iter(rattling.read, None)])
    document = folder / "evidence/a/20260101T000000Z_a_E.json"
    document.parent.mkdir(parents=True)
    document.write_text("{}")
    soundfile.write(document.with_suffix(".flac"), sound, RATE_HZ)
    kept = Kept(document, {"event_id": "E", "machine": "a", "ts": "2026-01-01T00:00:00Z"}, complete=True)
    sampler = FeatureSampler(folder / "state")
    sampler.start()
    answers = Answers(
        folder / "config.yaml",
        folder / "state",
        "pc7",
        lambda *_: None,
        limits=EvidenceSettings(min_free_mb=0),
        sampler=sampler,
    )
    answers.normal(kept, "anna", "", None)

    def answered() -> bool:
        sampler.tick(0.0)  # as the pipeline does: the answer waits until what was heard is written
        found = answers.proposal("a")
        return found is not None and found.state != "running"

    wait_for(answered, 300, "no answer")
    sampler.stop()
    proposal = answers.proposal("a")
    assert proposal is not None
    assert proposal.state == "ready", proposal.said
    assert proposal.bank_id is not None
    versions = BankVersions(folder / "versioned.safetensors")
    learnt = Enrolment.load(versions.enrolled_of(proposal.bank_id), proposal.bank_id).enrolled
    assert all(item.features.gate is not None for item in learnt)
    bank = versions.path_of(proposal.bank_id)
    write_config(folder, ["a"], FAULTY, bank=str(bank), duration_s=50)
    _, events, stations = walk(folder)
    assert not [event for event in events if isinstance(event, AlarmEvent) and event.active]
    watch = stations["a"].encoder_gate
    assert watch is not None
    assert len(watch.gate.references) == 2
    assert watch.left_out > 10


def test_a_bank_of_another_gate_is_refused(folder: Path) -> None:
    write_config(folder, ["a"], NORMAL, gate="")
    config = load(folder / "config.yaml")
    with pytest.raises(BankMismatch, match="gate_every: the bank has 4, asked for is none"):
        load_fitting_bank(config, config.machines[0], build_encoder(config), RATE_HZ)
