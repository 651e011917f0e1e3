"""A sound that was taught as no fault passes; a longer, a louder and another one, and a fault, do not."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import soundfile

from echo_stream.cli.common import point_in_time
from echo_stream.cli.replay import replay_one
from echo_stream.config.load import load
from echo_stream.core.errors import BankError, EchoStreamError
from echo_stream.core.text import utc_text
from echo_stream.core.types import Float32
from echo_stream.detect import known_sound_file
from echo_stream.detect.known_sounds import KnownSound
from echo_stream.encode.encoder import Encoder
from echo_stream.evidence.store import document_path
from echo_stream.fit.known_sound import Clip, clip_at, known_sound_at, learn_known_sound
from echo_stream.fit.listen import recording_of
from echo_stream.history.sample import About, FeatureSample, path_of
from echo_stream.pipeline.factory import build_encoder
from echo_stream.pipeline.loop import encode_windows, read_windows
from tests.support.daemon import run
from tests.support.passing import RATE_HZ, forklift, machine_sound, over
from tests.support.stations import learnt

LEVEL_DB, LENGTH_S, AT_S, LISTEN_S = 3.0, 10.0, 20.3, 60.0
CONFIG = """\
node: pc7
state_dir: state
machines:
  - id: pump3
    source: {kind: recording, path: taught.wav, pace: fast}
    bank: banks/pump3.safetensors
"""


def write(path: Path, sound: Float32) -> Path:
    soundfile.write(path, sound, RATE_HZ, subtype="FLOAT")
    return path


class Taught:
    """A machine that was fitted, and that knows the forklift from one pass."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "config.yaml").write_text(CONFIG)
        normal = write(folder / "normal.wav", machine_sound(5, 0, 120))
        passed = over(machine_sound(5, 300, LISTEN_S), forklift(LENGTH_S, 1), AT_S, LEVEL_DB)
        write(folder / "taught.wav", passed)
        self.config = load(folder / "config.yaml")
        self.machine = self.config.machines[0]
        self.encoder: Encoder = build_encoder(self.config)
        self.machine.bank.parent.mkdir()
        learnt(self.config, self.machine, normal).bank.save(self.machine.bank)
        self.untaught = self.announced("taught.wav", passed)
        run(folder, "ignore", "add", "-m", "pump3", "--name", "forklift", "--recording", "taught.wav")

    def announced(self, name: str, sound: Float32) -> list[tuple[str, float]]:
        """Level and time of what is announced in a sound."""
        found = replay_one(self.config, self.machine, self.encoder, write(self.folder / name, sound))
        return [(event["level"], event["at_s"]) for event in found.events if event["active"]]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Taught:
    return Taught(tmp_path_factory.mktemp("taught"))


def another(
    taught: Taught, name: str, seconds: float, level_db: float, seed: int = 2
) -> list[tuple[str, float]]:
    sound = over(machine_sound(5, 500, LISTEN_S), forklift(seconds, seed), AT_S, level_db)
    return taught.announced(f"{name}.wav", sound)


def test_the_taught_sound_passes_when_it_comes_again(taught: Taught) -> None:
    assert {level for level, _ in taught.untaught} == {"warning", "alarm"}, "before it was taught"
    for seed in (2, 3):
        assert another(taught, "again", LENGTH_S, LEVEL_DB, seed) == []
    assert another(taught, "quieter", LENGTH_S, LEVEL_DB - 3) == []


def test_twice_as_long_or_6_db_louder_does_not_pass(taught: Taught) -> None:
    assert "alarm" in dict(another(taught, "longer", 2.2 * LENGTH_S, LEVEL_DB))
    assert "alarm" in dict(another(taught, "louder", LENGTH_S, LEVEL_DB + 6))


def test_a_fault_under_it_is_announced_soon_after_it_at_the_latest(taught: Taught) -> None:
    faulty = machine_sound(5, 500, LISTEN_S, ((AT_S + 2, LISTEN_S, "rattle"),))
    found = dict(taught.announced("fault.wav", over(faulty, forklift(LENGTH_S, 2), AT_S, LEVEL_DB)))
    assert AT_S + 2 < found["alarm"] < AT_S + LENGTH_S + 15, "a loud fault already while it passes"
    alone = dict(taught.announced("alone.wav", faulty))
    assert AT_S + 2 < alone["alarm"] < AT_S + 17, "without the forklift nothing is held back"


def test_list_and_remove(taught: Taught) -> None:
    (one,) = json.loads(run(taught.folder, "ignore", "list", "-m", "pump3", "--json"))
    assert one["name"] == "forklift"
    assert one["length_s"] == pytest.approx(LENGTH_S, abs=2)
    with pytest.raises(AssertionError, match="of this name already"):
        run(taught.folder, "ignore", "add", "-m", "pump3", "-n", "forklift", "--recording", "taught.wav")
    folder = known_sound_file.known_sounds_folder(taught.machine.bank)
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    try:
        assert "removed" in run(taught.folder, "ignore", "remove", "-m", "pump3", "--name", "forklift")
        assert "no sound was taught" in run(taught.folder, "ignore", "list", "-m", "pump3")
        assert "alarm" in dict(another(taught, "removed", LENGTH_S, LEVEL_DB))
        with pytest.raises(AssertionError, match="no known sound forklift"):
            run(taught.folder, "ignore", "remove", "-m", "pump3", "--name", "forklift")
    finally:
        shutil.rmtree(folder)
        kept.rename(folder)


def test_normal_sound_cannot_be_taught(taught: Taught) -> None:
    clip = Clip(write(taught.folder / "quiet.wav", machine_sound(5, 700, 20)), None, "test")
    with pytest.raises(EchoStreamError, match="unlike normal sound"):
        learn_known_sound(taught.config, taught.machine, taught.encoder, clip, "nothing")


def test_a_damaged_file_is_refused_and_named(taught: Taught, tmp_path: Path) -> None:
    good = known_sound_file.path_of(taught.machine.bank, "forklift").read_bytes()
    for at in (4, 200, len(good) // 2, len(good) - 3):
        path = tmp_path / "forklift.safetensors"
        path.write_bytes(good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :])
        with pytest.raises(BankError, match="known sound"):
            known_sound_file.load(path)
    path.write_bytes(good)
    assert known_sound_file.load(path).name == "forklift"
    (tmp_path / "other.safetensors").write_bytes(good)
    with pytest.raises(BankError, match="damaged"):
        known_sound_file.load(tmp_path / "other.safetensors")
    for name in ("../forklift", "", "a b", "x" * 41):
        with pytest.raises(BankError, match="name of a known sound"):
            known_sound_file.path_of(taught.machine.bank, name)


def test_a_time_without_a_zone_is_local() -> None:
    now = datetime.fromisoformat("2026-11-20T14:00:00").astimezone()
    assert point_in_time("13:59", "--at", now) == now - timedelta(minutes=1)
    yesterday = now - timedelta(days=1)
    assert point_in_time("14:01", "--at", now) == yesterday + timedelta(minutes=1), "the last such time"
    assert point_in_time("2026-11-20T14:00", "--at", now) == now
    assert point_in_time("2026-11-20T13:00Z", "--at", now) == datetime(2026, 11, 20, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize(("ago_s", "complete"), [(5, True), (5, False), (600, False)])
def test_sound_that_is_still_being_recorded_is_not_learned(
    tmp_path: Path, ago_s: float, complete: bool
) -> None:
    at = datetime.now(UTC) - timedelta(seconds=ago_s)
    event = {"event_id": "E1", "machine": "pump3", "ts": utc_text(at)}
    path = document_path(tmp_path, "pump3", at, "E1")
    path.parent.mkdir()
    path.write_text(json.dumps({"event": event, "complete": complete}))
    path.with_suffix(".flac").touch()
    if complete or ago_s > 300:  # what a daemon that ended left is all that there will be
        clip = clip_at(tmp_path, "pump3", at)
        assert clip is not None
        assert clip.file == path.with_suffix(".flac")
    else:
        with pytest.raises(EchoStreamError, match="the sound of event E1 is still being recorded"):
            clip_at(tmp_path, "pump3", at)


def test_a_warning_without_sound_is_taught_from_what_the_daemon_heard(taught: Taught, tmp_path: Path) -> None:
    bank = taught.machine.bank
    shutil.copytree(bank.parent, tmp_path / "banks", symlinks=True)
    shutil.rmtree(known_sound_file.known_sounds_folder(tmp_path / "banks" / bank.name))
    (tmp_path / "config.yaml").write_text(CONFIG)
    config = load(tmp_path / "config.yaml")
    machine, hop_s = config.machines[0], config.encoder.hop_s
    heard = FeatureSample(
        About(taught.encoder.identity, RATE_HZ, config.encoder.window_s, config.encoder.hop_s)
    )
    began = datetime.fromisoformat("2026-11-20T13:00:00+00:00")
    with closing(recording_of(machine, taught.folder / "taught.wav")) as source:
        windows = read_windows(source, machine="pump3", window_s=config.encoder.window_s, hop_s=hop_s)
        for window, features in encode_windows(taught.encoder, windows):
            at = began + timedelta(seconds=window.end / RATE_HZ)
            heard.add(features, "normal", at, window.start, window.end, alarmed=False)
            if abs(window.end / RATE_HZ - AT_S - 8) <= hop_s / 2:
                heard.event("E1", "warning", "normal", at)

    def learn(at: datetime) -> KnownSound:
        return known_sound_at(config, machine, taught.encoder, at, "lorry")

    with pytest.raises(EchoStreamError, match=r"no sound is kept of .* no features: .*No such file"):
        learn(at)
    path = path_of(config.state_dir, "pump3")
    path.parent.mkdir(parents=True)
    path.write_bytes(heard.to_bytes())
    with pytest.raises(
        EchoStreamError, match=r"nothing is kept to learn from.*the nearest is of 2026-11-20T13"
    ):
        learn(began - timedelta(hours=1))
    said = run(tmp_path, "ignore", "add", "-m", "pump3", "-n", "lorry", "--at", "2026-11-20T13:00:25Z")
    assert "features of 2026-11-20T13:00:2" in said
    for level_db, raised in ((LEVEL_DB, False), (LEVEL_DB + 6, True)):
        sound = over(machine_sound(5, 500, LISTEN_S), forklift(LENGTH_S, 2), AT_S, level_db)
        recording = write(tmp_path / "again.wav", sound)
        assert bool(replay_one(config, machine, taught.encoder, recording).events) is raised
