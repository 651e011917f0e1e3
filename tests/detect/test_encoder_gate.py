"""The encoder gate: which windows are left out, what score they have, and that no alarm comes of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import pytest

from echo_stream.alarm.condition import Condition
from echo_stream.core.errors import BankError
from echo_stream.core.types import GATE_EVERY, EncoderIdentity, Enrolled, Features, Float64, Score, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.encoder_gate import GateWatch
from echo_stream.detect.scorer import Scorer

EVERY = 4
IDENTITY = EncoderIdentity("echo", 1, "0" * 64, {GATE_EVERY: EVERY})


def features(value: float, rng: np.random.Generator, dim: int) -> Features:
    """Of a sound whose every feature lies at a value."""
    window = (value + rng.standard_normal((3, dim))).astype(np.float32)
    segments = (value + rng.standard_normal((12, 3, dim))).astype(np.float32)
    bands_hz = np.array([[0, 100], [100, 200], [200, 400]], np.float32)
    return Features(window, segments, bands_hz, -20.0 + value)


def both(own: float, gate: float, rng: np.random.Generator) -> Features:
    """Of the costly encoder (dim 8), with those of the gate (dim 6)."""
    return replace(features(own, rng, 8), gate=features(gate, rng, 6))


def fit(identity: EncoderIdentity = IDENTITY, gate: bool = True) -> NormalBank:
    rng = np.random.default_rng(1)
    made = [both(0.0, 0.0, rng) for _ in range(120)]
    made = made if gate else [replace(each, gate=None) for each in made]
    enrolled = [Enrolled(each, "take", float(i)) for i, each in enumerate(made)]
    return NormalBank.fit(enrolled, encoder=identity, sample_rate_hz=100, window_s=2.0, hop_s=1.0)


@pytest.fixture(scope="module")
def bank() -> NormalBank:
    return fit()


class Hop(NamedTuple):
    encoded: bool
    score: Score
    whole: float
    """Score of the window if it is encoded."""


def walk(
    bank: NormalBank, own: Float64, gate: Float64, *, lowest: float = np.inf, machine: str = "m"
) -> list[Hop]:
    """What the pipeline does, window by window."""
    assert bank.gate is not None
    watch, scorer, rng = GateWatch(bank.gate), Scorer(bank), np.random.default_rng(2)
    hops = []
    for i, (a, b) in enumerate(zip(own, gate, strict=True)):
        heard = both(float(a), float(b), rng)
        assert heard.gate is not None
        window = Window(machine, np.zeros(200, np.float32), 100 * i, 100 * i + 200, 100, datetime.now(UTC))
        whole = scorer.score_one(heard)
        needed = watch.needs(window, heard.gate, alarmed=False, lowest=lowest)
        _, score = watch.take(heard, whole) if needed else watch.hold(heard.gate)
        hops.append(Hop(needed, score, whole.value))
        assert score.level_dbfs == (heard if needed else heard.gate).level_dbfs
    return hops


def test_normal_sound_is_encoded_each_fourth_hop_and_a_little_more(bank: NormalBank) -> None:
    hops = walk(bank, np.zeros(120), np.zeros(120))
    assert 1 / EVERY <= np.mean([hop.encoded for hop in hops]) <= 1 / 2.5
    left_out = "".join("x" if hop.encoded else "." for hop in hops)
    assert "...." not in left_out
    assert "..." in left_out


def test_what_the_gate_hears_is_encoded_at_once_and_what_only_echo_hears_from_then_on(
    bank: NormalBank,
) -> None:
    quiet, change = np.zeros(40), np.where(np.arange(40) >= 20, 8.0, 0.0)
    assert all(hop.encoded for hop in walk(bank, quiet, change)[20:32])
    only_echo = walk(bank, change, quiet, lowest=4.0)
    first = next(i for i in range(20, 40) if only_echo[i].encoded)
    assert first < 20 + EVERY
    assert all(hop.encoded for hop in only_echo[first:])


@pytest.mark.parametrize("seed", range(3))
def test_scores_over_a_level_are_a_part_of_those_without_the_gate(bank: NormalBank, seed: int) -> None:
    """Trip levels that were fitted for every window promise no less behind the gate."""
    rng = np.random.default_rng(seed)
    own = np.repeat(rng.choice([0.0, 0.0, 0.0, 0.5, 3.0], 80), rng.integers(1, 8, 80))
    trip, clear = 6.0, 4.0
    hops = walk(bank, own, np.zeros(len(own)), lowest=clear)
    conditions = [Condition(trip, clear, on_delay=300, off_delay=0) for _ in range(2)]
    raised = [0, 0]
    for i, hop in enumerate(hops):
        assert hop.score.value == hop.whole or hop.score.value <= clear
        for way, value in enumerate((hop.score.value, hop.whole)):
            was = conditions[way].active
            conditions[way].step(value, 100 * i, 100 * i + 200)
            raised[way] += conditions[way].active and not was
    assert 0 < raised[0] <= raised[1]


def test_another_day_is_in_the_middle_after_some_minutes(bank: NormalBank) -> None:
    moved = walk(bank, np.zeros(300), np.full(300, 1.5))
    assert all(hop.encoded for hop in moved[:20])
    assert np.mean([hop.encoded for hop in moved[150:]]) < 0.5


def test_machines_that_begin_together_are_not_encoded_together(bank: NormalBank) -> None:
    walks = [walk(bank, np.zeros(30), np.zeros(30), machine=f"m{n}") for n in range(12)]
    shares = np.mean([[hop.encoded for hop in hops[1:]] for hops in walks], axis=0)
    together = shares == 1.0  # they hear the same: what is not in the middle is encoded for all
    assert together.mean() < 0.4
    assert shares[~together].max() <= 0.6


def test_a_gap_and_a_standing_alarm_have_every_window_encoded(bank: NormalBank) -> None:
    assert bank.gate is not None
    rng = np.random.default_rng(3)
    middle = min(
        (both(0.0, 0.0, rng) for _ in range(30)), key=lambda each: Scorer(bank).score_one(each).value
    )
    gate = middle.gate
    assert gate is not None
    watch = GateWatch(replace(bank.gate, limit=1e6))

    def needs(i: int, *, alarmed: bool = False) -> bool:
        window = Window("a", np.zeros(200, np.float32), 100 * i, 100 * i + 200, 100, datetime.now(UTC))
        found = watch.needs(window, gate, alarmed=alarmed)
        watch.take(middle, Scorer(bank).score_one(middle)) if found else watch.hold(gate)
        return found

    assert needs(0)
    [needs(i) for i in range(1, 5)]
    assert [needs(i, alarmed=True) for i in range(5, 9)] == [True] * 4
    assert not needs(9)
    assert needs(20), "sound was lost between"


def test_a_bank_keeps_its_gate(bank: NormalBank, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("gate") / "bank.safetensors"
    bank.save(path)
    loaded = NormalBank.load(path)
    assert loaded.sha256 == bank.sha256
    assert loaded.gate is not None
    assert bank.gate is not None
    assert loaded.gate.plain() == bank.gate.plain()
    heard = features(0.3, np.random.default_rng(4), 6)
    assert loaded.gate.look(heard) == bank.gate.look(heard)


def test_trip_levels_are_those_of_every_window(bank: NormalBank) -> None:
    ungated = fit(replace(IDENTITY, dimensions={}))
    assert ungated.gate is None
    assert np.array_equal(np.concatenate(bank.held_out), np.concatenate(ungated.held_out))


def test_windows_without_features_of_the_gate_are_refused() -> None:
    with pytest.raises(BankError, match="no spectral features"):
        fit(gate=False)
