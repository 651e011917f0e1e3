"""fit-normal and `bank extend`: what is refused, left out, taken over, and what is told of it."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import SimulatedMachine
from echo_stream.config.load import load
from echo_stream.config.schema import Config, Machine
from echo_stream.core.checks import Verdict, worst
from echo_stream.core.errors import BankError, BankMismatch, EchoStreamError, SourceError
from echo_stream.core.types import AlarmLevel, Enrolled, Float32
from echo_stream.detect.bank import NormalBank
from echo_stream.encode.spectral import SpectralEncoder
from echo_stream.evidence.normal_sound import file_of, folder_of, read_clips
from echo_stream.fit import archive
from echo_stream.fit.fit import extend, fit, own_source, recordings
from echo_stream.fit.learn import Learnt
from echo_stream.fit.listen import record_source
from echo_stream.fit.recorded import Joined, held_out_places, in_runs, joined_clips, minutes_of, numbered
from echo_stream.fit.session import MICROPHONE, Enrolment, Session
from echo_stream.fit.summary import Fitted, bank_summary, facts, number, summaries
from echo_stream.fit.versions import BankVersions
from tests.support.sounds import ENCODER, HOP_S, WINDOW_S, enrol, features, normal
from tests.support.stations import learnt

RATE_HZ = 8_000
CONFIG = """\
node: pc7
state_dir: state
machines:
  - id: pump3
    name: Pump 3
    source: {kind: simulated, seed: 3, sample_rate_hz: 8000, pace: fast, duration_s: 90}
    bank: banks/pump3.safetensors
"""
PUMP = SimulatedMachine(3, RATE_HZ)


@cache
def pump(seconds: float, start_s: float = 0.0) -> Float32:
    """Its sound, made once; not to be written into."""
    sound = PUMP.sound(seconds, start_s=start_s)
    sound.flags.writeable = False
    return sound


def write(folder: Path, name: str, sound: np.ndarray, rate: int = RATE_HZ) -> Path:
    path = folder / f"{name}.wav"
    soundfile.write(path, sound, rate)
    return path


def knock(sound: Float32, at_s: float, times_rms: float = 10.0, rate: int = RATE_HZ) -> Float32:
    """The same sound with a knock of 50 ms in it."""
    sound, t_s = sound.copy(), np.arange(round(0.2 * rate)) / rate
    noise = np.random.default_rng(round(at_s)).standard_normal(len(t_s))
    start = round(at_s * rate)
    sound[start : start + len(t_s)] += np.exp(-t_s / 0.02) * noise * times_rms * sound.std()
    return sound


class Project:
    """A folder with a configuration of one machine."""

    def __init__(self, folder: Path, text: str = CONFIG) -> None:
        self.folder = folder
        (folder / "config.yaml").write_text(text)
        self.said: list[str] = []

    @property
    def config(self) -> Config:
        return load(self.folder / "config.yaml")

    @property
    def machine(self) -> Machine:
        return self.config.machines[0]

    @property
    def versions(self) -> BankVersions:
        return BankVersions(self.machine.bank)

    def versions_enrolled(self, bank_id: str) -> Sequence[Enrolled]:
        """What a version learnt."""
        return Enrolment.load(self.versions.enrolled_of(bank_id), bank_id).enrolled

    def fit(self, *paths: Path, condition: str = "normal", accept: bool = True, **how: Any) -> Fitted:
        hear = recordings(self.config, self.machine, paths) if paths else None
        return fit(
            self.config,
            self.machine,
            hear or own_source(self.config, self.machine, 1.0),
            condition=condition,
            accept=accept,
            progress=lambda _done, _total, at: self.said.append(at),
            **how,
        )

    def learn(self, *paths: Path, trimmed: bool = True) -> Learnt:
        return learnt(self.config, self.machine, *paths, trimmed=trimmed)

    def extend(self, *paths: Path, condition: str | None = None, accept: bool = False) -> Fitted:
        hear = recordings(self.config, self.machine, paths)
        return extend(
            self.config, self.machine, hear, condition=condition, accept=accept, progress=lambda *_: None
        )


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Fitted]:
    """A bank that learnt load; others go on from a copy of it."""
    project = Project(tmp_path_factory.mktemp("first"))
    return project, project.fit(write(project.folder, "load", pump(70.0)), condition="load")


def copied(project: Project, folder: Path) -> Project:
    """Another project that has the same sound and the same versions."""
    shutil.copytree(project.folder, folder, symlinks=True, dirs_exist_ok=True)
    return Project(folder)


@pytest.fixture(scope="module")
def states(
    tmp_path_factory: pytest.TempPathFactory, first: tuple[Project, Fitted]
) -> tuple[Project, list[Fitted]]:
    """A bank that learnt load, then idle, then off."""
    project = copied(first[0], tmp_path_factory.mktemp("states"))
    slower = SimulatedMachine(3, RATE_HZ, shaft_hz=15.0)
    sounds = {"idle": 0.4 * slower.sound(70.0), "off": np.zeros(30 * RATE_HZ)}
    fitted = [project.fit(write(project.folder, s, sounds[s]), condition=s) for s in ("idle", "off")]
    return project, [first[1], *fitted]


def refused(raised: pytest.ExceptionInfo[EchoStreamError], said: str, to_do: str) -> None:
    assert said in raised.value.message
    assert to_do in raised.value.hint


def test_a_knock_is_left_out_and_told(project: Project) -> None:
    path = write(project.folder, "a", knock(pump(90.0), 41.5))
    fitted = project.fit(path)
    (left_out,) = fitted.left_out
    assert left_out.recording == str(path)
    assert left_out.start_s <= 41.5 <= left_out.end_s
    assert left_out.end_s - left_out.start_s <= 4
    assert left_out.score > fitted.levels[AlarmLevel.ALARM].level
    assert fitted.windows == 89 - 2
    assert "left out: 0:40 to 0:43, score" in fitted.to_text()
    bank = NormalBank.load(project.machine.bank)
    assert bank.n_held_out == fitted.windows
    assert fitted.to_json()["left_out"][0]["start_s"] == left_out.start_s
    clips = read_clips(folder_of(project.machine.bank, "b1"))
    assert sum(clip.duration_s for clip in clips) >= 70
    assert not any(
        clip.start_s < left_out.end_s and left_out.start_s < clip.start_s + clip.duration_s for clip in clips
    )
    file = file_of(project.machine.bank, "b1", clips[2].file)
    heard, rate = soundfile.read(file, dtype="float32")
    first = round(clips[2].start_s * rate)
    assert np.abs(heard - soundfile.read(path, dtype="float32")[0][first : first + len(heard)]).max() < 1e-4


def test_nothing_is_left_out_where_that_is_asked_for(project: Project) -> None:
    path = write(project.folder, "a", knock(pump(60.0), 30.5))
    assert project.learn(path, trimmed=False).windows == 59


def test_a_machine_that_knocks_is_learnt_with_its_knocks(project: Project) -> None:
    sound = pump(90.0)
    for at_s in np.arange(4.3, 88, 11):
        sound = knock(sound, float(at_s))
    found = project.learn(write(project.folder, "a", sound))
    assert found.enrolment.session.left_out == ()
    assert found.windows == 89


def test_of_an_archive_pieces_are_learnt_and_it_is_said(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passing over sound is no loss of sound, and the picture of what was heard has gaps there."""
    write(project.folder, "a", np.tile(pump(60.0), 15))
    monkeypatch.setattr(archive, "MOST_WINDOWS", 450)
    monkeypatch.setattr(archive, "PART_S", 50.0)
    found = project.learn(project.folder / "a.wav")
    assert found.windows == 450
    findings = {check.name: check for check in found.checks}
    assert findings["Amount"].finding.startswith("450 of 899 windows were taken (0.1 of 0.2 h)")
    assert findings["Gaps"].finding == "no sound was lost"
    assert [item.start_s for item in found.enrolment.enrolled[:51]] == [*range(50), 100]
    assert found.enrolment.session.minutes == pytest.approx(450 / 60, rel=0.05)


@pytest.mark.parametrize(
    ("made", "said", "to_do"),
    [
        (lambda x: x[: 8 * RATE_HZ], "too short: 8 s of sound, 7 windows", "10 min or more is good"),
        (lambda x: 0 * x, "silent: no window is over -120 dBFS", "check the cable"),
        (lambda x: np.clip(x * 60, -1, 1), "clipped:", "lower the gain"),
        (
            lambda x: x * np.where(np.arange(len(x)) < len(x) / 2, 1, 4),
            "the level jumped by +12 dB at 0:",
            "--condition idle, then --condition load",
        ),
    ],
    ids=["short", "silent", "clipped", "jumped"],
)
def test_what_is_not_fit_to_be_learnt(project: Project, made, said: str, to_do: str) -> None:  # type: ignore[no-untyped-def]
    path = write(project.folder, "a", made(pump(60.0)))
    with pytest.raises(SourceError) as raised:
        project.fit(path)
    refused(raised, said, to_do)
    assert str(path) in raised.value.message
    assert project.versions.ids() == []


def test_operating_states_join_one_bank(states: tuple[Project, list[Fitted]]) -> None:
    project, fitted = states
    assert [f.conditions for f in fitted] == [("load",), ("idle", "load"), ("idle", "load", "off")]
    assert [f.windows for f in fitted] == [69, 138, 167]
    bank = NormalBank.load(project.machine.bank)
    assert bank.conditions == ("idle", "load", "off")
    assert [s.id for s in fitted[2].kept_sessions] == ["b1", "b2"]
    assert "of the operating states" in fitted[2].report.read_text()
    # The calibration rests on states in which there can be an alarm, the sensor's limits on all.
    assert bank.calibration is not None
    assert sum(len(run) for run in bank.calibration.runs) == 138
    assert bank.calibration.sensor is not None
    assert bank.calibration.sensor.quietest_dbfs == -200.0
    assert set(bank.calibration.spectra) == {"idle", "load", "off"}
    shown = facts(project.machine, None)
    assert shown["normal_sound"] == pytest.approx({"load": 70, "idle": 70, "off": 30}, abs=10)
    assert "s of idle" in bank_summary(shown)
    assert summaries(project.machine)[0]["normal_sound_s"] == pytest.approx(70, abs=10)


def test_a_state_that_is_fitted_again_replaces_itself(states: tuple[Project, list[Fitted]]) -> None:
    project, _ = states
    path = write(project.folder, "idle2", 0.3 * pump(40.0, start_s=500))
    fitted = project.fit(path, condition="idle", accept=False)
    assert fitted.conditions == ("idle", "load", "off")
    assert [(s.condition, s.id) for s in fitted.kept_sessions] == [("load", "b1"), ("off", "b3")]
    assert not fitted.accepted
    assert project.versions.accepted == "b3"


def test_another_rate_is_refused(states: tuple[Project, list[Fitted]], tmp_path: Path) -> None:
    project, _ = states
    text = CONFIG.replace("8000", "16000").replace("banks/", f"{project.folder}/banks/")
    path = write(tmp_path, "quick", SimulatedMachine(3, 16_000).sound(60.0), 16_000)
    with pytest.raises(SourceError) as raised:
        Project(tmp_path, text).fit(path, condition="test")
    refused(raised, "quick.wav: has 16000 Hz, condition 'load' of this bank was learnt at 8000 Hz", "--fresh")


def test_another_window_is_refused(states: tuple[Project, list[Fitted]], tmp_path: Path) -> None:
    project, _ = states
    text = CONFIG.replace("machines:", "encoder: {kind: spectral, window_s: 1.0, hop_s: 0.5}\nmachines:")
    other = Project(tmp_path, text.replace("banks/", f"{project.folder}/banks/"))
    with pytest.raises(BankMismatch) as raised:
        other.fit(project.folder / "load.wav", condition="test")
    refused(raised, "window_s: the bank has 2.0, asked for is 1.0", "--fresh")


def test_another_microphone_is_refused(project: Project) -> None:
    """Whatever opens as the machine's source must be the device that the other states were learnt with."""
    before = Session("idle", MICROPHONE, "microphone 'USB Audio', channel 0", RATE_HZ, "", 9, 1.0, ("a",))
    now = project.machine.model_copy(
        update={"source": project.machine.source.model_copy(update={"kind": MICROPHONE})}
    )
    with pytest.raises(SourceError) as raised:
        _hear(project, now, before)
    refused(raised, "the device changed: now simulated machine 3", "listen with that one")
    _hear(project, project.machine, before)


def _hear(project: Project, machine: Machine, before: Session) -> None:
    encoder = SpectralEncoder(2.0)
    how = {"encoder": encoder, "condition": "load", "progress": lambda *_: None}
    record_source(project.config, machine, 0.1, others=[before], **how)  # type: ignore[arg-type]


def test_a_bank_whose_sound_is_gone_is_refused_and_fresh_takes_nothing_over(
    first: tuple[Project, Fitted], tmp_path: Path
) -> None:
    copied(first[0], tmp_path)
    project = Project(tmp_path, CONFIG + "evidence: {enabled: false}\n")
    path = write(project.folder, "a", pump(40.0))
    project.versions.enrolled_of("b1").unlink()
    with pytest.raises(BankError) as raised:
        project.fit(path, condition="idle")
    refused(raised, "b1.enrolled.safetensors", "--fresh")
    fitted = project.fit(path, condition="idle", accept=False, fresh=True)
    assert fitted.conditions == ("idle",)
    assert not folder_of(project.machine.bank, fitted.bank_id).exists(), "no sound is ever stored"


def test_extending_is_a_proposal(first: tuple[Project, Fitted], tmp_path: Path) -> None:
    project, summer = copied(first[0], tmp_path), first[1]
    filtered = np.convolve(pump(60.0, start_s=300), [1, -0.35], mode="same")
    winter = write(project.folder, "winter", filtered)
    proposal = project.extend(winter)
    assert project.versions.accepted == "b1"
    assert proposal.bank_id == "b2"
    assert not proposal.accepted
    assert (summer.windows, proposal.windows) == (69, 69 + 59)
    change = proposal.change
    assert change is not None
    assert change.base_id == "b1"
    assert change.share_over[AlarmLevel.ALARM] > 0.9  # it is another season
    assert change.raised[AlarmLevel.ALARM] >= 1
    assert change.levels[AlarmLevel.ALARM].level == summer.levels[AlarmLevel.ALARM].level
    told = proposal.to_text()
    assert "echo-stream bank accept --machine pump3 b2" in told
    assert "be sure that the machine was well" in told
    project.versions.accept("b2", "now")
    with pytest.raises(BankError, match="the recording is in the bank already"):
        project.extend(winter)
    again = project.extend(write(project.folder, "more", pump(40.0, start_s=600)), accept=True)
    assert again.change is not None
    assert again.change.share_over[AlarmLevel.ALARM] == 0  # it is known
    assert project.versions.accepted == "b3"
    assert [s.id for s in again.kept_sessions] == ["b1", "b2"]


def test_extending_needs_a_bank_and_a_state_that_it_knows(
    project: Project, states: tuple[Project, list[Fitted]]
) -> None:
    with pytest.raises(BankError, match="there is no bank"):
        project.extend(project.folder)
    several, _ = states
    with pytest.raises(BankError) as raised:
        several.extend(several.folder / "load.wav")
    refused(
        raised, "the bank has several operating states, and none was named", "--condition: idle, load, off"
    )
    with pytest.raises(BankError) as raised:
        several.extend(several.folder / "load.wav", condition="full")
    refused(raised, "no operating state 'full'", "fit-normal --condition full")


@pytest.mark.parametrize("strange", [(5, 41), (77, 30), (29, 59), (60, 52)])
def test_scores_are_told_of_the_windows_that_they_belong_to(strange: tuple[int, int]) -> None:
    """Windows of several recordings and two states, one strange in each: it has the highest score there."""
    items = normal(90)
    for i, offset in zip(strange, (12, -12), strict=True):  # far from each other, too
        items[i] = features((items[i].window + offset).astype(np.float32))
    enrolled = [
        *enrol(items[:30], condition="load", name="z"),
        *enrol(items[30:60], condition="idle", name="y", recordings=3),
        *enrol(items[60:], condition="load", name="x"),
    ]
    how = {"window_s": WINDOW_S, "hop_s": HOP_S}
    bank = NormalBank.fit(enrolled, encoder=ENCODER, sample_rate_hz=RATE_HZ, **how)  # type: ignore[arg-type]
    scores = np.full(90, np.nan)
    for run, members in zip(bank.held_out, held_out_places(enrolled, **how), strict=True):
        scores[members] = run
    idle = np.arange(30, 60)
    assert np.isfinite(scores).all()
    assert idle[np.argmax(scores[idle])] == strange[1]
    scores[idle] = -np.inf
    assert np.argmax(scores) == strange[0]


def test_runs_and_minutes() -> None:
    enrolled = [item for item in enrol(normal(12), recordings=2) if item.start_s != 2.0]
    assert [len(run) for run in in_runs(enrolled, np.arange(10.0), HOP_S)] == [2, 3, 2, 3]
    assert minutes_of(enrolled, WINDOW_S) * 60 == 7 + 7
    assert minutes_of([], WINDOW_S) == 0


@pytest.mark.parametrize(
    ("value", "words"), [(0.25, "0.25"), (1.0, "1"), (42.3, "42"), (423.0, "420"), (12_345, "12000")]
)
def test_numbers_for_people(value: float, words: str) -> None:
    assert number(value) == words


def test_listening_shows_a_live_level(project: Project) -> None:
    """On a real terminal: a bar, the level, and the machine's own words at the end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "echo_stream", "fit-normal", "-m", "pump3", "--minutes", "1"],
        cwd=project.folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm", "COLUMNS": "100"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    assert process.stdout is not None
    told = process.stdout.read().decode()
    process.stdout.close()
    assert process.wait(60) == 0
    text = shown.decode(errors="replace")
    assert "listening" in text
    assert "█" in text
    assert "dBFS" in text
    assert "pump3: bank b1 fitted on 59 windows" in told


def test_its_own_source_replaces_a_damaged_bank_and_it_is_said_what_is_at_hand(project: Project) -> None:
    project.machine.bank.parent.mkdir()
    project.machine.bank.write_bytes(b"not a bank")
    fitted = project.fit()
    assert [c.verdict for c in fitted.checks if c.name == "Bank before"] == [Verdict.WARN]
    assert fitted.bank_id == project.versions.accepted == "b1"
    assert any("dBFS" in at for at in project.said)
    kept_s = sum(clip.duration_s for clip in read_clips(folder_of(project.machine.bank, "b1")))
    assert kept_s == pytest.approx(60, abs=10)
    assert project.said[-1] == "writing the report"
    assert fitted.session.source == "simulated"
    assert abs(datetime.fromisoformat(fitted.session.heard_at) - datetime.now(UTC)).total_seconds() < 600


def test_real_machines(tmp_path: Path, recordings_folder: Path) -> None:
    """Undisturbed recordings are learnt whole; a knock in one is found."""
    fan, rate = recordings_folder / "streams" / "fan_sensiml_enroll_normal_120s.flac", 16_000
    project = Project(tmp_path, CONFIG.replace(str(RATE_HZ), str(rate)))
    found = project.learn(fan)
    assert found.enrolment.session.left_out == ()
    assert worst([c for c in found.checks if c.name in {"Clipping", "Steadiness", "Sound"}]) == Verdict.OK
    sound, _ = soundfile.read(fan)
    path = write(tmp_path, "knocked", knock(sound, 80.5, rate=rate), rate)
    (left_out,) = project.learn(path).enrolment.session.left_out
    assert left_out.start_s <= 80.5 <= left_out.end_s


@pytest.fixture
def recordings_folder(request: pytest.FixtureRequest) -> Path:
    """`recordings` of conftest.py, under a name that this module does not use itself."""
    folder: Path = request.getfixturevalue("recordings")
    return folder


def clip(number: int, level_dbfs: float = -20.0, name: str = "take_{:03d}.wav") -> Enrolled:
    (heard,) = normal(1)
    heard = replace(heard, level_dbfs=level_dbfs)
    return Enrolled(heard, name.format(number), 0.0, "normal")


def joined(clips: Sequence[Enrolled], held_hops: int = 8) -> Joined:
    runs = [np.array([float(i)]) for i in range(len(clips))]
    places = [np.array([i], np.intp) for i in range(len(clips))]
    return joined_clips(runs, places, clips, window_s=2.0, hop_s=1.0, held_hops=held_hops)


def joined_lengths(clips: Sequence[Enrolled]) -> list[int]:
    return [len(run) for run in joined(clips).runs]


def test_clips_that_follow_each_other_are_one_run() -> None:
    assert joined_lengths([clip(i) for i in (3, 1, 2)]) == [5]  # and two windows that straddle
    assert joined_lengths([clip(i) for i in (8, 9, 11, 10)]) == [7]
    assert joined_lengths([clip(i, level_dbfs=-20.0 + 9.0 * (i == 2)) for i in range(1, 7)]) == [11]
    assert joined_lengths([clip(i, level_dbfs=-9.0 * (i % 2)) for i in range(3)]) == [1, 1, 1]
    assert joined_lengths([clip(1, name="fan{}.wav"), clip(2, name="pump{}.wav")]) == [1, 1]
    assert joined_lengths([clip(1, name="knock.wav"), clip(2, name="voice.wav")]) == [1, 1]


def test_short_clips_of_one_series_are_joined_and_counted_longer_ones_are_not() -> None:
    apart = [clip(1), clip(3), clip(20260327)]
    assert [len(run) for run in joined(apart).runs] == [5]
    assert joined(apart).by_name_alone == 2
    assert joined([clip(1), clip(2)]).by_name_alone == 0
    assert [len(run) for run in joined(apart, held_hops=2).runs] == [1, 1, 1]


def test_a_straddling_window_is_as_strange_as_its_stranger_neighbour() -> None:
    places = [np.array([0], np.intp), np.array([1], np.intp)]
    (run,) = joined_clips(
        [np.array([5.0]), np.array([1.0])], places, [clip(7), clip(8)], window_s=2.0, hop_s=1.0, held_hops=8
    ).runs
    assert run.tolist() == [5.0, 5.0, 1.0]


def test_the_numbers_of_a_clip_are_those_before_the_ending() -> None:
    assert numbered("a1/take_007.mp3") == ("a#/take_#.mp3", (1, 7))
    assert numbered("fan.m4a") == ("fan.m4a", ())


def test_clips_of_two_seconds_give_about_the_level_of_the_same_sound_in_one_piece(tmp_path: Path) -> None:
    """75 clips of a compressor had an alarm level of 422, the same sound in one piece 22."""
    sound, rng = pump(120.0).copy(), np.random.default_rng(0)
    for at_s in (17.0, 50.5, 83.0, 101.0):  # odd moments that come again: its own
        part = slice(round(at_s * RATE_HZ), round((at_s + 1.5) * RATE_HZ))
        sound[part] += 3.0 * sound.std() * rng.standard_normal(part.stop - part.start)
    levels = []
    for count in (1, 60):
        folder = tmp_path / f"of {count}"
        folder.mkdir()
        project = Project(folder)
        takes = [write(folder, f"take_{i:03d}", part) for i, part in enumerate(np.split(sound, count))]
        found = project.learn(*takes)
        levels.append(found.levels[AlarmLevel.ALARM].level)
        assert all(check.verdict == Verdict.OK for check in found.checks if check.name == "Sensitivity")
    assert 0.5 < levels[1] / levels[0] < 2.0


def test_clips_that_do_not_follow_say_how_much_continuous_sound_is_missing(tmp_path: Path) -> None:
    parts = np.split(pump(60.0), 30)
    names = np.random.default_rng(0).permutation(10_000)[:30]
    takes = [write(tmp_path, f"n{n}", p) for n, p in zip(names, parts, strict=True)]
    (check,) = [check for check in Project(tmp_path).learn(*takes).checks if check.name == "Continuity"]
    assert "30 short clips" in check.finding
    assert "2 min of continuous sound are missing" in check.finding
