"""Evidence: the right sound, whole files, quotas, a full disk, and what the picture's measurements say."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import soundfile

from echo_stream.capture.simulator import FAULT_KINDS, Fault, FaultKind, Scenario, SimulatedMachine
from echo_stream.capture.windows import Slicer
from echo_stream.core.calibration import NormalSpectrum
from echo_stream.core.files import write_whole
from echo_stream.core.text import utc_text
from echo_stream.core.types import BandScore, Float32
from echo_stream.evidence.picture import TELEPHONE_BYTES
from echo_stream.evidence.recorder import Evidence, longest
from echo_stream.evidence.spectrum import (
    AlarmSpectrum,
    band_levels_db,
    change_text,
    deciding_bands,
    joined,
    measure_alarm,
)
from echo_stream.evidence.store import (
    Kept,
    advance_clock,
    document_path,
    find_event,
    list_events,
    newest_events,
    remove_parts,
    tidy,
)
from echo_stream.mqtt.event_ids import new_event_id

RATE_HZ = 8000
START = datetime(2026, 11, 20, 8, 0, 0, tzinfo=UTC)
BANDS = [BandScore(20.0, 1000.0, 0.2), BandScore(1000.0, 2000.0, 2.4), BandScore(2000.0, 4000.0, 0.9)]
SOUND = SimulatedMachine(5, RATE_HZ).sound(60)


class Stream:
    """A machine's sound as the pipeline sees it, and the evidence that listens along."""

    def __init__(self, evidence: Evidence, machine: str = "pump3", keep_s: float = 30.0) -> None:
        self.evidence = evidence
        self.machine = machine
        self.slicer = Slicer(RATE_HZ, RATE_HZ, round(keep_s * RATE_HZ))
        self.sound = SOUND
        self.index = 0

    def time_of(self, index: int) -> datetime:
        return START + timedelta(seconds=index / RATE_HZ)

    def hear(self, seconds: float, gap_s: float = 0.0) -> None:
        """So many seconds pass, after a gap."""
        self.index += round(gap_s * RATE_HZ)
        for _ in range(round(seconds * 2)):
            block = self.sound[self.index : self.index + RATE_HZ // 2]
            self.slicer.push(block, self.index, gap_s > 0)
            gap_s = 0
            self.index += len(block)
            self.evidence.on_samples_buffered(self.machine, self.index, self.time_of(self.index))

    def alarm(self, normal: NormalSpectrum | None = None) -> dict[str, Any]:
        """An alarm at this moment; its event."""
        at = self.time_of(self.index)
        event = {
            "event_id": new_event_id(at),
            "machine": self.machine,
            "ts": utc_text(at),
            "level": "alarm",
            "score": 3.5,
            "threshold": 2.1,
        }
        self.evidence.alarm(
            event,
            at=self.index,
            onset=max(0, self.index - 3 * RATE_HZ),
            sample_rate_hz=RATE_HZ,
            bands=BANDS,
            history=self.slicer.history,
            normal=normal,
        )
        return event


@contextmanager
def working(folder: Path, *, started: bool = True, **settings: Any) -> Iterator[tuple[Evidence, list[Kept]]]:
    """Evidence that works, without much need of a free disk, and what it said was complete.

    Its end interrupts a picture that is being drawn. Where a test starts it after all was heard, the sound is
    complete before anything is drawn.
    """
    complete: list[Kept] = []
    evidence = Evidence(folder, on_complete=complete.append, **{"min_free_mb": 0, **settings})
    if started:
        evidence.start()
    try:
        yield evidence, complete
    finally:
        evidence.stop(10)


def wait_for(what: Callable[[], object], timeout_s: float = 300) -> None:
    """An event, with a generous end: other work may take most of this PC."""
    until_s = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < until_s, f"not within {timeout_s:.0f} s"
        time.sleep(0.02)


def read(kept: Kept) -> tuple[dict[str, Any], Float32]:
    assert kept.clip is not None
    samples, rate = soundfile.read(kept.clip, dtype="float32")
    assert rate == RATE_HZ
    return json.loads(kept.document.read_text()), samples


def whole(folder: Path) -> list[Kept]:
    """What is on the disk to its end, whether it is drawn or not."""
    return [kept for kept in list_events(folder) if kept.complete]


def test_an_alarm_leaves_sound_document_and_a_picture_that_can_be_drawn_again(tmp_path: Path) -> None:
    pictures: list[tuple[str, bytes]] = []
    with working(tmp_path, on_picture=lambda *shown: pictures.append(shown)) as (evidence, complete):
        stream = Stream(evidence)
        stream.hear(15)
        levels_db = band_levels_db(stream.sound[: 4 * RATE_HZ], RATE_HZ)
        event = stream.alarm(NormalSpectrum.fit(RATE_HZ, [levels_db]))
        names = evidence.names("pump3", stream.time_of(stream.index), event["event_id"])
        wait_for(lambda: list_events(tmp_path))
        [early] = list_events(tmp_path)
        assert not early.complete
        assert len(read(early)[1]) == 13 * RATE_HZ, "a power cut would leave what was before the alarm"
        wait_for(lambda: pictures)  # for the telephone, before the sound is complete
        assert not (tmp_path / "pump3" / names[1]).exists()
        stream.hear(10)
        wait_for(lambda: complete)
    [kept] = complete
    for machine, picture in pictures:
        assert machine == "pump3"
        assert len(picture) < TELEPHONE_BYTES == 60_000
        assert matplotlib.image.imread(io.BytesIO(picture)).shape[:2] == (600, 800)
    with working(tmp_path, on_picture=lambda *shown: pictures.append(shown)):
        wait_for(lambda: len(pictures) == 3)  # after a restart the newest is shown again
    assert pictures[2] == pictures[1]
    document, samples = read(kept)
    assert kept.complete
    assert kept.duration_s == document["clip"]["duration_s"] == 23, "as the document on the disk says"
    assert kept.picture is not None
    assert (kept.clip and kept.clip.name, kept.picture.name) == names
    assert kept.picture.read_bytes().startswith(b"\x89PNG")
    np.testing.assert_allclose(samples, stream.sound[2 * RATE_HZ : 25 * RATE_HZ], atol=1e-6)
    assert document["event"] == event
    assert document["clip"]["alarm_s"] == 13
    assert document["clip"]["onset_s"] == 10
    assert document["clip"]["start_ts"] == "2026-11-20T08:00:02.000+00:00"
    assert document["bands_hz"][1] == [1000, 2000, 2.4]
    assert evidence.kept == 1
    assert evidence.failed == 0
    assert sorted(p.suffix for p in (tmp_path / "pump3").iterdir()) == [".flac", ".json", ".png", ".png"]
    first = kept.picture.read_bytes()
    kept.picture.unlink()
    again = [sys.executable, "-m", "echo_stream.evidence.picture", str(kept.document)]
    subprocess.run(again, check=True)
    assert kept.picture.read_bytes() == first


def test_sound_beyond_full_scale_is_scaled_and_said(tmp_path: Path) -> None:
    with working(tmp_path, started=False, post_roll_s=1) as (evidence, _):
        stream = Stream(evidence)
        stream.sound = stream.sound * np.float32(9.0 / np.abs(stream.sound).max())  # m/s2
        stream.hear(4)
        stream.alarm()
        stream.hear(2)
        evidence.start()
        wait_for(lambda: whole(tmp_path))
    document, samples = read(whole(tmp_path)[0])
    scale = document["clip"]["full_scale"]
    assert scale == 16
    np.testing.assert_allclose(samples * scale, stream.sound[: 5 * RATE_HZ], atol=1e-4)


def test_shortly_after_the_start_there_is_less_before(tmp_path: Path) -> None:
    with working(tmp_path, started=False, post_roll_s=1) as (evidence, _):
        stream = Stream(evidence)
        stream.hear(4)
        stream.alarm()
        stream.hear(1)
        evidence.start()
        wait_for(lambda: whole(tmp_path))
    document, samples = read(whole(tmp_path)[0])
    assert document["clip"]["alarm_s"] == 4
    np.testing.assert_allclose(samples, stream.sound[: 5 * RATE_HZ], atol=1e-6)


def test_sound_never_reaches_over_a_gap(tmp_path: Path) -> None:
    with working(tmp_path, started=False) as (evidence, _):
        stream = Stream(evidence, keep_s=60)
        stream.hear(10)
        stream.hear(6, gap_s=1)
        at = stream.index
        stream.alarm()
        stream.hear(3)
        stream.hear(12, gap_s=2)
        evidence.start()
        wait_for(lambda: whole(tmp_path))
    document, samples = read(whole(tmp_path)[0])
    assert document["clip"]["alarm_s"] == pytest.approx(6, abs=0.06)
    assert document["clip"]["duration_s"] == pytest.approx(9, abs=0.11)
    before = round(document["clip"]["alarm_s"] * RATE_HZ)
    np.testing.assert_allclose(samples, stream.sound[at - before : at - before + len(samples)], atol=1e-6)


def test_stopping_keeps_what_there_is_and_the_next_start_draws_it(tmp_path: Path) -> None:
    with working(tmp_path) as (evidence, complete):
        stream = Stream(evidence)
        stream.hear(12)
        stream.alarm()
        stream.hear(2)
    [kept] = list_events(tmp_path)
    assert kept.complete
    assert read(kept)[0]["clip"]["duration_s"] == 14
    if kept.picture is None:
        with working(tmp_path):
            wait_for(lambda: list_events(tmp_path)[0].picture)
    assert len(complete) <= 1


def test_machines_and_times_are_told_apart(tmp_path: Path) -> None:
    with working(tmp_path, started=False, post_roll_s=0.5) as (evidence, _):
        streams = [Stream(evidence, "pump3"), Stream(evidence, "fan1")]
        for stream in streams:
            stream.hear(3)
            stream.alarm()
        for stream in streams:
            stream.hear(1)
        evidence.start()
        wait_for(lambda: len(list_events(tmp_path)) == 2)
    assert [k.machine for k in list_events(tmp_path)] in (["pump3", "fan1"], ["fan1", "pump3"])
    assert [k.machine for k in list_events(tmp_path, machine="fan1")] == ["fan1"]
    assert list_events(tmp_path, since=START + timedelta(seconds=4)) == []
    assert len(list_events(tmp_path, since=START)) == 2
    assert list_events(tmp_path / "nothing") == []


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "ü ü", "", "x" * 500, ".hidden"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    path = document_path(tmp_path, name, START, name)
    assert path.resolve().parent.parent == tmp_path.resolve()
    assert not path.name.startswith(".")
    write_whole(path, b"{}")
    assert path.read_bytes() == b"{}"


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path: Path) -> None:
    path = tmp_path / "m" / "a.json"
    write_whole(path, b"old")
    path.with_name(f".a.json.{os.getpid()}.part").mkdir()  # what is in the way cannot be opened
    with pytest.raises(OSError, match="directory"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


def test_parts_of_interrupted_writes_go(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".x.flac.part").write_bytes(b"half")
    remove_parts(tmp_path)
    assert list((tmp_path / "m").iterdir()) == []


def some_event(folder: Path, day: int, size: int, machine: str = "m") -> Path:
    at = START + timedelta(days=day)
    path = document_path(folder, machine, at, f"E{day}")
    write_whole(
        path,
        json.dumps(
            {"event": {"event_id": f"E{day}", "machine": machine, "ts": utc_text(at)}, "complete": True}
        ).encode(),
    )
    write_whole(path.with_suffix(".flac"), b"x" * size)
    return path


def test_too_old_and_too_much_goes_oldest_first_and_nothing_else(tmp_path: Path) -> None:
    for day in range(10):
        some_event(tmp_path, day, 10_000, machine=f"m{day % 2}")
    own = tmp_path / "m0" / "notes.txt"
    own.write_text("of a person")
    now = START + timedelta(days=9)
    assert tidy(tmp_path, max_bytes=1e9, max_days=6.5, now=now) == 3
    assert [k.event_id for k in list_events(tmp_path)] == [f"E{d}" for d in range(3, 10)]
    assert tidy(tmp_path, max_bytes=45_000, max_days=90, now=now) == 3
    assert [k.event_id for k in list_events(tmp_path)] == ["E6", "E7", "E8", "E9"]
    assert sum(1 for _ in tmp_path.glob("*/*.flac")) == 4
    assert own.exists()


def test_a_clock_that_jumps_removes_no_evidence(tmp_path: Path) -> None:
    events = [some_event(tmp_path, day, 1000) for day in (0, 40, 80)]
    now = START + timedelta(days=80)
    assert advance_clock(tmp_path, now) == now
    for hour in range(5):  # 30 years ahead for five hours, and back
        jumped = advance_clock(tmp_path, now + timedelta(days=30 * 365, hours=hour))
        assert tidy(tmp_path, max_bytes=1e9, max_days=90, now=jumped) == 0
    assert advance_clock(tmp_path, now) <= now + timedelta(days=5)
    assert advance_clock(tmp_path, datetime(1970, 1, 1, tzinfo=UTC)) >= now
    assert all(event.exists() for event in events)


def test_after_a_pause_the_age_limit_catches_up(tmp_path: Path) -> None:
    old = some_event(tmp_path, 0, 1000)
    now = START + timedelta(days=100)
    found = [tidy(tmp_path, max_bytes=1e9, max_days=90, now=advance_clock(tmp_path, now)) for _ in range(95)]
    assert sum(found) == 1
    assert found[0] == 0
    assert not old.exists()


def test_evidence_of_a_clock_that_was_not_set_has_no_age(tmp_path: Path) -> None:
    unset, recent = some_event(tmp_path, -20_400, 1000), some_event(tmp_path, 0, 1000)
    assert unset.name.startswith("1971")
    assert tidy(tmp_path, max_bytes=1e9, max_days=90, now=START) == 0
    assert tidy(tmp_path, max_bytes=1500, max_days=90, now=START) == 1
    assert not unset.exists()
    assert recent.exists()


@pytest.mark.parametrize("text", ["", "soon", "2026-11-20", "\x00"])
def test_a_damaged_time_of_the_age_limit_begins_anew(tmp_path: Path, text: str) -> None:
    (tmp_path / ".clock").write_text(text)
    assert advance_clock(tmp_path, START) == START


def test_the_worker_tidies_by_the_time_of_the_sound(tmp_path: Path) -> None:
    old = some_event(tmp_path, -100, 1000)
    recent = some_event(tmp_path, -10, 1000)
    with working(tmp_path) as (evidence, _):
        Stream(evidence).hear(0.5)
        wait_for(lambda: not old.exists())
    assert recent.exists()


EVENT = {"event_id": "E1", "machine": "m", "ts": "2026-11-20T08:00:00+00:00"}


@pytest.mark.parametrize(
    "text",
    [
        '{"event": ',
        "[]",
        "null",
        "[" * 100_000,
        json.dumps({"event": "E1", "complete": True}),
        json.dumps({"event": EVENT}),
        json.dumps({"event": EVENT, "complete": "yes"}),
        json.dumps({"event": {**EVENT, "ts": 3}, "complete": True}),
        json.dumps({"event": {**EVENT, "ts": "yesterday"}, "complete": True}),
        json.dumps({"event": {**EVENT, "ts": "2026-11-20T08:00:00"}, "complete": True}),
        json.dumps({"event": {**EVENT, "machine": None}, "complete": True}),
        json.dumps({"event": {**EVENT, "event_id": ["E1"]}, "complete": True}),
    ],
)
def test_a_damaged_document_is_left_out(tmp_path: Path, text: str) -> None:
    good, bad = some_event(tmp_path, 0, 10), some_event(tmp_path, 1, 10)
    bad.write_text(text)
    assert bad.exists()
    assert [k.document for k in list_events(tmp_path)] == [good]


def test_too_little_free_disk_is_said_once_and_recovers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with working(tmp_path, min_free_mb=1e9, post_roll_s=0.5) as (evidence, _):
        stream = Stream(evidence)
        for _ in range(3):
            failed = evidence.failed
            stream.hear(2)
            stream.alarm()
            stream.hear(1)
            while evidence.failed == failed:
                time.sleep(0.01)
        assert list_events(tmp_path) == []
        evidence._min_free_bytes = 0
        stream.alarm()
        stream.hear(1)
        wait_for(lambda: list_events(tmp_path))
    said = capsys.readouterr().out
    assert said.count("evidence cannot be kept") == 1
    assert "MB free" in said
    assert said.count("evidence is kept again") == 1
    assert evidence.failed == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_fails_the_evidence_alone(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("this container may not mount")
    try:
        with working(tmp_path, post_roll_s=0.5) as (evidence, complete):
            stream = Stream(evidence)
            stream.hear(12)
            stream.alarm()
            stream.hear(1)
            wait_for(lambda: evidence.failed == 1)
            assert complete == []
        assert list(tmp_path.glob("*/*")) == [], "nothing half written is left"
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_clip_that_cannot_be_drawn_is_evidence_all_the_same(tmp_path: Path) -> None:
    with working(tmp_path, started=False, pre_roll_s=0.01, post_roll_s=0) as (evidence, complete):
        stream = Stream(evidence)
        stream.hear(1)
        stream.alarm()
        stream.hear(0.5)
        evidence.start()
        wait_for(lambda: complete)
    assert complete[0].clip is not None


def test_an_alarm_without_sound_is_counted(tmp_path: Path) -> None:
    with working(tmp_path, post_roll_s=0.5) as (evidence, complete):
        stream = Stream(evidence, keep_s=2)
        evidence.alarm(
            {"event_id": "E", "machine": "pump3", "ts": utc_text(START)},
            at=50 * RATE_HZ,
            onset=None,
            sample_rate_hz=RATE_HZ,
            bands=BANDS,
            history=stream.slicer.history,
        )
        stream.hear(1)
        evidence.on_samples_buffered("pump3", 60 * RATE_HZ, START)
        wait_for(lambda: evidence.failed == 1)
        assert complete == []


@pytest.mark.parametrize("there", [0, 100, 777, 8000])
def test_the_longest_piece_that_is_there_is_taken(there: int) -> None:
    def history(start: int, end: int) -> Float32 | None:
        return (
            np.arange(start, end, dtype=np.float32) if 1000 - there <= start <= end <= 1000 + there else None
        )

    before, after = longest(history, 1000, -500, 100), longest(history, 1000, 500, 100)
    expected = min(500, there // 5 * 5)
    assert len(before) == len(after) == expected
    if expected:
        assert before[-1] == 999
        assert after[0] == 1000


@cache
def normal_spectrum(machine: SimulatedMachine) -> NormalSpectrum:
    rate = machine.sample_rate_hz
    return NormalSpectrum.fit(
        rate, [band_levels_db(w, rate) for w in machine.sound(60, start_s=600).reshape(30, -1)]
    )


DRAWN = SimulatedMachine(2)


def measured(kind: FaultKind) -> AlarmSpectrum:
    """What the picture of a simulated fault is made of, in the form of an evidence document."""
    rate, normal = DRAWN.sample_rate_hz, normal_spectrum(DRAWN)
    document = {
        "event": {"machine": "m", "ts": utc_text(START), "level": "alarm", "score": 3.0, "threshold": 2.0},
        "clip": {"sample_rate_hz": rate, "alarm_s": 12.0, "onset_s": 9.0},
        "bands_hz": [[b.low_hz, b.high_hz, b.contribution] for b in BANDS],
        "normal": normal.to_json(),
    }
    return measure_alarm(document, Scenario(DRAWN, [Fault(kind, 8, 99)]).render(0, 16 * rate))


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_the_words_of_a_picture_say_where_the_fault_is(kind: FaultKind) -> None:
    machine = DRAWN
    where_hz = {"bearing": machine.resonance_hz, "imbalance": machine.shaft_hz, "rattle": machine.rattle_hz}[
        kind
    ]
    it = measured(kind)
    first = change_text(it).split(";")[0]
    assert first.startswith("louder by ")
    numbers = [float(word) for word in first.split() if word.replace(".", "").isdigit()]
    decibels, low, high = numbers
    factor = 1000 if "kHz" in first else 1
    assert low * factor * 0.9 <= where_hz <= high * factor * 1.1
    assert 3 < decibels < 25
    assert np.abs(it.present_db - it.normal.median_db)[-4:].max() < 3, "nothing happens at the top"


def test_bands_that_carry_the_score_are_marked() -> None:
    document = {"bands_hz": [[0, 1, 0.2], [1, 2, 2.4], [2, 3, 0.9], [3, 4, -1.0]]}
    assert deciding_bands(document) == [(1, 2), (2, 3)]
    assert deciding_bands({"bands_hz": [[0, 1, -0.2]]}) == []
    assert joined([(2.0, 3.0), (1.0, 2.0), (7.0, 8.0)]) == [(1.0, 3.0), (7.0, 8.0)]


def test_the_listening_process_never_imports_matplotlib() -> None:
    heavy = "{'matplotlib', 'soundfile', 'scipy'}"
    code = f"import sys, echo_stream.evidence.recorder; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"


def test_one_event_is_found_by_its_id_and_the_newest_first(tmp_path: Path) -> None:
    folder = tmp_path / "evidence"
    ids = [f"01KB5GZ1P0W3V6F1Q2Z8Y7X5R{n}" for n in range(4)]
    for n, event_id in enumerate(ids):
        at = datetime(2026, 11, 20, 8, n, tzinfo=UTC)
        path = document_path(folder, "pump3" if n < 3 else "fan1", at, event_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        event = {"event_id": event_id, "machine": path.parent.name, "ts": at.isoformat()}
        path.write_text(json.dumps({"event": event, "complete": True}))
    found = find_event(folder, ids[1])
    assert found is not None
    assert found.event_id == ids[1]
    for hostile in ("", "*", "../pump3", f"{ids[1]}*", "?" * 26, "[0-9]", "\0", "../../etc/passwd"):
        assert find_event(folder, hostile) is None
    assert [k.event_id for k in newest_events(folder)] == ids[::-1]
    assert [k.event_id for k in newest_events(folder, "pump3", limit=2)] == [ids[2], ids[1]]
    (folder / "linked").symlink_to(folder / "pump3")
    document_path(folder, "fan1", datetime(2026, 11, 20, 9, tzinfo=UTC), ids[0]).symlink_to(found.document)
    assert len(newest_events(folder)) == 4
