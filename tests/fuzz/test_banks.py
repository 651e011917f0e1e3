"""Any bytes are a bank that scores, or a BankError."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

from echo_stream.alarm.calibration import Calibration
from echo_stream.core.calibration import BankCalibration, NormalSpectrum, SensorLimits
from echo_stream.core.errors import BankError, EchoStreamError
from echo_stream.detect import bank_file as bankfile
from echo_stream.detect.bank import NormalBank
from echo_stream.detect.scorer import Scorer
from tests.support.damage import TREES, damaged, fuzz, twisted
from tests.support.sounds import ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, normal


def _bank() -> bytes:
    bank = NormalBank.fit(
        enrol(normal(24)), encoder=ENCODER, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=HOP_S
    )
    spectrum = NormalSpectrum.fit(RATE_HZ, [np.zeros(5)])
    limits = SensorLimits(-40.0, -20.0)
    calibration = BankCalibration(HOP_S, tuple(bank.held_out), limits, {"normal": spectrum})
    return replace(bank, calibration=calibration)._to_bytes()


WHOLE = _bank()
HEADER_END = 8 + int.from_bytes(WHOLE[:8], "little")
TENSORS = safetensors.numpy.load(WHOLE)
METADATA = json.loads(json.loads(WHOLE[8:HEADER_END])["__metadata__"][bankfile.HEADER_KEY])
del METADATA["checksum"]  # put in anew, or nothing behind it would be tried
STRANGER = normal(1, seed=9, offset=1.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "bank.safetensors"


def check(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        bank = NormalBank.load(path)
    except BankError as error:
        said = error.message
    else:
        said = ""
        check_scores(bank)
    assert not said or str(path) in said


def check_scores(bank: NormalBank) -> None:
    """What the daemon does with a bank that was read, and with the first window."""
    try:
        bank.require(ENCODER, RATE_HZ, WINDOW_S, HOP_S)
        Calibration.of(bank.calibration)
    except EchoStreamError:
        return
    assert len(bank.sha256) == 64  # each event names it
    (score,) = Scorer(bank).score(STRANGER)
    assert np.isfinite(score.value)


def test_the_bank_is_right(path: Path) -> None:
    path.write_bytes(WHOLE)
    assert Scorer(NormalBank.load(path)).score(STRANGER)[0].value > 0


def signed(metadata: Any, tensors: bankfile.Tensors) -> bytes:
    """A file that is right as a file, whatever is in it."""
    if isinstance(metadata, dict):
        metadata = {**metadata, "checksum": bankfile._checksum(metadata, tensors)}
    return safetensors.numpy.save(dict(tensors), metadata={bankfile.HEADER_KEY: json.dumps(metadata)})


@fuzz(150)
@given(st.binary(max_size=300) | damaged(WHOLE, within=HEADER_END) | damaged(WHOLE))
def test_damaged_bytes(path: Path, data: bytes) -> None:
    check(path, data)


@fuzz(150)
@given(twisted(METADATA) | TREES)
def test_odd_metadata(path: Path, metadata: Any) -> None:
    check(path, signed(metadata, TENSORS))


@fuzz(100)
@given(st.text(max_size=50) | st.integers(1, 3000).map(lambda n: "[" * n))
def test_metadata_that_is_no_json(path: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    check(path, safetensors.numpy.save(TENSORS, metadata={bankfile.HEADER_KEY: text}))


@fuzz(150)
@given(st.data())
def test_odd_tensors(path: Path, data: st.DataObject) -> None:
    tensors = dict(TENSORS)
    for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), min_size=1, max_size=3, unique=True)):
        tensor = tensors[name]
        what = data.draw(
            st.sampled_from(("other type", "other shape", "empty", "not finite", "zero", "flat"))
        )
        if what == "other type":
            with np.errstate(all="ignore"):
                tensor = tensor.astype(
                    data.draw(st.sampled_from(("float16", "float64", "int64", "uint8", "bool")))
                )
        elif what == "other shape":
            tensor = tensor[tuple(slice(data.draw(st.integers(0, size))) for size in tensor.shape)]
        elif what == "empty":
            tensor = tensor[:0]
        elif what == "not finite" and tensor.size and tensor.dtype.kind == "f":
            tensor = tensor.copy()
            tensor.flat[data.draw(st.integers(0, tensor.size - 1))] = np.nan
        elif what == "zero":
            tensor = np.zeros_like(tensor)
        elif what == "flat":
            tensor = tensor.ravel()
        tensors[name] = np.ascontiguousarray(tensor)
    check(path, signed(METADATA, tensors))
