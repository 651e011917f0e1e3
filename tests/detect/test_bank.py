"""The bank: what it keeps, what it leaves out, what it refuses, and that a file is what was saved."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from echo_stream.core.calibration import BankCalibration
from echo_stream.core.errors import BankError, BankMismatch
from echo_stream.core.types import EncoderIdentity, Enrolled
from echo_stream.detect import bank_file as bankfile
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.folds import folds_of, runs_of
from echo_stream.detect.scorer import Scorer
from tests.support.sounds import BANDS, DIM, ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, features, normal


def fit(enrolled: list[Enrolled]) -> NormalBank:
    return NormalBank.fit(
        enrolled,
        encoder=ENCODER,
        sample_rate_hz=RATE_HZ,
        window_s=WINDOW_S,
        hop_s=HOP_S,
        provenance={"device": "USB Audio"},
    )


def calibrated(bank: NormalBank) -> NormalBank:
    return replace(bank, calibration=BankCalibration(HOP_S, tuple(bank.held_out)))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    bank = calibrated(fit(enrol(normal(60))))
    path = tmp_path / "new" / "bank.safetensors"
    bank.save(path)
    again = NormalBank.load(path)
    assert again.id == bank.id
    assert len(bank.id) == 8
    assert again.sha256 == bank.sha256
    assert again.calibration is not None
    assert bank.calibration is not None
    assert again.calibration.to_json() == bank.calibration.to_json()
    assert again.provenance == {"device": "USB Audio"}
    assert again.created == bank.created
    assert again.encoder == ENCODER
    assert again.conditions == ("normal",)
    assert again.n_held_out == 60
    for run, run_again in zip(bank.held_out, again.held_out, strict=True):
        np.testing.assert_array_equal(run, run_again)
    stranger = normal(5, seed=9, offset=1.0)
    assert Scorer(again).score(stranger) == Scorer(bank).score(stranger)
    assert [p.name for p in path.parent.iterdir()] == ["bank.safetensors"]


def test_calibration_changes_the_id_and_not_the_bank_it_came_from() -> None:
    bank = fit(enrol(normal(30)))
    before = bank.id
    assert calibrated(bank).id != before
    assert bank.id == before
    assert bank.calibration is None


def test_saving_over_a_bank_replaces_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "bank.safetensors"
    fit(enrol(normal(30))).save(path)
    new = fit(enrol(normal(40, seed=1)))
    new.save(path)
    assert NormalBank.load(path).id == new.id


def test_held_out_is_every_window_once_in_runs() -> None:
    bank = fit(enrol(normal(60), recordings=4))
    assert [len(run) for run in bank.held_out] == [15, 15, 15, 15]
    assert sum(map(len, fit(enrol(normal(50))).held_out)) == 50


def test_a_hole_in_time_cuts_a_run() -> None:
    windows = enrol(normal(60), recordings=2)
    holed = [item for item in windows if not (item.recording == "rec0.wav" and 10 <= item.start_s < 13)]
    assert sorted(len(run) for run in fit(holed).held_out) == [10, 17, 30]


def test_left_out_windows_never_meet_their_own_recording() -> None:
    windows = enrol(normal(40), recordings=4)
    for fold in folds_of(windows, window_s=WINDOW_S, hop_s=HOP_S):
        out = {windows[i].recording for i in fold.left_out}
        assert len(out) == 1
        assert out.isdisjoint(windows[i].recording for i in fold.kept)


def test_blocks_of_one_recording_keep_a_margin() -> None:
    windows = enrol(normal(100))
    folds = folds_of(windows, window_s=WINDOW_S, hop_s=HOP_S)
    for fold in folds:
        for i in fold.left_out:
            gaps = [abs(windows[i].start_s - windows[j].start_s) for j in fold.kept]
            assert min(gaps) >= 2 * WINDOW_S
    assert sorted(np.concatenate([f.left_out for f in folds]).tolist()) == list(range(100))
    assert [len(runs_of(windows, fold, hop_s=HOP_S)) for fold in folds] == [1] * len(folds)


def test_held_out_scores_are_those_of_strangers() -> None:
    """A window repeated inside its own recording must not make its held-out score small."""
    generator = np.random.default_rng(5)
    own = [generator.normal(0, 3, (BANDS, DIM)).astype(np.float32) for _ in range(6)]
    items = [features(own[i // 10]) for i in range(60)]  # six recordings, each the same window ten times
    bank = fit(enrol(items, recordings=6))
    assert Scorer(bank).score_one(items[0]).value < min(run.min() for run in bank.held_out) - 0.5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoder": EncoderIdentity("echo", 1, "ab" * 32, {"window_s": WINDOW_S})}, "encoder"),
        ({"encoder": EncoderIdentity("made-up", 2, "", {"window_s": WINDOW_S})}, "encoder version"),
        ({"encoder": EncoderIdentity("made-up", 1, "ff", {"window_s": WINDOW_S})}, "weights"),
        ({"encoder": EncoderIdentity("made-up", 1, "", {"window_s": WINDOW_S, "dim": 3})}, "dim"),
        ({"sample_rate_hz": 48_000}, "sample_rate_hz: the bank has 16000, asked for is 48000"),
        ({"window_s": 1.0}, "window_s: the bank has 2.0, asked for is 1.0"),
        ({"hop_s": 0.5}, "hop_s"),
    ],
)
def test_another_encoder_rate_or_window_is_refused_by_name(change: dict[str, object], named: str) -> None:
    bank = fit(enrol(normal(30)))
    asked = {"encoder": ENCODER, "sample_rate_hz": RATE_HZ, "window_s": WINDOW_S, "hop_s": HOP_S}
    bank.require(**asked)  # type: ignore[arg-type]
    with pytest.raises(BankMismatch, match=named):
        bank.require(**{**asked, **change})  # type: ignore[arg-type]


def test_every_difference_is_named_at_once() -> None:
    with pytest.raises(BankMismatch, match=r"window_s.*sample_rate_hz.*hop_s"):
        fit(enrol(normal(30))).require(ENCODER, 8_000, 1.0, 0.5)


def test_nothing_too_few_or_broken_is_not_fitted() -> None:
    with pytest.raises(BankError, match="no window"):
        fit([])
    with pytest.raises(BankError, match="too few"):
        fit(enrol(normal(2)))
    broken = normal(30)
    broken[4] = features(np.full((BANDS, DIM), np.nan, dtype=np.float32))
    with pytest.raises(BankError, match="finite"):
        fit(enrol(broken))
    with pytest.raises(BankError, match="shapes"):
        fit([*enrol(normal(30)), Enrolled(features(np.zeros((BANDS, DIM + 1), np.float32)), "x", 0.0)])


def saved(folder: Path) -> bytes:
    fit(enrol(normal(30))).save(folder / "good")
    return (folder / "good").read_bytes()


def test_damaged_and_foreign_files_are_refused_in_words(tmp_path: Path) -> None:
    good = saved(tmp_path)
    other_format = good.replace(b'\\"format\\": %d' % bankfile.FORMAT, b'\\"format\\": 7')
    assert other_format != good
    cases = {
        "cut": (good[: len(good) // 2], "truncated"),
        "cut_in_header": (good[:50], "truncated"),
        "empty": (b"", "empty"),
        "text": (b"machines:\n  - id: pump3\n", "text file"),
        "pickle": (pickle.dumps({"bank": 1}), "pickle"),
        "noise": (bytes(range(128, 256)) * 4, "no bank"),
        "weights": (safetensors.numpy.save({"w": np.zeros(3, np.float32)}), "something else"),
        "format": (other_format, "format 7"),
    }
    for name, (data, said) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(BankError, match=said):
            NormalBank.load(path)


def test_a_bank_that_lacks_a_part_names_it(tmp_path: Path) -> None:
    path = tmp_path / "bank"
    path.write_bytes(bankfile.to_bytes({"references": [], "runs": [1]}, {"x": np.zeros(1)}))
    with pytest.raises(BankError, match="a part is missing"):
        NormalBank.load(path)


@pytest.mark.parametrize(
    "metadata",
    ["", "null", "[" * 5000, '{"format": 3', '{"format": 3, "calibration": {"hop_s": NaN}}'],
    ids=["none", "null", "deep", "cut", "no number"],
)
def test_metadata_that_is_no_json_object(tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "bank"
    path.write_bytes(safetensors.numpy.save({"x": np.zeros(1)}, metadata={bankfile.HEADER_KEY: metadata}))
    with pytest.raises(BankError, match="its metadata is no JSON"):
        NormalBank.load(path)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "0.window.scale",
            lambda tensor: tensor * np.float32(np.nan),
            "scale has values that are not finite",
        ),
        ("0.window.scale", lambda tensor: tensor * 0, "scale has values that are not above 0"),
        ("0.window.normals", lambda tensor: tensor[:0], "normal features of shapes"),
        ("0.window.normals", lambda tensor: tensor[:, :, 1:], "centre is float32 of shape"),
        ("0.segments.centre", lambda tensor: tensor.astype(np.float16), "centre is float16"),
        ("0.segments.directions", lambda tensor: tensor[1:], "directions is float32 of shape"),
        ("0.segments.unit", lambda tensor: tensor * 0, "unit, median or spread"),
        ("0.window.units", lambda tensor: tensor[:1], "a part is missing"),
        ("0.start_s", lambda tensor: tensor[1:], "start_s is float64 of shape"),
        ("bands_hz", lambda tensor: tensor.ravel(), "bands_hz is float32 of shape"),
        ("held_out", lambda tensor: tensor * np.nan, "held_out has values that are not finite"),
    ],
)
def test_a_tensor_that_would_break_the_scores(
    tmp_path: Path, name: str, change: Callable[[NDArray[Any]], NDArray[Any]], said: str
) -> None:
    """A score that is not a number would never be over the trip level: damaged banks are not served."""
    saved(tmp_path)
    metadata, tensors = bankfile.read(tmp_path / "good")
    tensors[name] = change(tensors[name])
    path = tmp_path / "bank"
    path.write_bytes(bankfile.to_bytes(metadata, tensors))
    with pytest.raises(BankError, match=said):
        NormalBank.load(path)


@pytest.mark.parametrize("back", [1, 1000, 3000])
def test_a_bit_that_flipped_is_noticed(tmp_path: Path, back: int) -> None:
    """An alarm that rests on another number than was fitted would be wrong for years, without a word."""
    damaged = bytearray(saved(tmp_path))
    damaged[-back] ^= 1
    path = tmp_path / "bank"
    path.write_bytes(damaged)
    with pytest.raises(BankError, match="checksum"):
        NormalBank.load(path)


@pytest.mark.parametrize(
    "encoder",
    [{"dimensions": None}, {"dimensions": {"window_s": "2"}}, {"kind": 1}, {"weights_sha256": None}],
)
def test_an_encoder_that_is_none(tmp_path: Path, encoder: dict[str, Any]) -> None:
    good = saved(tmp_path)
    metadata, tensors = bankfile.read(tmp_path / "good")
    metadata["encoder"] |= encoder
    path = tmp_path / "bank"
    path.write_bytes(bankfile.to_bytes(metadata, tensors))
    assert path.read_bytes() != good
    with pytest.raises(BankError, match=r"is damaged: .*encoder"):
        NormalBank.load(path)


def test_missing_and_unwritable(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="cannot be read"):
        NormalBank.load(tmp_path / "absent")
    (tmp_path / "file").write_text("")
    with pytest.raises(BankError, match="cannot be written"):
        fit(enrol(normal(30))).save(tmp_path / "file" / "bank")
