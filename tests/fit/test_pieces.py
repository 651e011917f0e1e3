"""What a daemon heard is learnt as fit-normal would have learnt it from the machine's own source."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_stream.capture.pieces import PieceWriter, SoundOrigin
from echo_stream.config.load import load
from echo_stream.core.errors import SourceError
from echo_stream.core.types import Float32
from echo_stream.fit.listen import record_source
from echo_stream.fit.pieces import read_pieces
from echo_stream.fit.recorded import Recordings
from echo_stream.fit.session import Session
from echo_stream.pipeline.factory import build_encoder
from tests.support.passing import RATE_HZ, machine_sound

CONFIG = """\
node: pc7
state_dir: state
machines:
  - {id: pump3, source: {kind: recording, path: a.wav, pace: fast}, bank: banks/pump3.safetensors}
"""


@pytest.fixture(scope="module")
def sound() -> Float32:
    return machine_sound(5, 0, 90)


def kept(folder: Path, parts: Sequence[tuple[float, Float32]]) -> Path:
    """Stretches, each with the second at which it begins."""
    writer = PieceWriter(folder, RATE_HZ, 1.0)
    for begin_s, samples in parts:
        writer.begin(round(begin_s * RATE_HZ))
        writer.write(samples)
    writer.close()
    SoundOrigin("recording", "a.wav", RATE_HZ, "2026-11-20T00:00:00.000Z", "anna").save(folder)
    return folder


def heard(folder: Path, sounds: Path, others: Sequence[Session] = ()) -> Recordings:
    (folder / "config.yaml").write_text(CONFIG)
    config = load(folder / "config.yaml")
    machine, encoder = config.machines[0], build_encoder(config)
    return read_pieces(
        config,
        machine,
        sounds,
        encoder=encoder,
        condition="normal",
        others=others,
        progress=lambda *_: None,
    )


def test_it_is_what_listening_gives(tmp_path: Path, sound: Float32) -> None:
    soundfile.write(tmp_path / "a.wav", sound, RATE_HZ, subtype="FLOAT")
    found = heard(tmp_path, kept(tmp_path / "sound", [(0, sound)]))
    config = load(tmp_path / "config.yaml")
    machine, encoder = config.machines[0], build_encoder(config)
    listened = record_source(
        config, machine, 5, encoder=encoder, condition="normal", others=(), progress=lambda *_: None
    )
    assert [item.start_s for item in found.enrolled] == [item.start_s for item in listened.enrolled]
    ours, theirs = (np.stack([item.features.window for item in r.enrolled]) for r in (found, listened))
    assert np.abs(ours - theirs).max() < 0.02
    assert len(found.probes) == len(listened.probes)
    assert (found.by, found.segments[0].resumed, found.notes) == ("anna", [], ())


def test_a_pause_is_passed_over_and_no_loss(tmp_path: Path, sound: Float32) -> None:
    found = heard(tmp_path, kept(tmp_path / "sound", [(0, sound), (1000, sound)]))
    (segment,) = found.segments
    assert segment.resumed == [len(segment.enrolled) // 2]
    assert [len(signal) for signal in segment.signals] == [len(segment.enrolled) // 2] * 2
    assert "2 stretches" in found.notes[0].finding


def test_of_more_than_is_learnt_parts_are_spread(
    tmp_path: Path, sound: Float32, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("echo_stream.fit.pieces.MOST_WINDOWS", 200)
    monkeypatch.setattr("echo_stream.fit.pieces.PART_S", 60.0)
    found = heard(tmp_path, kept(tmp_path / "sound", [(100 * i, sound) for i in range(4)]))
    assert 100 < len(found.enrolled) <= 220
    assert found.enrolled[-1].start_s > 200


def test_too_little_is_said(tmp_path: Path, sound: Float32) -> None:
    with pytest.raises(SourceError, match="shorter than one window"):
        heard(tmp_path, kept(tmp_path / "sound", [(0, sound[:RATE_HZ])]))
