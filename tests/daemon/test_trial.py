"""A trial: machines that were heard before are heard again, or what was tried is taken back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from echo_stream.core.errors import CommandRefused
from echo_stream.daemon.trial import Trial, Undo, machines_heard, replace_file, undo_interrupted, undo_path


def machine(name: str, windows: int, age_s: float | None = 0.2, **said: Any) -> Mapping[str, Any]:
    usual = {"machine": name, "listening": True, "bank": "b1", "capture": "running", "reason": ""}
    return {**usual, "windows_scored": windows, "last_window_age_s": age_s, **said}


def looks(trial: Trial, until_s: float, windows_s: float = 1.0, begin: int = 100, **said: Any) -> str | None:
    """What is said at each second up to `until_s`, or as soon as it is decided; windows come evenly."""
    for second in range(1, round(until_s) + 1):
        found = trial.check([machine("pump3", begin + int(second / windows_s), **said)], second)
        if found is not None:
            return found
    return None


def test_who_is_heard() -> None:
    there = [
        machine("a", 5),
        machine("b", 5, age_s=7),
        machine("c", 5, listening=False),
        machine("d", 0, None),
    ]
    assert machines_heard(there, hop_s=1.0) == {"a"}
    assert machines_heard(there, hop_s=3.0) == {"a", "b"}


def test_it_goes_well_after_ten_seconds_of_sound() -> None:
    assert looks(Trial(["pump3"], 1.0, 0.0), 9) is None
    trial = Trial(["pump3"], 1.0, 0.0)
    assert looks(trial, 11) == ""
    assert trial.summary == "in use; 1 machine is heard as before"
    assert looks(Trial(["pump3"], 1.0, 0.0), 11, begin=-100) == ""  # counters that began anew


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"listening": False, "reason": "no such device"}, "pump3: no such device"),
        ({"listening": False, "capture": "waiting"}, "pump3: capture waiting, no window is scored"),
        ({"age_s": 20.0}, "no window is scored"),
        ({"windows_s": 2.0}, r"pump3: heard for \d s so far|pump3: only \d\d% of its sound is scored"),
    ],
)
def test_it_fails_after_a_minute(said: dict[str, Any], reason: str) -> None:
    trial = Trial(["pump3"], 1.0, 0.0)
    assert looks(trial, 59, **said) is None
    last = looks(trial, 60, **said)
    assert last is not None
    assert last.startswith("not heard as before within 60 s: pump3: ")
    assert re.search(reason, last)


def test_an_interruption_begins_the_ten_seconds_anew() -> None:
    trial = Trial(["pump3"], 1.0, 0.0)
    assert looks(trial, 8) is None
    assert trial.check([machine("pump3", 108, listening=False)], 9) is None
    for second in range(10, 20):
        assert trial.check([machine("pump3", 100 + second)], second) is None
    assert trial.check([machine("pump3", 120)], 20) == ""


def test_a_machine_that_is_gone_and_a_bank_that_is_not_taken() -> None:
    trial = Trial(["pump3"], 1.0, 0.0, bank=("pump3", "b2"))
    assert looks(trial, 50, bank="b1") is None
    assert trial.check([machine("pump3", 160)], 60) == (
        "not heard as before within 60 s: pump3: expected bank b2, found b1"
    )
    assert "pump3: is not listened to" in str(trial.check([], 61))


def test_long_hops_get_more_time_and_what_was_not_heard_is_not_asked_for() -> None:
    trial = Trial(["pump3"], 20.0, 0.0)
    assert looks(trial, 60, windows_s=20.0) is None
    assert looks(Trial(["pump3"], 20.0, 0.0), 100, windows_s=20.0) == ""
    nobody = Trial([], 1.0, 0.0)
    assert nobody.check([], 0.0) == ""
    assert "nothing to compare with" in nobody.summary


def pushed(folder: Path, before: bytes = b"old: 1\r\n", now: bytes = b"new: 1\n") -> tuple[Path, Undo]:
    config = folder / "config.yaml"
    config.write_bytes(before)
    config.chmod(0o644)
    undo = Undo("ab" * 16, hashlib.sha256(b"new: 1\n").hexdigest(), before.decode())
    undo.save(undo_path(config))
    replace_file(config, now)
    return config, undo


def test_a_start_in_the_middle_of_a_trial_takes_it_back(tmp_path: Path) -> None:
    config, undo = pushed(tmp_path)
    assert config.read_bytes() == b"new: 1\n"
    assert undo_interrupted(config) == undo
    assert config.read_bytes() == b"old: 1\r\n"
    assert config.stat().st_mode & 0o777 == 0o644  # as before, whatever the umask
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert undo_interrupted(config) is None


def test_what_a_person_wrote_meanwhile_stays(tmp_path: Path) -> None:
    config, undo = pushed(tmp_path, now=b"by: hand\n")
    assert "was changed meanwhile" in undo.restore(config)
    assert undo_interrupted(config) == undo
    assert config.read_bytes() == b"by: hand\n"


def test_a_damaged_undo_does_not_keep_the_daemon_from_starting(tmp_path: Path) -> None:
    config, _ = pushed(tmp_path)
    for text in ("{", json.dumps({"transfer": "x"}), "[]", "\x00"):
        undo_path(config).write_text(text)
        assert undo_interrupted(config) is None
    with pytest.raises(CommandRefused, match="cannot be written"):
        Undo("", "", None).save(config / "below")
