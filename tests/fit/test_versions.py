"""Versions of a bank: never overwritten, accepted by one rename, rolled back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from echo_stream.core.errors import BankError
from echo_stream.detect.bank import NormalBank
from echo_stream.fit.session import Enrolment, from_provenance
from echo_stream.fit.versions import BankVersions
from tests.fit.test_session import SESSION
from tests.support.sounds import ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, normal

ROOT = Path(__file__).parents[2]


def bank(seed: int = 0) -> NormalBank:
    return NormalBank.fit(
        enrol(normal(30, seed)), encoder=ENCODER, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=HOP_S
    )


@pytest.fixture
def versions(tmp_path: Path) -> BankVersions:
    return BankVersions(tmp_path / "banks" / "pump3.safetensors")


def test_nothing_yet(versions: BankVersions) -> None:
    assert versions.ids() == []
    assert versions.accepted is None
    assert list(versions.history()) == []
    with pytest.raises(BankError, match="no version b1"):
        versions.accept("b1", "now")


def test_a_version_is_added_and_nothing_is_accepted(versions: BankVersions) -> None:
    assert versions.add(bank()) == "b1"
    assert versions.accepted is None
    assert not versions.path.exists()
    assert versions.add(bank(1)) == "b2"
    assert versions.ids() == ["b1", "b2"]
    assert versions.path_of("b1").stat().st_mode & 0o222 == 0  # nobody writes to it


def test_accepting_shows_it_at_the_configured_path(versions: BankVersions) -> None:
    one, two = bank(1), bank(2)
    for each in (one, two):
        versions.accept(versions.add(each), "2026-11-22T17:00:00Z", by="alice")
    assert versions.accepted == "b2"
    assert NormalBank.load(versions.path).sha256 == two.sha256
    versions.accept("b1", "2026-11-22T18:00:00Z", by="bob")
    assert NormalBank.load(versions.path).sha256 == one.sha256
    assert [(e["did"], e["id"], e["by"]) for e in versions.history()] == [
        ("accept", "b1", "alice"),
        ("accept", "b2", "alice"),
        ("accept", "b1", "bob"),
    ]


def test_the_folder_may_be_moved(versions: BankVersions, tmp_path: Path) -> None:
    versions.accept(versions.add(bank()), "t")
    versions.path.parent.rename(tmp_path / "elsewhere")
    assert BankVersions(tmp_path / "elsewhere" / "pump3.safetensors").accepted == "b1"


def test_rollback_goes_back_through_what_was_accepted(versions: BankVersions) -> None:
    for seed in range(4):
        versions.add(bank(seed))
    for bank_id in ("b1", "b3", "b3", "b4"):
        versions.accept(bank_id, "t")
    assert versions.before_accepted == "b3"
    assert versions.rollback("t") == "b3"
    assert versions.rollback("t") == "b1"
    assert versions.accepted == "b1"
    with pytest.raises(BankError, match="no version was accepted before b1"):
        versions.rollback("t")
    versions.accept("b2", "t")
    assert versions.rollback("t") == "b1"


def test_what_was_learnt_lies_beside_it(versions: BankVersions) -> None:
    first, second = enrol(normal(30, 1)), enrol(normal(30, 2))
    assert versions.add(bank(), Enrolment(SESSION, first)) == "b1"
    again = NormalBank.load(versions.path_of("b1"))
    assert [session.id for session in from_provenance(again.provenance)] == ["b1"]
    assert versions.add(again, Enrolment(SESSION, second)) == "b2"
    both = NormalBank.load(versions.path_of("b2"))
    assert [session.id for session in from_provenance(both.provenance)] == ["b1", "b2"]
    for bank_id, enrolled in (("b1", first), ("b2", second)):
        kept = Enrolment.load(versions.enrolled_of(bank_id), bank_id).enrolled
        np.testing.assert_array_equal(kept[3].features.window, enrolled[3].features.window)
    assert sorted(path.name for path in versions.folder.iterdir()) == [
        "b1.enrolled.safetensors",
        "b1.safetensors",
        "b2.enrolled.safetensors",
        "b2.safetensors",
    ]
    assert versions.ids() == ["b1", "b2"]


def test_a_number_is_never_used_twice(versions: BankVersions) -> None:
    """Not even where a power cut left what was learnt without its bank."""
    versions.add(bank(), Enrolment(SESSION, enrol(normal(30))))
    versions.path_of("b1").unlink()
    assert versions.add(bank()) == "b2"
    assert versions.ids() == ["b2"]


def test_a_file_put_there_by_hand_becomes_a_version(versions: BankVersions) -> None:
    by_hand, fitted = bank(1), bank(2)
    by_hand.save(versions.path)
    assert versions.accepted == "pump3"
    bank_id = versions.add(fitted)
    versions.accept(bank_id, "t")
    assert NormalBank.load(versions.path).sha256 == fitted.sha256
    assert NormalBank.load(versions.path_of("b2")).sha256 == by_hand.sha256
    assert versions.rollback("t") == "b2"
    assert NormalBank.load(versions.path).sha256 == by_hand.sha256


def test_a_history_that_was_cut_short(versions: BankVersions) -> None:
    for seed in range(3):
        versions.accept(versions.add(bank(seed)), "t")
    with (versions.folder / "accepted.jsonl").open("a") as history:
        history.write('{"did": "acc')
    assert versions.rollback("t") == "b2"


def test_the_link_counts_where_the_history_lacks_an_entry(versions: BankVersions) -> None:
    for seed in range(2):
        versions.accept(versions.add(bank(seed)), "t")
    lines = (versions.folder / "accepted.jsonl").read_text().splitlines()
    (versions.folder / "accepted.jsonl").write_text(lines[0] + "\n")
    assert versions.accepted == "b2"
    assert versions.rollback("t") == "b1"


def test_two_that_fit_at_once_get_two_numbers(versions: BankVersions) -> None:
    code = """
import sys
from pathlib import Path
from echo_stream.fit.versions import BankVersions
from echo_stream.fit.session import Enrolment
from tests.fit.test_versions import bank
from tests.fit.test_session import SESSION
from tests.support.sounds import enrol, normal
made, seed = bank(int(sys.argv[2])), int(sys.argv[2])
for i in range(10):
    print(BankVersions(Path(sys.argv[1])).add(made, Enrolment(SESSION, enrol(normal(30, seed)))), flush=True)
"""
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(versions.path), str(seed)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    told = [process.communicate(timeout=60)[0].split() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(told[0] + told[1], key=lambda name: int(name[1:])) == [f"b{i}" for i in range(1, 21)]
    for seed, ids in zip((1, 2), told, strict=True):
        expected = normal(30, seed)[0].window
        for bank_id in ids:
            kept = Enrolment.load(versions.enrolled_of(bank_id), bank_id).enrolled
            np.testing.assert_array_equal(kept[0].features.window, expected)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "banks").write_text("a file in the folder's place")
    with pytest.raises(BankError, match="cannot be written") as raised:
        BankVersions(tmp_path / "banks" / "pump3.safetensors").add(bank())
    assert "machines[].bank" in raised.value.hint


def test_history_is_plain_json_lines(versions: BankVersions) -> None:
    versions.accept(versions.add(bank()), "2026-11-22T17:00:00Z", by="alice")
    (line,) = (versions.folder / "accepted.jsonl").read_text().splitlines()
    assert json.loads(line) == {"did": "accept", "id": "b1", "at": "2026-11-22T17:00:00Z", "by": "alice"}
