"""Answers: what the commands say becomes what the page shows; versions are found by their names."""

from __future__ import annotations

from pathlib import Path

import pytest

from echo_stream.alarm.calibration import TripLevel
from echo_stream.config.schema import EvidenceSettings
from echo_stream.core.errors import CommandRefused
from echo_stream.core.types import AlarmLevel
from echo_stream.daemon.answers import Answers
from echo_stream.daemon.page_models import bank_versions, to_sample_proposal
from echo_stream.daemon.sampler import FeatureSampler
from echo_stream.evidence.store import Kept
from echo_stream.fit.judge import Judged
from echo_stream.fit.propose import Proposal


def levels(warning: float, alarm: float) -> dict[AlarmLevel, TripLevel]:
    return {
        level: TripLevel(trip, trip, 1.0, 1.0, 1.0, 0.0, 1.0, 0, 1.0, 3, 1.0, 3)
        for level, trip in ((AlarmLevel.WARNING, warning), (AlarmLevel.ALARM, alarm))
    }


def heard(*events: Judged) -> Proposal:
    return Proposal(
        machine="pump3",
        bank_id="b8",
        base_id="b7",
        path=Path("b8.safetensors"),
        windows={"idle": 40, "load": 60},
        left_out=12,
        heard_h=30.5,
        heard_days=2,
        before=levels(2.0, 3.0),
        after=levels(2.5, 3.5),
        events=events,
    )


def test_a_proposal_of_what_was_heard_says_what_becomes_of_past_alarms() -> None:
    at = "2026-11-20T08:00:00.000Z"
    found = Judged("A", at, "alarm", confirmed=False, before=True, after=True)
    vanishes = Judged("B", at, "warning", confirmed=False, before=True, after=False)
    never = Judged("C", at, "alarm", confirmed=True, before=False, after=False)
    shown = to_sample_proposal(heard(found, vanishes, never).to_json(), "anna")
    assert (shown.state, shown.bank_id, shown.base_id, shown.by) == ("ready", "b8", "b7", "anna")
    assert (shown.alarm_before, shown.alarm_after, shown.warning_after) == (3.0, 3.5, 2.5)
    assert shown.verdict == "ok"
    assert any("40 windows of idle, 60 windows of load" in check for check in shown.checks)
    assert [c for c in shown.checks if "would not have been announced" in c] == [
        f"would not have been announced: warning of {at}"
    ]
    missed = Judged("D", at, "alarm", confirmed=True, before=True, after=False)
    shown = to_sample_proposal(heard(missed).to_json(), "anna")
    assert shown.verdict == "fail"
    assert any("CONFIRMED FAULT" in check for check in shown.checks)


def test_versions_are_found_by_their_names_and_the_one_in_use_is_marked(tmp_path: Path) -> None:
    bank = tmp_path / "pump3.safetensors"
    assert bank_versions(bank) == []
    folder = tmp_path / "pump3.versions"
    folder.mkdir()
    for name in ("b2.safetensors", "b10.safetensors", "b2.enrolled.safetensors", "b3.html", "bx.safetensors"):
        (folder / name).write_bytes(b"")
    bank.symlink_to(folder / "b2.safetensors")
    assert [(each.id, each.accepted) for each in bank_versions(bank)] == [("b2", True), ("b10", False)]
    assert all(each.made and each.made.endswith("Z") for each in bank_versions(bank))


def test_the_sound_of_a_fault_obeys_free_space(tmp_path: Path) -> None:
    sampler = FeatureSampler(tmp_path)
    folder = tmp_path / "evidence" / "pump3"
    folder.mkdir(parents=True)
    document = folder / "20261120T080000Z_pump3_A.json"
    document.write_text("{}")
    document.with_suffix(".flac").write_bytes(b"sound")
    kept = Kept(document, {"event_id": "A", "machine": "pump3", "ts": "2026-11-20T08:00:00Z"}, complete=True)
    told: list[object] = []

    def answers(min_free_mb: float) -> Answers:
        limits = EvidenceSettings(min_free_mb=min_free_mb)
        journal = lambda _kind, payload: told.append(payload["answer"])  # noqa: E731
        return Answers(tmp_path / "config.yaml", tmp_path, "pc7", journal, limits=limits, sampler=sampler)

    with pytest.raises(CommandRefused, match="MB are free, 1e\\+12 MB stay free"):
        answers(1e12).fault(kept, "anna", "")
    assert list((tmp_path / "faults").glob("*/*")) == []
    assert told == []
    assert answers(0).fault(kept, "anna", "") == "kept as a fault"
    assert sorted(path.suffix for path in (tmp_path / "faults").glob("*/*")) == [".flac", ".json"]
    assert told == ["fault"]
