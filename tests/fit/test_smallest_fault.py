"""The smallest fault that is announced, found on a real encoder, a real bank and the real ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from echo_stream.alarm.ways import Levels, Timing, Ways
from echo_stream.core.checks import Verdict
from echo_stream.core.errors import BankError
from echo_stream.core.sensitivity import Sensitivity, SmallestFault
from echo_stream.core.types import AlarmPath, Enrolled, Window
from echo_stream.detect.bank import NormalBank
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.fit import report
from echo_stream.fit.announced import Announced, announced
from echo_stream.fit.learn import check_sensitivity
from echo_stream.fit.recorded import Probe, ProbeCollector
from echo_stream.fit.smallest_fault import GAINS_DB, sensitivity_of, thirds_of_octaves
from echo_stream.fit.summary import Fitted, bank_summary, facts
from tests.fit.test_fit import PUMP, Project, write

RATE, WINDOW_S = 8000, 2.0
HIGH = Announced(1e9, 1e8, 1e9, 1e8, None, {})
"""Nothing is announced."""


def noise_windows(n: int, seed: int) -> list[Window]:
    generator = np.random.default_rng(seed)
    samples = generator.normal(0, 0.05, (n, round(RATE * WINDOW_S))).astype(np.float32)
    return [
        Window("m", x, i * len(x), (i + 1) * len(x), RATE, datetime.now(UTC)) for i, x in enumerate(samples)
    ]


@pytest.fixture(scope="module")
def learnt() -> tuple[NormalBank, SpectralEncoder, list[Probe]]:
    encoder, windows = SpectralEncoder(WINDOW_S), noise_windows(60, 1)
    enrolled = [Enrolled(features, "a", i * WINDOW_S) for i, features in enumerate(encoder.encode(windows))]
    bank = NormalBank.fit(
        enrolled, encoder=encoder.identity, sample_rate_hz=RATE, window_s=WINDOW_S, hop_s=WINDOW_S
    )
    return bank, encoder, [Probe("a", window) for window in windows[::6]]


def test_of_noise_every_third_says_what_each_way_takes(
    learnt: tuple[NormalBank, SpectralEncoder, list[Probe]],
) -> None:
    bank, encoder, probes = learnt
    highest = max(float(run.max()) for run in bank.held_out)
    levels = Announced(6 * highest, 5 * highest, 2 * highest, highest, highest / 2, {AlarmPath.STEP: 10.0})
    found = sensitivity_of(bank, encoder, probes, "normal", levels)
    assert found is not None
    thirds = thirds_of_octaves(RATE)
    assert [(each.low_hz, each.high_hz) for each in found.faults] == thirds
    assert thirds[0][0] == pytest.approx(28.06, abs=0.01)
    assert 3000 < thirds[-1][1] < 0.45 * RATE
    assert found.windows >= 2
    for fault in found.faults:
        for gains in (fault.steady_db, fault.impacts_db):
            each = [gains[path] for path in AlarmPath]
            assert all(gain is None or gain in GAINS_DB for gain in each)
            known = [100.0 if gain is None else gain for gain in each]
            assert known == sorted(known, reverse=True), "a slower way takes no more"
    above_200_hz = [fault.steady_db[AlarmPath.STEP] for fault in found.faults if fault.low_hz > 200]
    assert all(gain is not None and gain <= 9 for gain in above_200_hz), "steady noise shows 9 dB anywhere"
    assert not found.blind
    assert Sensitivity.from_json(found.to_json()).to_json() == found.to_json()


def test_a_window_is_scored_without_itself_and_its_neighbours(
    learnt: tuple[NormalBank, SpectralEncoder, list[Probe]],
) -> None:
    bank, encoder, probes = learnt
    found = sensitivity_of(bank, encoder, probes, "normal", HIGH)
    assert found is not None
    assert found.smallest_db is None
    few = replace(bank.references[0], recordings=["a"] * 3, start_s=np.array([0.0, 2.0, 90.0]))
    few = replace(few, window=replace(few.window, normals=few.window.normals[:3]))
    left = replace(bank, references=(few,))
    assert sensitivity_of(left, encoder, probes[:1] * 2, "normal", HIGH) is None


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def fitted(project: Project) -> Fitted:
    return project.fit(write(project.folder, "a", PUMP.sound(60.0)))


def test_it_stands_in_the_bank_in_the_report_and_in_show(project: Project, fitted: Fitted) -> None:
    assert fitted.sensitivity is not None
    assert fitted.sensitivity.paths[:2] == [AlarmPath.STRONG, AlarmPath.STEP]
    assert not fitted.sensitivity.blind
    page = fitted.report.read_text()
    assert "What will be noticed" in page
    assert "How large a fault must be" in page
    shown = facts(project.machine, None)
    assert shown["sensitivity"] == fitted.to_json()["sensitivity"] == fitted.sensitivity.to_json()
    text = bank_summary(shown)
    assert "half of all thirds of an octave raise an alarm" in text
    assert text.count(" Hz   ") >= len(fitted.sensitivity.faults)
    old = bank_summary({**shown, "sensitivity": None})
    assert "fit again to know" in old


def blind(gain_db: float | None) -> Sensitivity:
    gains = dict.fromkeys(AlarmPath, gain_db)
    return Sensitivity((SmallestFault(100, 126, gains, gains),), {AlarmPath.STEP: 10.0}, 4)


@pytest.mark.parametrize("gain_db", [12.0, 30.0, None])
def test_a_bank_that_is_blind_is_red(fitted: Fitted, gain_db: float | None) -> None:
    bank = NormalBank.load(fitted.path)
    assert bank.calibration is not None
    checks = check_sensitivity(replace(bank.calibration, sensitivity=blind(gain_db)))
    assert [check.verdict for check in checks] == [Verdict.FAIL]
    said = replace(fitted, checks=[*fitted.checks, *checks], sensitivity=blind(gain_db))
    assert "smallest fault: nothing" in said.to_text()
    assert said.to_json()["verdict"] == "fail"

    assert "can hardly be watched" in report.verdict(said)
    assert report.cards(said)[0][1] == "hardly anything"


def test_under_twelve_decibels_is_not_blind() -> None:
    assert not blind(9.0).blind


@pytest.mark.parametrize("damage", [{"thirds": 3}, {"windows": "x"}, {"after_s": {"walk": 3}}])
def test_damaged_figures_are_named(damage: dict[str, object]) -> None:
    with pytest.raises(BankError, match="smallest faults are damaged"):
        Sensitivity.from_json({**blind(3.0).to_json(), **damage})


# From which score on.

LEVELS = Levels(strong=20.0, clear=18.0, floor=3.0, per_month=1.0)
TIMING = Timing(sample_rate_hz=100, hop_s=1.0, on_delay_s=7.0, off_delay_s=6.0, dead_band=0.1)


@pytest.fixture(scope="module")
def from_score() -> Announced:
    return announced(LEVELS, TIMING, [np.random.default_rng(3).normal(0, 1, 300)])


def test_the_ways_announce_from_less_and_less_on(from_score: Announced) -> None:
    assert from_score.slow is not None
    assert from_score.strong == 20.0
    assert 3.0 <= from_score.step < 20.0
    assert 0.3 < from_score.slow < from_score.step
    assert list(from_score.after_s.values()) == sorted(from_score.after_s.values())


@pytest.mark.parametrize(
    ("scores", "path"),
    [
        ([25.0, 19.0, 21.0], AlarmPath.STRONG),
        ([25.0, 10.0, 21.0], AlarmPath.STEP),
        ([25.0, 0.0, 4.0], AlarmPath.SLOW),
        ([25.0, 0.0, 0.0], None),
    ],
)
def test_which_way(from_score: Announced, scores: Sequence[float], path: AlarmPath | None) -> None:
    assert from_score.path(scores) is path


def test_a_daemon_announces_what_is_said_to_be_announced(from_score: Announced) -> None:
    """The real condition, with other noise than the one that the levels come from."""
    assert from_score.slow is not None
    generator = np.random.default_rng(9)
    ways, at = Ways(LEVELS, TIMING), 0

    def hear(count: int, shift: float) -> float | None:
        nonlocal at
        for i in range(count):
            ways.step(float(generator.normal(shift, 1.0)), at, at + 100)
            at += 100
            if ways.active:
                return float(i + 1)
        return None

    assert hear(7200, 0.0) is None
    took_s = hear(1800, 1.5 * from_score.slow)
    assert took_s is not None
    assert ways.path is AlarmPath.SLOW


def test_probes_are_spread_over_a_recording_of_any_length() -> None:
    for count in (3, 16, 17, 400):
        collector = ProbeCollector("a")
        for window in noise_windows(4, 1) * (count // 4 + 1):
            collector.add(window)
        assert len(collector.probes) <= 16
        assert len(collector.probes) >= min(count, 8)
