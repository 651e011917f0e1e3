"""replay: the events of a recording, the same that the daemon announces for the same sound."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import FaultKind, Simulated
from echo_stream.capture.table import Columns
from echo_stream.cli.common import read_config
from echo_stream.cli.fit import columns_of
from echo_stream.cli.replay import replay_one
from echo_stream.cli.score import score_recordings
from echo_stream.core.errors import EchoStreamError
from echo_stream.fit.listen import read_recordings
from echo_stream.pipeline.factory import build_encoder
from tests.support.broker import MosquittoBroker
from tests.support.daemon import daemon, fitted, run, subscriber, wait_for

FAULT_S = (40.0, 70.0)
RATE_HZ = 8_000
CONFIG = """\
node: pc7
state_dir: state
mqtt: {{host: {host}, port: {port}}}
machines:
  - id: pump3
    source: {source}
    bank: banks/pump3.safetensors
"""
KEYS = ["at_s", "onset_s", "level", "path", "from", "to", "cause", "active", "score", "threshold"]


def write_config(folder: Path, source: str, port: int = 1883) -> None:
    (folder / "config.yaml").write_text(CONFIG.format(host="127.0.0.1", port=port, source=source))


def record(path: Path) -> None:
    """The simulated machine with a fault, as a file."""
    fault: list[tuple[float, float, FaultKind]] = [(*FAULT_S, "bearing")]
    source = Simulated(5, RATE_HZ, fault, pace="fast", start_s=200.0, duration_s=100.0)
    with soundfile.SoundFile(path, "w", RATE_HZ, 1, "FLOAT") as file:
        while (block := source.read()) is not None:
            file.write(block.samples[:, 0])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bank of the simulated machine and a recording of its fault."""
    folder = tmp_path_factory.mktemp("recorded")
    fitted(folder)
    record(folder / "fault.wav")
    write_config(folder, "{kind: recording, path: fault.wav, pace: fast}")
    return folder


def events_of(folder: Path, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(folder, "replay", "-m", "pump3", *words, "--json").splitlines()]


def test_a_recording_raises_the_events_that_the_daemon_announces(
    recorded: Path, broker: MosquittoBroker
) -> None:
    events = events_of(recorded, "fault.wav", "--picture", "replay.png")
    assert all(list(event) == KEYS for event in events)
    alarms = [event for event in events if event["level"] == "alarm"]
    assert alarms[0]["to"] == "UNACK"
    assert alarms[0]["active"]
    assert FAULT_S[0] <= alarms[0]["onset_s"] < alarms[0]["at_s"] < FAULT_S[0] + 30
    assert not alarms[-1]["active"]
    assert matplotlib.image.imread(recorded / "replay.png").shape[2] == 4

    write_config(recorded, "{kind: recording, path: fault.wav, pace: fast}", broker.port)
    with subscriber(broker.host, broker.port) as seen, daemon(recorded) as process:
        wait_for(lambda: process.poll() is not None, 60, "the daemon reached the end of the recording")
        announced = wait_for(
            lambda: seen.events if len(seen.events) == len(events) else None, 20, f"{len(events)} events"
        )
    same = ("level", "from", "to", "cause", "active")
    assert [[e[key] for key in same] for e in announced] == [[e[key] for key in same] for e in events]
    assert [e["score"] for e in announced] == pytest.approx([e["score"] for e in events], abs=1e-3)


def test_a_knob_that_was_turned_is_said(recorded: Path) -> None:
    source = Simulated(5, RATE_HZ, [], pace="fast", start_s=200.0, duration_s=60.0)
    blocks = []
    while (block := source.read()) is not None:
        blocks.append(block.samples[:, 0])
    sound = np.concatenate(blocks)
    sound[30 * RATE_HZ :] *= 10 ** (9.0 / 20)
    soundfile.write(recorded / "turned.wav", sound, RATE_HZ, subtype="FLOAT")
    said = run(recorded, "replay", "-m", "pump3", "turned.wav")
    assert re.search(
        r"everything louder by ([78]\.[5-9]|[89]\.\d) dB, spectrum unchanged: gain or distance\?", said
    )


def test_several_recordings_are_named(recorded: Path) -> None:
    (recorded / "again.wav").write_bytes((recorded / "fault.wav").read_bytes())
    events = events_of(recorded, "fault.wav", "again.wav")
    assert [event.pop("file") for event in events] == ["again.wav"] * (len(events) // 2) + ["fault.wav"] * (
        len(events) // 2
    )
    assert events[: len(events) // 2] == events[len(events) // 2 :], "each begins anew"
    assert "alarm" in run(recorded, "replay", "-m", "pump3", "fault.wav", apart=True)


def test_a_table_is_heard_scored_and_replayed_like_the_same_sound_as_a_recording(recorded: Path) -> None:
    sound = 20 * soundfile.read(recorded / "fault.wav", 20 * RATE_HZ, 35 * RATE_HZ, dtype="float32")[0]
    wav, csv = recorded / "part.wav", recorded / "part.csv"
    soundfile.write(wav, sound, RATE_HZ, subtype="FLOAT")
    np.savetxt(csv, sound, fmt="%.9g", header="acceleration", comments="")
    columns = Columns(RATE_HZ, "acceleration")
    settings = read_config(recorded / "config.yaml")
    (machine,) = settings.machines
    encoder = build_encoder(settings, machine)

    def all_of(path: Path, columns: Columns | None) -> list[Any]:
        heard = read_recordings(
            settings,
            machine,
            [path],
            encoder=encoder,
            condition="normal",
            others=(),
            progress=lambda *_: None,
            columns=columns,
        )
        scored = score_recordings(settings, machine, [path], columns=columns)
        replayed = replay_one(settings, machine, encoder, path, columns=columns)
        scores = [line["score"] for line in scored]
        return [
            [e.features.segments.tobytes() for s in heard.segments for e in s.enrolled],
            scores,
            replayed.scores,
            replayed.events,
        ]

    assert all_of(csv, columns) == all_of(wav, None)
    how = ("--rate-hz", str(RATE_HZ), "--column", "acceleration")
    assert events_of(recorded, str(csv), *how) == events_of(recorded, str(wav))
    with pytest.raises(EchoStreamError, match="--column without --rate-hz"):
        columns_of("acceleration", None)
