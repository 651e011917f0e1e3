"""A machine at another speed: the new sound is called steady, learnt by one command, and then known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from echo_stream.cli.replay import replay_one
from echo_stream.config.load import load
from echo_stream.core.types import Float32, Score
from echo_stream.detect.steady import SteadyWatch
from echo_stream.pipeline.factory import build_encoder
from tests.support.daemon import fitted, run
from tests.support.passing import RATE_HZ, machine_sound

CONFIG = """\
node: pc7
state_dir: state
machines:
  - id: pump3
    source: {kind: recording, path: today.wav, pace: fast}
    bank: banks/pump3.safetensors
"""
FASTER = 1.25
CHANGE_S, END_S = 60, 160


def faster(start_s: float, duration_s: float) -> Float32:
    """The simulated machine at a higher speed: all its lines lie higher."""
    sound = machine_sound(5, start_s, duration_s * FASTER + 1)
    at = np.arange(round(duration_s * RATE_HZ)) * FASTER
    found: Float32 = np.interp(at, np.arange(len(sound)), sound).astype(np.float32)
    return found


def test_another_speed_is_called_steady_and_learnt_by_one_command(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = load(tmp_path / "config.yaml")
    machine, encoder = config.machines[0], build_encoder(config)
    fitted(tmp_path)
    today = tmp_path / "today.wav"
    sound = np.concatenate([machine_sound(5, 300, CHANGE_S), faster(400, END_S - CHANGE_S)])
    soundfile.write(today, sound, RATE_HZ, subtype="FLOAT")

    def events(file: Path) -> list[dict[str, Any]]:
        return replay_one(config, machine, encoder, file).events

    first = events(today)
    said = [event for event in first if event["cause"] == "new_steady_state"]
    assert len(said) == 1, first
    assert CHANGE_S + 60 < said[0]["at_s"] < CHANGE_S + 85
    assert said[0]["active"]

    clip = tmp_path / "clip.flac"  # what evidence keeps of that event: the half minute before, and 10 s after
    soundfile.write(
        clip, sound[(CHANGE_S + 40) * RATE_HZ : (CHANGE_S + 85) * RATE_HZ], RATE_HZ, subtype="PCM_24"
    )
    command = [
        "fit-normal",
        "--machine",
        "pump3",
        "--condition",
        "fast",
        "--accept",
        "--recordings",
        str(clip),
    ]
    run(tmp_path, *command)
    assert not [event for event in events(today) if event["level"] == "alarm"]
    again = tmp_path / "again.wav"
    soundfile.write(again, faster(900, 60), RATE_HZ, subtype="FLOAT")
    assert not [event for event in events(again) if event["level"] == "alarm"], "the same state, other sound"


def score(value: float, level_dbfs: float = -30.0) -> Score:
    return Score(value, 0.5, (), (), level_dbfs, 0.0, "normal")


def said(values: list[float], levels_dbfs: list[float] | None = None) -> list[int]:
    watch = SteadyWatch(1.0)
    levels = levels_dbfs or [-30.0] * len(values)
    return [
        i
        for i, (value, level) in enumerate(zip(values, levels, strict=True))
        if watch.step(score(value, level), changed=True)
    ]


def test_what_wanders_is_not_steady() -> None:
    rng = np.random.default_rng(1)
    steady = (40 + 2 * rng.standard_normal(200)).tolist()
    assert said(steady) == [59], "after a minute, and once"
    assert not said((40 + 12 * rng.standard_normal(200)).tolist())
    assert not said(np.linspace(20, 120, 200).tolist()), "it grows"
    assert not said(steady, (-30 + 4 * rng.standard_normal(200)).tolist()), "its level wanders"
    watch = SteadyWatch(1.0)
    for value in steady[:59]:
        watch.step(score(value), changed=True)
    watch.step(score(0.0), changed=False)
    assert not watch.step(score(40.0), changed=True), "another change begins anew"
