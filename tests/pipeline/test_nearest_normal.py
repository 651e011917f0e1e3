"""The nearest normal sound: of the operating state, and of the clips the one that is most alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from echo_stream.detect.bank import SESSIONS, NormalBank
from echo_stream.evidence.normal_sound import NormalClip, folder_of, write_clips
from echo_stream.pipeline.nearest_normal import nearest_normal
from tests.support.sounds import ENCODER, HOP_S, RATE_HZ, WINDOW_S, enrol, features, normal


def clip(name: str, start_s: float, condition: str) -> NormalClip:
    return NormalClip(name, start_s, condition, RATE_HZ, np.zeros(10 * RATE_HZ, np.float32))


def test_the_clip_that_is_most_alike_is_found_where_its_window_is(tmp_path: Path) -> None:
    load, idle = normal(60, seed=1), normal(60, seed=2, offset=8.0)
    enrolled = [
        *enrol(load, condition="load", name="load"),
        *enrol(idle, condition="idle", name="idle"),
    ]
    bank = NormalBank.fit(enrolled, encoder=ENCODER, sample_rate_hz=RATE_HZ, window_s=WINDOW_S, hop_s=HOP_S)
    path = tmp_path / "pump3.safetensors"
    assert nearest_normal(bank, path, load[:1], "load") is None, "nothing was kept"
    bank = replace(bank, provenance={SESSIONS: json.dumps([{"id": "b1"}, {"id": "b2"}])})
    assert bank.session_ids == ("b1", "b2")
    clips = [clip("load0.wav", start_s, "load") for start_s in (0, 20, 40)]
    write_clips(folder_of(path, "b1"), clips)
    write_clips(folder_of(path, "b2"), [clip("idle0.wav", 0, "idle")])

    alike = features(load[44].window * 1.01)
    found = nearest_normal(bank, path, [alike], "load")
    assert found is not None
    assert (found.version, found.clip.file, found.at_s) == ("b1", "03.flac", 4.0)
    assert found.distance is not None
    assert found.to_json()["recording"] == "load0.wav"

    found = nearest_normal(bank, path, [alike], "idle")
    assert found is not None
    assert (found.version, found.clip.condition) == ("b2", "idle")
    write_clips(folder_of(path, "b3"), [clip("elsewhere.wav", 0, "load")])
    strange = replace(bank, provenance={SESSIONS: json.dumps([{"id": "b3"}])})
    found = nearest_normal(strange, path, [alike], "load")
    assert found is not None
    assert (found.version, found.distance, found.at_s) == ("b3", None, 0.0)
