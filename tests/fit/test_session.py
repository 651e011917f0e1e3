"""Sessions of enrolment: what was saved comes back, and damage is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_stream.core.errors import BankError
from echo_stream.core.types import Enrolled, Features
from echo_stream.detect.bank import NormalBank
from echo_stream.fit.session import Enrolment, LeftOut, Session, from_provenance, to_provenance
from tests.support.sounds import ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, normal

SESSION = Session(
    condition="load",
    source="microphone",
    device="microphone 'USB Audio', channel 0",
    sample_rate_hz=RATE_HZ,
    heard_at="2026-11-22T17:00:00Z",
    windows=30,
    minutes=0.5,
    recordings=("rec0.wav", "rec1.wav"),
    left_out=(LeftOut("rec1.wav", 4.0, 7.0, 12.5, -21.0, (800.0, 1200.0)),),
    by="alice",
    on="pc7",
    software_version="0.1.0",
)


def test_a_session_survives_the_way_into_a_bank() -> None:
    sessions = [replace(SESSION, id="b1"), replace(SESSION, id="b2", condition="idle", left_out=())]
    assert from_provenance({"sessions": to_provenance(sessions)}) == sessions
    assert from_provenance({}) == []
    json.dumps(to_provenance(sessions))


@settings(max_examples=20, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6)),
    windows=st.integers(1, 12),
    order=st.permutations([0, 1, 2]),
    offset=st.floats(-200, 200),
)
def test_what_was_enrolled_comes_back(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    windows: int,
    order: list[int],
    offset: float,
) -> None:
    """Whatever the order in memory in which an encoder left its features."""
    generator = np.random.default_rng(windows)
    patches, bands, dim = shape
    back = np.argsort(order)
    items = [
        Enrolled(
            Features(
                window=generator.normal(offset, 1, (dim, bands)).astype(np.float32).T,
                segments=generator.normal(offset, 1, np.array(shape)[order])
                .astype(np.float32)
                .transpose(back),
                bands_hz=generator.uniform(0, 8000, (bands, 2)).astype(np.float32) * 0 + 5,
                level_dbfs=float(generator.normal(-30, 3)),
            ),
            f"rec{i // 5}.wav",
            float(i % 5),
            "load",
        )
        for i in range(windows)
    ]
    assert items[0].features.segments.shape == (patches, bands, dim)
    path = tmp_path_factory.mktemp("session") / "b7.enrolled.safetensors"
    Enrolment(SESSION, items, {"sensor": {"quietest_dbfs": -40.0}}).save(path)
    again = Enrolment.load(path, "b7")
    assert again.session == replace(SESSION, id="b7")
    assert again.figures == {"sensor": {"quietest_dbfs": -40.0}}
    assert len(again.enrolled) == windows
    for before, after in zip(items, again.enrolled, strict=True):
        assert (after.recording, after.start_s, after.condition) == (before.recording, before.start_s, "load")
        assert after.features.level_dbfs == before.features.level_dbfs
        np.testing.assert_array_equal(after.features.window, before.features.window)
        np.testing.assert_allclose(after.features.segments, before.features.segments, atol=0.005)
        np.testing.assert_array_equal(after.features.bands_hz, before.features.bands_hz)


def test_a_bank_fitted_from_saved_features_scores_alike(tmp_path: Path) -> None:
    items = enrol(normal(60), condition="load")
    path = tmp_path / "b1.enrolled.safetensors"
    Enrolment(SESSION, items).save(path)

    def fit(enrolled: list[Enrolled]) -> np.ndarray:
        how = {"sample_rate_hz": RATE_HZ, "window_s": WINDOW_S, "hop_s": HOP_S}
        return np.concatenate(NormalBank.fit(enrolled, encoder=ENCODER, **how).held_out)  # type: ignore[arg-type]

    np.testing.assert_allclose(fit(list(Enrolment.load(path, "b1").enrolled)), fit(items), atol=0.02)


@pytest.mark.parametrize("damage", ["missing", "truncated", "text", "bank", "format"])
def test_damage_is_told(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "b1.enrolled.safetensors"
    items = enrol(normal(30))
    Enrolment(SESSION, items).save(path)
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:2000])
    elif damage == "text":
        path.write_text("this is no tensor")
    elif damage == "format":
        path.write_bytes(path.read_bytes().replace(b'format\\": 1', b'format\\": 9'))
    else:
        NormalBank.fit(items, encoder=ENCODER, sample_rate_hz=RATE_HZ, window_s=2.0, hop_s=1.0).save(path)
    with pytest.raises(BankError) as raised:
        Enrolment.load(path, "b1")
    assert "b1.enrolled.safetensors" in raised.value.message
    assert raised.value.hint
